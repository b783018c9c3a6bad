//! A COW device and a journal's memory that keep one log of what was done to either, in order; so
//! that whatever a SIGKILL could have left can be put together afterwards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use usnap_engine::device::{BlockDevice, Extent, ZeroFlags, check_range};
use usnap_engine::{Error, ErrorKind, JournalMemory, Result};

use crate::CHUNK_LEN;

const SECTOR_LEN: usize = 512;

/// What outlives a process: the page cache of the COW file, and the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) image: Vec<u8>,
    pub(crate) words: Vec<u64>,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Word { index: usize, value: u64 },
    Write { offset: usize, data: Vec<u8> },
}

/// The next call that fails, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A write to a data chunk, of which half the sectors are done.
    Data,
    /// A write to a metadata area, for want of space.
    AreaNoSpace,
    /// A sync.
    Sync,
}

impl Left {
    /// Does to it what was done.
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Word { index, value } => self.words[*index] = *value,
            Event::Write { offset, data } => {
                self.image[*offset..][..data.len()].copy_from_slice(data);
            }
        }
    }

    /// Calls `look` with what each kill while `log` was being done would have left: after every
    /// event, and after every sector of a longer write. The last one is what is there in the end.
    pub(crate) fn after_each(mut self, log: &[Event], mut look: impl FnMut(&Self)) {
        for event in log {
            if let Event::Write { offset, data } = event {
                for (n, sector) in data.chunks(SECTOR_LEN).enumerate() {
                    self.image[offset + n * SECTOR_LEN..][..sector.len()].copy_from_slice(sector);
                    look(&self);
                }
            } else {
                self.apply(event);
                look(&self);
            }
        }
    }
}

struct State {
    left: Left,
    log: Vec<Event>,
    fault: Option<Fault>,
}

/// Device and memory; each is handed out as an object of its own.
pub(crate) struct Film(Mutex<State>);

struct Memory(Arc<Film>);

struct Device {
    film: Arc<Film>,
    size_bytes: u64,
}

impl Film {
    pub(crate) fn new(left: Left) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            left,
            log: Vec::new(),
            fault: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(self: &Arc<Self>) -> Arc<dyn JournalMemory> {
        Arc::new(Memory(Arc::clone(self)))
    }

    pub(crate) fn device(self: &Arc<Self>) -> Arc<dyn BlockDevice> {
        let size_bytes = self.state().left.image.len() as u64;
        let film = Arc::clone(self);
        Arc::new(Device { film, size_bytes })
    }

    /// What is there now.
    pub(crate) fn left(&self) -> Left {
        self.state().left.clone()
    }

    /// What was done since the last time this was asked.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().log)
    }

    /// How much was done since the log was taken.
    pub(crate) fn log_len(&self) -> usize {
        self.state().log.len()
    }

    pub(crate) fn fail(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Whether the fault was not met.
    pub(crate) fn has_fault(&self) -> bool {
        self.state().fault.is_some()
    }

    fn push(&self, event: Event) {
        let mut state = self.state();
        state.left.apply(&event);
        state.log.push(event);
    }

    fn meets(&self, fault: Fault) -> bool {
        let mut state = self.state();
        let meets = state.fault == Some(fault);
        if meets {
            state.fault = None;
        }
        meets
    }
}

impl JournalMemory for Memory {
    fn len_words(&self) -> usize {
        self.0.state().left.words.len()
    }

    fn load(&self, index: usize) -> u64 {
        let state = self.0.state();
        state.left.words.get(index).copied().unwrap_or(0)
    }

    fn store(&self, index: usize, value: u64) {
        if index < self.len_words() {
            self.0.push(Event::Word { index, value });
        }
    }

    /// One thread at a time makes the film.
    fn add(&self, index: usize, change: i64) {
        self.store(index, self.load(index).wrapping_add_signed(change));
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("devices of the test fit in memory")
}

impl BlockDevice for Device {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        "film"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.name(), self.size_bytes, offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.film.state().left.image[to_usize(offset)..][..buf.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.name(), self.size_bytes, offset, data.len() as u64)?;
        let offset = to_usize(offset);
        let is_area = offset / CHUNK_LEN % (CHUNK_LEN / 16 + 1) == 1;
        if is_area && self.film.meets(Fault::AreaNoSpace) {
            return Err(Error::new(ErrorKind::NoSpace, "the test has no space"));
        }
        let fails = !is_area && self.film.meets(Fault::Data);
        let half = data.len() / 2 / SECTOR_LEN * SECTOR_LEN;
        let done = if fails { half } else { data.len() };
        let data = data[..done].to_vec();
        self.film.push(Event::Write { offset, data });
        if fails {
            return Err(Error::new(ErrorKind::Io, "the test says so"));
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.film.meets(Fault::Sync) {
            return Err(Error::new(ErrorKind::Io, "the test lost a page"));
        }
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.write_at(&vec![0; to_usize(len)], offset)
    }

    fn zero_at(&self, offset: u64, len: u64, _flags: ZeroFlags) -> Result<()> {
        self.write_at(&vec![0; to_usize(len)], offset)
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.name(), self.size_bytes, offset, len)?;
        Ok(Extent {
            len,
            hole: false,
            zero: false,
            depth: 1,
        })
    }

    fn is_read_only(&self) -> bool {
        false
    }
}
