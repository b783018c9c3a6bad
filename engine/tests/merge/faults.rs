//! Each call to either device fails once. The merge says so and stops; what it leaves is judged as
//! after a power cut, since after a failed flush nobody knows what is on the disk; another merge goes
//! on.

use usnap_engine::ErrorKind;
use usnap_engine::merge::MergeEnd;

use crate::cuts::{Judge, SHAPE};
use crate::film::{Fault, batches, merge_with};
use crate::stores_of::{Pair, Shape};

fn each_call_fails(shape: Shape, chunks: usize) {
    let pair = Pair::new(shape, 5);
    let options = batches(shape.chunk_len, chunks);
    let whole = merge_with(&pair.cow, &pair.origin, &options, None);
    assert_eq!(whole.result.unwrap(), MergeEnd::Done);
    assert!(whole.calls > 20, "only {} calls", whole.calls);
    for nth in 0..whole.calls {
        for (kind, is_short) in [
            (ErrorKind::Io, false),
            (ErrorKind::Io, true),
            (ErrorKind::NoSpace, false),
            (ErrorKind::NoSpace, true),
        ] {
            let fault = Fault {
                nth,
                kind,
                is_short,
            };
            let failed = merge_with(&pair.cow, &pair.origin, &options, Some(fault));
            let error = failed.result.expect_err("a call failed");
            assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
            Judge::new(&pair, options)
                .end(&failed.film)
                .unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        }
    }
}

#[test]
fn a_call_that_fails_ends_the_merge_and_harms_nothing() {
    each_call_fails(SHAPE, 40);
    let shape = Shape {
        chunk_len: 1024,
        exceptions: 150,
        is_disordered: true,
        is_stale: true,
        has_record: false,
    };
    each_call_fails(shape, 90);
}
