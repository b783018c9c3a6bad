//! What usnap claims about its speed, stated once: the comparison checks it, the README shows it.

use std::fmt;

use crate::contender::Contender;
use crate::sample::Figure;
use crate::statistics::{Cell, Samples, Spread};

/// A figure, or a ratio of two, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Claim {
    /// Which figure.
    pub(crate) figure: Figure,
    /// Of what.
    pub(crate) cell: Cell<'static>,
    /// Over the same figure of what; `None` where it stands for itself.
    pub(crate) over: Option<Cell<'static>>,
    /// What it must be.
    pub(crate) wanted: Wanted,
}

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    /// Not less than that.
    AtLeast(f64),
    /// Not more than that.
    AtMost(f64),
}

use Contender::{
    NbdkitCow4, NbdkitFile, NbdkitNull, QemuQcow2, UsnapPersistent, UsnapPersistent16,
};
use Wanted::{AtLeast, AtMost};

/// All, in the order of the table.
pub(crate) const CLAIMS: &[Claim] = &[
    rate("4K first write q32", NbdkitCow4, 1.5),
    rate("4K first write q32", NbdkitNull, 1.3),
    rate("4K first write q32", QemuQcow2, 5.0),
    rate("4K overwrite q32", NbdkitCow4, 1.4),
    rate("4K overwrite q32", QemuQcow2, 3.5),
    rate("4K 70/30 mix q32", NbdkitCow4, 1.4),
    rate("4K 70/30 mix q32", QemuQcow2, 3.5),
    rate("4K half-written read q32", NbdkitFile, 1.5),
    rate("4K read q1", NbdkitCow4, 1.0),
    rate("4K first write q1", NbdkitCow4, 1.0),
    rate("4K overwrite q1", NbdkitCow4, 1.0),
    rate("4K 70/30 mix q1", NbdkitCow4, 1.0),
    rate("4K read q1", QemuQcow2, 1.6),
    rate("4K first write q1", QemuQcow2, 1.6),
    rate("4K overwrite q1", QemuQcow2, 1.6),
    rate("4K 70/30 mix q1", QemuQcow2, 1.6),
    rate("256K read q4", NbdkitFile, 1.25),
    rate("256K first write q4", NbdkitFile, 1.0),
    rate("256K first write q4", NbdkitCow4, 1.5),
    rate("256K first write q4", QemuQcow2, 1.5),
    cpu("4K read q32", NbdkitCow4, 0.6),
    cpu("4K first write q32", NbdkitCow4, 0.6),
    cpu("4K read q32", QemuQcow2, 0.2),
    cpu("4K first write q32", QemuQcow2, 0.2),
    cpu("256K read q4", NbdkitFile, 1.0),
    cpu("256K first write q4", NbdkitFile, 1.0),
    rate("4K first write q32 fsync 32", QemuQcow2, 2.0),
    alone(Figure::Flushes, "4K first write q1 fsync 1", AtMost(2.0)),
    Claim {
        figure: Figure::Rate,
        cell: ours("4K first write q32"),
        over: Some(Cell {
            job: "4K first write q32",
            server: UsnapPersistent16,
        }),
        wanted: AtMost(1.3),
    },
    connections("4K read q32 x4", "4K read q32"),
    connections("4K first write q32 x4", "4K first write q32"),
    connections("4K overwrite q32 x4", "4K overwrite q32"),
    alone(Figure::Slowest, "4K written read q4 x64", AtLeast(0.5)),
    alone(Figure::Slowest, "4K overwrite q4 x64", AtLeast(0.5)),
    rate("4K cold read q32", NbdkitFile, 1.0),
];

const fn ours(job: &'static str) -> Cell<'static> {
    Cell {
        job,
        server: UsnapPersistent,
    }
}

const fn rate(job: &'static str, peer: Contender, least: f64) -> Claim {
    Claim {
        figure: Figure::Rate,
        cell: ours(job),
        over: Some(Cell { job, server: peer }),
        wanted: AtLeast(least),
    }
}

const fn cpu(job: &'static str, peer: Contender, most: f64) -> Claim {
    Claim {
        figure: Figure::Cpu,
        cell: ours(job),
        over: Some(Cell { job, server: peer }),
        wanted: AtMost(most),
    }
}

const fn alone(figure: Figure, job: &'static str, wanted: Wanted) -> Claim {
    Claim {
        figure,
        cell: ours(job),
        over: None,
        wanted,
    }
}

const fn connections(several: &'static str, one: &'static str) -> Claim {
    Claim {
        figure: Figure::Rate,
        cell: ours(several),
        over: Some(ours(one)),
        wanted: AtLeast(1.0),
    }
}

impl Claim {
    /// The jobs and servers that it needs.
    pub(crate) fn cells(&self) -> impl Iterator<Item = Cell<'static>> {
        [Some(self.cell), self.over].into_iter().flatten()
    }

    /// What was measured; `None` where something of it was not.
    pub(crate) fn measured(&self, samples: Samples<'_>) -> Option<Spread> {
        match self.over {
            Some(over) => samples.ratio(self.cell, over, self.figure),
            None => samples.spread(self.cell, self.figure),
        }
    }

    /// Whether the median is as wanted.
    pub(crate) fn is_met_by(&self, measured: Spread) -> bool {
        match self.wanted {
            AtLeast(bound) => measured.median >= bound,
            AtMost(bound) => measured.median <= bound,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = match self.figure {
            Figure::Rate => "rate",
            Figure::Bytes => "bytes",
            Figure::Cpu => "processor time a request",
            Figure::P99 => "99th percentile",
            Figure::Slowest => "slowest connection over their mean",
            Figure::Flushes => "flushes of the disk a write",
        };
        write!(f, "{}: {figure}", self.cell.job)?;
        let Some(over) = self.over else {
            return Ok(());
        };
        if over.job != self.cell.job {
            write!(f, " over that of {}", over.job)
        } else if over.server.is_ours() {
            write!(f, " over that of {}", over.server)
        } else {
            write!(f, " over {}'s", over.server)
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtLeast(bound) => write!(f, "at least {bound}"),
            AtMost(bound) => write!(f, "at most {bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;

    #[test]
    fn each_claim_names_jobs_that_its_servers_can_run() {
        let jobs = Job::all();
        for claim in CLAIMS {
            for cell in claim.cells() {
                let job = jobs.iter().find(|job| job.to_string() == cell.job);
                let job = job.unwrap_or_else(|| panic!("{claim}: no job {}", cell.job));
                assert!(job.suits(cell.server), "{claim}: {}", cell.server);
                let flushes = claim.figure == Figure::Flushes;
                assert!(!flushes || job.fsync_every.is_some(), "{claim}");
            }
        }
    }

    #[test]
    fn claims_are_different_and_can_fail() {
        for (index, claim) in CLAIMS.iter().enumerate() {
            let others = &CLAIMS[index + 1..];
            assert!(
                others
                    .iter()
                    .all(|other| other.to_string() != claim.to_string())
            );
            let [low, high] = [0.001, 1000.0].map(|value| Spread::of([value]).unwrap());
            assert!(claim.is_met_by(low) != claim.is_met_by(high), "{claim}");
        }
    }
}
