//! PROTOCOL.md says what the code does: every constant is in it with its value, every limit too,
//! and every test it names exists.

use std::collections::HashMap;

use usnap_nbd::proto::{
    ACCEPTED_PAYLOAD_BYTES, DEFAULT_MAX_PAYLOAD_BYTES, Errno, HandshakeLimits, MAX_DRAIN_BYTES,
    MAX_ERROR_MESSAGE_BYTES, MAX_EXTENTS, MIN_UNFRAGMENTED_BYTES,
};

const DOCUMENT: &str = include_str!("../../PROTOCOL.md");
const CONSTS: &str = include_str!("../../src/proto/consts.rs");
const TESTS: &[&str] = &[
    include_str!("alloc_free.rs"),
    include_str!("block_status.rs"),
    include_str!("blocking.rs"),
    include_str!("client_handshake.rs"),
    include_str!("client_replies.rs"),
    include_str!("handshake.rs"),
    include_str!("hostile.rs"),
    include_str!("meta_context.rs"),
    include_str!("pair.rs"),
    include_str!("properties.rs"),
    include_str!("replies.rs"),
    include_str!("requests.rs"),
    include_str!("sessions.rs"),
    include_str!("../server/changes.rs"),
    include_str!("../server/requests.rs"),
    include_str!("../server/shutdown.rs"),
];

/// The second cell of each row of a table whose first is a name, by name.
fn rows(document: &str) -> HashMap<&str, &str> {
    fn row(line: &str) -> Option<(&str, &str)> {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        Some((name, cells.next()?.trim_end_matches(" |")))
    }
    document.lines().filter_map(row).collect()
}

fn number(text: &str) -> u64 {
    let text = text.replace('_', "");
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Every `pub const` of consts.rs with its value: numbers, shifts and alternatives of both.
fn constants() -> Vec<(String, u64)> {
    let mut known: Vec<(String, u64)> = Vec::new();
    let source = CONSTS.replace('\n', " ");
    for item in source.split("pub const ").skip(1) {
        let (name, rest) = item.split_once(':').unwrap();
        let (_, rest) = rest.split_once('=').unwrap();
        let (value, _) = rest.split_once(';').unwrap();
        let term = |text: &str| match text.trim().split_once("<<") {
            Some((value, shift)) => number(value.trim()) << number(shift.trim()),
            None => match known.iter().find(|(name, _)| name == text.trim()) {
                Some((_, value)) => *value,
                None => number(text.trim()),
            },
        };
        let value = value.split('|').map(term).fold(0, |all, one| all | one);
        known.push((name.to_owned(), value));
    }
    known
}

#[test]
fn every_constant_is_in_the_document_with_its_value() {
    let rows = rows(DOCUMENT);
    let constants = constants();
    assert!(constants.len() > 90, "{} constants found", constants.len());
    for (name, value) in constants {
        let documented = rows.get(format!("NBD_{name}").as_str());
        let documented = documented.unwrap_or_else(|| panic!("NBD_{name} is not documented"));
        assert_eq!(number(documented), value, "NBD_{name}");
    }
}

#[test]
fn every_error_is_in_the_document_with_its_code() {
    let rows = rows(DOCUMENT);
    for errno in Errno::ALL {
        let documented = rows.get(errno.name()).copied().map(number);
        assert_eq!(
            documented,
            Some(u64::from(errno.code())),
            "{}",
            errno.name()
        );
    }
}

#[test]
fn every_limit_is_in_the_document_with_its_value() {
    let rows = rows(DOCUMENT);
    let HandshakeLimits {
        max_option_bytes,
        max_options,
        max_name,
    } = HandshakeLimits::default();
    for (name, value) in [
        ("max_option_bytes", max_option_bytes.into()),
        ("max_options", max_options.into()),
        ("max_name", max_name.into()),
        (
            "DEFAULT_MAX_PAYLOAD_BYTES",
            DEFAULT_MAX_PAYLOAD_BYTES.into(),
        ),
        ("ACCEPTED_PAYLOAD_BYTES", ACCEPTED_PAYLOAD_BYTES.into()),
        ("MAX_DRAIN_BYTES", MAX_DRAIN_BYTES),
        ("MIN_UNFRAGMENTED_BYTES", MIN_UNFRAGMENTED_BYTES.into()),
        ("MAX_EXTENTS", MAX_EXTENTS.into()),
        (
            "MAX_ERROR_MESSAGE_BYTES",
            u64::try_from(MAX_ERROR_MESSAGE_BYTES).unwrap(),
        ),
    ] {
        assert_eq!(rows.get(name).copied().map(number), Some(value), "{name}");
    }
}

#[test]
fn every_rule_names_tests_that_exist() {
    let (_, table) = DOCUMENT
        .split_once("## Rules that servers get wrong")
        .unwrap();
    let mut rules = Vec::new();
    for line in table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
    {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [number, rule, tests] = cells[..] else {
            panic!("not three cells: {line}")
        };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "rule without a test: {rule}");
        for name in names {
            let definition = format!("fn {name}(");
            let entry = format!("    {name}: \"");
            let exists = |source: &&str| source.contains(&definition) || source.contains(&entry);
            assert!(TESTS.iter().any(exists), "no test is named {name}");
        }
        rules.extend(number.trim().parse::<u32>().ok());
    }
    assert_eq!(rules, (1..=24).collect::<Vec<_>>(), "every rule has a line");
}

#[test]
fn a_wrong_value_in_the_document_would_be_found() {
    let changed = DOCUMENT.replace("| `NBD_OPT_GO` | 7 |", "| `NBD_OPT_GO` | 8 |");
    assert_ne!(changed, DOCUMENT);
    assert_eq!(rows(&changed)["NBD_OPT_GO"], "8");
    assert_eq!(rows(DOCUMENT)["NBD_OPT_GO"], "7");
    assert!(constants().contains(&("OPT_GO".to_owned(), 7)));
    assert!(constants().contains(&("REP_ERR_TOO_BIG".to_owned(), 0x8000_0009)));
}
