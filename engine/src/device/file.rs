//! A regular file or a block device. All I/O is positional: the file's own offset is used by
//! nothing but the search for holes, so threads never meet there.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Seek, SeekFrom};
use std::num::NonZero;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom as Seeker, fadvise, fallocate};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use usnap_format::SECTOR_SIZE;

use super::filesystem::{commits_new_blocks, room_below, takes_space_in_write};
use super::{Attempt, BlockDevice, Extent, RoomBelow, ZeroFlags, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

/// Zeros are written in pieces of this size where the file can't make them itself.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A regular file or a block device.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    name: String,
    is_block: bool,
    read_only: bool,
    /// The size as of the last look: every call of `size_bytes` is one.
    known_size_bytes: AtomicU64,
    can_punch: AtomicBool,
    punch_tried: OnceLock<()>,
    can_zero_range: AtomicBool,
    can_reserve: AtomicBool,
    needs_reservation: bool,
    prefers_rewrites: bool,
    can_unshare: AtomicBool,
    can_try: AtomicBool,
    known_data: KnownData,
}

/// Where the file had data when it was asked last: asking walks all of a run of data, and what lies
/// on a COW file in small pieces lies in a long one. To take a hole for data is allowed, so the two
/// ends need not be of one answer, and what others punch need not be noticed.
#[derive(Debug, Default)]
struct KnownData {
    start: AtomicU64,
    end: AtomicU64,
}

impl KnownData {
    /// How many bytes of data are known to follow.
    fn behind(&self, offset: u64) -> Option<u64> {
        let is_inside = offset >= self.start.load(Ordering::Relaxed);
        let left = self.end.load(Ordering::Relaxed).checked_sub(offset)?;
        (is_inside && left > 0).then_some(left)
    }

    fn remember(&self, start: u64, end: u64) {
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }
}

impl FileDevice {
    /// Opens a file or block device for reading.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Usage` where it is neither a file nor a block device.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        Self::open(path, true)
    }

    /// Opens a file or block device for reading and writing; a block device exclusively, so that
    /// nothing else in the kernel may be using it.
    ///
    /// # Errors
    /// As `open_read_only`, and `ReadOnly`, `InUse` (a block device that the kernel uses).
    pub fn open_read_write(path: &Path) -> Result<Self> {
        Self::open(path, false)
    }

    fn open(path: &Path, read_only: bool) -> Result<Self> {
        let name = path.display().to_string();
        // A FIFO would block in open, a device node might do anything: look before.
        let file_type = std::fs::metadata(path)
            .map_err(|e| Error::io(format!("cannot open {name}"), e))?
            .file_type();
        let is_block = file_type.is_block_device();
        if !is_block && !file_type.is_file() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("cannot use {name}: neither a regular file nor a block device"),
            ));
        }
        let exclusive = if is_block && !read_only {
            OFlags::EXCL
        } else {
            OFlags::empty()
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(exclusive.bits().cast_signed())
            .open(path)
            .map_err(|e| open_error(&name, read_only, e))?;
        Ok(Self::from_file(file, name, is_block, read_only))
    }

    /// Wraps an open regular file, as made by `memfd_create` or `O_TMPFILE`.
    pub(crate) fn from_regular(file: File, name: String) -> Self {
        Self::from_file(file, name, false, false)
    }

    fn from_file(file: File, name: String, is_block: bool, read_only: bool) -> Self {
        let needs_reservation = !is_block && !read_only && !takes_space_in_write(&file);
        let prefers_rewrites = !is_block && !read_only && commits_new_blocks(&file);
        let device = Self {
            file,
            name,
            is_block,
            read_only,
            known_size_bytes: AtomicU64::new(0),
            can_punch: AtomicBool::new(!read_only),
            punch_tried: OnceLock::new(),
            can_zero_range: AtomicBool::new(true),
            can_reserve: AtomicBool::new(!is_block),
            needs_reservation,
            prefers_rewrites,
            can_unshare: AtomicBool::new(!is_block),
            can_try: AtomicBool::new(true),
            known_data: KnownData::default(),
        };
        device.size_bytes();
        device
    }

    /// A write behind the end of a regular file would make it longer, over a hole where a cut-off
    /// chunk was. The known size is refreshed only where it seems to end too early: a file that
    /// is cut off meanwhile is noticed by the next look (DESIGN.md, "Full").
    #[inline]
    fn refuse_beyond_end(&self, offset: u64, len: u64) -> Result<()> {
        let known = self.known_size_bytes.load(Ordering::Relaxed);
        if offset.checked_add(len).is_some_and(|end| end <= known) {
            return Ok(());
        }
        check_range(&self.name, self.size_bytes(), offset, len)
    }

    /// The open file, for locks and for metadata.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    fn error(&self, verb: &str, offset: u64, len: u64, source: io::Error) -> Error {
        Error::io(
            format!("cannot {verb} {len} bytes at {offset} of {}", self.name),
            source,
        )
    }

    fn refuse_if_read_only(&self, verb: &str) -> Result<()> {
        if self.read_only {
            let context = format!("cannot {verb} {}: opened read-only", self.name);
            return Err(Error::new(ErrorKind::ReadOnly, context));
        }
        Ok(())
    }

    /// Tries one way of `fallocate`; false where the file does not know it.
    fn try_fallocate(
        &self,
        known: &AtomicBool,
        flags: FallocateFlags,
        verb: &str,
        offset: u64,
        len: u64,
    ) -> Result<bool> {
        if !known.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if flags.contains(FallocateFlags::PUNCH_HOLE) || flags.contains(FallocateFlags::ZERO_RANGE)
        {
            self.known_data.remember(0, 0);
        }
        loop {
            match fallocate(&self.file, flags, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    known.store(false, Ordering::Relaxed);
                    return Ok(false);
                }
                // Not this range, on a block device with larger sectors.
                Err(Errno::INVAL) => return Ok(false),
                Err(e) => return Err(self.error(verb, offset, len, e.into())),
            }
        }
    }

    /// Finds out whether holes can be punched. Behind the end that changes nothing but the file's
    /// times: so not before somebody asks, since a file that is refused is to stay as it is.
    fn try_punch(&self) {
        if self.is_block || self.read_only {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, flags, self.size_bytes(), 4096).is_err() {
            self.can_punch.store(false, Ordering::Relaxed);
        }
    }

    fn write_zeros(&self, mut offset: u64, mut len: u64) -> Result<()> {
        while len > 0 {
            let piece = len.min(ZEROS.len() as u64);
            let zeros = ZEROS.get(..to_usize(piece)).unwrap_or(&ZEROS);
            self.write_at(zeros, offset)?;
            offset += piece;
            len -= piece;
        }
        Ok(())
    }
}

fn open_error(name: &str, read_only: bool, source: io::Error) -> Error {
    let busy = source.raw_os_error() == Some(Errno::BUSY.raw_os_error());
    let how = if read_only {
        "for reading"
    } else {
        "for reading and writing"
    };
    let error = Error::io(format!("cannot open {name} {how}"), source);
    if busy {
        return error
            .with_kind(ErrorKind::InUse)
            .with_hint("the kernel is using this block device; unmount or detach it first");
    }
    error
}

impl BlockDevice for FileDevice {
    fn size_bytes(&self) -> u64 {
        let size_bytes = if self.is_block {
            (&self.file).seek(SeekFrom::End(0)).unwrap_or(0)
        } else {
            self.file.metadata().map_or(0, |m| m.len())
        };
        self.known_size_bytes.store(size_bytes, Ordering::Relaxed);
        size_bytes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                let what = format!(
                    "cannot read {} bytes at {offset} of {}: the file ends before",
                    buf.len(),
                    self.name
                );
                return Error::new(ErrorKind::Io, what);
            }
            self.error("read", offset, buf.len() as u64, e)
        })
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        if !self.can_try.load(Ordering::Relaxed) {
            return self.read_at(buf, offset).map(|()| Attempt::Done);
        }
        let len = buf.len();
        let flags = ReadWriteFlags::NOWAIT;
        match preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, flags) {
            Ok(count) if count == len => Ok(Attempt::Done),
            // Only the beginning is in the page cache, or the file ends: `read_at` will tell.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Attempt::WouldBlock),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                // In memory (tmpfs), or a filesystem that can't tell.
                self.can_try.store(false, Ordering::Relaxed);
                self.read_at(buf, offset).map(|()| Attempt::Done)
            }
            Err(e) => Err(self.error("read", offset, len as u64, e.into())),
        }
    }

    fn will_read(&self, offset: u64, len: u64) {
        if let Some(len) = NonZero::new(len) {
            let _best_effort = fadvise(&self.file, offset, Some(len), Advice::WillNeed);
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.refuse_if_read_only("write to")?;
        self.refuse_beyond_end(offset, data.len() as u64)?;
        self.file
            .write_all_at(data, offset)
            .map_err(|e| self.error("write", offset, data.len() as u64, e))
    }

    fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|e| Error::io(format!("cannot flush {}", self.name), e))
    }

    fn drop_page_cache(&self) {
        // Dirty pages stay. What can't be written is given up with this.
        let _failed_before = self.file.sync_data();
        let _best_effort = fadvise(&self.file, 0, None, Advice::DontNeed);
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.refuse_if_read_only("discard on")?;
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.try_fallocate(&self.can_punch, flags, "discard", offset, len) {
            // Punching may need space for the filesystem's own tables. Nothing has to be done.
            Err(error) if error.kind() != ErrorKind::NoSpace => Err(error),
            _ => Ok(()),
        }
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.refuse_if_read_only("zero on")?;
        self.refuse_beyond_end(offset, len)?;
        let fast_refused = || {
            let what = format!("cannot zero {len} bytes at {offset} of {} fast", self.name);
            Err(Error::new(ErrorKind::NotSupported, what))
        };
        if flags.fast && flags.no_hole {
            // Zeroing a range in place may mean writing it, and nothing tells beforehand.
            return fast_refused();
        }
        if len == 0 {
            return Ok(());
        }
        if !flags.no_hole {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match self.try_fallocate(&self.can_punch, punch, "punch", offset, len) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Punching may need space for the filesystem's own tables; writing may not.
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                Err(error) => return Err(error),
            }
            if flags.fast {
                return fast_refused();
            }
        }
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if self.try_fallocate(&self.can_zero_range, zero, "zero", offset, len)? {
            return Ok(());
        }
        self.write_zeros(offset, len)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.refuse_if_read_only("reserve space on")?;
        if len == 0 {
            return Ok(());
        }
        // glibc's posix_fallocate would write where the filesystem can't; this never does.
        self.try_fallocate(
            &self.can_reserve,
            FallocateFlags::KEEP_SIZE,
            "reserve",
            offset,
            len,
        )?;
        // Blocks shared with a reflink copy would be allocated anew when they are written.
        let unshare = FallocateFlags::UNSHARE_RANGE | FallocateFlags::KEEP_SIZE;
        self.try_fallocate(&self.can_unshare, unshare, "unshare", offset, len)
            .map(|_| ())
    }

    fn needs_reservation(&self) -> bool {
        self.needs_reservation && self.can_reserve.load(Ordering::Relaxed)
    }

    fn prefers_rewrites(&self) -> bool {
        self.prefers_rewrites
    }

    fn extend_to(&self, size_bytes: u64) -> Result<()> {
        self.refuse_if_read_only("extend")?;
        if self.is_block {
            let context = format!("cannot extend {}: it is a block device", self.name);
            return Err(Error::new(ErrorKind::NotSupported, context));
        }
        // Allocating the last sector makes the file longer and, unlike setting its length, can't
        // make it shorter where somebody else makes it longer at this moment.
        let known = &self.can_reserve;
        let last = size_bytes.saturating_sub(SECTOR_SIZE);
        let extended = size_bytes <= self.size_bytes()
            || self.try_fallocate(known, FallocateFlags::empty(), "extend", last, SECTOR_SIZE)?;
        if !extended && size_bytes > self.size_bytes() {
            self.file.set_len(size_bytes).map_err(|e| {
                Error::io(
                    format!("cannot make {} {size_bytes} bytes long", self.name),
                    e,
                )
            })?;
        }
        self.size_bytes();
        Ok(())
    }

    fn room_below(&self) -> Option<RoomBelow> {
        if self.is_block {
            return None;
        }
        room_below(&self.file)
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.refuse_beyond_end(offset, len)?;
        let data = Extent {
            len,
            hole: false,
            zero: false,
            depth: 1,
        };
        if self.is_block {
            return Ok(data);
        }
        if let Some(left) = self.known_data.behind(offset) {
            let len = left.min(len);
            return Ok(Extent { len, ..data });
        }
        let hole = |end: u64| {
            let len = (end - offset).min(len);
            Ok(Extent {
                len,
                hole: true,
                zero: true,
                depth: 0,
            })
        };
        match rustix::fs::seek(&self.file, Seeker::Data(offset)) {
            Ok(start) if start > offset => return hole(start),
            Ok(_) => {}
            // A hole up to its end, or it was cut off.
            Err(Errno::NXIO) => {
                let size_bytes = self.size_bytes();
                check_range(&self.name, size_bytes, offset, len)?;
                return hole(size_bytes);
            }
            // A filesystem that can't tell: all of it is data.
            Err(_) => return Ok(data),
        }
        match rustix::fs::seek(&self.file, Seeker::Hole(offset)) {
            Ok(end) if end > offset => {
                self.known_data.remember(offset, end);
                let len = (end - offset).min(len);
                Ok(Extent { len, ..data })
            }
            // The file changed between the two calls, or can't tell.
            _ => Ok(data),
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn can_zero_fast(&self) -> bool {
        self.punch_tried.get_or_init(|| self.try_punch());
        self.can_punch.load(Ordering::Relaxed)
    }
}
