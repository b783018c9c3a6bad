//! The workloads.

use std::fmt;

use crate::contender::Contender;

/// What a job does to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// 70 reads to 30 writes.
    Mix,
}

/// What has been written, outside the measurement, before the job begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing: reads find the origin, writes are first ones.
    Nothing,
    /// Every other 64 KiB.
    Half,
    /// Everything.
    All,
}

/// Where the files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory, so that no disk is measured.
    Memory,
    /// On a disk's filesystem.
    Disk,
}

/// When a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// When each block has been touched once: the same work for all, however fast they are. A clock
    /// would end a first write in the middle, or let it go round and overwrite.
    EachBlockOnce,
    /// After so many milliseconds; it goes round where it is done before.
    Clock(u32),
    /// When each block has been touched once, or after so many milliseconds.
    OnceOrClock(u32),
}

/// One workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// What it does.
    pub(crate) access: Access,
    /// What it finds.
    pub(crate) before: Before,
    /// In an order drawn at random, or ascending.
    pub(crate) random: bool,
    /// KiB of a request.
    pub(crate) block_kib: u32,
    /// Requests in flight on each connection.
    pub(crate) depth: u32,
    /// Connections, each over a part of its own.
    pub(crate) connections: u32,
    /// KiB that all connections together touch, where the image has [`IMAGE_KIB`].
    pub(crate) span_kib: u64,
    /// When it ends.
    pub(crate) end: End,
    /// Flush after so many writes of a connection.
    pub(crate) fsync_every: Option<u32>,
    /// Where the files lie.
    pub(crate) place: Place,
    /// Whether the page cache keeps nothing of the files when the job begins.
    pub(crate) cold: bool,
}

const MIB: u64 = 1024;

/// KiB of the whole image, as long as nothing else is asked for.
pub(crate) const IMAGE_KIB: u64 = 1024 * MIB;

impl Job {
    /// All, in the order of the tables' rows.
    pub(crate) fn all() -> Vec<Self> {
        let mut jobs = Vec::new();
        for depth in [1, 4, 32] {
            jobs.extend([
                Self::small(Access::Read, Before::Nothing, depth),
                Self::small(Access::Write, Before::Nothing, depth),
                Self::small(Access::Write, Before::All, depth),
                Self::small(Access::Mix, Before::Half, depth),
            ]);
        }
        let q32 = |access, before| Self::small(access, before, 32);
        let connections = |connections, job: Self| Self { connections, ..job };
        jobs.push(q32(Access::Read, Before::Half));
        jobs.extend([16, 64].map(|block_kib| Self {
            block_kib,
            span_kib: 512 * MIB,
            ..q32(Access::Write, Before::Nothing)
        }));
        jobs.extend([
            Self::large(Access::Read, Before::Nothing),
            Self::large(Access::Write, Before::Nothing),
            Self::large(Access::Write, Before::All),
            connections(4, q32(Access::Read, Before::Nothing)),
            connections(4, q32(Access::Write, Before::Nothing)),
            connections(4, q32(Access::Write, Before::All)),
        ]);
        jobs.extend([Access::Read, Access::Write].map(|access| Self {
            connections: 64,
            end: End::Clock(800),
            ..Self::small(access, Before::All, 4)
        }));
        jobs.extend([(1, 1), (32, 32)].map(|(every, depth)| Self {
            span_kib: u64::from(every).min(8) * 2 * MIB,
            fsync_every: Some(every),
            place: Place::Disk,
            ..Self::small(Access::Write, Before::Nothing, depth)
        }));
        jobs.extend([Before::Nothing, Before::Half].map(|before| Self {
            span_kib: 512 * MIB,
            end: End::OnceOrClock(1000),
            place: Place::Disk,
            cold: true,
            ..q32(Access::Read, before)
        }));
        jobs
    }

    /// The same job over an image of so many MiB, in whole blocks for each connection.
    pub(crate) fn of_image(self, size_mib: u64) -> Self {
        let unit = u64::from(self.block_kib.max(2 * HALF_KIB)) * u64::from(self.connections);
        let scaled = self.span_kib * size_mib * MIB / IMAGE_KIB;
        Self {
            span_kib: (scaled / unit * unit).max(unit),
            ..self
        }
    }

    /// What must be written before this job, as a job; `None` where nothing must.
    pub(crate) fn fill(&self) -> Option<Self> {
        let whole = Self {
            span_kib: self.span_kib,
            place: self.place,
            ..Self::large(Access::Write, Before::Nothing)
        };
        match self.before {
            Before::Nothing => None,
            Before::All => Some(whole),
            Before::Half => Some(Self {
                block_kib: HALF_KIB,
                ..whole
            }),
        }
    }

    /// Whether it writes every other block only; the one job that fills half does.
    pub(crate) fn skips_every_other(&self) -> bool {
        !self.random && self.block_kib == HALF_KIB
    }

    /// Whether throughput is told in bytes rather than in requests.
    pub(crate) fn counts_bytes(&self) -> bool {
        self.block_kib >= 16
    }

    /// Whether `contender` can run it so that the figures mean something.
    pub(crate) fn suits(&self, contender: Contender) -> bool {
        let keeps_nothing = matches!(contender, Contender::NbdkitNull | Contender::NbdkitMemory);
        let ignores_flushes = matches!(contender, Contender::NbdkitCow4 | Contender::NbdkitCow64);
        let forgets_at_disconnection = contender == Contender::NbdServer;
        let other_chunks = matches!(
            contender,
            Contender::UsnapPersistent16 | Contender::UsnapTransient16
        );
        let is_plain_first_write = self.access == Access::Write
            && self.before == Before::Nothing
            && self.random
            && self.depth == 32
            && self.connections == 1
            && self.place == Place::Memory;
        let is_refused = keeps_nothing && self.place == Place::Disk
            || ignores_flushes && self.fsync_every.is_some()
            || forgets_at_disconnection && self.before != Before::Nothing
            || other_chunks && !is_plain_first_write;
        !is_refused
    }

    fn small(access: Access, before: Before, depth: u32) -> Self {
        let span_mib = match depth {
            1 => 64,
            2..16 => 128,
            _ => 256,
        };
        Self {
            access,
            before,
            random: true,
            block_kib: 4,
            depth,
            connections: 1,
            span_kib: span_mib * MIB,
            end: End::EachBlockOnce,
            fsync_every: None,
            place: Place::Memory,
            cold: false,
        }
    }

    fn large(access: Access, before: Before) -> Self {
        Self {
            random: false,
            block_kib: 256,
            span_kib: IMAGE_KIB,
            ..Self::small(access, before, 4)
        }
    }
}

/// The grain in which half of a device is written: the cluster of qcow2.
const HALF_KIB: u32 = 64;

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}K ", self.block_kib)?;
        if self.cold {
            f.write_str("cold ")?;
        }
        f.write_str(match (self.access, self.before) {
            (Access::Read, Before::Nothing) => "read",
            (Access::Read, Before::Half) => "half-written read",
            (Access::Read, Before::All) => "written read",
            (Access::Write, Before::Nothing) => "first write",
            (Access::Write, Before::Half) => "half-written write",
            (Access::Write, Before::All) => "overwrite",
            (Access::Mix, _) => "70/30 mix",
        })?;
        write!(f, " q{}", self.depth)?;
        if self.connections > 1 {
            write!(f, " x{}", self.connections)?;
        }
        if let Some(every) = self.fsync_every {
            write!(f, " fsync {every}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_have_different_names_and_whole_blocks_for_each_connection() {
        let jobs = Job::all();
        let mut names: Vec<String> = jobs.iter().map(Job::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), jobs.len());
        for job in jobs {
            let unit = u64::from(job.block_kib) * u64::from(job.connections);
            assert_eq!(job.span_kib % unit, 0, "{job}");
            assert!(job.span_kib <= IMAGE_KIB, "{job}");
        }
    }

    #[test]
    fn what_a_server_forgets_or_ignores_is_not_measured_on_it() {
        for job in Job::all() {
            let suits = |contender| job.suits(contender);
            assert!(suits(Contender::UsnapPersistent) && suits(Contender::QemuQcow2));
            assert!(!suits(Contender::NbdServer) || job.before == Before::Nothing);
            assert!(!suits(Contender::NbdkitCow4) || job.fsync_every.is_none());
            assert!(!suits(Contender::NbdkitNull) || !job.cold);
        }
    }

    #[test]
    fn half_of_a_device_is_written_in_the_same_span() {
        let jobs = Job::all();
        let half = jobs.iter().find(|job| job.before == Before::Half);
        let fill = half.and_then(Job::fill).unwrap();
        assert!(fill.skips_every_other());
        assert_eq!(Some(fill.span_kib), half.map(|job| job.span_kib));
        assert!(jobs.iter().all(|job| !job.skips_every_other()));
    }
}
