//! Each call of a merge fails once, clients at work: what they were told is written is what they
//! read, a failed flush is told, and the next merge ends what this one left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use usnap_engine::device::BlockDevice;
use usnap_engine::merge::MergeState;
use usnap_engine::{Error, ErrorKind};

use crate::random::Random;
use crate::world::{Call, SECTOR, Shape, World, index, make, sector_of};

const SHAPE: Shape = Shape {
    chunk_bytes: 1024,
    chunks: 120,
    seed: 5,
};
const BATCH_BYTES: u64 = 20 * 1024;

/// Merges with the `nth` call of this kind failing; whether there were so many.
fn play(device: &'static str, kind: Call, nth: u64) -> bool {
    let images = make(&SHAPE);
    let world = World::new(&images, BATCH_BYTES);
    let mut model = images.content.clone();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let hook = move |name: &'static str, call: Call, _: u64| {
        if (name, call) == (device, kind) && counted.fetch_add(1, Ordering::SeqCst) == nth {
            return Err(Error::new(ErrorKind::Io, "told to fail"));
        }
        Ok(())
    };
    assert!(world.hook.set(Box::new(hook)).is_ok());
    let mut random = Random::new(nth);
    let mut failed = None;
    let mut may_be_either = Vec::new();
    let mut flushed = true;
    for value in 1 << 40.. {
        let sector = random.below(SHAPE.size_bytes() / SECTOR);
        let here = index(sector * SECTOR)..index((sector + 1) * SECTOR);
        match world.merge.write_at(&sector_of(value), sector * SECTOR) {
            Ok(()) => model[here].copy_from_slice(&sector_of(value)),
            Err(_) => may_be_either.push(sector),
        }
        if value % 3 == 0 {
            flushed = world.merge.flush().is_ok();
        }
        if failed.is_none() {
            match world.merge.merge_one_batch() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        if value % 40 == 39 {
            break;
        }
    }
    let met = calls.load(Ordering::SeqCst) > nth;
    if kind == Call::Flush && met {
        assert!(world.merge.report().latched.is_some());
        world.merge.flush().unwrap_err();
        world.merge.write_at(&[1], 0).unwrap_err();
        assert!(!flushed, "a flush behind the failed one succeeded");
    }
    let judge = |content: &[u8], what: &str| {
        for (sector, (found, wanted)) in (0..).zip(content.chunks(512).zip(model.chunks(512))) {
            let is_known = !may_be_either.contains(&sector);
            assert!(!is_known || found == wanted, "{what}: sector {sector}");
        }
    };
    if kind != Call::Read {
        judge(&world.content(), "served");
    }
    let _may_be_latched = world.merge.close();
    let next = World::over(
        world.cow.clone(),
        world.origin.clone(),
        world.cow,
        world.origin,
        BATCH_BYTES,
    );
    judge(&next.content(), "served by the next");
    next.merge.run();
    assert_eq!(next.merge.progress().state, MergeState::Done);
    next.merge.close().unwrap();
    let origin = next.origin.to_bytes();
    judge(&origin, "merged by the next");
    next.assert_merged(&origin);
    met
}

#[test]
fn whatever_fails_while_it_merges_loses_nothing_that_was_acknowledged() {
    // A merge does not read the origin.
    let of_cow = [Call::Read, Call::Write, Call::Flush].map(|call| ("cow", call));
    let of_origin = [Call::Write, Call::Flush].map(|call| ("origin", call));
    for (device, kind) in of_cow.into_iter().chain(of_origin) {
        let count = (0..400).take_while(|nth| play(device, kind, *nth)).count();
        assert!(count > 4, "{device} {kind:?}: {count}");
    }
}
