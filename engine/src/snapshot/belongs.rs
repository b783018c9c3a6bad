//! Whether an origin and a COW device belong together.

use std::path::Path;

use usnap_format::{ChunkSize, IdentityRecord, NewChunk, OldChunk};

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;
use crate::origin::{Identify, identity};
use crate::table::{ExceptionTable, Slot};

/// Said of a store without an origin on record.
pub(crate) fn no_origin() -> Match {
    Match::Unknown {
        why: "the COW device does not say which origin it belongs to: a changed origin would go \
              unnoticed"
            .to_owned(),
        way_out: "; --adopt ties it to this one",
    }
}

/// How origin and COW device belong together.
pub(crate) enum Match {
    /// They do.
    Same,
    /// Nothing says so; the sentence for the user, and what a server's user can do about it.
    Unknown { why: String, way_out: &'static str },
    /// The record has no origin yet: an empty store is this origin's from now on.
    New,
    /// They don't; the sentence for the user.
    Different(String),
}

pub(crate) fn cannot_pair(origin: &dyn Identify, cow: &Path) -> String {
    format!(
        "cannot use COW device {} with origin {}",
        cow.display(),
        origin.name()
    )
}

/// A blank image named twice would become a store over itself.
pub(crate) fn refuse_same_file(origin: &dyn Identify, cow: &Path) -> Result<()> {
    if !origin.is_at(cow) {
        return Ok(());
    }
    let what = if origin.has_layers() {
        "as COW device: it is the origin or a layer already"
    } else {
        "as origin and as COW device at once"
    };
    let context = format!("cannot use {} {what}", cow.display());
    Err(Error::new(ErrorKind::Usage, context)
        .with_hint("name a COW file of its own; it is created if it does not exist"))
}

/// Compares an origin with the record of the one that the COW device was made for. The sample is
/// always read, a mebibyte (unless the origin is changing, by somebody who knows of the store): equal sizes and times are what copying tools and build systems make.
pub(crate) fn match_origin(
    origin: &dyn Identify,
    record: Option<&IdentityRecord>,
) -> Result<Match> {
    let Some(record) = record else {
        return Ok(no_origin());
    };
    let Some(wanted) = record.origin else {
        return Ok(Match::New);
    };
    let size_bytes = origin.size_bytes();
    if wanted.size_bytes != size_bytes {
        return Ok(Match::Different(format!(
            "it was made for an origin of {} bytes, and this one has {size_bytes}: another image, \
             or it changed",
            wanted.size_bytes
        )));
    }
    let scheme = if origin.has_layers() {
        identity::LAYERED_SCHEME
    } else {
        identity::SAMPLE_SCHEME
    };
    let known = [identity::SAMPLE_SCHEME, identity::LAYERED_SCHEME];
    if wanted.sample_scheme != scheme && known.contains(&wanted.sample_scheme) {
        return Ok(Match::Different(
            if origin.has_layers() {
                "it was made for an origin without layers"
            } else {
                "it was made for an origin with layers (--layer)"
            }
            .to_owned(),
        ));
    }
    if record.origin_changing {
        return Ok(unknown(format!(
            "origin {} is written to as well (a merge, or its own server), and that did not end: \
             only its size was compared",
            origin.name()
        )));
    }
    if wanted.sample_scheme != scheme {
        return Ok(unknown(
            "the COW device knows its origin by a sample that this version can't compare".into(),
        ));
    }
    let found = origin.identify()?;
    if found.sample_crc32 != wanted.sample_crc32 {
        let what = if origin.has_layers() {
            "the origin or a layer changed since the COW device was made for them, or they are \
             others, or in another order"
        } else {
            "the origin's content changed since the COW device was made for it, or it is another image"
        };
        return Ok(Match::Different(what.to_owned()));
    }
    if (found.mtime_s, found.mtime_ns) == (wanted.mtime_s, wanted.mtime_ns) {
        return Ok(Match::Same);
    }
    let why = format!(
        "the modification time of origin {} changed; its size and the sampled parts of its content \
         are the same",
        origin.name()
    );
    let way_out = " (--adopt notes the new time down)";
    Ok(Match::Unknown { why, way_out })
}

fn unknown(why: String) -> Match {
    let way_out = "";
    Match::Unknown { why, way_out }
}

/// As `match_origin`, for an origin that is written to: where its modification time is another one,
/// it was written to without this store, which has to know of every write. So it was where it was
/// written to since its server began (`was_changed`), and what is on record is from before.
pub(super) fn match_shared_origin(
    origin: &dyn Identify,
    record: Option<&IdentityRecord>,
    was_changed: bool,
) -> Result<Match> {
    let matched = match_origin(origin, record)?;
    let is_changing = record.is_some_and(|record| record.origin_changing);
    if was_changed && is_changing && !matches!(matched, Match::Different(_)) {
        return Ok(Match::Different(
            "its server before did not end in order, and this one let the origin be written to \
             already: the COW device does not have what was there"
                .to_owned(),
        ));
    }
    let is_compared = record.is_some_and(|record| {
        let scheme = record.origin.map(|wanted| wanted.sample_scheme);
        scheme == Some(identity::SAMPLE_SCHEME) && !record.origin_changing
    });
    Ok(match matched {
        Match::Unknown { .. } if is_compared => Match::Different(
            "the modification time of the origin is not the one on record: it was written to and \
             the COW device does not have what was there"
                .to_owned(),
        ),
        matched => matched,
    })
}

/// Whether a store was made for an origin of this size, and never served.
pub(super) fn is_fresh(record: Option<&IdentityRecord>, size_bytes: u64) -> bool {
    record.is_some_and(|record| {
        let recorded = record.origin.map(|origin| origin.size_bytes);
        record.session == [0; 16] && recorded == Some(size_bytes)
    })
}

/// The end of an origin that grew: it ended inside a chunk that is mapped, whose rest is zeros on
/// the COW device and has to become the origin's. That can be done once, together with noting the
/// new size down, since from then on the rest may be written to.
pub(crate) struct GrownTail {
    /// Where the origin ended, in bytes.
    from: u64,
    end: u64,
    new_chunk: NewChunk,
    within: u64,
}

impl GrownTail {
    /// What is to be done where an origin that had `recorded_size_bytes` has `size_bytes` now.
    pub(crate) fn find(
        table: &ExceptionTable,
        chunk_size: ChunkSize,
        recorded_size_bytes: u64,
        size_bytes: u64,
    ) -> Option<Self> {
        let within = chunk_size.offset_in_chunk(recorded_size_bytes);
        let old_chunk = OldChunk(chunk_size.chunk_of(recorded_size_bytes));
        let Slot::Mapped(new_chunk) = table.lookup(old_chunk) else {
            return None;
        };
        if within == 0 || recorded_size_bytes >= size_bytes {
            return None;
        }
        Some(Self {
            from: recorded_size_bytes,
            end: size_bytes.min(recorded_size_bytes - within + chunk_size.bytes()),
            new_chunk,
            within,
        })
    }

    /// The refusal where the chunk may not be completed.
    pub(super) fn refusal(&self, origin: &dyn Identify, cow: &Path) -> Error {
        let context = format!(
            "{}: the origin grew from {} bytes, and the chunk in which it ended was written",
            cannot_pair(origin, cow),
            self.from
        );
        Error::new(ErrorKind::OriginMismatch, context)
            .with_hint("--force-origin together with --adopt completes that chunk")
    }

    /// Completes the chunk from the origin, durably.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(super) fn complete(
        &self,
        origin: &dyn BlockDevice,
        device: &dyn BlockDevice,
        chunk_size: ChunkSize,
    ) -> Result<()> {
        let mut rest = vec![0; to_usize(self.end - self.from)];
        origin.read_at(&mut rest, self.from)?;
        device.write_at(
            &rest,
            (self.new_chunk.0 << chunk_size.shift()) + self.within,
        )?;
        device.flush()
    }
}
