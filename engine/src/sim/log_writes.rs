//! An ordered log of everything that changes a device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ask_below;
use crate::device::{Attempt, BlockDevice, ZeroFlags};
use crate::error::Result;
use crate::num::to_usize;

/// One thing that was done to a device, and succeeded. Offsets and lengths are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These bytes were written.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// A range was zeroed.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// A range was discarded; it reads as zeros.
    Discard {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Space was reserved.
    Reserve {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// A flush completed. It covers what was in the log when it began, not what came meanwhile.
    Flush {
        /// How many events that is, counted from the device's first.
        covers: u64,
    },
    /// A note by whoever watches.
    Mark(String),
}

impl Event {
    /// The bytes that it changes: where they begin and how many they are.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write { offset, data } => Some((*offset, data.len() as u64)),
            Self::Zero { offset, len } | Self::Discard { offset, len } => Some((*offset, *len)),
            Self::Reserve { .. } | Self::Flush { .. } | Self::Mark(_) => None,
        }
    }

    /// Does to `image` what was done to the device. What lies behind its end is left out.
    pub fn apply(&self, image: &mut [u8]) {
        let Some((offset, len)) = self.range() else {
            return;
        };
        let start = to_usize(offset).min(image.len());
        let end = to_usize(offset.saturating_add(len)).min(image.len());
        let Some(place) = image.get_mut(start..end) else {
            return;
        };
        match self {
            Self::Write { data, .. } => {
                for (to, from) in place.iter_mut().zip(data) {
                    *to = *from;
                }
            }
            _ => place.fill(0),
        }
    }
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    /// How many there ever were.
    count: u64,
}

impl Log {
    fn push(&mut self, event: Event) {
        self.events.push(event);
        self.count += 1;
    }
}

/// A device that logs what is done to the one below it, once it has succeeded there.
pub struct LogWrites {
    below: Arc<dyn BlockDevice>,
    log: Mutex<Log>,
}

impl LogWrites {
    /// The same device, with a log.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>) -> Self {
        Self {
            below,
            log: Mutex::default(),
        }
    }

    /// What was done since this was last asked, in order.
    #[must_use]
    pub fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.log().events)
    }

    /// Puts a note into the log.
    pub fn mark(&self, text: impl Into<String>) {
        self.log().push(Event::Mark(text.into()));
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock is held across the call: the log's order is the device's.
    fn note(&self, call: Result<()>, mut log: MutexGuard<'_, Log>, event: Event) -> Result<()> {
        call?;
        log.push(event);
        Ok(())
    }
}

impl BlockDevice for LogWrites {
    ask_below!();

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.below.try_read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let log = self.log();
        let event = Event::Write {
            offset,
            data: data.to_vec(),
        };
        self.note(self.below.write_at(data, offset), log, event)
    }

    fn flush(&self) -> Result<()> {
        let covers = self.log().count;
        // Not locked: writes that come meanwhile are not covered.
        self.below.flush()?;
        self.log().push(Event::Flush { covers });
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        let log = self.log();
        let event = Event::Discard { offset, len };
        self.note(self.below.discard_at(offset, len), log, event)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let log = self.log();
        let event = Event::Zero { offset, len };
        self.note(self.below.zero_at(offset, len, flags), log, event)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        let log = self.log();
        let event = Event::Reserve { offset, len };
        self.note(self.below.reserve_at(offset, len), log, event)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, LogWrites};
    use crate::device::{BlockDevice, MemDevice, ZeroFlags};
    use std::sync::Arc;

    #[test]
    fn the_log_is_what_was_done_in_order_and_makes_the_same_device() {
        let memory = Arc::new(MemDevice::new(2048));
        let device = LogWrites::new(memory.clone());
        device.write_at(&[7; 1000], 100).unwrap();
        device.mark("half-way");
        device.flush().unwrap();
        device.zero_at(512, 100, ZeroFlags::default()).unwrap();
        device.discard_at(700, 10).unwrap();
        device.reserve_at(0, 2048).unwrap();
        assert!(device.write_at(&[1], 2048).is_err());
        let log = device.take_log();
        let mut image = vec![0; 2048];
        log.iter().for_each(|event| event.apply(&mut image));
        assert_eq!(image, memory.to_bytes());
        let (mark, flush) = (Event::Mark("half-way".into()), Event::Flush { covers: 2 });
        assert_eq!((&log[1], &log[2], log.len()), (&mark, &flush, 6));
        device.flush().unwrap();
        assert_eq!(device.take_log(), [Event::Flush { covers: 6 }]);
    }
}
