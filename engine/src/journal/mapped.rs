//! A journal file mapped into memory: a note is a few stores, and the page cache has them when the
//! process is killed. The one file with code that the compiler can't prove safe.
//!
//! A note costs 0.04 to 0.08 us this way, and 0.7 us (tmpfs) or 3 us (ext4) by `pwrite`; the stamps
//! around a call that modifies the COW file cost 0.02 to 0.04 us (`a_note_is_cheaper_than_a_write`,
//! below, in a virtual machine with Linux 6.18 and two busy cores).
//!
//! What a mapping needs of its file: that its blocks are there (`place.rs` allocates them), so that
//! a store never finds the filesystem full, and that nobody makes it shorter. Nobody but its owner
//! may, and then the process ends by SIGBUS, as if killed.

#![expect(
    unsafe_code,
    reason = "an atomic word inside a mapping has no safe constructor"
)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::memory::JournalMemory;

const WORD_LEN: usize = 8;

/// A file mapped into memory, as words.
pub(super) struct MappedFile {
    map: MmapRaw,
    len_words: usize,
}

impl MappedFile {
    /// Maps the first `len_words` words of a file that is open for reading and writing, and at
    /// least as long.
    pub(super) fn new(file: &File, len_words: usize) -> io::Result<Self> {
        let map = MmapOptions::new()
            .len(len_words.saturating_mul(WORD_LEN))
            .map_raw(file)?;
        // By what is mapped, whatever was asked for.
        let len_words = len_words.min(map.len() / WORD_LEN);
        Ok(Self { map, len_words })
    }

    #[inline]
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.len_words {
            return None;
        }
        // SAFETY: `index` is below `len_words`, so the word lies inside the mapping, whose length
        // in bytes fits in an `isize`.
        let word = unsafe { self.map.as_mut_ptr().cast::<u64>().add(index) };
        // SAFETY: the pointer is aligned, since a mapping begins at a page; it is valid for reads
        // and writes as long as `self.map` lives, to which the result is bound; and the mapping is
        // private to this type, which reaches it by atomics alone.
        Some(unsafe { AtomicU64::from_ptr(word) })
    }
}

impl JournalMemory for MappedFile {
    fn len_words(&self) -> usize {
        self.len_words
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.word(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }

    #[inline]
    fn add(&self, index: usize, change: i64) {
        if let Some(word) = self.word(index) {
            word.fetch_add(change.cast_unsigned(), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::time::Instant;

    use super::MappedFile;
    use crate::journal::{Base, Journal, JournalMemory, Session, Witness};
    use crate::store::NewRun;
    use usnap_format::{NewChunk, OldChunk};

    #[test]
    fn what_is_stored_is_in_the_file_and_nothing_is_behind_its_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64).unwrap();
        let memory = MappedFile::new(&file, 8).unwrap();
        assert_eq!(memory.len_words(), 8);
        memory.store(7, 0x1122_3344_5566_7788);
        for behind in [8, 9, 511, 512, usize::MAX] {
            memory.store(behind, 1);
            assert_eq!(memory.load(behind), 0);
        }
        assert_eq!(memory.load(7), 0x1122_3344_5566_7788);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 56).unwrap();
        assert_eq!(bytes, 0x1122_3344_5566_7788_u64.to_ne_bytes());
        drop(memory);
        assert_eq!(MappedFile::new(&file, 8).unwrap().load(7) >> 56, 0x11);
    }

    #[test]
    fn nothing_and_too_much_can_not_be_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64).unwrap();
        assert!(MappedFile::new(&file, usize::MAX / 4).is_err());
    }

    /// What a note costs by stores, and by writing as many bytes to the same file, which is what the
    /// mapping and its unsafe line are for. `--nocapture` shows the figures.
    #[test]
    fn a_note_is_cheaper_than_a_write() {
        const NOTES: u64 = 50_000;
        for directory in ["/dev/shm", "."] {
            let file = tempfile::tempfile_in(directory).unwrap();
            let len_words = Journal::words_for(NOTES);
            let zeros = vec![0; len_words * 8];
            file.write_all_at(&zeros, 0).unwrap();
            let memory: Arc<dyn JournalMemory> =
                Arc::new(MappedFile::new(&file, len_words).unwrap());
            let base = Base {
                committed: 0,
                area_crc32: 0,
            };
            let session = Session::random().unwrap();
            let mut journal = Journal::begin(memory, session, &Witness::neutral(), base).unwrap();
            let stamp = journal.stamp();
            let start = Instant::now();
            for n in 0..NOTES {
                assert!(journal.take_credit());
                let run = NewRun {
                    first: NewChunk(n),
                    count: 1,
                };
                journal.note(OldChunk(n), run);
            }
            let noted = start.elapsed();
            let start = Instant::now();
            for _ in 0..NOTES {
                let stamped: Result<(), ()> = stamp.during_write(|| Ok(()));
                assert!(stamped.is_ok());
            }
            let stamped = start.elapsed();
            let start = Instant::now();
            for n in 0..NOTES {
                file.write_all_at(&[1; 24], 24 * n).unwrap();
            }
            let written = start.elapsed();
            let each = |time: std::time::Duration| time.as_nanos() / u128::from(NOTES);
            let figures = format!(
                "{directory}: a note {} ns, a stamp {} ns, a pwrite of 24 bytes {} ns",
                each(noted),
                each(stamped),
                each(written)
            );
            writeln!(std::io::stdout(), "{figures}").unwrap();
            assert!(noted < written, "{figures}");
        }
    }
}
