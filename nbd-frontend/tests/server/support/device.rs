//! A device that records what is asked of it, and fails, blocks or panics when it is told to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use usnap_engine::device::{Attempt, BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::{Error, ErrorKind, Result};

/// A call of a device's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read {
        offset: u64,
        len: u64,
    },
    Write {
        offset: u64,
        len: u64,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    Zero {
        offset: u64,
        len: u64,
        flags: ZeroFlags,
    },
    Extent {
        offset: u64,
        len: u64,
    },
}

type Hook = Box<dyn Fn(&Call) -> Option<ErrorKind> + Send + Sync>;

/// Memory behind a hook that sees each call before it is made.
pub(crate) struct TestDevice {
    pub(crate) memory: MemDevice,
    calls: Mutex<Vec<Call>>,
    hook: Hook,
    read_only: bool,
    /// Nothing can be read without waiting.
    pub(crate) cold: AtomicBool,
}

impl TestDevice {
    pub(crate) fn new(size_bytes: u64) -> Arc<Self> {
        Self::with_hook(size_bytes, |_| None)
    }

    /// `hook` may block or panic; a call fails with the kind it returns.
    pub(crate) fn with_hook(
        size_bytes: u64,
        hook: impl Fn(&Call) -> Option<ErrorKind> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory: MemDevice::new(size_bytes),
            calls: Mutex::default(),
            hook: Box::new(hook),
            read_only: false,
            cold: AtomicBool::new(false),
        })
    }

    pub(crate) fn read_only(size_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            memory: MemDevice::new(size_bytes),
            calls: Mutex::default(),
            hook: Box::new(|_| None),
            read_only: true,
            cold: AtomicBool::new(false),
        })
    }

    /// The calls since this was last asked for.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn call(&self, call: Call) -> Result<()> {
        self.calls.lock().unwrap().push(call);
        match (self.hook)(&call) {
            None => Ok(()),
            Some(kind) => Err(Error::new(kind, format!("{call:?} was made to fail"))),
        }
    }
}

impl BlockDevice for TestDevice {
    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }

    fn name(&self) -> &str {
        "test device"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        self.call(Call::Read { offset, len })?;
        self.memory.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        if self.cold.load(Ordering::Relaxed) {
            return Ok(Attempt::WouldBlock);
        }
        self.read_at(buf, offset).map(|()| Attempt::Done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let len = data.len() as u64;
        self.call(Call::Write { offset, len })?;
        self.memory.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.call(Call::Flush)
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.call(Call::Discard { offset, len })?;
        self.memory.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.call(Call::Zero { offset, len, flags })?;
        self.memory.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.call(Call::Extent { offset, len })?;
        self.memory.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn can_zero_fast(&self) -> bool {
        true
    }
}
