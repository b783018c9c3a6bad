//! What a chain shows, and that it is the chain that it was made for.

use std::path::PathBuf;

use usnap_engine::device::BlockDevice;
use usnap_engine::origin::Origin;
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};

use crate::bench::{Chain, Random, range, read_all, whole_message};

const CHUNK: usize = 4096;

fn read_only() -> SnapshotOptions {
    SnapshotOptions {
        read_only: true,
        ..SnapshotOptions::default()
    }
}

fn force() -> SnapshotOptions {
    SnapshotOptions {
        force_origin: true,
        ..read_only()
    }
}

/// 64 chunks, each filled with its number, and three layers: each writes a chunk of its own and
/// chunk 40.
fn three_layers() -> Chain {
    let origin: Vec<u8> = (0..64_u8).flat_map(|n| [n + 100; CHUNK]).collect();
    let mut chain = Chain::new(&origin);
    for n in 1..=3_u8 {
        let own = (usize::from(n) * CHUNK, vec![n; CHUNK]);
        chain.push(4096, &[own, (40 * CHUNK, vec![n; CHUNK])]);
    }
    chain
}

fn refused(chain: &Chain, layers: &[PathBuf], cow: &std::path::Path, word: &str) {
    let before = std::fs::read(cow).unwrap();
    for options in [SnapshotOptions::default(), read_only()] {
        let error = chain.open(layers, cow, &options).err().unwrap();
        let message = whole_message(&error);
        assert_eq!(error.kind(), ErrorKind::OriginMismatch, "{message}");
        assert!(
            message.contains(word) && message.contains("--force-origin"),
            "{message}"
        );
    }
    assert!(
        std::fs::read(cow).unwrap() == before,
        "refused, and changed"
    );
}

#[test]
fn every_depth_of_a_chain_shows_what_was_written_there() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let depth = random.below(7);
        let chain = Chain::random(&mut random, depth);
        for depth in 0..=depth {
            let origin = chain.origin(&chain.layers[..depth]).unwrap();
            let shown = &chain.shown[depth];
            assert!(read_all(&*origin) == *shown, "seed {seed}, depth {depth}");
            for _ in 0..20 {
                let (at, len) = range(&mut random, shown.len(), 100_000);
                let mut bytes = vec![0; len];
                origin.read_at(&mut bytes, at as u64).unwrap();
                assert!(bytes == shown[at..at + len], "seed {seed}, depth {depth}");
            }
            assert_extents_tell_the_truth(&*origin, shown);
        }
    }
}

fn assert_extents_tell_the_truth(device: &dyn BlockDevice, shown: &[u8]) {
    let mut at = 0;
    while at < shown.len() {
        let left = (shown.len() - at) as u64;
        let extent = device.extent_at(at as u64, left).unwrap();
        let len = usize::try_from(extent.len).unwrap();
        assert!(len > 0 && extent.len <= left);
        if extent.zero {
            assert!(shown[at..at + len].iter().all(|byte| *byte == 0));
        }
        assert_eq!(extent.depth == 0, extent.hole && extent.depth == 0);
        at += len;
    }
}

#[test]
fn the_depth_of_an_extent_counts_the_layers() {
    let chain = three_layers();
    let top = chain.create(4096);
    let (snapshot, _) = chain
        .open(&chain.layers, &top, &SnapshotOptions::default())
        .unwrap();
    snapshot.write_at(&[9; CHUNK], 7 * 4096).unwrap();
    let depth = |chunk: u64| snapshot.extent_at(chunk * 4096, 4096).unwrap().depth;
    assert_eq!([7, 3, 40, 2, 1, 50].map(depth), [1, 2, 2, 3, 4, 5]);
}

#[test]
fn the_wrong_order_a_missing_layer_and_a_foreign_one_are_refused() {
    let chain = three_layers();
    let [first, second, third] = [0, 1, 2].map(|index| chain.layers[index].clone());
    std::fs::copy(&first, first.with_file_name("plain.cow")).unwrap();
    let layers = |of: &[&PathBuf]| -> Vec<PathBuf> { of.iter().map(|p| (*p).clone()).collect() };
    drop(
        chain
            .open(&layers(&[&first, &second]), &third, &read_only())
            .unwrap(),
    );
    refused(&chain, &layers(&[&first]), &third, "layer");
    refused(&chain, &[], &third, "with layers");
    refused(&chain, &layers(&[&second]), &third, "with layers");
    refused(&chain, &layers(&[&second, &first]), &third, "with layers");
    refused(&chain, &layers(&[&third]), &first, "with layers");
    refused(
        &chain,
        &layers(&[&first]),
        &first.with_file_name("plain.cow"),
        "without layers",
    );

    // Forced, it is served as it is stacked.
    let stacked = layers(&[&second, &first]);
    let (origin, notes) = Origin::open_with_layers(&chain.origin_path(), &stacked, true).unwrap();
    assert!(notes.iter().all(|note| note.starts_with("layer ")) && notes.len() == 2);
    let (snapshot, _) = Snapshot::open(&std::sync::Arc::new(origin), &third, &force()).unwrap();
    let shown = read_all(&snapshot);
    assert_eq!(shown[40 * CHUNK], 3);
    assert_eq!(shown[CHUNK..3 * CHUNK], chain.shown[3][CHUNK..3 * CHUNK]);
}

/// Layers that change nothing where an origin is sampled are told apart all the same.
#[test]
fn a_layer_that_changes_nothing_that_is_sampled_below_is_missed() {
    let mut chain = Chain::new(&vec![7; 64 << 20]);
    // Between the places that are sampled, which lie 256 KiB apart.
    let at = (1 << 20) + (100 << 10);
    chain.push(4096, &[(at, vec![1; CHUNK])]);
    chain.push(4096, &[(at + CHUNK, vec![2; CHUNK])]);
    chain.push(4096, &[]);
    let top = chain.layers[2].clone();
    drop(chain.open(&chain.layers[..2], &top, &read_only()).unwrap());
    refused(&chain, &chain.layers[..1], &top, "layer");
    refused(&chain, &[], &top, "layer");
}

#[test]
fn a_changed_layer_is_refused_and_a_touched_one_mentioned() {
    for at in [1, 40, 50] {
        let chain = three_layers();
        let (layers, top) = (&chain.layers[..2], &chain.layers[2]);
        let (below, changed) = (&layers[..1], &layers[1]);
        let options = SnapshotOptions::default();
        let (snapshot, _) = chain.open(below, changed, &options).unwrap();
        snapshot.write_at(&[99; 10], at * 4096).unwrap();
        snapshot.close().unwrap();
        drop(snapshot);
        refused(&chain, layers, top, "changed");
    }
    let chain = three_layers();
    let touched = std::fs::File::options()
        .write(true)
        .open(&chain.layers[1])
        .unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    touched.set_modified(later).unwrap();
    let (layers, top) = (&chain.layers[..2], &chain.layers[2]);
    let (_, notes) = chain.open(layers, top, &read_only()).unwrap();
    assert!(
        matches!(&notes[..], [note] if note.contains("modification time")),
        "{notes:?}"
    );
}

#[test]
fn a_changed_origin_is_refused_by_the_lowest_layer() {
    let chain = three_layers();
    let mut bytes = chain.shown[0].clone();
    bytes[20 * CHUNK] ^= 1;
    std::fs::write(chain.origin_path(), &bytes).unwrap();
    let error = chain.origin(&chain.layers).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch);
    assert!(whole_message(&error).contains("0.cow"), "{error:?}");
}

#[test]
fn a_file_is_named_once() {
    let chain = three_layers();
    let [first, second, third] = [0, 1, 2].map(|index| chain.layers[index].clone());
    let link = chain.folder.path().join("link");
    std::os::unix::fs::symlink("0.cow", &link).unwrap();
    let usage = |layers: &[PathBuf], cow: &std::path::Path| {
        let error = chain.open(layers, cow, &read_only()).err().unwrap();
        let message = whole_message(&error);
        assert_eq!(error.kind(), ErrorKind::Usage, "{message}");
        assert!(message.contains("layer already"), "{message}");
    };
    usage(&[first.clone(), first.clone()], &second);
    usage(&[first.clone(), link.clone()], &second);
    usage(&[first.clone(), second.clone(), link], &third);
    usage(&[chain.origin_path()], &first);
    usage(std::slice::from_ref(&first), &first);
    usage(&[first.clone(), second.clone()], &first);
    usage(&[first, second], &chain.origin_path());
}

#[test]
fn layers_are_shared_by_readers_and_closed_to_writers() {
    let chain = three_layers();
    let top = |name: &str| {
        let path = chain.create(4096);
        let renamed = chain.folder.path().join(name);
        std::fs::rename(path, &renamed).unwrap();
        renamed
    };
    let (a, b) = (top("a"), top("b"));
    let options = SnapshotOptions::default();
    let (one, _) = chain.open(&chain.layers, &a, &options).unwrap();
    let (other, _) = chain.open(&chain.layers, &b, &options).unwrap();
    one.write_at(&[1; 10], 0).unwrap();
    other.write_at(&[2; 10], 0).unwrap();
    assert_eq!((read_all(&one)[0], read_all(&other)[0]), (1, 2));
    for index in 0..3 {
        let writable = chain.open(&chain.layers[..index], &chain.layers[index], &options);
        let error = writable.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    }
    drop((one, other));
    let lowest = chain.open(&[], &chain.layers[0], &options).unwrap();
    let error = chain.origin(&chain.layers).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    drop(lowest);
}

/// What a killed server had not committed is shown through, and is the same once it is committed.
#[test]
fn a_journal_that_waits_in_a_layer_is_shown_through() {
    let mut chain = three_layers();
    let layers = chain.layers.clone();
    let killed = chain.create(4096);
    let options = SnapshotOptions::default();
    let (snapshot, _) = chain.open(&layers, &killed, &options).unwrap();
    snapshot.write_at(&[77; CHUNK], 30 * 4096).unwrap();
    drop(snapshot);
    let mut all = layers.clone();
    all.push(killed.clone());
    let (origin, notes) = Origin::open_with_layers(&chain.origin_path(), &all, false).unwrap();
    if notes.is_empty() {
        // Nothing keeps a journal here: then it is lost, and nothing may show.
        return assert!(read_all(&origin) == *chain.shown.last().unwrap());
    }
    assert!(notes[0].contains("shown, not committed"), "{notes:?}");
    assert_eq!(read_all(&origin)[30 * CHUNK], 77);
    let identity = origin.identity().unwrap();
    drop(origin);
    let (snapshot, _) = chain.open(&layers, &killed, &options).unwrap();
    snapshot.close().unwrap();
    drop(snapshot);
    chain.layers = all;
    let committed = chain.origin(&chain.layers).unwrap().identity().unwrap();
    assert_eq!(committed.sample_crc32, identity.sample_crc32);
}

#[test]
fn sixty_four_layers_work() {
    let mut random = Random::new(64);
    let chain = Chain::random(&mut random, 64);
    let top = chain.create(4096);
    let options = SnapshotOptions::default();
    let (snapshot, notes) = chain.open(&chain.layers, &top, &options).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let mut shown = chain.shown[64].clone();
    assert!(read_all(&snapshot) == shown);
    assert_extents_tell_the_truth(&snapshot, &shown);
    let (at, len) = range(&mut random, shown.len(), 9000);
    snapshot.write_at(&vec![3; len], at as u64).unwrap();
    shown[at..at + len].fill(3);
    assert!(read_all(&snapshot) == shown);
    snapshot.close().unwrap();
    drop(snapshot);
    let mut swapped = chain.layers.clone();
    let error = loop {
        let (a, b) = (random.below(64), random.below(64));
        swapped.swap(a, b);
        if a != b {
            break chain.open(&swapped, &top, &options).err().unwrap();
        }
    };
    assert_eq!(error.kind(), ErrorKind::OriginMismatch, "{error:?}");
}
