//! The canaries: a log that is bent so that it breaks one rule, each of which the judge must notice.
//! The engine is the real one; a disobedient device stands between it and the medium. What no device
//! can undo is done to the log all the same: there is no switch in the engine.

use usnap_engine::sim::Event;

use crate::case::{Case, Shape, Unused};
use crate::judge::{Effort, Judge};
use crate::operation::Operation;
use crate::player::{Cut, Player};
use crate::stream::{FLUSH, Obedient, Places, Stream};

/// Loses the flush that comes right before a write to an area: entries may be durable before their
/// data.
struct NoFlushBeforeEntries {
    places: Places,
    held: bool,
}

impl Stream for NoFlushBeforeEntries {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        let held = std::mem::take(&mut self.held);
        if held && !self.places.is_area(&event) {
            out.push(FLUSH);
        }
        match event {
            Event::Flush { .. } => self.held = true,
            other => out.push(other),
        }
    }

    fn end_of_call(&mut self, out: &mut Vec<Event>) {
        if std::mem::take(&mut self.held) {
            out.push(FLUSH);
        }
    }
}

/// Loses the zeros that open the next area.
struct NoZeroedArea {
    places: Places,
}

impl Stream for NoZeroedArea {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        let is_zeros = match &event {
            Event::Write { data, .. } => data.iter().all(|byte| *byte == 0),
            _ => false,
        };
        if !(is_zeros && self.places.is_area(&event)) {
            out.push(event);
        }
    }
}

/// Holds data back until the entries are written, and synced: as if they came first.
struct EntriesFirst {
    places: Places,
    held: Vec<Event>,
    entries_written: bool,
}

impl Stream for EntriesFirst {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        if self.places.is_data(&event) {
            self.held.push(event);
            return;
        }
        self.entries_written |= self.places.is_area(&event);
        let is_flush = matches!(event, Event::Flush { .. });
        out.push(if is_flush { FLUSH } else { event });
        if is_flush && self.entries_written {
            out.append(&mut self.held);
            out.push(FLUSH);
            self.entries_written = false;
        }
    }
}

/// Loses what is done to an area before there is any data: the clearing of junk at open.
struct NoCleaning {
    places: Places,
    data_written: bool,
}

impl Stream for NoCleaning {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        self.data_written |= self.places.is_data(&event);
        if self.data_written || !self.places.is_area(&event) {
            out.push(event);
        }
    }
}

/// Loses the flush between two writes to one area: its sectors are written as one piece.
struct AreaInOnePiece {
    places: Places,
    last: Option<Event>,
    held: bool,
}

impl Stream for AreaInOnePiece {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        if matches!(event, Event::Flush { .. }) {
            self.held = true;
            return;
        }
        let merges = self
            .last
            .as_ref()
            .is_some_and(|last| self.places.is_same_area(last, &event));
        if std::mem::take(&mut self.held) && !merges {
            out.push(FLUSH);
        }
        self.last = Some(event.clone());
        out.push(event);
    }

    fn end_of_call(&mut self, out: &mut Vec<Event>) {
        if std::mem::take(&mut self.held) {
            out.push(FLUSH);
        }
    }
}

const EFFORT: Effort = Effort {
    images: 64,
    second_images: 2,
    operations: 3,
    kernel_cuts: 1,
};

fn shape(chunk_len: usize, exceptions: usize) -> Shape {
    Shape {
        chunk_len,
        exceptions,
        holes: false,
        junk: false,
        unused: Unused::Stale,
        history_chunks: 48,
        room: None,
    }
}

/// Writes so many new chunks at once, flushes, and writes a few more.
fn play(shape: Shape, count: usize, stream: &mut dyn Stream) -> Result<u64, String> {
    let case = Case::new(shape);
    let mut judge = Judge::new(&case, EFFORT, 1);
    let (image, content) = (case.image.clone(), case.content()?);
    let mut on_cut = |cut: &Cut<'_>| judge.first_cut(cut);
    let mut player = Player::open(&case, image, content, false, stream, &mut on_cut)?;
    let write = |first: usize, count: usize| Operation::Write {
        offset: case.offset(shape.exceptions + first),
        len: count * shape.chunk_len,
    };
    let operations = [
        write(0, count),
        Operation::Flush,
        write(count, 3),
        Operation::Timer,
        Operation::Flush,
    ];
    for (number, operation) in (1..).zip(operations) {
        player.step(operation, number, &mut on_cut)?;
    }
    Ok(judge.images)
}

/// The same history is sound without the stream, and with it the judge complains so.
fn caught(shape: Shape, count: usize, stream: &mut dyn Stream, complaint: &str) {
    let images = play(shape, count, &mut Obedient).expect("without the canary it is sound");
    assert!(images > 50, "only {images} images");
    let violation = play(shape, count, stream).expect_err("the canary lives");
    crate::workers::say(&format!("crash: caught: {violation}"));
    assert!(violation.contains(complaint), "{violation}");
}

#[test]
fn entries_without_a_flush_before_them_are_caught() {
    let places = Places { chunk_len: 512 };
    let held = false;
    let mut stream = NoFlushBeforeEntries { places, held };
    caught(shape(512, 20), 2, &mut stream, "sector");
    let mut stream = NoFlushBeforeEntries { places, held };
    caught(shape(512, 30), 5, &mut stream, "sector");
}

#[test]
fn a_next_area_that_is_not_zeroed_is_caught() {
    let places = Places { chunk_len: 512 };
    // The batch ends with a full area; and with more than one.
    caught(shape(512, 30), 2, &mut NoZeroedArea { places }, "twice");
    caught(shape(512, 30), 34, &mut NoZeroedArea { places }, "twice");
}

#[test]
fn entries_before_their_data_are_caught() {
    let mut stream = EntriesFirst {
        places: Places { chunk_len: 1024 },
        held: Vec::new(),
        entries_written: false,
    };
    caught(shape(1024, 20), 2, &mut stream, "sector");
}

#[test]
fn junk_that_is_not_cleaned_at_open_is_caught() {
    let mut stream = NoCleaning {
        places: Places { chunk_len: 1024 },
        data_written: false,
    };
    let junk = Shape {
        junk: true,
        ..shape(1024, 29)
    };
    caught(junk, 2, &mut stream, "a stale entry comes alive");
}

#[test]
fn an_area_in_one_piece_is_caught_when_a_kernel_comes_next() {
    let mut stream = AreaInOnePiece {
        places: Places { chunk_len: 1024 },
        last: None,
        held: false,
    };
    // Entries in both sectors of the area.
    caught(shape(1024, 20), 30, &mut stream, "a kernel writes on");
}
