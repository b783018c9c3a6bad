//! A merge on two devices, as the list of what it did to them, in order.

use std::sync::{Arc, Mutex};

use usnap_engine::Result;
use usnap_engine::device::{BlockDevice, Extent, MemDevice, ZeroFlags};
use usnap_engine::merge::{MergeEnd, MergeOptions, Watch, merge_device};
use usnap_engine::sim::Event;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Cow,
    Origin,
}

/// What was done, to which.
pub(crate) type Film = Vec<(Which, Event)>;

/// A device that notes what is done to it in a list that it shares.
struct Filmed {
    which: Which,
    below: Arc<MemDevice>,
    film: Arc<Mutex<Film>>,
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
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.below.write_at(data, offset)?;
        let data = data.to_vec();
        self.note(Event::Write { offset, data });
        Ok(())
    }

    fn flush(&self) -> Result<()> {
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

/// Merges these images, to the end.
pub(crate) fn merge(
    cow: &[u8],
    origin: &[u8],
    options: &MergeOptions,
) -> std::result::Result<Merged, String> {
    let film = Arc::new(Mutex::new(Film::new()));
    let memory = |bytes: &[u8]| Arc::new(MemDevice::from_bytes(bytes));
    let device = |which, below: &Arc<MemDevice>| Filmed {
        which,
        below: Arc::clone(below),
        film: Arc::clone(&film),
    };
    let (cow, origin) = (memory(cow), memory(origin));
    let end = merge_device(
        &device(Which::Cow, &cow),
        &device(Which::Origin, &origin),
        options,
        &mut watch(&mut |_| {}),
    );
    let end = end.map_err(|e| format!("cannot merge: {e:?}"))?;
    if end != MergeEnd::Done {
        return Err(format!("it ended as {end:?}"));
    }
    let film = std::mem::take(&mut *film.lock().unwrap());
    Ok(Merged {
        film,
        origin: origin.to_bytes(),
        cow: cow.to_bytes(),
    })
}
