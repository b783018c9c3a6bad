//! Applying a diff to a copy of what it was made for.
//!
//! What is not right is refused before anything is written: a file is read through first. Of a stream
//! each record is checked before it is written. A patch that was interrupted is done again: it writes
//! the same, and the device is known by what the diff does not change.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use crate::device::{BlockDevice, ZeroFlags};
use crate::diff::{Content, DiffHeader, DiffReader, verify};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Progress, interrupted};
use crate::origin::{Origin, WritableOrigin};

/// Where a diff comes from.
pub enum DiffInput {
    /// A file, which is read twice.
    File(File),
    /// What can be read once.
    Stream(Box<dyn Read>),
}

/// How a diff is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchOptions {
    /// Patch a device that is not what the diff was made for, if it is large enough.
    pub force: bool,
    /// Check all of it and write nothing.
    pub dry_run: bool,
}

/// What was (or would be) written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchReport {
    /// Bytes of data.
    pub data_bytes: u64,
    /// Bytes of zeros.
    pub zero_bytes: u64,
}

/// Applies `diff` to the file or block device at `device`, which nobody else may use meanwhile, and
/// flushes it. Progress is told in bytes of the diff, which is passed twice where it is a file.
///
/// # Errors
/// `Foreign`, `NotSupported`, `Corrupt` (nothing was written where it is a file), `OriginMismatch`,
/// `InUse`, `NoSpace`, `Interrupted`, `Io`.
pub fn patch(
    diff: DiffInput,
    device: &Path,
    options: PatchOptions,
    progress: Progress<'_>,
) -> Result<PatchReport> {
    match diff {
        DiffInput::File(mut file) => {
            let mut reader = DiffReader::new(BufReader::new(&file))?;
            let report = each_record(&mut reader, progress, &mut |_, _| Ok(()))?;
            reader.expect_end()?;
            let header = reader.header().clone();
            if options.dry_run {
                look_at(device, &header, options)?;
                return Ok(report);
            }
            file.seek(SeekFrom::Start(0))
                .map_err(|e| Error::io("cannot read it again", e))?;
            apply(
                DiffReader::new(BufReader::new(&file))?,
                device,
                options,
                progress,
            )
        }
        DiffInput::Stream(stream) => {
            let mut reader = DiffReader::new(BufReader::new(stream))?;
            if options.dry_run {
                look_at(device, reader.header(), options)?;
                return each_record(&mut reader, progress, &mut |_, _| Ok(()));
            }
            apply(reader, device, options, progress)
        }
    }
}

/// Compares the device with what the diff was made for, without keeping others out.
fn look_at(device: &Path, header: &DiffHeader, options: PatchOptions) -> Result<()> {
    belongs(&Origin::open(device)?, header, options)
}

fn belongs(device: &dyn BlockDevice, header: &DiffHeader, options: PatchOptions) -> Result<()> {
    let (have, need) = (device.size_bytes(), header.size_bytes);
    if have < need || (have > need && !options.force) {
        let context = format!(
            "{} is not what the diff was made for: it has {have} bytes, and that had {need}",
            device.name()
        );
        let hint = if have < need {
            "use a copy of that origin"
        } else {
            "use a copy of that origin; or, if only its beginning is one, --force"
        };
        return Err(Error::new(ErrorKind::OriginMismatch, context).with_hint(hint));
    }
    if options.force {
        return Ok(());
    }
    verify(device, &header.samples)
}

fn apply<R: Read>(
    mut reader: DiffReader<R>,
    path: &Path,
    options: PatchOptions,
    progress: Progress<'_>,
) -> Result<PatchReport> {
    let device = WritableOrigin::open(path)?;
    belongs(&device, reader.header(), options)?;
    let mut is_written = false;
    let result = each_record(&mut reader, progress, &mut |offset, content| {
        is_written = true;
        match content {
            Content::Data(data) => device.write_at(data, offset),
            Content::Zeros(len) => device.zero_at(offset, len, ZeroFlags::default()),
        }
    });
    // Whatever was written is to stay, also where more was to come.
    let flushed = device.flush();
    let report = result.map_err(|error| {
        if !is_written {
            return error;
        }
        let context = format!(
            "cannot go on behind byte {} of {}, up to which it is patched",
            reader.reached(),
            path.display()
        );
        error
            .context(context)
            .with_hint("patch it again with the whole diff: that begins anew and ends right")
    })?;
    flushed?;
    Ok(report)
}

fn each_record<R: Read>(
    reader: &mut DiffReader<R>,
    progress: Progress<'_>,
    see: &mut dyn FnMut(u64, Content<'_>) -> Result<()>,
) -> Result<PatchReport> {
    let mut report = PatchReport::default();
    while let Some(record) = reader.next_record()? {
        match record.content {
            Content::Data(data) => report.data_bytes += data.len() as u64,
            Content::Zeros(len) => report.zero_bytes += len,
        }
        see(record.offset, record.content)?;
        if let ControlFlow::Break(()) = progress(reader.position()) {
            return Err(interrupted());
        }
    }
    Ok(report)
}
