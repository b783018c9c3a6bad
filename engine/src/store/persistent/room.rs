//! Room for new chunks: a number is handed out when its chunk, and the area that its entry may
//! open, have their space. Also the device's size, which anybody may change: longer is used at once,
//! and a file that was cut off is not trusted behind that place any more (DESIGN.md, "Full").

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use usnap_format::{AreaIndex, Exception, Layout, NewChunk};

use super::PersistentStore;
use super::ahead::Ahead;
use super::allocate::Take;
use super::commit::area_offset;
use super::plan::Position;
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Space, SpaceAlarm, SpaceLimit};

/// So much data space is reserved at once where a write does not take it, and half as much, and so
/// on, where that can't be had.
const RESERVE_BYTES: u64 = 16 << 20;

/// A file that grows by itself grows by its size, but by so much at least ...
const GROW_BYTES_MIN: u64 = 64 << 20;
/// ... and at the most: what is not needed would only look large.
const GROW_BYTES_MAX: u64 = 1 << 30;

/// What a store knows of the room on its device.
#[derive(Default)]
pub(super) struct Room {
    /// How long the device may be made, in chunks; 0 where it does not grow by itself.
    limit_chunks: u64,
    /// So many chunks were reserved last, and could be.
    step_chunks: AtomicU64,
    /// Held while the device is made longer.
    growing: Mutex<()>,
    gone: Gone,
    pub(super) ahead: Ahead,
    pub(super) alarm: Arc<SpaceAlarm>,
}

/// The bytes that were cut off while chunks lay there; what is read there later is not theirs.
#[derive(Default)]
struct Gone {
    start: AtomicU64,
    /// 0 where nothing is gone.
    end: AtomicU64,
}

impl Room {
    #[inline]
    pub(super) fn is_gone(&self, offset: u64, len: u64) -> bool {
        offset < self.gone.end.load(Ordering::Acquire)
            && offset.saturating_add(len) > self.gone.start.load(Ordering::Acquire)
    }

    fn set_gone(&self, bytes: &Range<u64>) {
        self.gone.start.store(bytes.start, Ordering::Release);
        self.gone.end.store(bytes.end, Ordering::Release);
    }
}

impl PersistentStore {
    /// Lets the device become `max_bytes` long, a step whenever it is full.
    pub(crate) fn growing_to(mut self, max_bytes: Option<u64>) -> Self {
        let chunks = max_bytes.map_or(0, |bytes| self.layout.chunk_size.whole_chunks(bytes));
        self.room.limit_chunks = safe_for_kernel(self.layout, chunks);
        self
    }

    /// Finds what the allocator asked for when it had `known_chunks`; then it is to be asked again.
    pub(super) fn find_room(&self, wanted: Take, known_chunks: u64) -> Result<()> {
        match wanted {
            Take::Run(_) => Ok(()),
            Take::NeedsArea(area) => self.reserve_area(area),
            Take::NeedsData(first) => self.reserve_data(first, known_chunks),
            Take::NeedsZeros(first) => {
                self.write_ahead(first);
                Ok(())
            }
            Take::Full => self.find_longer(known_chunks),
        }
    }

    /// Reserves the space of an area that the next exception may open.
    fn reserve_area(&self, area: AreaIndex) -> Result<()> {
        let offset = area_offset(self.layout, area)?;
        self.device
            .reserve_at(offset, self.layout.chunk_size.bytes())
            .map_err(|e| {
                e.context(format!(
                    "cannot reserve area {area} of COW device {}",
                    self.device.name()
                ))
            })?;
        self.look_at_size();
        self.state().allocator.area_reserved(area);
        Ok(())
    }

    /// Reserves the space of chunks from `first` on: many if that can be had, at least one.
    fn reserve_data(&self, first: NewChunk, device_chunks: u64) -> Result<()> {
        let chunk_bytes = self.layout.chunk_size.bytes();
        let most = (RESERVE_BYTES / chunk_bytes).max(1);
        let step = self.room.step_chunks.load(Ordering::Relaxed);
        let step = if step == 0 { most } else { step.min(most) };
        let mut count = step.min(device_chunks.saturating_sub(first.0)).max(1);
        loop {
            let reserved = self
                .device
                .reserve_at(first.0.saturating_mul(chunk_bytes), count * chunk_bytes);
            match reserved {
                Ok(()) => {
                    self.room
                        .step_chunks
                        .store(count.saturating_mul(2), Ordering::Relaxed);
                    let end = NewChunk(first.0 + count);
                    self.state().allocator.data_reserved(end);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::NoSpace && count > 1 => count /= 2,
                Err(e) => {
                    self.room.step_chunks.store(1, Ordering::Relaxed);
                    return Err(e.context(format!(
                        "cannot reserve chunk {first} of COW device {}",
                        self.device.name()
                    )));
                }
            }
        }
    }

    /// Looks whether the device is longer than `known_chunks`, or makes it so. What counts is the
    /// size that the refusal came from: another thread may have told the allocator meanwhile.
    fn find_longer(&self, known_chunks: u64) -> Result<()> {
        // Look and growth are one: where a device can only be given a length, one that was concluded
        // from an older look would cut off what others took meanwhile.
        let growing = self.room.growing.lock();
        let growing = growing.unwrap_or_else(PoisonError::into_inner);
        let device_chunks = self.look_at_size();
        if device_chunks > known_chunks {
            return Ok(());
        }
        // What was cut off does not come back by making the file longer, it only looks so.
        let is_cut_off = device_chunks < self.state().allocator.gone().end;
        let next_chunks =
            next_size(self.layout, device_chunks, self.room.limit_chunks).filter(|_| !is_cut_off);
        let Some(next_chunks) = next_chunks else {
            return Err(no_room(
                self.device.name(),
                device_chunks,
                self.room.limit_chunks > 0,
            ));
        };
        let size_bytes = next_chunks.saturating_mul(self.layout.chunk_size.bytes());
        self.device.extend_to(size_bytes).map_err(|e| {
            e.context(format!(
                "cannot make COW device {} longer",
                self.device.name()
            ))
        })?;
        if self.look_at_size() <= known_chunks {
            return Err(no_room(self.device.name(), device_chunks, true));
        }
        drop(growing);
        tracing::info!(
            "COW device {} grew to {size_bytes} bytes",
            self.device.name()
        );
        Ok(())
    }

    /// Looks at the device's size, tells the allocator, and returns it in whole chunks. Where chunks
    /// were cut off, neither reads nor writes reach them any more, also if the file becomes longer
    /// again: what is there then is zeros.
    pub(super) fn look_at_size(&self) -> u64 {
        let chunk_size = self.layout.chunk_size;
        loop {
            let looks = self.state().looks;
            let size_bytes = self.device.size_bytes();
            let device_chunks = chunk_size.whole_chunks(size_bytes);
            let mut state = self.state();
            let known_chunks = state.allocator.device_chunks();
            if device_chunks == known_chunks {
                return device_chunks;
            }
            if device_chunks < known_chunks && state.looks != looks {
                // Somebody looked later and saw more; that is no cut.
                continue;
            }
            state.looks += 1;
            let lost = state.allocator.set_device_chunks(device_chunks);
            if !lost.is_empty() {
                let gone = state.allocator.gone();
                let bytes = |chunk: u64| chunk.saturating_mul(chunk_size.bytes());
                self.room.set_gone(&(bytes(gone.start)..bytes(gone.end)));
            }
            drop(state);
            if device_chunks < known_chunks {
                say_cut_off(self.device.name(), size_bytes, &lost);
            }
            return device_chunks;
        }
    }

    /// An entry for a chunk that was cut off would make the whole store unbelievable, and so would
    /// an area that lacks its earlier entries.
    pub(super) fn refuse_if_gone(&self, position: Position, batch: &[Exception]) -> Result<()> {
        self.look_at_size();
        let chunk_bytes = self.layout.chunk_size.bytes();
        let area = area_offset(self.layout, position.area)?;
        let is_gone = |offset| self.room.is_gone(offset, chunk_bytes);
        let of_chunk = |e: &Exception| e.new_chunk.0.saturating_mul(chunk_bytes);
        if !is_gone(area) && !batch.iter().map(of_chunk).any(is_gone) {
            return Ok(());
        }
        let context = format!(
            "cannot commit to COW device {}: it was cut off before what was written",
            self.device.name()
        );
        Err(Error::new(ErrorKind::Io, context))
    }

    /// How long the device can be, if it is `device_chunks` now.
    pub(super) fn limit_chunks(&self, device_chunks: u64) -> u64 {
        device_chunks.max(self.room.limit_chunks)
    }

    pub(super) fn space_now(&self) -> Space {
        let device_chunks = self.look_at_size();
        let room = self.device.room_below();
        let state = self.state();
        let allocator = &state.allocator;
        Space::of_chunks(
            self.layout.chunk_size.bytes(),
            allocator.entries_taken(),
            allocator.free_within(self.limit_chunks(device_chunks)),
            SpaceLimit::Cow,
        )
        .within(
            room,
            self.layout,
            allocator.next_free().0.min(device_chunks),
        )
    }
}

/// The next size of a device of `device_chunks` that may have `limit_chunks`; `None` where it can't
/// become longer.
fn next_size(layout: Layout, device_chunks: u64, limit_chunks: u64) -> Option<u64> {
    let chunk_bytes = layout.chunk_size.bytes();
    let size_bytes = device_chunks.saturating_mul(chunk_bytes);
    let step = size_bytes.clamp(GROW_BYTES_MIN, GROW_BYTES_MAX) / chunk_bytes;
    let next = safe_for_kernel(layout, device_chunks.saturating_add(step).min(limit_chunks));
    (next > device_chunks).then_some(next)
}

/// A size at which a kernel that fills it destroys the store is made a chunk smaller.
fn safe_for_kernel(layout: Layout, device_chunks: u64) -> u64 {
    device_chunks - u64::from(layout.kernel_poisoned(device_chunks))
}

#[cold]
fn no_room(name: &str, device_chunks: u64, grows: bool) -> Error {
    let hint = if grows {
        "make the COW file longer (truncate -s), it is used at once; or serve with a larger \
         --max-cow"
    } else {
        "make the COW file longer (truncate -s); it is used at once"
    };
    Error::new(
        ErrorKind::NoSpace,
        format!("cannot take a new chunk: COW device {name} of {device_chunks} chunks is full"),
    )
    .with_hint(hint)
}

#[cold]
fn say_cut_off(name: &str, size_bytes: u64, lost: &Range<u64>) {
    if lost.is_empty() {
        tracing::warn!("COW device {name} was cut off to {size_bytes} bytes; nothing lay behind");
    } else {
        tracing::error!(
            "COW device {name} was cut off to {size_bytes} bytes: what lay in its chunks {} to {} \
             is lost, reads there fail, and making the file longer does not bring it back",
            lost.start,
            lost.end - 1
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{GROW_BYTES_MAX, GROW_BYTES_MIN, next_size};
    use usnap_format::{ChunkSize, Layout};

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_device_grows_by_its_size_within_bounds_up_to_its_limit() {
        let layout = Layout::new(ChunkSize::from_bytes(4096).unwrap());
        let next = |mib: u64, limit_mib: u64| {
            let limit_chunks = limit_mib * MIB / 4096;
            next_size(layout, mib * MIB / 4096, limit_chunks).map(|chunks| chunks * 4096 / MIB)
        };
        assert_eq!(next(1, 1024), Some(65));
        assert_eq!(next(64, 1024), Some(128));
        assert_eq!(next(200, 1024), Some(400));
        assert_eq!(next(3 * 1024, 1 << 20), Some(4 * 1024));
        assert_eq!(next(1000, 1024), Some(1024));
        assert_eq!(next(1024, 1024), None);
        assert_eq!(next(2000, 1024), None, "longer than its limit already");
        assert_eq!(next(1, 0), None, "it does not grow");
    }

    #[test]
    fn no_step_ends_at_a_size_that_a_kernel_destroys_and_each_ends_at_the_limit() {
        for chunk_bytes in [512, 4096, 16 << 10, 1 << 20, 16 << 20] {
            let layout = Layout::new(ChunkSize::from_bytes(chunk_bytes).unwrap());
            for limit_mib in 1..600 {
                let limit = limit_mib * MIB / chunk_bytes;
                let mut chunks = 2;
                let mut steps = 0;
                while let Some(next) = next_size(layout, chunks, limit) {
                    assert!(next > chunks && next <= limit && !layout.kernel_poisoned(next));
                    let step = (next - chunks) * chunk_bytes;
                    assert!(
                        step <= GROW_BYTES_MAX
                            && (next + 1 >= limit || step + chunk_bytes >= GROW_BYTES_MIN)
                    );
                    chunks = next;
                    steps += 1;
                    assert!(steps < 20);
                }
                let end = limit - u64::from(layout.kernel_poisoned(limit));
                assert_eq!(chunks, end.max(2), "{chunk_bytes} {limit}");
            }
        }
    }
}
