//! What a client does.

use crate::case::Case;
use crate::random::Random;

/// One call of a client. Offsets and lengths are bytes of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write {
        offset: usize,
        len: usize,
    },
    /// A write that is durable when it returns.
    WriteFua {
        offset: usize,
        len: usize,
    },
    Zero {
        offset: usize,
        len: usize,
        no_hole: bool,
    },
    Trim {
        offset: usize,
        len: usize,
    },
    Flush,
    /// The commit timer's call: exceptions become durable, nothing is promised.
    Timer,
}

/// Something that a client may do, in the old chunks before the kernel's.
pub(crate) fn any_operation(case: &Case, random: &mut Random) -> Operation {
    let chunk_len = case.shape.chunk_len;
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("small");
    let end = case.kernels;
    // Most go to what the history may map, some to what is mapped, few to the device's last bytes.
    let chunk = match below(10) {
        0..2 if case.shape.exceptions > 0 => below(case.shape.exceptions),
        _ => case.shape.exceptions + below(end - case.shape.exceptions),
    };
    let most = match below(12) {
        0 => 40,
        1..4 => 6,
        _ => 2,
    };
    let count = 1 + below((end - chunk).min(most));
    let (mut offset, mut len) = (case.offset(chunk), count * chunk_len);
    if below(24) == 0 {
        (offset, len) = (case.origin_bytes.len() - 512, 512);
    }
    let kind = below(24);
    // Half of the writes are of parts of chunks, half of those of parts of sectors.
    if below(2) == 0 {
        let unit = if below(2) == 0 { 512 } else { 1 };
        let from = below(len.min(chunk_len)) / unit * unit;
        let to = len - below(len.min(chunk_len)) / unit * unit;
        if from < to {
            offset += from;
            len = to - from;
        }
    }
    match kind {
        0..3 => Operation::Flush,
        3..5 => Operation::Timer,
        5..7 => Operation::WriteFua { offset, len },
        7..10 => Operation::Zero {
            offset,
            len,
            no_hole: below(2) == 0,
        },
        10..12 => Operation::Trim { offset, len },
        _ => Operation::Write { offset, len },
    }
}
