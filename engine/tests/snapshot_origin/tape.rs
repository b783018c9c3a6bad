//! Several devices, one log: what was done to which of them, in order.

use std::sync::{Arc, Mutex};

use usnap_engine::Result;
use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::sim::{Event, LogWrites};

/// What was done, in order, and to which device.
#[derive(Default)]
pub(crate) struct Tape(Mutex<Vec<(usize, Event)>>);

impl Tape {
    pub(crate) fn take(&self) -> Vec<(usize, Event)> {
        std::mem::take(&mut self.0.lock().expect("no test panics in it"))
    }
}

/// Memory, on the tape.
pub(crate) struct Taped {
    below: LogWrites,
    number: usize,
    tape: Arc<Tape>,
}

impl Taped {
    /// Device `number`, which holds `image`.
    pub(crate) fn new(image: &[u8], number: usize, tape: &Arc<Tape>) -> Arc<Self> {
        Arc::new(Self {
            below: LogWrites::new(Arc::new(MemDevice::from_bytes(image))),
            number,
            tape: Arc::clone(tape),
        })
    }

    fn change(&self, call: impl FnOnce(&LogWrites) -> Result<()>) -> Result<()> {
        call(&self.below)?;
        let events = self.below.take_log();
        let mut tape = self.tape.0.lock().expect("no test panics in it");
        tape.extend(events.into_iter().map(|event| (self.number, event)));
        Ok(())
    }
}

impl BlockDevice for Taped {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "taped"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.change(|below| below.write_at(data, offset))
    }

    fn flush(&self) -> Result<()> {
        self.change(BlockDevice::flush)
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|below| below.discard_at(offset, len))
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.change(|below| below.zero_at(offset, len, flags))
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|below| below.reserve_at(offset, len))
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}
