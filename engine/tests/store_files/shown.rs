//! A store at rest: the walk that dumps show, and the status, which is the snapshot's after a
//! flush.

use usnap_engine::device::BlockDevice;
use usnap_engine::dump::{StoreHeader, Visitor, status, walk};
use usnap_engine::{Error, ErrorKind, Result};
use usnap_format::{AreaIndex, Exception, NewChunk};

use crate::bench::{Bench, CHUNK, create_options};
use crate::stores::{first_exceptions, image, put_exception, put_u32};

/// Notes down what it is shown, up to an exception that it has seen enough at.
#[derive(Default)]
struct Notebook {
    lines: Vec<String>,
    enough: Option<u64>,
}

impl Visitor for Notebook {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        self.lines.push(format!(
            "valid {} chunk {} size {} identity {}",
            header.header.valid,
            header.header.chunk_size.bytes(),
            header.cow_size_bytes,
            header.identity.is_some()
        ));
        Ok(())
    }

    fn area(&mut self, area: AreaIndex, location: NewChunk) -> Result<()> {
        self.lines.push(format!("area {area} at {location}"));
        Ok(())
    }

    fn exception(&mut self, area: AreaIndex, index: u64, exception: Exception) -> Result<()> {
        if self.enough == Some(exception.old_chunk.0) {
            return Err(Error::new(ErrorKind::Usage, "seen enough"));
        }
        let Exception {
            old_chunk,
            new_chunk,
        } = exception;
        self.lines
            .push(format!("{area}.{index}: {old_chunk} at {new_chunk}"));
        Ok(())
    }
}

fn shown(bench: &Bench) -> Vec<String> {
    let mut notebook = Notebook::default();
    let before = bench.fingerprint();
    walk(&bench.cow_path(), &mut notebook).unwrap();
    assert_eq!(bench.fingerprint(), before);
    notebook.lines
}

#[test]
fn a_walk_shows_header_areas_and_exceptions_in_order() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2), (9, 7), (6, 3)]));
    let wanted = [
        "valid 1 chunk 4096 size 163840 identity false",
        "area 0 at 1",
        "0.0: 5 at 2",
        "0.1: 9 at 7",
        "0.2: 6 at 3",
    ];
    assert_eq!(shown(&bench), wanted);
    let bench = Bench::with_cow(&image(512, 80, &first_exceptions(512, 33)));
    let lines = shown(&bench);
    assert_eq!(lines.len(), 1 + 2 + 33);
    assert_eq!(lines[34..], ["area 1 at 34", "1.0: 32 at 35"]);
}

#[test]
fn a_walk_shows_damaged_and_invalid_stores_as_they_are() {
    let mut bytes = image(CHUNK, 40, &[(5, 2)]);
    put_exception(&mut bytes, CHUNK, 1, 5, u64::MAX);
    put_u32(&mut bytes, 4, 0);
    let lines = shown(&Bench::with_cow(&bytes));
    assert!(lines[0].starts_with("valid 0"));
    assert_eq!(lines[3], "0.1: 5 at 18446744073709551615");
}

#[test]
fn a_visitor_ends_the_walk_with_its_own_error() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 2), (9, 7), (6, 3)]));
    let mut notebook = Notebook {
        enough: Some(9),
        ..Notebook::default()
    };
    let error = walk(&bench.cow_path(), &mut notebook).unwrap_err();
    assert_eq!(error.to_string(), "seen enough");
    assert_eq!(notebook.lines.len(), 3);
}

#[test]
fn the_status_at_rest_is_the_snapshots_after_a_flush() {
    for (chunk_bytes, cow_bytes) in [(512, 40 * 512 + 100), (512, 90 * 512), (4096, 41 * 4096)] {
        let options = usnap_engine::store::cow_file::CreateOptions {
            chunk_size: usnap_format::ChunkSize::from_bytes(chunk_bytes).unwrap(),
            size_bytes: cow_bytes,
            label: "a name".to_owned(),
            ..create_options(0)
        };
        let bench = Bench::with_created(&options);
        let (snapshot, _) = bench.open().unwrap();
        let mut full = false;
        for n in 0..100 {
            full |= snapshot.write_at(&[1; 100], n * chunk_bytes).is_err();
            snapshot.flush().unwrap();
            let (live, rest) = (snapshot.report(), status(&bench.cow_path()).unwrap());
            assert_eq!(live.status, rest.status, "after {n}");
            assert_eq!(live.status, snapshot.status());
            assert_eq!(live.exceptions, rest.exceptions, "after {n}");
            assert_eq!(live.is_full, rest.is_full);
            assert_eq!(
                (
                    live.chunk_size,
                    live.cow_size_bytes,
                    live.snapshot_size_bytes
                ),
                (
                    rest.chunk_size,
                    rest.cow_size_bytes,
                    rest.snapshot_size_bytes
                )
            );
            assert_eq!(
                (&live.label, live.has_identity),
                (&rest.label, rest.has_identity)
            );
        }
        assert!(full, "all of it was looked at");
    }
}

#[test]
fn the_status_of_a_store_with_holes_counts_as_the_kernel_does() {
    let bench = Bench::with_cow(&image(CHUNK, 40, &[(5, 6), (1, 3), (9, 11)]));
    let at_rest = status(&bench.cow_path()).unwrap();
    assert_eq!(at_rest.status.to_string(), "96/320 16");
    assert_eq!(at_rest.exceptions.free, 28);
    let (snapshot, _) = bench.open().unwrap();
    assert_eq!(snapshot.report().exceptions, at_rest.exceptions);
    assert_eq!(snapshot.status(), at_rest.status);
}

#[test]
fn the_status_of_an_invalid_store_is_the_kernels_word() {
    let mut bytes = image(CHUNK, 40, &[(5, 2)]);
    put_u32(&mut bytes, 4, 0);
    let report = status(&Bench::with_cow(&bytes).cow_path()).unwrap();
    assert_eq!(report.status.to_string(), "Invalid");
    // Not even its areas need to be there.
    let mut bytes = image(512, 34, &first_exceptions(512, 32));
    put_u32(&mut bytes, 4, 0);
    let report = status(&Bench::with_cow(&bytes).cow_path()).unwrap();
    assert_eq!(report.status.to_string(), "Invalid");
}

#[test]
fn the_status_of_a_hostile_store_is_a_number_or_an_error() {
    for new_chunk in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 56) - 1, 40, 39] {
        let bytes = image(CHUNK, 40, &[(5, 2), (6, new_chunk)]);
        let report = status(&Bench::with_cow(&bytes).cow_path()).unwrap();
        // Nothing behind the largest number can be taken.
        assert_eq!(report.exceptions.free, 0, "{new_chunk}");
        assert!(report.is_full);
    }
}
