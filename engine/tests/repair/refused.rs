//! What is not mended unasked, or not at all: nothing is changed then.

use std::sync::Arc;

use usnap_engine::ErrorKind;
use usnap_engine::check::{FindingKind, check_device};
use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::origin::Origin;
use usnap_engine::repair::{Plan, Repair, RepairOptions, StepKind};
use usnap_engine::sim::{Calls, Failure, Fault, Flaky};
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{Snapshot, SnapshotOptions};
use usnap_format::{ChunkSize, IDENTITY_LEN, IdentityRecord};

use crate::bench::{Bench, dropping, options};
use crate::stores::{first_exceptions, image, put_exception};

#[test]
fn entries_before_believable_ones_stay_unless_asked() {
    for (old, new) in [(1, 1), (1, 1 << 58), (2, 5)] {
        let bench = Bench::of("chunk-4k");
        let mut bytes = bench.sound.clone();
        put_exception(&mut bytes, bench.chunk_len, 2, old, new);
        bench.put(&bytes);
        let error = bench.refused(&options());
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("area 0, entry "), "{error}");
        assert!(
            error.hint().unwrap().contains("--drop-damaged"),
            "{error:?}"
        );
        let plan = bench.plan(&options()).unwrap();
        assert_eq!(plan.refusals.len(), 1);
        assert!(!plan.steps.is_empty(), "what would be done is shown");
    }
}

#[test]
fn a_file_that_was_cut_off_is_not_taken_for_a_torn_one() {
    let bench = Bench::of("chunk-4k");
    // The last of the six data chunks is gone.
    bench.put(&bench.sound[..7 * 4096]);
    let error = bench.refused(&options());
    assert!(
        error.hint().unwrap().contains("restore it whole"),
        "{error:?}"
    );
    bench.repair(&dropping());
    let last = bench.exceptions[5];
    bench.assert_content(&[last.0]);
}

#[test]
fn entries_of_more_than_a_sector_are_not_taken_for_a_torn_one() {
    let bench = Bench::of("chunk-4k");
    let mut bytes = bench.sound.clone();
    for n in 6..40 {
        put_exception(&mut bytes, bench.chunk_len, n, n as u64, 1);
    }
    bench.put(&bytes);
    bench.refused(&options());
    bench.repair(&dropping());
    assert!(bench.cow() == bench.sound);
}

#[test]
fn a_later_versions_record_is_not_overwritten_unasked() {
    let bench = Bench::of("identity");
    let mut bytes = bench.sound.clone();
    bytes[16 + 8] = 2;
    bench.put(&bytes);
    assert_eq!(bench.check().findings[0].kind, FindingKind::Identity);
    assert!(
        bench
            .refused(&options())
            .hint()
            .unwrap()
            .contains("later usnap")
    );
    let origin = bench.origin_path();
    let repair = Repair::open(&bench.cow_path(), Some(&origin), &options(), false).unwrap();
    assert_eq!(repair.carry_out().unwrap().findings, []);
}

#[test]
fn another_origin_than_the_one_on_record_is_refused() {
    let bench = Bench::of("identity");
    let origin = bench.origin_path();
    let open = |cow: &std::path::Path| Repair::open(cow, Some(&origin), &options(), true);
    let error = open(&bench.cow_path()).unwrap_err();
    // The record was crafted, with a sample that nobody can take.
    assert_eq!(error.kind(), ErrorKind::NotSupported, "{error:?}");
    assert_eq!(open(&origin).unwrap_err().kind(), ErrorKind::Usage);

    let options = CreateOptions {
        size_bytes: 1 << 20,
        chunk_size: ChunkSize::from_bytes(4096).unwrap(),
        label: "kept".into(),
        origin: Some(Origin::open(&origin).unwrap().identity().unwrap()),
        identity: true,
    };
    let ours = bench.origin_path().with_file_name("ours");
    create(&ours, &options).unwrap();
    assert!(open(&ours).unwrap().plan().is_empty());
    std::fs::write(&origin, vec![3; bench.origin.len()]).unwrap();
    let error = open(&ours).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OriginMismatch, "{error:?}");
}

/// An old journal must not fit any more; label and origin stay.
#[test]
fn what_is_mended_forgets_its_session_and_keeps_the_rest_of_its_record() {
    let bench = Bench::of("identity");
    let mut bytes = bench.sound.clone();
    put_exception(&mut bytes, bench.chunk_len, 4, 1, 1);
    bench.put(&bytes);
    let steps = bench.repair(&options());
    assert_eq!(steps, [StepKind::ForgetSession, StepKind::ClearJunk]);
    let record = |bytes: &[u8]| {
        let record = bytes[16..].first_chunk::<IDENTITY_LEN>().unwrap();
        IdentityRecord::decode(record, crc32fast::hash)
            .unwrap()
            .unwrap()
    };
    let (before, after) = (record(&bench.sound), record(&bench.cow()));
    assert!(before.session != [0; 16] && after.session == [0; 16]);
    assert_eq!((before.label, before.origin), (after.label, after.origin));
}

#[test]
fn a_store_in_use_is_refused_and_its_user_named() {
    let bench = Bench::of("chunk-4k");
    let origin = Arc::new(Origin::open(&bench.origin_path()).unwrap());
    let opened = Snapshot::open(&origin, &bench.cow_path(), &SnapshotOptions::default());
    for read_only in [true, false] {
        let error = Repair::open(&bench.cow_path(), None, &options(), read_only).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        let pid = format!("pid {}", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
    }
    drop(opened);
    Repair::open(&bench.cow_path(), None, &options(), false).unwrap();
}

#[test]
fn an_area_that_cannot_be_read_is_named_and_what_is_behind_it_is_looked_at() {
    let mut bytes = image(512, 110, &first_exceptions(512, 70));
    put_exception(&mut bytes, 512, 66, 3, 70);
    let below = Arc::new(MemDevice::from_bytes(&bytes));
    let device = BadSector {
        below: below.clone(),
        from: 34 * 512,
    };
    let report = check_device(&device).unwrap();
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|f| (f.kind, f.area.unwrap().0))
        .collect();
    let wanted = [
        (FindingKind::OldChunkTwice, 2),
        (FindingKind::AreaUnreadable, 1),
    ];
    assert_eq!(found, wanted);
    let plan = Plan::make(&device, &dropping()).unwrap();
    assert!(plan.refusals[0].hint.contains("ddrescue"));
    assert!(plan.carry_out(&device).is_err());
    assert!(below.to_bytes() == bytes);
}

/// A device with one sector that can't be read.
struct BadSector {
    below: Arc<MemDevice>,
    from: u64,
}

impl BlockDevice for BadSector {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "bad"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> usnap_engine::Result<()> {
        if offset < self.from + 512 && offset + buf.len() as u64 > self.from {
            return Err(usnap_engine::Error::new(ErrorKind::Io, "cannot read it"));
        }
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> usnap_engine::Result<()> {
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> usnap_engine::Result<()> {
        self.below.flush()
    }

    fn discard_at(&self, offset: u64, len: u64) -> usnap_engine::Result<()> {
        self.below.discard_at(offset, len)
    }

    fn zero_at(
        &self,
        offset: u64,
        len: u64,
        flags: usnap_engine::device::ZeroFlags,
    ) -> usnap_engine::Result<()> {
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> usnap_engine::Result<()> {
        self.below.reserve_at(offset, len)
    }

    fn extent_at(
        &self,
        offset: u64,
        len: u64,
    ) -> usnap_engine::Result<usnap_engine::device::Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

#[test]
fn a_block_device_is_not_made_longer() {
    let bytes = image(512, 34, &first_exceptions(512, 32));
    let device = MemDevice::from_bytes(&bytes);
    let fixed = RepairOptions {
        is_fixed_size: true,
        ..options()
    };
    let error = Plan::make(&device, &fixed).unwrap().carry_out(&device);
    assert!(
        error
            .unwrap_err()
            .hint()
            .unwrap()
            .contains("512 bytes or more")
    );
    assert!(device.to_bytes() == bytes);
}

/// Each call fails once: an error, or nothing was lost by it; and repairing again does the rest.
#[test]
fn an_error_in_the_middle_leaves_something_to_repair() {
    let bench = Bench::of("four-areas");
    let mut bytes = bench.sound.clone();
    for n in [3, 40, 70] {
        put_exception(&mut bytes, 512, n, 9, 1);
    }
    let lost = [3, 40, 70].map(|n: usize| bench.exceptions[n].0);
    let mut failed = 0;
    for nth in 0.. {
        let below = Arc::new(MemDevice::from_bytes(&bytes));
        let plan = Plan::make(&*below, &dropping()).unwrap();
        let flaky = Flaky::new(below.clone());
        flaky.fail(Fault::nth(Calls::Any, nth, Failure::whole(ErrorKind::Io)));
        let ended = plan.carry_out(&flaky);
        if ended.is_ok() {
            break;
        }
        failed += 1;
        let again = Plan::make(&*below, &dropping()).unwrap();
        again.carry_out(&*below).unwrap();
        assert!(check_device(&*below).unwrap().is_clean(), "{nth}");
        let found = crate::plain_loader::compose(&bench.origin, &below.to_bytes()).unwrap();
        bench.assert_is_content(&found, &lost);
    }
    assert!(failed > 6, "{failed}");
}
