//! Making a stream of what a chain changes.

use std::io::Write;
use std::ops::{ControlFlow, Range};

use usnap_format::OriginIdentity;

use super::exact::Exact;
use super::samples;
use super::stream::{DiffHeader, DiffWriter};
use crate::chain::{Chain, Relative};
use crate::error::{Error, Result};
use crate::export::{Progress, interrupted};
use crate::num::to_usize;
use crate::origin::identity::{SAMPLE_SCHEME, sample};
use crate::pieces::{Holes, PIECE_BYTES, Piece, each_piece};

/// What of a chain's changes is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// What they are relative to.
    pub relative: Relative,
    /// Leave sectors out that are equal.
    pub exact: bool,
}

/// What a stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffSummary {
    /// Bytes of the device that are sent.
    pub data_bytes: u64,
    /// Bytes of the device that are only said to be zero.
    pub zero_bytes: u64,
}

/// Writes what `chain` changes, with its data. Progress is told in bytes of the device.
///
/// # Errors
/// `Interrupted`, `Io`, and what the stream says.
pub fn write(
    chain: &Chain,
    options: DiffOptions,
    out: &mut dyn Write,
    progress: Progress<'_>,
) -> Result<DiffSummary> {
    let failed = |e| Error::io("cannot write the diff", e);
    let base = chain.base(options.relative);
    let device = chain.device();
    let size_bytes = device.size_bytes();
    let header = DiffHeader {
        size_bytes,
        is_exact: options.exact,
        is_to_layers: options.relative == Relative::ToLayers,
        base: OriginIdentity {
            sample_scheme: SAMPLE_SCHEME,
            sample_crc32: sample(base, size_bytes)?,
            ..base.identity()?
        },
        samples: samples::choose(base, chain.changes(options.relative))?,
    };
    let mut writer = DiffWriter::new(out, &header).map_err(failed)?;
    let mut summary = DiffSummary::default();
    let mut buf = vec![0; to_usize(PIECE_BYTES)];
    let mut see = |offset: u64, piece: Piece<'_>| {
        let (written, len) = match piece {
            Piece::Data(data) => {
                summary.data_bytes += data.len() as u64;
                (writer.data(offset, data), data.len() as u64)
            }
            Piece::Zeros(len) => {
                summary.zero_bytes += len;
                (writer.zeros(offset, len), len)
            }
        };
        written.map_err(failed)?;
        match progress(offset + len) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(interrupted()),
        }
    };
    let mut put = |range: Range<u64>| each_piece(device, range, Holes::Read, &mut buf, &mut see);
    let changes = chain.changes(options.relative);
    if options.exact {
        let mut exact = Exact::new(changes, device, base);
        while let Some(range) = exact.next_range()? {
            put(range)?;
        }
    } else {
        for range in changes {
            put(range)?;
        }
    }
    writer.end().map_err(failed)?;
    Ok(summary)
}
