//! A kernel's store in a file, to be damaged and repaired.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tempfile::TempDir;
use usnap_engine::check::{CheckReport, check};
use usnap_engine::repair::{Plan, Repair, RepairOptions, StepKind};
use usnap_engine::{Error, Result};

use crate::plain_loader::compose;
use crate::stores::entry_offset;
use crate::vector;

pub(crate) struct Bench {
    folder: TempDir,
    pub(crate) origin: Vec<u8>,
    pub(crate) chunk_len: usize,
    /// The snapshot's content before any damage.
    pub(crate) content: Vec<u8>,
    /// Old and new chunks, in order.
    pub(crate) exceptions: Vec<(u64, u64)>,
    /// The store before any damage.
    pub(crate) sound: Vec<u8>,
}

pub(crate) fn options() -> RepairOptions {
    RepairOptions::default()
}

pub(crate) fn dropping() -> RepairOptions {
    RepairOptions {
        drop_damaged: true,
        ..options()
    }
}

pub(crate) fn revalidating() -> RepairOptions {
    RepairOptions {
        revalidate: true,
        ..options()
    }
}

impl Bench {
    /// The store of a vector, cleaned of what the kernel left behind the terminator.
    pub(crate) fn of(name: &str) -> Self {
        let vector = vector::read(name);
        let mut sound = vector.store;
        let chunk_len = usize::try_from(vector.chunk_size_sectors).unwrap() * 512;
        if vector.junk_offset.is_some() {
            let end = entry_offset(chunk_len, vector.exceptions.len());
            let area_end = end.next_multiple_of(chunk_len);
            sound[end..area_end].fill(0);
        }
        let mut valid = sound.clone();
        valid[4] = 1;
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            content: compose(&vector.origin, &valid).unwrap(),
            origin: vector.origin,
            chunk_len,
            exceptions: vector.exceptions,
            sound,
        };
        std::fs::write(bench.origin_path(), &bench.origin).unwrap();
        bench.put(&bench.sound);
        bench
    }

    pub(crate) fn cow_path(&self) -> PathBuf {
        self.folder.path().join("cow")
    }

    pub(crate) fn origin_path(&self) -> PathBuf {
        self.folder.path().join("origin")
    }

    pub(crate) fn put(&self, bytes: &[u8]) {
        std::fs::write(self.cow_path(), bytes).unwrap();
    }

    pub(crate) fn cow(&self) -> Vec<u8> {
        std::fs::read(self.cow_path()).unwrap()
    }

    /// Content and times of the file.
    fn state(&self) -> (Vec<u8>, i64, i64, i64) {
        let metadata = std::fs::metadata(self.cow_path()).unwrap();
        let (s, ns) = (metadata.mtime(), metadata.mtime_nsec());
        (self.cow(), s, ns, metadata.ctime_nsec())
    }

    pub(crate) fn check(&self) -> CheckReport {
        check(&self.cow_path(), None).unwrap()
    }

    /// The plan; making it changes nothing, whoever opens the file and how.
    pub(crate) fn plan(&self, options: &RepairOptions) -> Result<Plan> {
        let before = self.state();
        let plans = [true, false].map(|read_only| {
            let repair = Repair::open(&self.cow_path(), None, options, read_only)?;
            Ok::<Plan, Error>(repair.plan().clone())
        });
        assert!(self.state() == before, "planned, and changed");
        let [plan, other] = plans;
        let plan = plan?;
        assert_eq!(plan.steps, other?.steps);
        Ok(plan)
    }

    /// Repairs it, after the plan was made; clean afterwards, and nothing is left to do.
    pub(crate) fn repair(&self, options: &RepairOptions) -> Vec<StepKind> {
        let plan = self.plan(options).unwrap();
        assert_eq!(plan.refusals, []);
        assert_eq!(plan.steps.len() as u64, plan.step_count);
        assert!(!plan.is_empty());
        let before = self.cow();
        let repair = Repair::open(&self.cow_path(), None, options, false).unwrap();
        let report = repair.carry_out().unwrap();
        assert_eq!(report.findings, []);
        assert_eq!(report, self.check());
        self.assert_data_untouched(&before);
        assert!(self.plan(&self::options()).unwrap().is_empty());
        plan.steps.iter().map(|step| step.kind).collect()
    }

    /// Why it is refused, with nothing changed; and what a repair said.
    pub(crate) fn refused(&self, options: &RepairOptions) -> Error {
        let before = self.state();
        let error = match Repair::open(&self.cow_path(), None, options, false) {
            Ok(repair) => repair.carry_out().unwrap_err(),
            Err(error) => error,
        };
        assert!(self.state() == before, "refused, and changed");
        error
    }

    /// Every data chunk that was there is as it was.
    fn assert_data_untouched(&self, before: &[u8]) {
        let after = self.cow();
        let stride = self.chunk_len / 16 + 1;
        for (chunk, bytes) in before.chunks_exact(self.chunk_len).enumerate() {
            let is_metadata = chunk == 0 || chunk % stride == 1;
            let same = &after[chunk * self.chunk_len..][..self.chunk_len] == bytes;
            assert!(is_metadata || same, "data chunk {chunk} changed");
        }
    }

    /// The snapshot's content is what it was, but that these old chunks are the origin's.
    pub(crate) fn assert_content(&self, lost: &[u64]) {
        let found = compose(&self.origin, &self.cow()).unwrap();
        self.assert_is_content(&found, lost);
    }

    pub(crate) fn assert_is_content(&self, found: &[u8], lost: &[u64]) {
        assert_eq!(found.len(), self.content.len());
        let lost: BTreeSet<u64> = lost.iter().copied().collect();
        let chunks = found.chunks(self.chunk_len);
        for (index, chunk) in chunks.enumerate() {
            let wanted = if lost.contains(&(index as u64)) {
                &self.origin
            } else {
                &self.content
            };
            let wanted = &wanted[index * self.chunk_len..][..chunk.len()];
            assert!(chunk == wanted, "old chunk {index}");
        }
    }
}
