//! A merge on two devices, as the list of what it did to them, in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::merge::{MergeEnd, MergeOptions, Watch, merge_device};
use usnap_engine::sim::Event;
use usnap_engine::{Error, ErrorKind, Result};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Cow,
    Origin,
}

/// What was done, to which.
pub(crate) type Film = Vec<(Which, Event)>;

/// A call that fails: which one of both devices' reads, writes and flushes, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) nth: u64,
    pub(crate) kind: ErrorKind,
    /// A write is done in part.
    pub(crate) is_short: bool,
}

/// The calls so far, and the one that fails.
struct Calls {
    count: AtomicU64,
    fault: Option<Fault>,
}

impl Calls {
    /// Whether this call fails, and how.
    fn meet(&self) -> Option<Fault> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.fault.filter(|fault| fault.nth == number)
    }
}

fn failed(fault: Fault) -> Error {
    Error::new(fault.kind, "a fault was asked for")
}

/// A device that notes what is done to it in a list that it shares.
struct Filmed {
    which: Which,
    below: Arc<MemDevice>,
    film: Arc<Mutex<Film>>,
    calls: Arc<Calls>,
}

impl Filmed {
    fn note(&self, event: Event) {
        self.film.lock().unwrap().push((self.which, event));
    }
}

impl BlockDevice for Filmed {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        match self.which {
            Which::Cow => "the COW",
            Which::Origin => "the origin",
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if let Some(fault) = self.calls.meet() {
            return Err(failed(fault));
        }
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let fault = self.calls.meet();
        let done = match fault {
            Some(fault) if fault.is_short => &data[..data.len() / 1024 * 512],
            Some(_) => &[],
            None => data,
        };
        self.below.write_at(done, offset)?;
        let data = done.to_vec();
        self.note(Event::Write { offset, data });
        fault.map_or(Ok(()), |fault| Err(failed(fault)))
    }

    fn flush(&self) -> Result<()> {
        if let Some(fault) = self.calls.meet() {
            return Err(failed(fault));
        }
        self.below.flush()?;
        // One thread: it covers all that came before.
        self.note(Event::Flush { covers: u64::MAX });
        Ok(())
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.discard_at(offset, len)?;
        self.note(Event::Discard { offset, len });
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.below.zero_at(offset, len, flags)?;
        self.note(Event::Zero { offset, len });
        Ok(())
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.below.reserve_at(offset, len)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

/// What a merge did, and what it left.
pub(crate) struct Merged {
    pub(crate) film: Film,
    pub(crate) origin: Vec<u8>,
    pub(crate) cow: Vec<u8>,
}

/// Batches of so many chunks.
pub(crate) fn batches(chunk_len: usize, chunks: usize) -> MergeOptions {
    MergeOptions {
        batch_bytes: (chunk_len * chunks) as u64,
        ..MergeOptions::default()
    }
}

pub(crate) fn watch(merged: &mut dyn FnMut(u64)) -> Watch<'_> {
    Watch {
        is_stopped: &|| false,
        merged,
    }
}

/// What came of a merge in which a call failed.
pub(crate) struct Failed {
    pub(crate) film: Film,
    /// How many calls there were.
    pub(crate) calls: u64,
    pub(crate) result: Result<MergeEnd>,
}

/// Merges these images while `fault` waits.
pub(crate) fn merge_with(
    cow: &[u8],
    origin: &[u8],
    options: &MergeOptions,
    fault: Option<Fault>,
) -> Failed {
    let (cow, origin) = (
        Arc::new(MemDevice::from_bytes(cow)),
        Arc::new(MemDevice::from_bytes(origin)),
    );
    run(&cow, &origin, options, fault)
}

fn run(
    cow: &Arc<MemDevice>,
    origin: &Arc<MemDevice>,
    options: &MergeOptions,
    fault: Option<Fault>,
) -> Failed {
    let film = Arc::new(Mutex::new(Film::new()));
    let count = AtomicU64::new(0);
    let calls = Arc::new(Calls { count, fault });
    let device = |which, below: &Arc<MemDevice>| Filmed {
        which,
        below: Arc::clone(below),
        film: Arc::clone(&film),
        calls: Arc::clone(&calls),
    };
    let result = merge_device(
        &device(Which::Cow, cow),
        &device(Which::Origin, origin),
        options,
        &mut watch(&mut |_| {}),
    );
    let film = std::mem::take(&mut *film.lock().unwrap());
    Failed {
        film,
        calls: calls.count.load(Ordering::Relaxed),
        result,
    }
}

/// Merges these images, to the end.
pub(crate) fn merge(
    cow: &[u8],
    origin: &[u8],
    options: &MergeOptions,
) -> std::result::Result<Merged, String> {
    let memory = |bytes: &[u8]| Arc::new(MemDevice::from_bytes(bytes));
    let (cow, origin) = (memory(cow), memory(origin));
    let Failed { film, result, .. } = run(&cow, &origin, options, None);
    let end = result.map_err(|e| format!("cannot merge: {e:?}"))?;
    if end != MergeEnd::Done {
        return Err(format!("it ended as {end:?}"));
    }
    Ok(Merged {
        film,
        origin: origin.to_bytes(),
        cow: cow.to_bytes(),
    })
}
