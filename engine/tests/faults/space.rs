//! A filesystem that runs full below the store, and has space again now and then.

use usnap_engine::device::BlockDevice;
use usnap_engine::{Durability, ErrorKind, Snapshot};

use crate::case::{Case, Shape, Unused};
use crate::operation::any_operation;
use crate::random::Random;
use crate::run::{Run, ask, data_of, demand, options, range_of};
use crate::workers::run;

/// One history; how many requests were refused.
fn play(seed: u64) -> Result<u64, String> {
    let mut random = Random::new(seed);
    let case = Case::new(Shape {
        chunk_len: [512, 1024, 4096][usize::try_from(seed % 3).expect("small")],
        exceptions: 20,
        holes: false,
        junk: false,
        unused: Unused::Zeros,
        history_chunks: 160,
        room: None,
    });
    let mut run = Run::new(&case, Durability::Flush)?;
    let device = run.recorder.device.clone();
    if seed.is_multiple_of(2) {
        device.need_reservations();
    }
    let area = case.shape.chunk_len as u64;
    let space = device.limit_space(area + random.below(40 * area));
    space.map_err(|e| format!("{e:?}"))?;
    let options = options(Durability::Flush);
    let snapshot = Snapshot::on_devices(case.origin.clone(), device.clone(), &options)
        .map_err(|e| format!("the open: {e:?}"))?;
    let mut refused = 0;
    for stamp in 1..300 {
        let operation = any_operation(&case, &mut random);
        let data = data_of(operation, stamp);
        run.begins(operation, &data);
        let result = ask(&snapshot, operation, &data);
        // Only what needs space is refused, and nothing else ever fails: what a flush needs was
        // there before the writes that it covers were answered.
        if let Err(error) = &result {
            let is_right = error.kind() == ErrorKind::NoSpace && range_of(operation).is_some();
            demand(is_right, || format!("{operation:?}: {error:?}"))?;
            refused += 1;
        }
        run.ends(&snapshot, operation, result.is_ok())?;
        demand(snapshot.report().latched.is_none(), || "latched".to_owned())?;
        if stamp % 20 == 0 && random.below(2) == 0 {
            device.give_space(random.below(20 * area));
        }
        if stamp % 10 == 0 {
            let found = run.read_all(&snapshot)?;
            demand(found == run.values.now(), || {
                "reads something else".to_owned()
            })?;
        }
    }
    // And with space everything goes on, without a new open.
    device.give_space(1 << 30);
    let (at, data) = (
        case.offset(case.shape.exceptions),
        vec![5; 30 * case.shape.chunk_len],
    );
    run.values.write(at, &data);
    let written = snapshot.write_at(&data, at as u64);
    written.map_err(|e| format!("with space: {e:?}"))?;
    run.end(Some(&snapshot), seed)?;
    Ok(refused)
}

#[test]
fn a_full_filesystem_refuses_what_needs_space_and_nothing_else() {
    let total = run("faults: space", "refusals", 0..60, u64::MAX, |seed| {
        play(seed).map_err(|e| format!("history {seed}: {e}"))
    });
    assert!(total.count > 500, "only {} refusals", total.count);
}
