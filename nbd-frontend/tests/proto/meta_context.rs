//! Rule 5: selecting metadata contexts (proto.md, "Metadata querying", "Option types").

use usnap_nbd::proto::{Context, MetaContexts};

use crate::support::Talk;
use crate::support::wire::{
    ACK, Bytes, ERR_INVALID, ERR_SHUTDOWN, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, meta, u32_at,
};

const STRUCTURED: u32 = 8;
const LIST: u32 = 9;
const SET: u32 = 10;
const EXTENDED: u32 = 11;
const BASE: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";

fn structured() -> Talk {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    talk
}

/// Ids and names of a list or selection that succeeds.
fn contexts(talk: &mut Talk, option: u32, name: &str, queries: &[&str]) -> Vec<(u32, String)> {
    let mut replies = talk.option(option, &meta(name, queries));
    assert_eq!(replies.pop(), Some((ACK, vec![])));
    let context = |(kind, data): (u32, Vec<u8>)| {
        assert_eq!(kind, 4, "NBD_REP_META_CONTEXT");
        (
            u32_at(&data, 0),
            String::from_utf8(data[4..].to_vec()).unwrap(),
        )
    };
    replies.into_iter().map(context).collect()
}

fn names(contexts: &[(u32, String)]) -> Vec<&str> {
    contexts.iter().map(|(_, name)| name.as_str()).collect()
}

#[test]
fn without_structured_replies_or_extended_headers_both_options_are_invalid() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(SET, &meta("disk", &[BASE])), ERR_INVALID);
    assert_eq!(talk.reply_type(LIST, &meta("disk", &[])), ERR_INVALID);
}

#[test]
fn extended_headers_alone_are_enough() {
    let mut talk = Talk::new();
    assert_eq!(talk.reply_type(EXTENDED, &[]), ACK);
    assert_eq!(names(&contexts(&mut talk, SET, "disk", &[BASE])), [BASE]);
    assert!(talk.go("disk").contexts.has(Context::BaseAllocation));
}

#[test]
fn a_selection_has_distinct_ids_and_holds_for_its_export() {
    let mut talk = structured();
    let selected = contexts(&mut talk, SET, "disk", &[DEPTH, BASE, BASE]);
    assert_eq!(names(&selected), [BASE, DEPTH], "each once, in any order");
    assert_ne!(selected[0].0, selected[1].0);
    let negotiated = talk.go("disk");
    let ids: Vec<u32> = negotiated.contexts.iter().map(|(id, _)| id).collect();
    assert_eq!(ids, selected.iter().map(|&(id, _)| id).collect::<Vec<_>>());
    assert_eq!(negotiated.contexts.len(), 2);
}

#[test]
fn a_selection_does_not_hold_for_another_export() {
    for name in ["small", ""] {
        let mut talk = structured();
        assert_eq!(contexts(&mut talk, SET, name, &[BASE]).len(), 1);
        assert!(talk.go("disk").contexts.is_empty(), "selected for {name:?}");
    }
}

#[test]
fn a_selection_holds_for_the_default_export_by_its_empty_name() {
    let mut talk = structured();
    assert_eq!(contexts(&mut talk, SET, "", &[BASE]).len(), 1);
    assert!(talk.go("").contexts.has(Context::BaseAllocation));
}

#[test]
fn each_selection_replaces_the_last() {
    let mut talk = structured();
    assert_eq!(contexts(&mut talk, SET, "disk", &[BASE, DEPTH]).len(), 2);
    assert_eq!(names(&contexts(&mut talk, SET, "disk", &[DEPTH])), [DEPTH]);
    let negotiated = talk.go("disk");
    assert!(!negotiated.contexts.has(Context::BaseAllocation));
    assert!(negotiated.contexts.has(Context::AllocationDepth));
}

#[test]
fn a_selection_that_fails_replaces_the_last_too() {
    let short = Bytes::default().u32(4).bytes(b"disk").u32(1).u32(900).0;
    let cases: [(Vec<u8>, u32); 5] = [
        (meta("nothing", &[BASE]), ERR_UNKNOWN),
        (short, ERR_INVALID),
        (vec![], ERR_INVALID),
        (meta("disk", &["allocation"]), ERR_INVALID),
        (vec![0; 70_000], ERR_TOO_BIG),
    ];
    for (data, error) in cases {
        let mut talk = structured();
        assert_eq!(contexts(&mut talk, SET, "disk", &[BASE]).len(), 1);
        assert_eq!(talk.reply_type(SET, &data), error);
        assert!(talk.go("disk").contexts.is_empty(), "{error:#x}");
    }
}

#[test]
fn a_selection_refused_at_shutdown_replaces_the_last_too() {
    let mut talk = structured();
    assert_eq!(contexts(&mut talk, SET, "disk", &[BASE]).len(), 1);
    talk.handshake.set_shutdown();
    assert_eq!(talk.reply_type(SET, &meta("disk", &[BASE])), ERR_SHUTDOWN);
}

#[test]
fn a_list_does_not_touch_the_selection() {
    let mut talk = structured();
    assert_eq!(contexts(&mut talk, SET, "disk", &[BASE]).len(), 1);
    assert_eq!(contexts(&mut talk, LIST, "disk", &[]).len(), 2);
    assert_eq!(talk.reply_type(LIST, &[1]), ERR_INVALID);
    assert!(talk.go("disk").contexts.has(Context::BaseAllocation));
}

#[test]
fn no_query_lists_all_and_selects_none() {
    let mut talk = structured();
    assert_eq!(
        names(&contexts(&mut talk, LIST, "disk", &[])),
        [BASE, DEPTH]
    );
    assert_eq!(contexts(&mut talk, SET, "disk", &[]), []);
    assert!(talk.go("disk").contexts.is_empty());
}

#[test]
fn an_empty_leaf_lists_its_namespace_and_selects_nothing() {
    let mut talk = structured();
    assert_eq!(
        names(&contexts(&mut talk, LIST, "disk", &["base:"])),
        [BASE]
    );
    assert_eq!(
        names(&contexts(&mut talk, LIST, "disk", &["qemu:"])),
        [DEPTH]
    );
    assert_eq!(contexts(&mut talk, SET, "disk", &["base:", "qemu:"]), []);
}

#[test]
fn unknown_namespaces_and_leaves_are_ignored_beside_known_ones() {
    let queries = [
        "x-none:",
        "base:nothing",
        "qemu:dirty-bitmap:b",
        "nbd-server:x",
        BASE,
        ":::",
    ];
    let mut talk = structured();
    assert_eq!(
        names(&contexts(&mut talk, LIST, "disk", &queries[..5])),
        [BASE]
    );
    assert_eq!(
        names(&contexts(&mut talk, SET, "disk", &queries[..5])),
        [BASE]
    );
    assert_eq!(contexts(&mut talk, SET, "disk", &queries[..4]), []);
    assert_eq!(
        talk.reply_type(SET, &meta("disk", &queries)),
        ERR_INVALID,
        "no namespace"
    );
}

#[test]
fn listed_contexts_have_the_id_zero() {
    let mut talk = structured();
    for (id, name) in contexts(&mut talk, LIST, "disk", &[]) {
        assert_eq!(id, 0, "{name}");
    }
}

#[test]
fn counts_and_lengths_that_do_not_fit_are_invalid() {
    let disk = || Bytes::default().u32(4).bytes(b"disk");
    let cases = [
        Bytes::default().u32(u32::MAX).bytes(b"disk").0,
        disk().0,
        disk().u32(u32::MAX).0,
        disk().u32(1).0,
        disk().u32(1).u32(u32::MAX).bytes(b"base:").0,
        disk().u32(2).u32(5).bytes(b"base:").0,
        disk().u32(0).bytes(b"more").0,
        disk().u32(1).u32(2).bytes(b"\xff:").0,
        disk().u32(1).u32(2).bytes(b"\0:").0,
    ];
    let mut talk = structured();
    for data in cases {
        assert_eq!(talk.reply_type(LIST, &data), ERR_INVALID, "{data:x?}");
        assert_eq!(talk.reply_type(SET, &data), ERR_INVALID, "{data:x?}");
    }
}

#[test]
fn the_number_of_queries_is_bounded_by_the_option_only() {
    let mut talk = structured();
    let queries = vec![BASE; 3000];
    assert_eq!(names(&contexts(&mut talk, SET, "disk", &queries)), [BASE]);
}

#[test]
fn an_export_that_does_not_exist_is_unknown() {
    let mut talk = structured();
    assert_eq!(talk.reply_type(LIST, &meta("nothing", &[])), ERR_UNKNOWN);
    assert_eq!(talk.reply_type(SET, &meta("nothing", &[])), ERR_UNKNOWN);
}

#[test]
fn without_the_feature_both_options_are_unsup() {
    let features = usnap_nbd::proto::Features {
        meta_contexts: false,
        ..Default::default()
    };
    let mut talk = Talk::with(3, Default::default(), features);
    assert_eq!(talk.reply_type(STRUCTURED, &[]), ACK);
    assert_eq!(talk.reply_type(SET, &meta("disk", &[BASE])), ERR_UNSUP);
    assert_eq!(talk.reply_type(LIST, &meta("disk", &[])), ERR_UNSUP);
}

#[test]
fn a_set_is_what_was_collected_into_it() {
    assert_eq!(MetaContexts::all().len(), Context::ALL.len());
    assert!(MetaContexts::NONE.is_empty());
    for context in Context::ALL {
        let set: MetaContexts = [context].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [(context.id(), context)]);
    }
}
