//! Playing a history on a device, and what is seen of it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};

use crate::SECTOR;
use crate::history::{History, Step, bytes};
use crate::store_view::{mapped_digest, normalised};

/// What a step showed. Digests are 0 where the step has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// 0, or the error number that the step ended with.
    pub(crate) errno: i32,
    /// Of what was read.
    pub(crate) content: u32,
    /// Of the COW device at a deactivation, without what may differ.
    pub(crate) cow: u32,
    /// Of the set of old chunks that have exceptions, at a flush and at a deactivation.
    pub(crate) mapped: u32,
    /// The status line behind the target's name.
    pub(crate) status: String,
}

/// What a history, or a part of one, showed.
#[derive(Clone, Debug)]
pub(crate) struct Played {
    /// A value a step, and one for the end: all is read, and deactivated.
    pub(crate) seen: Vec<Seen>,
    /// The COW device at the end, as it is.
    pub(crate) cow: Vec<u8>,
}

/// The I/O of a snapshot that is active.
pub(crate) trait Device {
    /// The error number, or 0.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<i32>;
    /// The bytes, or the error number.
    fn read(&mut self, offset: u64, len: usize) -> Result<Result<Vec<u8>, i32>>;
    /// The error number, or 0.
    fn discard(&mut self, offset: u64, len: u64) -> Result<i32>;
    /// The error number, or 0.
    fn flush(&mut self) -> Result<i32>;
}

/// A side of ours: a device that can be activated by itself.
pub(crate) trait Side: Device {
    fn activate(&mut self) -> Result<()>;
    fn deactivate(&mut self) -> Result<()>;
    fn status(&mut self) -> Result<String>;
    /// The COW device.
    fn cow(&self) -> Result<Vec<u8>>;
}

/// Does a step that is no deactivation; the status is for the caller to see.
pub(crate) fn perform(history: &History, step: &Step, device: &mut dyn Device) -> Result<Seen> {
    let mut seen = Seen::default();
    match *step {
        Step::Write { at, len, stamp } => {
            seen.errno = device.write(at * SECTOR, &history.shape.payload(stamp, len))?;
        }
        Step::Read { at, len } => seen = read(device, at, len)?,
        Step::Discard { at, len } => seen.errno = device.discard(at * SECTOR, len * SECTOR)?,
        Step::Flush => seen.errno = device.flush()?,
        Step::Reactivate => {}
    }
    Ok(seen)
}

/// Reads all, as each history's end does.
pub(crate) fn read_all(history: &History, device: &mut dyn Device) -> Result<Seen> {
    read(device, 0, history.shape.origin)
}

fn read(device: &mut dyn Device, at: u64, len: u64) -> Result<Seen> {
    let mut seen = Seen::default();
    match device.read(at * SECTOR, bytes(len))? {
        Ok(found) => seen.content = crc32fast::hash(&found),
        Err(errno) => seen.errno = errno,
    }
    Ok(seen)
}

impl Seen {
    /// Notes the COW device of a deactivated snapshot.
    pub(crate) fn look_at(&mut self, history: &History, cow: Vec<u8>) {
        self.mapped = mapped_digest(&cow, history.shape.chunk);
        self.cow = crc32fast::hash(&normalised(cow, &history.shape));
    }
}

/// Plays some of a history on a side of ours.
pub(crate) fn play(history: &History, steps: Range<usize>, side: &mut dyn Side) -> Result<Played> {
    play_and_note(history, steps, side, &mut |_, _| Ok(()))
}

/// The same, telling `note` before each step.
pub(crate) fn play_and_note<'a>(
    history: &History,
    steps: Range<usize>,
    side: &mut (dyn Side + 'a),
    note: &mut dyn FnMut(usize, &(dyn Side + 'a)) -> Result<()>,
) -> Result<Played> {
    let mut all = Vec::new();
    side.activate()?;
    for index in steps {
        note(index, side)?;
        let step = &history.steps[index];
        let mut seen = perform(history, step, side).with_context(|| format!("at {step}"))?;
        if *step == Step::Flush {
            seen.mapped = mapped_digest(&side.cow()?, history.shape.chunk);
        }
        if *step == Step::Reactivate {
            side.deactivate()?;
            seen.look_at(history, side.cow()?);
            side.activate()?;
        }
        seen.status = side.status()?;
        all.push(seen);
    }
    let mut seen = read_all(history, side)?;
    seen.status = side.status()?;
    side.deactivate()?;
    let cow = side.cow()?;
    seen.look_at(history, cow.clone());
    all.push(seen);
    Ok(Played { seen: all, cow })
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            errno,
            content,
            cow,
            mapped,
            status,
        } = self;
        write!(f, "{errno} {content} {cow} {mapped} {status}")
    }
}

impl FromStr for Seen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.splitn(5, ' ');
        let mut word = || words.next().with_context(|| format!("cut off: {text}"));
        Ok(Self {
            errno: word()?.parse()?,
            content: word()?.parse()?,
            cow: word()?.parse()?,
            mapped: word()?.parse()?,
            status: word()?.to_owned(),
        })
    }
}
