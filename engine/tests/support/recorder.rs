//! A device in memory that keeps an ordered log of all that is done to it, and fails where it is
//! told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use usnap_engine::device::{BlockDevice, Extent, ZeroFlags, check_range};
use usnap_engine::{Error, ErrorKind, Result};

/// What was done to the device. Only what succeeded is there, but for failed syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Write { offset: usize, data: Vec<u8> },
    Zero { offset: usize, len: usize },
    Discard { offset: usize, len: usize },
    Reserve { offset: usize, len: usize },
    Sync,
}

/// The next call that is to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// How many calls that the filter lets through come before it.
    pub(crate) after: u64,
    /// Which calls count.
    pub(crate) on: On,
    /// What it answers.
    pub(crate) kind: ErrorKind,
}

/// Which calls a fault looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    AnyCall,
    Reserve,
    Sync,
    /// Writes that begin in this chunk of so many bytes.
    WriteToChunk {
        chunk: usize,
        chunk_len: usize,
    },
}

#[derive(Default)]
struct State {
    image: Vec<u8>,
    log: Vec<Event>,
    fault: Option<Fault>,
    faults_met: u64,
}

/// The device.
pub(crate) struct Recorder {
    state: Mutex<State>,
}

enum Call<'a> {
    Read,
    Write { offset: usize, data: &'a [u8] },
    Other(Event),
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("devices of the test fit in memory")
}

impl Recorder {
    pub(crate) fn new(image: Vec<u8>) -> Arc<Self> {
        let state = State {
            image,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done since the last time this was asked.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().log)
    }

    /// The bytes, as a reader sees them.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.state().image.clone()
    }

    /// Lets one call fail.
    pub(crate) fn fail(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    /// Does something that meets no fault.
    pub(crate) fn without_fault(&self, look: impl FnOnce()) {
        let fault = self.state().fault.take();
        look();
        self.state().fault = fault;
    }

    /// How many calls have failed.
    pub(crate) fn faults_met(&self) -> u64 {
        self.state().faults_met
    }

    fn call(&self, call: Call<'_>) -> Result<()> {
        let mut state = self.state();
        let is_sync = matches!(call, Call::Other(Event::Sync));
        if let Some(kind) = state.meet_fault(&call) {
            if is_sync {
                state.log.push(Event::Sync);
            }
            return Err(Error::new(kind, "cannot do it: the test says so"));
        }
        let event = match call {
            Call::Read => return Ok(()),
            Call::Write { offset, data } => Event::Write {
                offset,
                data: data.to_vec(),
            },
            Call::Other(event) => event,
        };
        apply(&mut state.image, &event);
        state.log.push(event);
        Ok(())
    }
}

impl State {
    fn meet_fault(&mut self, call: &Call<'_>) -> Option<ErrorKind> {
        let fault = self.fault.as_mut()?;
        let counts = match (fault.on, call) {
            (On::AnyCall, _)
            | (On::Sync, Call::Other(Event::Sync))
            | (On::Reserve, Call::Other(Event::Reserve { .. })) => true,
            (On::WriteToChunk { chunk, chunk_len }, Call::Write { offset, .. }) => {
                offset / chunk_len == chunk
            }
            _ => false,
        };
        if !counts {
            return None;
        }
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let kind = fault.kind;
        self.fault = None;
        self.faults_met += 1;
        Some(kind)
    }
}

/// Does to `image` what was done to the device.
pub(crate) fn apply(image: &mut [u8], event: &Event) {
    match event {
        Event::Write { offset, data } => image[*offset..][..data.len()].copy_from_slice(data),
        Event::Zero { offset, len } | Event::Discard { offset, len } => {
            image[*offset..][..*len].fill(0);
        }
        Event::Reserve { .. } | Event::Sync => {}
    }
}

impl BlockDevice for Recorder {
    fn size_bytes(&self) -> u64 {
        self.state().image.len() as u64
    }

    fn name(&self) -> &str {
        "recorder"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.name(), self.size_bytes(), offset, buf.len() as u64)?;
        self.call(Call::Read)?;
        buf.copy_from_slice(&self.state().image[to_usize(offset)..][..buf.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.name(), self.size_bytes(), offset, data.len() as u64)?;
        let offset = to_usize(offset);
        self.call(Call::Write { offset, data })
    }

    fn flush(&self) -> Result<()> {
        self.call(Call::Other(Event::Sync))
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.name(), self.size_bytes(), offset, len)?;
        let (offset, len) = (to_usize(offset), to_usize(len));
        self.call(Call::Other(Event::Discard { offset, len }))
    }

    fn zero_at(&self, offset: u64, len: u64, _flags: ZeroFlags) -> Result<()> {
        check_range(self.name(), self.size_bytes(), offset, len)?;
        let (offset, len) = (to_usize(offset), to_usize(len));
        self.call(Call::Other(Event::Zero { offset, len }))
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        let (offset, len) = (to_usize(offset), to_usize(len));
        self.call(Call::Other(Event::Reserve { offset, len }))
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.name(), self.size_bytes(), offset, len)?;
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
