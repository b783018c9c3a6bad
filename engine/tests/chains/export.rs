//! Images of chains: the bytes that are served, with blocks for nothing that is zero.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use usnap_engine::chain::Chain as Opened;
use usnap_engine::device::BlockDevice;
use usnap_engine::{ErrorKind, Result, export};

use crate::bench::{Chain, Random, read_all};

fn go_on(_done: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn open(chain: &Chain, depth: usize) -> Opened {
    let layers = &chain.layers[..depth - 1];
    let cow = &chain.layers[depth - 1];
    let (opened, notes) = Opened::open(&chain.origin_path(), layers, cow, false).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    opened
}

fn to_path(chain: &Opened, out: &Path, force: bool) -> Result<()> {
    export::to_path(chain, out, force, &mut go_on)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What the blocks that are not all zeros would take.
fn least_bytes(content: &[u8]) -> u64 {
    let blocks = content.chunks(4096);
    4096 * blocks
        .filter(|block| block.iter().any(|byte| *byte != 0))
        .count() as u64
}

#[test]
fn an_image_is_what_the_chain_shows_and_takes_no_room_for_zeros() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let depth = 1 + random.below(4);
        let chain = Chain::random(&mut random, depth);
        let opened = open(&chain, depth);
        let shown = &chain.shown[depth];
        assert!(read_all(opened.device()) == *shown);
        let out = chain.folder.path().join("out");
        let mut told = 0;
        export::to_path(&opened, &out, false, &mut |done| {
            assert!(done > told);
            told = done;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(told, shown.len() as u64);
        assert!(std::fs::read(&out).unwrap() == *shown, "seed {seed}");
        let taken = std::fs::metadata(&out).unwrap().blocks() * 512;
        // And what the filesystem needs to find the blocks.
        let most = least_bytes(shown) + 8192;
        assert!(taken <= most, "seed {seed}: {taken} of {most}");

        let mut streamed = Vec::new();
        export::to_stream(&opened, &mut streamed, &mut go_on).unwrap();
        assert!(streamed == *shown, "seed {seed}");
    }
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_half_made_is_left() {
    let mut random = Random::new(5);
    let mut chain = Chain::new(&random.bytes(3 << 20));
    chain.push(4096, &[(5000, vec![1; 100])]);
    let opened = open(&chain, 1);
    let folder = chain.folder.path().to_owned();
    let before = names(&folder);
    let out = folder.join("out");
    std::fs::write(&out, "precious").unwrap();
    let error = to_path(&opened, &out, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists, "{error:?}");

    let mut calls = 0;
    let error = export::to_path(&opened, &out, true, &mut |_| {
        calls += 1;
        if calls < 2 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");

    for part in [chain.origin_path(), chain.layers[0].clone()] {
        let error = to_path(&opened, &part, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error:?}");
    }
    let error = to_path(&opened, &folder, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error:?}");
    let error = to_path(&opened, &folder.join("none/out"), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");

    to_path(&opened, &out, true).unwrap();
    assert!(std::fs::read(&out).unwrap() == chain.shown[1]);
    std::fs::remove_file(&out).unwrap();
    assert_eq!(names(&folder), before);
}

#[test]
fn a_store_that_is_being_written_to_is_refused_and_what_was_killed_is_shown() {
    let mut chain = Chain::new(&[7; 40_000]);
    chain.push(4096, &[]);
    let options = usnap_engine::SnapshotOptions::default();
    let (snapshot, _) = chain.open(&[], &chain.layers[0], &options).unwrap();
    snapshot.write_at(&[8; 5000], 100).unwrap();
    let opened = Opened::open(&chain.origin_path(), &[], &chain.layers[0], false);
    let error = opened.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    assert!(error.hint().unwrap().contains("nbdcopy"), "{error:?}");
    let has_journal = snapshot.report().journal.path.is_some();
    drop(snapshot);
    let (opened, notes) = Opened::open(&chain.origin_path(), &[], &chain.layers[0], false).unwrap();
    if has_journal {
        assert!(notes[0].contains("shown, not committed"), "{notes:?}");
        assert_eq!(read_all(opened.device())[100], 8);
    }
}
