//! A history of operations, played on the engine and on plain vectors at once: the model test with
//! a fuzzer for its author.

use usnap_engine::Discard;

use crate::history::{Align, Operation, Shape, Span, Where, play};
use crate::input::Input;

/// Longer histories find nothing that shorter ones don't, and take their time.
const OPERATIONS_MAX: usize = 60;

fn span(input: &mut Input<'_>) -> Span {
    let align = match input.u8() % 3 {
        0 => Align::Chunk,
        1 => Align::Sector,
        _ => Align::Byte,
    };
    Span {
        at: input.u32(),
        len: input.u32(),
        align,
    }
}

fn operation(input: &mut Input<'_>) -> Operation {
    match input.u8() % 16 {
        0..=4 => Operation::Write(span(input)),
        5 => Operation::Read(span(input)),
        6 | 7 => Operation::Discard(span(input)),
        8 | 9 => Operation::Zero {
            no_hole: input.flag(),
            fast: input.flag(),
            span: span(input),
        },
        10 => Operation::Extents(span(input)),
        11 => Operation::Flush,
        12 => Operation::Commit,
        13 => Operation::Reopen,
        14 => Operation::Abandon,
        _ => Operation::Grow(input.u32()),
    }
}

/// Plays a history: the shape of the devices, then its steps.
///
/// # Panics
/// Where the engine and the vectors differ.
pub fn snapshot_ops(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let kind = input.u8();
    let (place, reached) = match kind {
        0 => (Where::Files, "files"),
        1..=40 => (Where::Snapshots, "snapshots"),
        _ => (Where::Memory, "memory"),
    };
    let shape = Shape {
        chunk: input.u8(),
        origin: input.u32(),
        origin_pages: input.u64(),
        cow_chunks: input.u16(),
        cow_tail: input.u16(),
        cow_garbage: input.flag(),
        every_write: input.flag(),
        // No byte of its own: what the corpus means stays.
        discard: match kind % 3 {
            0 => Discard::Punch,
            1 => Discard::Zeroes,
            _ => Discard::Ignore,
        },
    };
    let mut operations = Vec::new();
    while !input.is_empty() && operations.len() < OPERATIONS_MAX {
        operations.push(operation(&mut input));
    }
    if let Err(error) = play(&shape, &operations, place) {
        panic!("{error}\non {place:?}: {shape:?}, {operations:#?}");
    }
    reached
}
