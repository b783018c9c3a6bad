//! From what a store's metadata says to what is done about it.

use usnap_format::{
    AreaIndex, EXCEPTION_LEN, FormatError, HEADER_CHUNK, HEADER_LEN, Header, IDENTITY_LEN,
    IDENTITY_OFFSET, IdentityRecord, Layout, NewChunk, SECTOR_SIZE,
};

use super::entries::{Compacted, Dropped, is_torn_tail, unbelievable};
use super::execute::{Guard, Op};
use super::{Plan, RepairOptions, Step, StepKind};
use crate::check::{FindingKind, FoundHeader, Scan, Strictness, describe, find_header};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::JournalMode;

/// The plan for the store on `device`.
pub(super) fn make(device: &dyn BlockDevice, options: &RepairOptions) -> Result<Plan> {
    let found = find_header(device, options.chunk_size)?;
    let layout = Layout::new(found.sector.header.chunk_size);
    let Some(scan) = Scan::run(device, layout, Strictness::Everything)? else {
        let context = format!("cannot look at the areas of {}", device.name());
        return Err(Error::new(ErrorKind::Corrupt, context));
    };
    let mut planner = Planner {
        size_bytes: device.size_bytes(),
        size_after: device.size_bytes(),
        found: &found,
        scan: &scan,
        options,
        plan: Plan {
            guard: Guard {
                chunk_size: Some(layout.chunk_size),
                raw_header: found.sector.raw,
            },
            ..Plan::default()
        },
    };
    planner.refuse_unreadable();
    let dropped = unbelievable(&scan);
    planner.forget_session(&dropped);
    planner.extend(&dropped);
    planner.clear_junk();
    planner.drop_entries(&dropped);
    planner.mend_sector_0();
    let mut plan = planner.plan;
    if plan.step_count == 0 || !plan.refusals.is_empty() {
        plan.ops.clear();
    } else {
        // What was read is what the plan relies on: it must be more than a page cache's word.
        plan.ops.insert(0, Op::Sync);
    }
    Ok(plan)
}

struct Planner<'a> {
    size_bytes: u64,
    /// Once it was made longer.
    size_after: u64,
    found: &'a FoundHeader,
    scan: &'a Scan,
    options: &'a RepairOptions,
    plan: Plan,
}

impl Planner<'_> {
    fn refuse_unreadable(&mut self) {
        for unreadable in &self.scan.unreadable {
            let message = format!(
                "area {}, entry {} and on cannot be read: {}",
                unreadable.area, unreadable.index, unreadable.cause
            );
            self.plan.refuse(
                message,
                "copy what can be read to another device (ddrescue), and repair the copy",
            );
        }
    }

    /// An offline tool that writes leaves no store behind that an old journal fits.
    fn forget_session(&mut self, dropped: &[Dropped]) {
        let Ok(Some(record)) = self.found.sector.identity else {
            return;
        };
        if record.session == [0; 16] || !self.is_damaged(dropped) {
            return;
        }
        if self.found.damage.is_some()
            && !record.clean
            && self.options.journal != JournalMode::Discard
        {
            self.plan.notes.push(
                "it was not closed in order: once its header is mended, `usnap check` says whether \
                 a journal waits, and whether it is believed"
                    .to_owned(),
            );
            return;
        }
        let forgotten = IdentityRecord {
            session: [0; 16],
            boot_id: [0; 16],
            clean: true,
            has_journal: false,
            ..record
        };
        self.plan.add(Step {
            message: "identity record: forget the last session, so that no old journal fits".into(),
            from: hex(&record.session),
            to: "none".into(),
            ..in_header(StepKind::ForgetSession)
        });
        let bytes = forgotten.encode(crc32fast::hash).to_vec();
        let offset = IDENTITY_OFFSET;
        self.plan
            .ops
            .extend([Op::Write { offset, bytes }, Op::Sync]);
    }

    /// Whether there is anything else to mend.
    fn is_damaged(&self, dropped: &[Dropped]) -> bool {
        self.found.damage.is_some()
            || !self.found.sector.header.is_valid()
            || self.scan.junk.is_some()
            || self.scan.missing.is_some()
            || !dropped.is_empty()
    }

    /// Makes the file longer: by an area that is missing, and by the one whose place makes the size
    /// fatal to a kernel that fills it, where a kernel did.
    fn extend(&mut self, dropped: &[Dropped]) {
        let layout = self.scan.layout;
        let chunk_size = layout.chunk_size;
        let device_chunks = self.scan.device_chunks;
        // Without the dropped entries the area before is not full, and nothing is missing.
        let missing = self.scan.missing.filter(|_| dropped.is_empty());
        let is_revalidated = !self.found.sector.header.is_valid() && self.options.revalidate;
        let is_poisoned = is_revalidated && layout.kernel_poisoned(device_chunks);
        let (area, location) = match missing {
            Some(area) => (Some(area), layout.area_location(area)),
            None if is_poisoned => (None, Some(NewChunk(device_chunks))),
            None => return,
        };
        let Some((start, end)) = location.and_then(|location| {
            let start = chunk_size.new_to_offset(location)?;
            Some((location, start.checked_add(chunk_size.bytes())?))
        }) else {
            return;
        };
        if self.options.is_fixed_size {
            self.refuse_to_extend(area, chunk_size.bytes());
            return;
        }
        let message = match area {
            Some(area) => format!(
                "file: make it longer, from {} to {end} bytes, by area {area} (chunk {start}), \
                 which the store goes on in; if it was longer once, its rest is lost",
                self.size_bytes
            ),
            None => format!(
                "file: make it longer, from {} to {end} bytes: a kernel that fills it as it is \
                 invalidates it again",
                self.size_bytes
            ),
        };
        self.plan.add(Step {
            kind: StepKind::Extend,
            area,
            chunk: Some(start),
            index: None,
            exception: None,
            from: self.size_bytes.to_string(),
            to: end.to_string(),
            message,
        });
        self.size_after = end;
        let area_start = end - chunk_size.bytes();
        if area_start < self.size_bytes {
            // A part of it is there, and not reached yet.
            let len = self.size_bytes - area_start;
            let offset = area_start;
            self.plan.ops.extend([Op::Zero { offset, len }, Op::Sync]);
        }
        self.plan.ops.extend([
            Op::Extend { size_bytes: end },
            Op::Sync,
            Op::Zero {
                offset: area_start,
                len: chunk_size.bytes(),
            },
            Op::Sync,
        ]);
    }

    fn refuse_to_extend(&mut self, area: Option<AreaIndex>, chunk_bytes: u64) {
        match area {
            Some(area) => self.plan.refuse(
                format!("area {area}, which the store goes on in, is behind the device's end"),
                format!("extend the block device by {chunk_bytes} bytes or more, then repair it"),
            ),
            None => self.plan.notes.push(format!(
                "a kernel that fills a device of this size invalidates it again: extend it by \
                 {chunk_bytes} bytes or more"
            )),
        }
    }

    fn clear_junk(&mut self) {
        let Some((area, offset)) = self.scan.junk else {
            return;
        };
        let chunk_bytes = self.scan.layout.chunk_size.bytes();
        let len = chunk_bytes - offset;
        let index = offset / EXCEPTION_LEN as u64;
        let location = self.scan.layout.area_location(area);
        self.plan.add(Step {
            kind: StepKind::ClearJunk,
            area: Some(area),
            chunk: location,
            index: Some(index),
            exception: None,
            from: "bytes that are not zero".into(),
            to: "zeros".into(),
            message: format!(
                "area {area} (chunk {}), entry {index} and on: zero {len} bytes behind the last \
                 entry, which mean nothing and could come alive{}",
                location.unwrap_or_default(),
                self.scan.leftover.describe()
            ),
        });
        if self.scan.leftover.is_behind_zeros && !self.options.drop_damaged {
            let message = format!(
                "area {area}: behind a sector of zeros lie {} entries that could be believed, from \
                 entry {index} on",
                self.scan.leftover.entries
            );
            self.plan.refuse(
                message,
                "if a kernel was interrupted in a commit, it had not answered those, and \
                 --drop-damaged zeroes them; else a sector of entries was lost: restore it",
            );
        }
        if let Some(start) = self.scan.area_offset(area) {
            // The terminator's sector last: a cut must not leave it as zeros with entries behind it,
            // which would be a doubt that was none.
            let (end, first) = (start + chunk_bytes, start + offset);
            let border = (first / SECTOR_SIZE + 1) * SECTOR_SIZE;
            for (offset, end) in [(border, end), (first, border)] {
                if offset < end {
                    let len = end - offset;
                    self.plan.ops.extend([Op::Zero { offset, len }, Op::Sync]);
                }
            }
        }
    }

    fn drop_entries(&mut self, dropped: &[Dropped]) {
        let damaged: Vec<&Dropped> = dropped.iter().filter(|d| !d.is_repeat).collect();
        if let Some(first) = damaged.first()
            && !self.options.drop_damaged
            && !is_torn_tail(self.scan, dropped)
        {
            self.refuse_to_drop(first, &damaged);
        }
        let compacted = Compacted::new(self.scan, dropped);
        for dropped in dropped {
            self.plan.add(drop_step(self.scan, &compacted, dropped));
        }
        self.plan.ops.extend(compacted.ops());
    }

    fn refuse_to_drop(&mut self, first: &Dropped, damaged: &[&Dropped]) {
        let (area, index) = self.scan.layout.entry_position(first.n);
        let others = match damaged.len() - 1 {
            0 => String::new(),
            1 => " (and 1 entry more)".to_owned(),
            more => format!(" (and {more} entries more)"),
        };
        let message = format!(
            "area {area}, entry {index} {}, and it is not the torn end of a commit{others}",
            first.why
        );
        let is_cut_off = |dropped: &&&Dropped| dropped.kind == FindingKind::EntryOutOfRange;
        let hint = if damaged.iter().any(|dropped| is_cut_off(&dropped)) {
            "if the file was cut off, restore it whole; --drop-damaged removes such entries, and \
             their chunks read as the origin's again"
        } else {
            "--drop-damaged removes such entries, and their chunks read as the origin's again; the \
             data chunks stay as they are"
        };
        self.plan.refuse(message, hint);
    }

    /// Header and identity record, which share a sector, last: until then a store that nobody takes
    /// for one stays so.
    fn mend_sector_0(&mut self) {
        let header = self.mend_header();
        let record = self.mend_identity();
        let op = match (header, record) {
            (Some(header), Some(record)) => Op::Write {
                offset: 0,
                bytes: [&header[..], &record[..]].concat(),
            },
            (Some(header), None) => Op::Write {
                offset: 0,
                bytes: header.to_vec(),
            },
            (None, Some(record)) => Op::Write {
                offset: IDENTITY_OFFSET,
                bytes: record.to_vec(),
            },
            (None, None) => return,
        };
        self.plan.ops.extend([op, Op::Sync]);
    }

    fn mend_header(&mut self) -> Option<[u8; HEADER_LEN]> {
        let sector = &self.found.sector;
        let mut header = sector.header;
        if let Some(damage) = &self.found.damage {
            let evidence = describe(self.found, damage);
            if let Some(doubt) = damage.doubt
                && self.options.chunk_size.is_none()
            {
                let size = header.chunk_size.bytes();
                let hint = format!("--chunk-size {size} says that this is what it was");
                self.plan
                    .refuse(format!("the header is damaged, but {doubt}"), hint);
            }
            let to = hex(&header.encode());
            self.plan.add(Step {
                message: format!("{evidence}: write its 16 bytes anew, as {to}"),
                from: hex(&sector.raw),
                to,
                ..in_header(StepKind::RewriteHeader)
            });
        }
        if !header.is_valid() {
            if self.options.revalidate {
                header = Header { valid: 1, ..header };
                self.revalidate();
            } else {
                self.plan.refuse(
                    "it was invalidated (valid = 0)".to_owned(),
                    "a kernel does this when its COW device runs full or fails; --revalidate makes \
                     it valid again (what that means: `usnap repair --help`)",
                );
            }
        }
        let is_mended = self.found.damage.is_some() || header != sector.header;
        let bytes = header.encode();
        (is_mended && bytes != sector.raw).then_some(bytes)
    }

    fn revalidate(&mut self) {
        let count = self.scan.entry_count();
        let (area, index) = self.scan.layout.entry_position(count);
        self.plan.add(Step {
            message: format!(
                "header (chunk 0): set valid from 0 to 1; the {count} entries up to area {area}, \
                 entry {index}, are whole"
            ),
            from: "0".into(),
            to: "1".into(),
            ..in_header(StepKind::Revalidate)
        });
        let layout = self.scan.layout;
        let max_new_chunk = self.scan.entries().map(|(_, entry)| entry.new_chunk).max();
        let free = crate::store::persistent::free_behind(
            layout,
            layout
                .next_free_after_max(max_new_chunk)
                .unwrap_or(NewChunk(u64::MAX)),
            count,
            layout.chunk_size.whole_chunks(self.size_after),
        );
        let notes = &mut self.plan.notes;
        notes.push(
            "what the kernel had not committed when it gave up is lost: the snapshot is as of its \
             last commit, as after a power cut; check the filesystem on it"
                .to_owned(),
        );
        let is_unsound =
            matches!(self.found.sector.identity, Ok(Some(record)) if record.origin_changing);
        notes.push(
            if is_unsound {
                "it is unsound: the origin was served writable, and since this snapshot was dropped \
                 went on without it; chunks that were not saved show what the origin has now, so \
                 take out what is needed and do not rely on the rest"
            } else {
                "if the origin was written to through snapshot-origin since, chunks that were not \
                 copied out in time show the new content"
            }
            .to_owned(),
        );
        notes.push(format!(
            "there is room for {free} chunks more: a kernel in mode P invalidates it again when it \
             needs one that is not there; make it longer first (truncate -s)"
        ));
    }

    fn mend_identity(&mut self) -> Option<[u8; IDENTITY_LEN]> {
        let was_wiped = !self.found.sector.header.is_valid() && self.options.revalidate;
        let error = match self.found.sector.identity {
            Ok(Some(_)) => return None,
            // The kernel zeroes the record when it invalidates the store.
            Ok(None) if was_wiped && self.options.origin.is_some() => None,
            Ok(None) => return None,
            Err(error) => Some(error),
        };
        let from = error.map_or("none".to_owned(), |error| error.to_string());
        let Some(origin) = self.options.origin else {
            if let Some(FormatError::IdentityVersion { .. }) = error {
                self.plan.refuse(
                    from,
                    "a later usnap wrote it and can read it; --origin ORIGIN overwrites it",
                );
                return None;
            }
            self.plan.add(Step {
                message: format!(
                    "{from}: zero it; `usnap serve --adopt` or --origin makes a new one"
                ),
                from,
                to: "none".into(),
                ..in_header(StepKind::RewriteIdentity)
            });
            return Some([0; IDENTITY_LEN]);
        };
        let origin_chunks = self
            .scan
            .layout
            .chunk_size
            .chunks_to_hold(origin.size_bytes);
        let outside = self.scan.entries();
        let outside = outside.filter(|(_, entry)| entry.old_chunk.0 >= origin_chunks);
        let outside = outside.count();
        if outside > 0 {
            self.plan.refuse(
                format!("{outside} entries are for chunks that the origin does not have"),
                "is it the right origin? Without --origin the identity record is only zeroed",
            );
        }
        let record = IdentityRecord {
            origin: Some(origin),
            clean: true,
            ..IdentityRecord::default()
        };
        let to = format!("an origin of {} bytes", origin.size_bytes);
        self.plan.add(Step {
            message: format!("identity record: write it anew, for {to} (it was: {from})"),
            from,
            to,
            ..in_header(StepKind::RewriteIdentity)
        });
        Some(record.encode(crc32fast::hash))
    }
}

fn drop_step(scan: &Scan, compacted: &Compacted<'_>, dropped: &Dropped) -> Step {
    let (area, index) = scan.layout.entry_position(dropped.n);
    let exception = dropped.exception;
    let (old, new) = (exception.old_chunk, exception.new_chunk);
    let effect = match (dropped.is_repeat, dropped.has_other) {
        (true, _) => String::new(),
        (false, true) => "; the other stays".to_owned(),
        (false, false) => format!("; old chunk {old} reads as the origin's then"),
    };
    let to = match compacted.moves.get(&dropped.n) {
        Some((from, moved)) => {
            let (from_area, from_index): (AreaIndex, u64) = scan.layout.entry_position(*from);
            format!(
                "{} -> {} (from area {from_area}, entry {from_index})",
                moved.old_chunk, moved.new_chunk
            )
        }
        None => "none".to_owned(),
    };
    let in_its_place = match to.as_str() {
        "none" => String::new(),
        to => format!("; in its place {to}"),
    };
    Step {
        kind: StepKind::DropEntry,
        area: Some(area),
        chunk: scan.layout.area_location(area),
        index: Some(index),
        exception: Some(exception),
        message: format!(
            "area {area} (chunk {}), entry {index}: remove {old} -> {new}, which {}{effect}{in_its_place}",
            scan.layout.area_location(area).unwrap_or_default(),
            dropped.why
        ),
        from: format!("{old} -> {new}"),
        to,
    }
}

fn in_header(kind: StepKind) -> Step {
    Step {
        kind,
        area: None,
        chunk: Some(HEADER_CHUNK),
        index: None,
        exception: None,
        from: String::new(),
        to: String::new(),
        message: String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
