//! Reads the log of a dm-log-writes device and builds what a power cut would leave.
//!
//! The log's device holds, in sectors of the size that its head names: the head (magic, version,
//! number of entries, sector size), then entries. An entry is one sector (sector, count of sectors,
//! flags, length of the data inside the entry, each 8 bytes, little-endian, then that data: a mark's
//! name), followed by the sectors that were written, unless it is a discard or a mark.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
const ENTRY_HEAD_LEN: u64 = 32;

/// The entries of a log, in the order in which they became durable.
pub struct WriteLog {
    file: File,
    sector_bytes: u64,
    entries: Vec<Entry>,
}

struct Entry {
    /// Where on the device, in bytes.
    offset: u64,
    len: u64,
    /// Where the written bytes are in the log; `None`: zeros.
    data: Option<u64>,
    mark: Option<String>,
    /// That what was written before is durable, and that this is.
    flush: bool,
    fua: bool,
}

impl WriteLog {
    /// Reads the log that the device of `path` holds.
    ///
    /// # Errors
    /// There is no whole log.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("no {}", path.display()))?;
        let head = words::<3>(&file, 0)?;
        ensure!(head[0] == MAGIC, "no log: it begins with {:#x}", head[0]);
        ensure!(head[1] == VERSION, "a log of version {}", head[1]);
        let sector_bytes = words::<4>(&file, 0)?[3] & u64::from(u32::MAX);
        ensure!(sector_bytes >= 512, "sectors of {sector_bytes} bytes");
        let mut log = Self {
            file,
            sector_bytes,
            entries: Vec::new(),
        };
        let mut at = sector_bytes;
        for _ in 0..head[2] {
            let (entry, next) = log.entry(at)?;
            log.entries.push(entry);
            at = next;
        }
        Ok(log)
    }

    fn entry(&self, at: u64) -> Result<(Entry, u64)> {
        let [sector, count, flags, data_len] = words(&self.file, at)?;
        let len = count * self.sector_bytes;
        let behind = at + self.sector_bytes;
        let mark = if flags & MARK == 0 {
            None
        } else {
            let mut name = vec![0; usize::try_from(data_len)?];
            self.file.read_exact_at(&mut name, at + ENTRY_HEAD_LEN)?;
            // The kernel counts the terminating zero in.
            let name = String::from_utf8(name).context("a mark's name")?;
            Some(name.trim_end_matches('\0').to_owned())
        };
        let discards = flags & DISCARD != 0;
        let entry = Entry {
            offset: sector * self.sector_bytes,
            len,
            data: (!discards).then_some(behind),
            mark,
            flush: flags & FLUSH != 0,
            fua: flags & FUA != 0,
        };
        Ok((entry, if discards { behind } else { behind + len }))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries from `from` on, each as its first sector of 512 bytes, `+` and their count, and what it
    /// asked for: `flush` for what is before it, `fua` for itself. Marks are left out.
    #[must_use]
    pub fn described(&self, from: usize) -> Vec<String> {
        let entries = self.entries.iter().skip(from);
        let writes = entries.filter(|entry| entry.mark.is_none());
        writes
            .map(|entry| {
                let place = match entry.len {
                    0 => String::new(),
                    len => format!("{}+{}", entry.offset / 512, len / 512),
                };
                let flush = if entry.flush { "flush" } else { "" };
                let fua = if entry.fua { "fua" } else { "" };
                let words = [flush, place.as_str(), fua];
                words
                    .into_iter()
                    .filter(|word| !word.is_empty())
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    }

    /// How many entries come before the mark `name`.
    ///
    /// # Errors
    /// There is no such mark.
    pub fn mark(&self, name: &str) -> Result<usize> {
        self.entries
            .iter()
            .position(|entry| entry.mark.as_deref() == Some(name))
            .with_context(|| format!("no mark {name}"))
    }

    /// Brings `image` from the state after `from` entries to that after `to`.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn replay(&self, image: &File, from: usize, to: usize) -> Result<()> {
        for entry in &self.entries[from..to] {
            let mut bytes = vec![0; usize::try_from(entry.len)?];
            if let Some(data) = entry.data {
                self.file.read_exact_at(&mut bytes, data)?;
            }
            image.write_all_at(&bytes, entry.offset)?;
        }
        Ok(())
    }
}

fn words<const COUNT: usize>(file: &File, at: u64) -> Result<[u64; COUNT]> {
    let mut words = [0; COUNT];
    for (place, word) in (at..).step_by(8).zip(&mut words) {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, place)
            .with_context(|| format!("the log ends at {place}"))?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}
