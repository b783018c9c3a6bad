//! `diff | patch`: the device again, on a copy of the origin; and what is refused.

use std::fs::File;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use usnap_engine::chain::{Chain as Opened, Relative};
use usnap_engine::diff::{self, DiffOptions};
use usnap_engine::patch::{DiffInput, PatchOptions, PatchReport, patch};
use usnap_engine::{ErrorKind, Result};

use crate::bench::{Chain, Random, whole_message};
use crate::export::open;

fn go_on(_done: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn made(opened: &Opened, relative: Relative, exact: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    let options = DiffOptions { relative, exact };
    diff::write(opened, options, &mut stream, &mut go_on).unwrap();
    stream
}

/// Patches with the stream as a file or as a pipe would be read.
fn patched(
    stream: &[u8],
    as_file: bool,
    device: &Path,
    options: PatchOptions,
) -> Result<PatchReport> {
    let input = if as_file {
        let path = device.with_file_name("diff");
        std::fs::write(&path, stream).unwrap();
        DiffInput::File(File::open(path).unwrap())
    } else {
        DiffInput::Stream(Box::new(Cursor::new(stream.to_vec())))
    };
    patch(input, device, options, &mut go_on)
}

#[test]
fn a_patched_copy_of_the_origin_is_the_device() {
    for seed in 200..280 {
        let mut random = Random::new(seed);
        let depth = 1 + random.below(4);
        let chain = Chain::random(&mut random, depth);
        let opened = open(&chain, depth);
        let copy = chain.folder.path().join("copy");
        for (relative, base) in [
            (Relative::ToOrigin, &chain.shown[0]),
            (Relative::ToLayers, &chain.shown[depth - 1]),
        ] {
            for exact in [false, true] {
                let stream = made(&opened, relative, exact);
                std::fs::write(&copy, base).unwrap();
                let as_file = random.below(2) == 0;
                let dry = PatchOptions {
                    dry_run: true,
                    ..PatchOptions::default()
                };
                let planned = patched(&stream, as_file, &copy, dry).unwrap();
                assert!(std::fs::read(&copy).unwrap() == *base, "a dry run wrote");
                let options = PatchOptions::default();
                let report = patched(&stream, as_file, &copy, options).unwrap();
                assert_eq!(report, planned);
                let shown = &chain.shown[depth];
                assert!(std::fs::read(&copy).unwrap() == *shown, "seed {seed}");
                // And again.
                assert_eq!(patched(&stream, as_file, &copy, options).unwrap(), report);
                assert!(std::fs::read(&copy).unwrap() == *shown, "seed {seed}");
            }
        }
    }
}

/// 64 chunks of which some change, and the stream of it.
fn small() -> (Chain, Vec<u8>) {
    let mut random = Random::new(9);
    let mut chain = Chain::new(&random.bytes(64 * 4096));
    let writes: Vec<(usize, Vec<u8>)> = [3, 9, 10, 40]
        .iter()
        .map(|chunk| (chunk * 4096, random.bytes(4096)))
        .chain([(50 * 4096, vec![0; 8192])])
        .collect();
    chain.push(4096, &writes);
    let stream = made(&open(&chain, 1), Relative::ToOrigin, false);
    (chain, stream)
}

fn copy_of(chain: &Chain) -> std::path::PathBuf {
    let copy = chain.folder.path().join("copy");
    std::fs::write(&copy, &chain.shown[0]).unwrap();
    copy
}

#[test]
fn zeros_are_punched() {
    let (chain, stream) = small();
    let copy = copy_of(&chain);
    let before = std::fs::metadata(&copy).unwrap().blocks();
    let report = patched(&stream, true, &copy, PatchOptions::default()).unwrap();
    assert_eq!((report.data_bytes, report.zero_bytes), (4 * 4096, 8192));
    assert!(std::fs::metadata(&copy).unwrap().blocks() <= before - 16);
}

#[test]
fn every_cut_and_every_flipped_byte_is_refused_before_a_file_is_used() {
    let (chain, stream) = small();
    let copy = copy_of(&chain);
    let options = PatchOptions::default();
    let mut bad: Vec<Vec<u8>> = (0..stream.len())
        .step_by(97)
        .map(|at| stream[..at].to_vec())
        .collect();
    bad.extend((0..stream.len()).step_by(61).map(|at| {
        let mut bytes = stream.clone();
        bytes[at] ^= 0x10;
        bytes
    }));
    bad.push([&stream[..], b"x"].concat());
    bad.push([&stream[..], &stream[..]].concat());
    for bytes in bad {
        let error = patched(&bytes, true, &copy, options).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Corrupt | ErrorKind::Foreign | ErrorKind::NotSupported
            ),
            "{error:?}"
        );
        assert!(error.hint().is_some() || error.kind() == ErrorKind::NotSupported);
    }
    assert!(std::fs::read(&copy).unwrap() == chain.shown[0], "was used");
}

/// Of a pipe what came whole is written; that is said, and the next run ends it.
#[test]
fn a_stream_that_breaks_off_is_patched_as_far_as_it_came_and_can_be_done_again() {
    let (chain, stream) = small();
    let copy = copy_of(&chain);
    let options = PatchOptions::default();
    let (base, shown) = (&chain.shown[0], &chain.shown[1]);
    for at in (0..stream.len()).step_by(997) {
        std::fs::write(&copy, base).unwrap();
        let error = patched(&stream[..at], false, &copy, options).unwrap_err();
        let is_written = std::fs::read(&copy).unwrap() != *base;
        let message = whole_message(&error);
        assert_eq!(message.contains("patched"), is_written, "{at}: {message}");
        let now = std::fs::read(&copy).unwrap();
        for (chunk, bytes) in now.chunks(4096).enumerate() {
            let at = chunk * 4096;
            assert!(bytes == &base[at..at + 4096] || bytes == &shown[at..at + 4096]);
        }
        patched(&stream, false, &copy, options).unwrap();
        assert!(std::fs::read(&copy).unwrap() == *shown);
    }
}

#[test]
fn a_device_that_is_not_the_origin_is_refused_unless_forced() {
    let (chain, stream) = small();
    let copy = copy_of(&chain);
    let options = PatchOptions::default();
    let refused = |content: &[u8]| {
        std::fs::write(&copy, content).unwrap();
        for options in [
            options,
            PatchOptions {
                dry_run: true,
                ..options
            },
        ] {
            for as_file in [true, false] {
                let error = patched(&stream, as_file, &copy, options).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::OriginMismatch, "{error:?}");
            }
        }
        assert!(std::fs::read(&copy).unwrap() == content, "was used");
    };
    let base = &chain.shown[0];
    let mut other = base.clone();
    other[20 * 4096] ^= 1;
    refused(&other);
    refused(&base[..base.len() - 1]);
    let longer = [&base[..], &[1]].concat();
    refused(&longer);
    let force = PatchOptions {
        force: true,
        ..options
    };
    let error = {
        std::fs::write(&copy, &base[..4096]).unwrap();
        patched(&stream, true, &copy, force).unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::OriginMismatch, "{error:?}");
    std::fs::write(&copy, &longer).unwrap();
    patched(&stream, true, &copy, force).unwrap();
    let now = std::fs::read(&copy).unwrap();
    assert!(now[..base.len()] == chain.shown[1] && now[base.len()..] == [1]);
    // Whatever changes anyway may be anything.
    let mut half = base.clone();
    half[9 * 4096..10 * 4096].fill(0xee);
    std::fs::write(&copy, &half).unwrap();
    patched(&stream, true, &copy, options).unwrap();
    assert!(std::fs::read(&copy).unwrap() == chain.shown[1]);
}

#[test]
fn a_device_in_use_is_refused_and_a_stop_is_said() {
    let (chain, stream) = small();
    let options = PatchOptions::default();
    let error = {
        let _served = chain.origin(&[]).unwrap();
        patched(&stream, true, &chain.origin_path(), options).unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    let copy = copy_of(&chain);
    let input = DiffInput::Stream(Box::new(Cursor::new(stream)));
    let error = patch(input, &copy, options, &mut |_| ControlFlow::Break(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
}

#[test]
fn a_chain_that_changes_nothing_makes_a_diff_that_changes_nothing() {
    let mut chain = Chain::new(&[7; 10_000]);
    chain.push(4096, &[]);
    let stream = made(&open(&chain, 1), Relative::ToOrigin, false);
    let copy = copy_of(&chain);
    let report = patched(&stream, true, &copy, PatchOptions::default()).unwrap();
    assert_eq!(report, PatchReport::default());
    assert!(std::fs::read(&copy).unwrap() == chain.shown[0]);
}
