//! The bodies over the committed corpus and over a seeded generator, which also bends what the
//! corpus has. Each target must reach all that it says it can.
//!
//! `USNAP_FUZZ_RUNS` says how many inputs a target gets from the generator, `USNAP_FUZZ_SEED`
//! which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

type Body = fn(&[u8]) -> &'static str;

/// No input makes a target hold more than this at one time, its own copies of the input included.
const ALLOCATED_MAX_BYTES: u64 = 64 << 20;
/// No input keeps a target busy for so long, on the slowest machine.
const BUSY_MAX: Duration = Duration::from_secs(60);

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => otherwise,
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = top().join("corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus for {target}");
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
    files.into_iter().map(read).collect()
}

/// Numbers that depend on the seed alone (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        // Often one of those that mean something.
        match self.below(4) {
            0 => [0, 1, 2, 8, 16, 127, 128, 255][self.below(8)],
            _ => u8::try_from(self.below(256)).unwrap(),
        }
    }

    /// Bytes of its own, or something known with some bytes changed.
    fn input(&mut self, known: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        if self.below(2) == 0 {
            let len = self.below(400);
            return (0..len).map(|_| self.byte()).collect();
        }
        let mut bytes = known[self.below(known.len())].1.clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.insert(at, self.byte()),
                1 => bytes.truncate(at.max(8)),
                _ => {
                    let byte = self.byte();
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
        bytes
    }
}

/// Runs a body once, and counts what it allocates.
fn run(body: Body, input: &[u8]) -> &'static str {
    let mut place = "";
    let info = allocation_counter::measure(|| place = body(input));
    let bytes = info.bytes_max;
    assert!(bytes <= ALLOCATED_MAX_BYTES, "{bytes} bytes were allocated");
    place
}

/// Runs a target over all of it; panics where one input never ends.
fn replay(target: &'static str, body: Body, runs: u64, wanted: &'static [&str]) {
    let (tell, told) = channel();
    let worker = std::thread::spawn(move || {
        replay_all(target, body, runs, wanted, &|input: &[u8]| {
            // Nobody listens any more where the last one took too long.
            tell.send(input.to_vec()).ok();
        });
    });
    let mut last = Vec::new();
    loop {
        match told.recv_timeout(BUSY_MAX) {
            Ok(input) => last = input,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{target} does not end: {last:?}"),
        }
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a target over all of it; panics unless each of `wanted` was reached.
fn replay_all(target: &str, body: Body, runs: u64, wanted: &[&str], tell: &dyn Fn(&[u8])) {
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    let known = corpus(target);
    for (path, bytes) in &known {
        println!("{}", path.display());
        tell(bytes);
        *reached.entry(run(body, bytes)).or_default() += 1;
    }
    let seed = from_environment("USNAP_FUZZ_SEED", 1);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for number in 0..from_environment("USNAP_FUZZ_RUNS", runs) {
        let input = random.input(&known);
        tell(&input);
        let result = std::panic::catch_unwind(|| run(body, &input));
        let Ok(place) = result else {
            panic!("USNAP_FUZZ_SEED={seed}: {target} fails on input {number}: {input:?}");
        };
        *reached.entry(place).or_default() += 1;
    }
    println!("{target}: {reached:?}");
    for place in wanted {
        assert!(
            reached.contains_key(place),
            "{place} was not reached: {reached:?}"
        );
    }
    assert_eq!(reached.len(), wanted.len(), "{reached:?}");
}

#[test]
fn handshakes_hold() {
    const PLACES: &[&str] = &[
        "server wants more",
        "server closed",
        "server ready",
        "client wants more",
        "client ready",
        "client failed",
        "both ready",
        "both know that there is none",
    ];
    replay("nbd_handshake", usnap_fuzz::nbd_handshake, 20_000, PLACES);
}

#[test]
fn transmissions_hold() {
    const PLACES: &[&str] = &[
        "nothing",
        "server takes",
        "server refuses",
        "server drops",
        "client wants more",
        "client reads",
        "client drops",
    ];
    replay(
        "nbd_transmission",
        usnap_fuzz::nbd_transmission,
        20_000,
        PLACES,
    );
}

#[test]
fn any_bytes_are_opened_or_refused_as_the_rules_say() {
    const PLACES: &[&str] = &["refused", "empty", "opened"];
    replay("store_open", usnap_fuzz::store_open, 5_000, PLACES);
}

#[test]
fn whatever_is_made_of_a_store_says_the_same() {
    const PLACES: &[&str] = &[
        "refused",
        "of another origin",
        "not merged",
        "nothing changed",
        "changed",
    ];
    replay("store_export", usnap_fuzz::store_export, 1_000, PLACES);
}

#[test]
fn any_bytes_are_repaired_or_left_alone() {
    const PLACES: &[&str] = &["no store", "sound", "refused", "mended"];
    replay("store_repair", usnap_fuzz::store_repair, 5_000, PLACES);
}

#[test]
fn any_store_is_dumped_and_restored_bit_for_bit() {
    const PLACES: &[&str] = &["no store", "sound", "with notes"];
    replay("dump", usnap_fuzz::dump, 5_000, PLACES);
}

#[test]
fn any_text_is_restored_or_refused_with_the_place() {
    const PLACES: &[&str] = &["refused", "restored", "filled anew"];
    replay("restore", usnap_fuzz::restore, 20_000, PLACES);
}

#[test]
fn journals_bring_back_what_was_written_or_are_refused() {
    const PLACES: &[&str] = &[
        "refused",
        "replayed",
        "replayed all the same",
        "opened without all of it",
    ];
    replay("journal_open", usnap_fuzz::journal_open, 20_000, PLACES);
}

#[test]
fn any_bytes_are_patched_or_refused_as_a_diff() {
    const PLACES: &[&str] = &["refused", "of another device", "patched"];
    replay("diff_stream", usnap_fuzz::diff_stream, 2_000, PLACES);
}

#[test]
fn histories_hold() {
    const PLACES: &[&str] = &["memory", "snapshots", "files"];
    replay("snapshot_ops", usnap_fuzz::snapshot_ops, 1_000, PLACES);
}

#[test]
#[should_panic(expected = "the canary sings")]
fn the_canary_fails() {
    for (_, bytes) in corpus("canary") {
        usnap_fuzz::canary(&bytes);
    }
}

#[test]
fn the_canary_is_silent_otherwise() {
    for bytes in [&b""[..], b"twee", b"xtweet", b"Tweet"] {
        assert_eq!(usnap_fuzz::canary(bytes), "silent");
    }
}

#[test]
fn the_readme_lists_exactly_the_targets() {
    let names = |text: &str, begin: &str, end: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(begin));
        let mut names: Vec<String> = lines
            .filter_map(|rest| Some(rest.split_once(end)?.0.to_owned()))
            .collect();
        names.sort();
        names
    };
    let read = |name: &str| std::fs::read_to_string(top().join(name)).unwrap();
    let listed = names(&read("README.md"), "| `", "`");
    let built = names(&read("Cargo.toml"), "path = \"fuzz_targets/", ".rs");
    let mut there: Vec<String> = std::fs::read_dir(top().join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    there.sort();
    assert_eq!(listed, there);
    assert_eq!(built, there);
    for target in there {
        let wrapper = read(&format!("fuzz_targets/{target}.rs"));
        assert!(
            wrapper.contains(&format!("usnap_fuzz::{target}(data)")),
            "{target}"
        );
        assert!(!corpus(&target).is_empty());
    }
}
