//! Meetings that chance rarely brings about: a writer and the batch that takes its chunk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use usnap_engine::device::BlockDevice;
use usnap_engine::merge::MergeState;

use crate::plain_loader::load;
use crate::world::{Call, SECTOR, Shape, World, index, make, sector_of};

/// Long enough for a thread that does not wait to be done.
const A_WHILE: Duration = Duration::from_millis(100);

const SHAPE: Shape = Shape {
    chunk_bytes: 1024,
    chunks: 40,
    seed: 3,
};

#[test]
fn a_batch_is_not_copied_before_a_writer_has_ended_that_looked_its_chunk_up() {
    let mut images = make(&SHAPE);
    // In the last batch's worth of entries, so that it is merged first.
    let (old_chunk, new_chunk) = *load(&images.cow).unwrap().exceptions.last().unwrap();
    let world = World::new(&images, 4 * SHAPE.chunk_bytes);
    let (says_begun, begun) = channel();
    let (go_on, told) = channel::<()>();
    let told = Mutex::new(told);
    let hold = AtomicBool::new(true);
    let offset = new_chunk * SHAPE.chunk_bytes;
    let hook = move |name: &'static str, call: Call, at: u64| {
        if (name, call, at) == ("cow", Call::Write, offset) && hold.swap(false, Ordering::SeqCst) {
            says_begun.send(()).unwrap();
            let told = told.lock().unwrap();
            // Where the test fails nobody says a word.
            let _ = told.recv_timeout(50 * A_WHILE);
        }
        Ok(())
    };
    assert!(world.hook.set(Box::new(hook)).is_ok());
    let (at, data) = (old_chunk * SHAPE.chunk_bytes, sector_of(77));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| world.merge.write_at(&data, at).unwrap());
        begun.recv().unwrap();
        let merge = scope.spawn(|| world.merge.run());
        std::thread::sleep(A_WHILE);
        assert_eq!(world.merge.progress().chunks_left, images.exceptions);
        go_on.send(()).unwrap();
        writer.join().unwrap();
        merge.join().unwrap();
    });
    images.content[index(at)..index(at + SECTOR)].copy_from_slice(&data);
    assert!(world.content() == images.content);
    world.assert_merged(&images.content);
}

#[test]
fn a_write_to_a_chunk_that_is_being_merged_waits_and_others_do_not() {
    let mut images = make(&SHAPE);
    let exceptions = load(&images.cow).unwrap().exceptions;
    let (in_batch, _) = *exceptions.last().unwrap();
    let (before, _) = exceptions[0];
    let is_mapped = |chunk: &u64| exceptions.iter().any(|(old, _)| old == chunk);
    let unmapped = (0..SHAPE.chunks - 1)
        .find(|chunk| !is_mapped(chunk))
        .unwrap();
    let world = World::new(&images, 4 * SHAPE.chunk_bytes);
    let (says_begun, begun) = channel();
    let (go_on, told) = channel::<()>();
    let told = Mutex::new(told);
    let hold = AtomicBool::new(true);
    // The first flush of the origin: copied, and not cleared.
    let hook = move |name: &'static str, call: Call, _: u64| {
        if (name, call) == ("origin", Call::Flush) && hold.swap(false, Ordering::SeqCst) {
            says_begun.send(()).unwrap();
            let told = told.lock().unwrap();
            // Where the test fails nobody says a word.
            let _ = told.recv_timeout(50 * A_WHILE);
        }
        Ok(())
    };
    assert!(world.hook.set(Box::new(hook)).is_ok());
    let offset = |chunk: u64| chunk * SHAPE.chunk_bytes;
    let waits = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let merge = scope.spawn(|| world.merge.run());
        begun.recv().unwrap();
        world
            .merge
            .write_at(&sector_of(71), offset(before))
            .unwrap();
        world
            .merge
            .write_at(&sector_of(72), offset(unmapped))
            .unwrap();
        assert!(world.content().len() == images.content.len(), "reads go on");
        scope.spawn(|| {
            world
                .merge
                .write_at(&sector_of(73), offset(in_batch))
                .unwrap();
            waits.store(false, Ordering::SeqCst);
        });
        std::thread::sleep(A_WHILE);
        assert!(waits.load(Ordering::SeqCst));
        go_on.send(()).unwrap();
        merge.join().unwrap();
    });
    for (chunk, value) in [(before, 71), (unmapped, 72), (in_batch, 73)] {
        let at = index(offset(chunk));
        images.content[at..at + 512].copy_from_slice(&sector_of(value));
    }
    assert_eq!(world.merge.progress().state, MergeState::Done);
    assert!(world.content() == images.content);
    world.assert_merged(&images.content);
}

#[test]
fn who_is_stopped_leaves_a_snapshot_of_the_changed_origin_that_the_next_merge_ends() {
    let images = make(&SHAPE);
    let mut world = World::new(&images, 4 * SHAPE.chunk_bytes);
    let mut merged = 0;
    while world.merge.merge_one_batch().unwrap() {
        merged += 1;
        world.merge.stop();
        assert!(!world.merge.merge_one_batch().unwrap(), "it was stopped");
        world.merge.close().unwrap();
        let error = world.merge.write_at(&[1], 0).unwrap_err();
        assert!(error.to_string().contains("closed"), "{error}");
        let (cow, origin) = (world.cow.to_bytes(), world.origin.to_bytes());
        assert!(crate::plain_loader::compose(&origin, &cow).unwrap() == images.content);
        world = World::over(
            world.cow.clone(),
            world.origin.clone(),
            world.cow,
            world.origin,
            4 * SHAPE.chunk_bytes,
        );
    }
    assert!(merged > 5, "{merged}");
    assert!(world.merge.report().status.to_string().starts_with("4/"));
    world.merge.close().unwrap();
    world.assert_merged(&images.content);
}
