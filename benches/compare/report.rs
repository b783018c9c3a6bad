//! Tables for people and JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use usnap_chart::number;

use crate::address::Transport;
use crate::claim::CLAIMS;
use crate::contender::Contender;
use crate::job::Job;
use crate::options::Options;
use crate::plan::Step;
use crate::sample::{Figure, Sample};
use crate::statistics::{Cell, Samples, Spread};
use crate::table::Table;
use crate::{cpu, machine};

/// All that was measured, and on what.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    kernel: String,
    versions: Vec<String>,
    processor_time: &'static str,
    parameters: String,
    samples: Vec<Sample>,
    #[serde(skip)]
    contenders: Vec<Contender>,
    #[serde(skip)]
    steps: Vec<Step>,
    #[serde(skip)]
    transports: &'static [Transport],
}

/// What of a saved report goes into the next.
#[derive(Deserialize)]
struct Saved {
    parameters: String,
    samples: Vec<Sample>,
}

impl Report {
    /// A report without samples, which says what they will be taken on.
    pub(crate) fn new(
        options: &Options,
        contenders: &[Contender],
        steps: &[Step],
        usnap: &Path,
    ) -> Result<Self> {
        Ok(Self {
            machine: machine::machine()?,
            kernel: machine::kernel()?,
            versions: machine::versions(contenders, usnap),
            processor_time: cpu::source(),
            parameters: options.parameters(),
            samples: Vec::new(),
            contenders: contenders.to_vec(),
            steps: steps.to_vec(),
            transports: options.transports(),
        })
    }

    /// Takes over the samples that were saved in `path`.
    pub(crate) fn resume(&mut self, path: &Path) -> Result<()> {
        let mut read = || -> Result<()> {
            let saved: Saved = serde_json::from_str(&fs::read_to_string(path)?)?;
            ensure!(
                saved.parameters == self.parameters,
                "it was made with other parameters: {}",
                saved.parameters
            );
            self.samples = saved.samples;
            Ok(())
        };
        read().with_context(|| format!("cannot go on with {}", path.display()))
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Writes every sample to `path`, so that it is whole whenever this is interrupted.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("cannot encode the samples")?;
        let beside = path.with_extension("json.new");
        fs::write(&beside, json)
            .and_then(|()| fs::rename(&beside, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether that was measured already.
    pub(crate) fn has(
        &self,
        transport: Transport,
        server: Contender,
        job: &Job,
        round: u32,
    ) -> bool {
        let (server, job) = (server.to_string(), job.to_string());
        self.samples.iter().any(|one| {
            one.round == round
                && one.transport == transport
                && one.server == server
                && one.job == job
        })
    }

    /// The samples by transport, those asked for.
    pub(crate) fn by_transport(&self) -> impl Iterator<Item = Samples<'_>> {
        self.transports
            .iter()
            .map(|transport| Samples::new(&self.samples, *transport))
    }

    /// What the samples were taken on, in a sentence.
    pub(crate) fn conditions(&self) -> String {
        let rounds = |job: &Sample| job.round + 1;
        format!(
            "{}, Linux {}; {}; {} rounds; {}; processor time by {}",
            self.machine,
            self.kernel,
            self.versions.join(", "),
            self.samples.iter().map(rounds).max().unwrap_or(0),
            self.parameters,
            self.processor_time,
        )
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        let mut text = self.conditions() + "\n";
        for samples in self.by_transport() {
            text += &format!("\n## Over {}\n", samples.transport());
            text += "\nThroughput: thousands of requests a second (4K), MB/s (larger); \
                     median (quartiles; least-most):\n\n";
            text +=
                &self.table(|cell, job| Some(throughput(samples.spread(cell, rate_of(job))?, job)));
            text += "\nProcessor time of the server a request, in microseconds; median (quartiles):\n\n";
            text += &self.table(|cell, _| Some(with_quartiles(samples.spread(cell, Figure::Cpu)?)));
            text += "\n99th percentile of latency in microseconds; median:\n\n";
            text += &self.table(|cell, _| Some(number(samples.spread(cell, Figure::P99)?.median)));
            text += &self.ratios(samples);
            text += &format!("\nThe claims:\n\n{}", claims(samples));
        }
        text
    }

    fn table(&self, cell_of: impl Fn(Cell<'_>, &Job) -> Option<String>) -> String {
        self.table_of(&self.contenders, cell_of)
    }

    fn table_of(
        &self,
        contenders: &[Contender],
        cell_of: impl Fn(Cell<'_>, &Job) -> Option<String>,
    ) -> String {
        let names = contenders.iter().map(Contender::to_string);
        let mut table = Table::new(["job".to_owned()].into_iter().chain(names));
        for Step { job, servers } in &self.steps {
            let name = job.to_string();
            let cells = contenders.iter().map(|server| {
                let cell = Cell {
                    job: &name,
                    server: *server,
                };
                // What is not in the set may lie in the file that is resumed.
                let found = servers.contains(server).then(|| cell_of(cell, job));
                found.flatten().unwrap_or_else(|| "-".to_owned())
            });
            table.row([name.clone()].into_iter().chain(cells));
        }
        table.text()
    }

    /// Ours against each peer.
    fn ratios(&self, samples: Samples<'_>) -> String {
        let ours = [Contender::UsnapPersistent, Contender::UsnapTransient];
        let peers = self.contenders.iter().filter(|one| !one.is_ours());
        let peers: Vec<Contender> = peers.copied().collect();
        let mut text = String::new();
        for our in ours.into_iter().filter(|our| self.contenders.contains(our)) {
            text += &format!(
                "\n{our} against each server, median of the rounds' ratios (quartiles): throughput, \
                 more than 1 is faster / processor time, less than 1 is cheaper:\n\n"
            );
            text += &self.table_of(&peers, |cell, _| {
                let own = Cell {
                    server: our,
                    ..cell
                };
                let ratio = |figure| samples.ratio(own, cell, figure);
                let (rate, cpu) = (ratio(Figure::Rate)?, ratio(Figure::Cpu)?);
                Some(format!("{} / {:.2}", with_quartiles(rate), cpu.median))
            });
        }
        text
    }
}

/// The claims of which something was measured, and whether they hold.
pub(crate) fn claims(samples: Samples<'_>) -> String {
    let mut table = Table::new([
        "claim for usnap persistent",
        "wanted",
        "median (quartiles; least-most)",
        "rounds",
        "met",
    ]);
    for claim in CLAIMS {
        let (measured, rounds, met) = match claim.measured(samples) {
            Some(spread) => (
                with_extremes(spread),
                spread.rounds.to_string(),
                if claim.is_met_by(spread) {
                    "yes"
                } else {
                    "**no**"
                },
            ),
            None => ("not measured".to_owned(), "0".to_owned(), "-"),
        };
        let wanted = claim.wanted.to_string();
        table.row([&claim.to_string(), &wanted, &measured, &rounds, met]);
    }
    table.text()
}

/// The figure in which a job's throughput is told.
pub(crate) fn rate_of(job: &Job) -> Figure {
    if job.counts_bytes() {
        Figure::Bytes
    } else {
        Figure::Rate
    }
}

/// The same, scaled as the tables tell it.
pub(crate) fn told(value: f64, job: &Job) -> String {
    number(if job.counts_bytes() {
        value
    } else {
        value / 1000.0
    })
}

fn throughput(spread: Spread, job: &Job) -> String {
    let told = |value| told(value, job);
    format!(
        "{} ({}-{}; {}-{})",
        told(spread.median),
        told(spread.lower),
        told(spread.upper),
        told(spread.least),
        told(spread.most)
    )
}

fn with_quartiles(spread: Spread) -> String {
    let [median, lower, upper] = [spread.median, spread.lower, spread.upper].map(number);
    format!("{median} ({lower}-{upper})")
}

fn with_extremes(spread: Spread) -> String {
    let [median, lower, upper] = [spread.median, spread.lower, spread.upper].map(number);
    let [least, most] = [spread.least, spread.most].map(number);
    format!("{median} ({lower}-{upper}; {least}-{most})")
}
