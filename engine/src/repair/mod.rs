//! Mending a store's metadata: a plan that is shown first, then carried out in an order that is
//! safe at any power cut (DESIGN.md, "Repair"). Data chunks are never written.
//!
//! What can't lose anything is done unasked. Whatever takes a believable entry's word away, or says
//! that a store is good which a kernel gave up, is done only when asked for, and refused otherwise,
//! with nothing changed.

mod entries;
mod execute;
mod journal;
mod plan;

use std::path::{Path, PathBuf};

use usnap_format::{AreaIndex, ChunkSize, Exception, NewChunk, OriginIdentity};

use crate::check::{CheckReport, check_device, check_origin, find_header};
use crate::device::{BlockDevice, FileDevice, lock_cow};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::snapshot::{
    JournalMode, WaitingJournal, end_session, journal_waiting_on, prove_waiting,
};

use self::execute::Op;

/// Of so many entries that are removed each is described; the rest are only counted.
const STEPS_MAX: usize = 1000;

/// What may be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Set `valid` again where a kernel cleared it.
    pub revalidate: bool,
    /// Remove entries that can't be believed, wherever they lie.
    pub drop_damaged: bool,
    /// The chunk size, where the header does not say it.
    pub chunk_size: Option<ChunkSize>,
    /// The origin for a new identity record, where there is none that can be read.
    pub origin: Option<OriginIdentity>,
    /// The device can't be made longer: a block device.
    pub is_fixed_size: bool,
    /// What becomes of a journal that a killed server left.
    pub journal: JournalMode,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepKind {
    /// Bytes behind the terminator become zeros.
    ClearJunk,
    /// A killed server's journal goes, and what it has is lost.
    DiscardJournal,
    /// An entry is removed.
    DropEntry,
    /// The file becomes longer, for an area that lies behind its end.
    Extend,
    /// The identity record forgets the session, so that no old journal fits.
    ForgetSession,
    /// What a killed server's journal has is committed.
    ReplayJournal,
    /// `valid` becomes 1.
    Revalidate,
    /// The first 16 bytes are written anew.
    RewriteHeader,
    /// The identity record is zeroed, or written anew.
    RewriteIdentity,
}

impl StepKind {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClearJunk => "clear_junk",
            Self::DiscardJournal => "discard_journal",
            Self::DropEntry => "drop_entry",
            Self::Extend => "extend",
            Self::ForgetSession => "forget_session",
            Self::ReplayJournal => "replay_journal",
            Self::Revalidate => "revalidate",
            Self::RewriteHeader => "rewrite_header",
            Self::RewriteIdentity => "rewrite_identity",
        }
    }
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub kind: StepKind,
    /// In which area, where it is in one.
    pub area: Option<AreaIndex>,
    /// In which chunk of the COW device.
    pub chunk: Option<NewChunk>,
    /// At which entry of the area.
    pub index: Option<u64>,
    /// Which exception, where it is one.
    pub exception: Option<Exception>,
    /// What is there.
    pub from: String,
    /// What will be there.
    pub to: String,
    /// The step as a sentence.
    pub message: String,
}

/// Something that is not mended, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As a sentence.
    pub message: String,
    /// The way out.
    pub hint: String,
}

/// What is to be done to a store. Carried out whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is done, in order; of entries that are removed a thousand at most.
    pub steps: Vec<Step>,
    /// How many there are.
    pub step_count: u64,
    /// What stands in the way. Unless it is empty nothing is done at all.
    pub refusals: Vec<Refusal>,
    /// What a person should know.
    pub notes: Vec<String>,
    ops: Vec<Op>,
    guard: execute::Guard,
}

impl Plan {
    /// Whether there is nothing to do, and nothing stands in the way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.step_count == 0 && self.refusals.is_empty()
    }

    /// The plan for the store on `device`, which is only read.
    ///
    /// # Errors
    /// `Foreign`, `Corrupt`, `Usage`, `Io`: no store, and nothing to conclude one from.
    pub fn make(device: &dyn BlockDevice, options: &RepairOptions) -> Result<Self> {
        plan::make(device, options)
    }

    /// Does it, on the device that it was made for. Where it ends early, the store is as good as it
    /// was or better, and a new plan does the rest.
    ///
    /// # Errors
    /// What stands in the way, as `Corrupt`, with nothing changed; `NoSpace`, `Io`.
    pub fn carry_out(&self, device: &dyn BlockDevice) -> Result<()> {
        if let Some(refusal) = self.refusals.first() {
            let context = format!("cannot repair {}: {}", device.name(), refusal.message);
            return Err(Error::new(ErrorKind::Corrupt, context).with_hint(refusal.hint.clone()));
        }
        self.guard.run(device, &self.ops).map_err(|e| {
            let hint = "repair it again: what was done so far does no harm";
            e.context(format!("cannot repair {}", device.name()))
                .with_hint(hint)
        })
    }

    fn add(&mut self, step: Step) {
        self.step_count += 1;
        // There are few of all other kinds.
        if step.kind != StepKind::DropEntry || self.steps.len() < STEPS_MAX {
            self.steps.push(step);
        }
    }

    fn refuse(&mut self, message: String, hint: impl Into<String>) {
        self.refusals.push(Refusal {
            message,
            hint: hint.into(),
        });
    }
}

/// A COW device that is locked, and what is to be done to it.
#[derive(Debug)]
pub struct Repair {
    cow: PathBuf,
    device: FileDevice,
    options: RepairOptions,
    plan: Plan,
    /// A journal comes first.
    has_journal: bool,
}

impl Repair {
    /// Opens and locks the store at `cow` and makes the plan. Only to look at it, `read_only`, it is
    /// locked as a reader. `origin` is where a new identity record comes from.
    ///
    /// # Errors
    /// `InUse` naming the holder, `OriginMismatch`, and as `Plan::make`.
    pub fn open(
        cow: &Path,
        origin: Option<&Path>,
        options: &RepairOptions,
        read_only: bool,
    ) -> Result<Self> {
        let cannot = || format!("cannot repair {}", cow.display());
        let origin = origin.map(Origin::open).transpose()?;
        // Before it is locked, which to the origin would be somebody's writing.
        if origin
            .as_ref()
            .is_some_and(|origin| origin.is_same_file(cow))
        {
            let context = format!("{}: it is the origin as well", cannot());
            return Err(Error::new(ErrorKind::Usage, context));
        }
        let device = if read_only {
            FileDevice::open_read_only(cow)
        } else {
            FileDevice::open_read_write(cow)
        }
        .map_err(|e| e.context(cannot()))?;
        lock_cow(device.file(), cow, !read_only)?;
        let waiting = match journal_waiting_on(cow, &device) {
            Ok(waiting) => waiting,
            // No header says which session it was: that is what is to be mended.
            Err(e) if matches!(e.kind(), ErrorKind::Foreign | ErrorKind::Corrupt) => None,
            Err(e) => return Err(e.context(cannot())),
        };
        let all_committed = waiting
            .as_ref()
            .is_some_and(WaitingJournal::is_all_committed);
        if !read_only {
            if waiting
                .as_ref()
                .is_some_and(|waiting| waiting.hopeless.is_none())
            {
                // Before anybody else is told what this sync would tell.
                let proved = prove_waiting(cow, &device);
                if options.journal != JournalMode::Discard {
                    proved.map_err(|e| e.context(cannot()))?;
                }
            }
            // A sync may have failed before, which nobody is told again: the plan is made from what
            // is on the disk.
            device.drop_page_cache();
        }
        let mut options = RepairOptions {
            is_fixed_size: device.is_block(),
            ..*options
        };
        if let Some(origin) = origin {
            refuse_other_origin(&device, &origin, &options)?;
            options.origin = Some(origin.identity()?);
        }
        if read_only && waiting.as_ref().is_some_and(|waiting| waiting.is_latched) {
            // A flush had failed: what the page cache shows may never have been written.
            device.drop_page_cache();
        }
        if all_committed {
            // Nothing is lost with it, and it fits a store with damage too.
            options.journal = JournalMode::Discard;
        }
        let mut plan = Plan::make(&device, &options)?;
        if let Some(waiting) = &waiting {
            journal::add_to(&mut plan, waiting, options.journal);
        }
        Ok(Self {
            cow: cow.to_owned(),
            device,
            options,
            plan,
            has_journal: waiting.is_some(),
        })
    }

    /// What is to be done.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Does it, and checks the store.
    ///
    /// # Errors
    /// As `Plan::carry_out`, and as a check.
    pub fn carry_out(self) -> Result<CheckReport> {
        self.carry_out_unchecked().inspect_err(|_| {
            // After a failed sync it may show what is not on the disk, and the next one succeeds.
            self.device.drop_page_cache();
        })?;
        check_device(&self.device)
    }

    fn carry_out_unchecked(&self) -> Result<()> {
        if self.has_journal && self.plan.refusals.is_empty() {
            let sector = find_header(&self.device, self.options.chunk_size)?.sector;
            let mode = self.options.journal;
            end_session(&self.cow, &self.device, &sector, mode)?;
            // The rest, to the store as it is now.
            Plan::make(&self.device, &self.options)?.carry_out(&self.device)
        } else {
            self.plan.carry_out(&self.device)
        }
    }
}

/// An origin that is not the one on record mends nothing.
fn refuse_other_origin(
    device: &FileDevice,
    origin: &Origin,
    options: &RepairOptions,
) -> Result<()> {
    let found = find_header(device, options.chunk_size)?;
    let mut report = CheckReport::default();
    check_origin(origin, &found.sector, &mut report)?;
    match report.findings.first() {
        None => Ok(()),
        Some(finding) => {
            let context = format!("cannot repair {}: {}", device.name(), finding.message);
            Err(Error::new(ErrorKind::OriginMismatch, context)
                .with_hint("the identity record is whole: leave --origin out"))
        }
    }
}
