//! Calls that fail: the error goes to one caller, nothing panics, and what the device has then
//! opens again with nothing lost that was promised.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{CallKind, Calls, Failure, Fault};
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};

use crate::bench::Bench;
use crate::plain_loader::{compose, load};
use crate::recorder::Recorder;
use crate::stores::{first_exceptions, image, put_exception};

fn fault(calls: Calls, nth: u64, kind: ErrorKind) -> Fault {
    Fault::nth(calls, nth, Failure::whole(kind))
}

/// Writes that begin in this chunk.
fn to_chunk(chunk: usize, chunk_len: usize) -> Calls {
    let start = (chunk * chunk_len) as u64;
    Calls::WritesTo(start..start + chunk_len as u64)
}

fn read(snapshot: &Snapshot, chunk_len: usize, chunk: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; chunk_len];
    snapshot.read_at(&mut data, (chunk * chunk_len) as u64)?;
    Ok(data)
}

fn kind(result: Result<()>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// Chunks 0..3 committed, chunk 8 written; then the `nth` sync of a flush fails.
fn latched_at_sync(nth: u64, how: ErrorKind) -> Bench {
    let bench = Bench::with_exceptions(4096, 3);
    bench.write(8, 1);
    bench
        .device
        .fail(fault(Calls::Only(CallKind::Flush), nth, how));
    assert_eq!(kind(bench.snapshot.flush()), Some(ErrorKind::Io));
    assert_eq!(bench.device.faults_met(), 1);
    bench.story();
    bench
}

#[test]
fn after_a_failed_sync_no_flush_and_no_write_ever_succeeds() {
    // Running out of space late, at a sync, is as final as any other failure there.
    for how in [ErrorKind::Io, ErrorKind::NoSpace] {
        for nth in [0, 1] {
            let Bench {
                snapshot, device, ..
            } = latched_at_sync(nth, how);
            for _ in 0..3 {
                let latched = Some(ErrorKind::Latched);
                assert_eq!(kind(snapshot.flush()), latched, "{how:?}");
                assert_eq!(kind(snapshot.write_at(&[1; 10], 0)), latched, "mapped");
                assert_eq!(kind(snapshot.write_at(&[1; 10], 4096 * 8)), latched, "lost");
                assert_eq!(kind(snapshot.write_at(&[1; 10], 4096 * 20)), latched, "new");
                assert_eq!(kind(snapshot.write_at(&[1; 4096], 4096 * 30)), latched);
                assert_eq!(kind(snapshot.discard_at(0, 4096)), latched);
                let flags = ZeroFlags::default();
                assert_eq!(kind(snapshot.zero_at(0, 4096, flags)), latched);
                assert!(snapshot.commit_pending().is_err());
            }
            assert!(device.take_log().is_empty(), "the device is left alone");
            assert!(snapshot.report().latched.is_some());
        }
    }
}

#[test]
fn after_a_failed_sync_committed_chunks_are_read_and_uncommitted_ones_are_not() {
    for nth in [0, 1] {
        let bench = latched_at_sync(nth, ErrorKind::Io);
        let read = |chunk| read(&bench.snapshot, 4096, chunk);
        assert_eq!(read(1).unwrap(), [3; 4096], "committed");
        assert_eq!(read(40).unwrap(), [0; 4096], "the origin's");
        let error = read(8).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "neither old nor new: {error}");
        assert!(error.to_string().contains("chunk 8"), "{error}");
        // A write that was refused is not there, and its chunk is the origin's as before.
        assert!(bench.snapshot.write_at(&[1; 4096], 4096 * 20).is_err());
        assert_eq!(read(20).unwrap(), [0; 4096]);
    }
}

#[test]
fn what_a_failed_sync_lost_is_not_told_to_be_zeros() {
    let bench = Bench::with_exceptions(4096, 3);
    let flags = ZeroFlags::default();
    // Zeros, before the commit and behind it.
    bench.write(8, 2);
    bench.snapshot.zero_at(0, 4096, flags).unwrap();
    bench.snapshot.zero_at(8 * 4096, 4096, flags).unwrap();
    let extent = |chunk: u64| bench.snapshot.extent_at(chunk * 4096, 4096).unwrap();
    assert!(extent(0).zero && extent(8).zero);
    let first_sync = fault(Calls::Only(CallKind::Flush), 0, ErrorKind::Io);
    bench.device.fail(first_sync);
    assert_eq!(kind(bench.snapshot.flush()), Some(ErrorKind::Io));
    assert!(extent(0).zero, "it is read as before");
    let lost = extent(8);
    assert!(!lost.zero && !lost.hole && lost.depth == 1, "{lost:?}");
}

#[test]
fn after_a_failed_sync_a_new_open_finds_what_was_committed() {
    let bench = latched_at_sync(1, ErrorKind::Io);
    let reopened = Bench::open(4096, &bench.device.image());
    for chunk in 0..3 {
        let byte = u8::try_from(chunk + 2).unwrap();
        assert_eq!(read(&reopened.snapshot, 4096, chunk).unwrap(), [byte; 4096]);
    }
    reopened.write(9, 1);
    reopened.snapshot.flush().unwrap();
}

/// Where the commit of chunks 100 and on writes, behind `committed` exceptions of 512 bytes.
fn runs_out_of_space_once(committed: u64, count: usize, area_chunk: usize) {
    let chunk_len = 512;
    let bench = Bench::with_exceptions(chunk_len, committed);
    bench.write(100, count);
    let calls = to_chunk(area_chunk, chunk_len);
    bench.device.fail(fault(calls, 0, ErrorKind::NoSpace));
    assert_eq!(kind(bench.snapshot.flush()), Some(ErrorKind::NoSpace));
    assert_eq!(bench.device.faults_met(), 1);
    let report = bench.snapshot.report();
    assert_eq!(report.latched, None);
    assert_eq!(report.exceptions.committed, committed);
    assert_eq!(report.exceptions.uncommitted, count as u64);

    // Everything goes on: reads, writes to mapped chunks and to new ones.
    let data = read(&bench.snapshot, chunk_len, 100).unwrap();
    assert_eq!(data, [7; 512]);
    bench.write(100, 1);
    bench.write(300, 2);
    bench.snapshot.flush().unwrap();
    assert_eq!(bench.snapshot.report().exceptions.uncommitted, 0);

    let store = load(&bench.device.image()).unwrap();
    let wanted = first_exceptions(chunk_len, committed + count as u64 + 2);
    let numbers = |exceptions: &[(u64, u64)]| -> Vec<u64> {
        exceptions.iter().map(|(_, new_chunk)| *new_chunk).collect()
    };
    assert_eq!(numbers(&store.exceptions), numbers(&wanted));
    let origin = vec![0; 400 * chunk_len];
    let content = compose(&origin, &bench.device.image()).unwrap();
    for chunk in (100..100 + count).chain(300..302) {
        assert_eq!(content[chunk * chunk_len], 7, "chunk {chunk}");
    }
}

#[test]
fn no_space_in_a_commit_keeps_the_batch_for_the_next_flush() {
    // At the current area's sector, at the area behind it, and at the one behind that.
    runs_out_of_space_once(3, 5, 1);
    runs_out_of_space_once(30, 2, 34);
    runs_out_of_space_once(30, 10, 34);
    runs_out_of_space_once(30, 40, 67);
}

#[test]
fn no_space_between_two_sectors_of_a_commit_loses_nothing() {
    let bench = Bench::with_exceptions(4096, 30);
    bench.write(100, 70);
    let calls = to_chunk(1, 4096);
    bench.device.fail(fault(calls, 1, ErrorKind::NoSpace));
    assert_eq!(kind(bench.snapshot.flush()), Some(ErrorKind::NoSpace));
    // The first sector's two are there already; what is there is a store.
    assert_eq!(load(&bench.device.image()).unwrap().exceptions.len(), 32);
    bench.write(200, 1);
    bench.snapshot.flush().unwrap();
    let store = load(&bench.device.image()).unwrap();
    assert_eq!(store.exceptions.len(), 101);
    assert_eq!(store.exceptions.last(), Some(&(200, 102)));
}

#[test]
fn what_found_no_space_is_committed_by_itself_before_the_rest() {
    let bench = Bench::with_exceptions(4096, 3);
    let fails = |nth| {
        let calls = to_chunk(1, 4096);
        bench.device.fail(fault(calls, nth, ErrorKind::NoSpace));
        assert_eq!(kind(bench.snapshot.flush()), Some(ErrorKind::NoSpace));
    };
    bench.write(100, 2);
    fails(0);
    bench.write(200, 3);
    // What waited is committed, and what came later finds no space in its turn.
    fails(1);
    let counts = bench.snapshot.report().exceptions;
    assert_eq!((counts.committed, counts.uncommitted), (5, 3));
    bench.write(300, 1);
    let wanted = [
        "sync",
        "write area 0 sector 0: 8 entries",
        "sync",
        "sync",
        "write area 0 sector 0: 9 entries",
        "sync",
    ];
    assert_eq!(bench.story_of_flush(), wanted);
    assert!(bench.story_of_flush().is_empty(), "all is durable");
}

#[test]
fn no_space_for_the_next_area_is_told_to_the_write_that_would_fill_this_one() {
    let bench = Bench::with_exceptions(512, 30);
    bench
        .device
        .fail(fault(Calls::Only(CallKind::Reserve), 0, ErrorKind::NoSpace));
    let result = bench.snapshot.write_at(&[7; 3 * 512], 512 * 100);
    assert_eq!(kind(result), Some(ErrorKind::NoSpace));
    // The first fits; the second needs the next area.
    assert_eq!(read(&bench.snapshot, 512, 100).unwrap(), [7; 512]);
    assert_eq!(read(&bench.snapshot, 512, 101).unwrap(), [0; 512]);
    bench.write(101, 2);
    bench.snapshot.flush().unwrap();
    let store = load(&bench.device.image()).unwrap();
    assert_eq!(store.exceptions[30..], [(100, 32), (101, 33), (102, 35)]);
}

#[test]
fn a_failed_write_of_data_gives_its_chunks_back() {
    for kind_of_failure in [ErrorKind::Io, ErrorKind::NoSpace] {
        let bench = Bench::with_exceptions(512, 0);
        let free = bench.snapshot.report().exceptions.free;
        let calls = to_chunk(2, 512);
        bench.device.fail(fault(calls, 0, kind_of_failure));
        let result = bench.snapshot.write_at(&[7; 4 * 512], 512 * 100);
        assert_eq!(kind(result), Some(kind_of_failure));
        assert_eq!(read(&bench.snapshot, 512, 100).unwrap(), [0; 512]);
        assert_eq!(bench.snapshot.report().exceptions.free, free);
        assert_eq!(bench.snapshot.report().latched, None);
        bench.write(200, 1);
        assert_eq!(
            bench.story(),
            ["write data 2..3"],
            "the number is used again"
        );
    }
}

#[test]
fn a_failed_open_leaves_the_store_to_the_next() {
    let mut store = image(4096, 20, &[(5, 2)]);
    put_exception(&mut store, 4096, 40, 6, 3);
    let device = Recorder::new(&store);
    let origin = Arc::new(MemDevice::new(40 * 4096));
    device.fail(fault(Calls::Only(CallKind::Flush), 0, ErrorKind::Io));
    let options = SnapshotOptions::default();
    let result = Snapshot::on_devices(origin.clone(), device.device.clone(), &options);
    assert!(result.is_err_and(|e| e.to_string().contains("area 0")));
    // Cleared bytes whose sync failed may come back: the next open clears again what it finds.
    assert_eq!((device.take_log().len(), device.faults_met()), (1, 1));
    Snapshot::on_devices(origin, device.device.clone(), &options).unwrap();
}
