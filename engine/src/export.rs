//! A chain as one raw image, as sparse as it can be.

use std::fs::{File, Metadata};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::chain::{Chain, Relative};
use crate::device::{BlockDevice, FileDevice, ZeroFlags};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::pieces::{Holes, PIECE_BYTES, Piece, each_piece};

/// Told how many bytes of the device are done; breaks to stop.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Where an image goes.
trait Sink {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()>;
    fn zeros(&mut self, offset: u64, len: u64) -> Result<()>;
}

/// Writes what `chain` shows to a new sparse file, or to a block device.
///
/// The file appears when it is complete and durable, and has blocks for nothing that is zero. With
/// `force` it replaces another file, in one step. A block device is written to only with `force`;
/// what lies behind the image's end stays.
///
/// # Errors
/// `Exists`, `Usage` (a folder, a pipe, a device that is too small, a file of the chain), `NoSpace`,
/// `Interrupted`, `Io`. No file is left behind then; a block device may be written in part.
pub fn to_path(chain: &Chain, out: &Path, force: bool, progress: Progress<'_>) -> Result<()> {
    let cannot = || format!("cannot export to {}", out.display());
    if chain.is_part(out) {
        let context = format!("{}: it is a part of what is exported", cannot());
        return Err(Error::new(ErrorKind::Usage, context));
    }
    match std::fs::metadata(out) {
        Ok(found) if found.file_type().is_block_device() => {
            if !force {
                let error = Error::new(
                    ErrorKind::Exists,
                    format!("{}: it is a block device", cannot()),
                );
                return Err(error.with_hint("what is on it is overwritten with --force"));
            }
            to_block_device(chain, out, progress).map_err(|error| error.context(cannot()))
        }
        found => {
            refuse(out, found.ok().as_ref(), force)?;
            to_file(chain, out, force, progress).map_err(|error| error.context(cannot()))
        }
    }
}

fn refuse(out: &Path, found: Option<&Metadata>, force: bool) -> Result<()> {
    let name = out.display();
    match found {
        Some(found) if !found.is_file() => Err(Error::new(
            ErrorKind::Usage,
            format!("cannot export to {name}: neither a file nor a block device"),
        )
        .with_hint("- is standard output")),
        Some(_) if !force => Err(exists(out)),
        _ => Ok(()),
    }
}

fn exists(out: &Path) -> Error {
    let context = format!("cannot export to {}: it exists", out.display());
    Error::new(ErrorKind::Exists, context).with_hint("nothing was changed; --force replaces it")
}

/// Writes what `chain` shows to a stream, zeros included.
///
/// # Errors
/// `Interrupted`, `Io`, and what the stream says.
pub fn to_stream(chain: &Chain, out: &mut dyn Write, progress: Progress<'_>) -> Result<()> {
    copy(chain, &mut Stream(out), progress)
}

fn to_block_device(chain: &Chain, out: &Path, progress: Progress<'_>) -> Result<()> {
    let device = FileDevice::open_read_write(out)?;
    let (have, need) = (device.size_bytes(), chain.device().size_bytes());
    if have < need {
        let context = format!("it has {have} bytes, and {need} are needed");
        return Err(Error::new(ErrorKind::Usage, context));
    }
    copy(chain, &mut Overwrite(&device), progress)?;
    device.flush()
}

fn to_file(chain: &Chain, out: &Path, force: bool, progress: Progress<'_>) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("cannot write it", e);
    let new = NewFile::beside(out).map_err(fail)?;
    new.file
        .set_len(chain.device().size_bytes())
        .map_err(fail)?;
    let device = FileDevice::from_regular(new.file.try_clone().map_err(fail)?, new.name());
    copy(chain, &mut Sparse(&device), progress)?;
    new.file.sync_all().map_err(fail)?;
    new.appear(out, force).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return exists(out);
        }
        fail(error)
    })
}

fn copy(chain: &Chain, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<()> {
    let mut buf = vec![0; to_usize(PIECE_BYTES)];
    let mut see = |offset: u64, piece: Piece<'_>| {
        let done = match piece {
            Piece::Data(data) => {
                sink.data(offset, data)?;
                data.len() as u64
            }
            Piece::Zeros(len) => {
                sink.zeros(offset, len)?;
                len
            }
        };
        match progress(offset + done) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(interrupted()),
        }
    };
    // Where the chain changes nothing the origin itself is read, and knows its holes.
    let origin = chain.base(Relative::ToOrigin);
    let device = chain.device();
    let mut at = 0;
    for change in chain.changes(Relative::ToOrigin) {
        each_piece(origin, at..change.start, Holes::Asked, &mut buf, &mut see)?;
        at = change.end;
        each_piece(device, change, Holes::Read, &mut buf, &mut see)?;
    }
    let rest = at..device.size_bytes();
    each_piece(origin, rest, Holes::Asked, &mut buf, &mut see)
}

#[cold]
pub(crate) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
}

/// A new file: what is not written is a hole.
struct Sparse<'a>(&'a FileDevice);

impl Sink for Sparse<'_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write_at(data, offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

/// A device that has some content already.
struct Overwrite<'a>(&'a FileDevice);

impl Sink for Overwrite<'_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write_at(data, offset)
    }

    fn zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        self.0.zero_at(offset, len, ZeroFlags::default())
    }
}

struct Stream<'a>(&'a mut dyn Write);

impl Sink for Stream<'_> {
    fn data(&mut self, _offset: u64, data: &[u8]) -> Result<()> {
        let written = self.0.write_all(data);
        written.map_err(|e| Error::io("cannot write the image", e))
    }

    fn zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut left = len;
        while left > 0 {
            let piece = ZEROS.get(..to_usize(left)).unwrap_or(&ZEROS);
            self.data(offset, piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}

/// A file that has no name until it is complete; where the filesystem can't do that, one of its own,
/// which is removed unless it is complete.
struct NewFile {
    file: File,
    temporary: Option<PathBuf>,
}

impl NewFile {
    fn beside(out: &Path) -> std::io::Result<Self> {
        let folder = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::open(folder, flags, mode) {
            return Ok(Self {
                file: File::from(fd),
                temporary: None,
            });
        }
        let temporary = temporary_name(out);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&temporary, flags, mode)?;
        Ok(Self {
            file: File::from(fd),
            temporary: Some(temporary),
        })
    }

    fn name(&self) -> String {
        let name = self.temporary.as_ref();
        name.map_or_else(
            || "the new file".to_owned(),
            |path| path.display().to_string(),
        )
    }

    /// Gives it its name, over another file's only with `force`, durably.
    fn appear(mut self, out: &Path, force: bool) -> std::io::Result<()> {
        if self.temporary.is_none() {
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let name = if force {
                let temporary = temporary_name(out);
                self.temporary = Some(temporary.clone());
                temporary
            } else {
                out.to_owned()
            };
            rustix::fs::linkat(CWD, unnamed, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
        }
        if let Some(temporary) = &self.temporary {
            if force {
                std::fs::rename(temporary, out)?;
            } else {
                // Unlike a rename a link replaces nothing.
                std::fs::hard_link(temporary, out)?;
                std::fs::remove_file(temporary)?;
            }
            self.temporary = None;
        }
        match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _best_effort = std::fs::remove_file(temporary);
        }
    }
}

fn temporary_name(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{}.usnap", std::process::id()))
}
