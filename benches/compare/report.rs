//! Tables for people and JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use usnap_test_support::Tool;

use crate::contender::{Contender, Files};
use crate::job::Job;
use crate::options::Options;
use crate::sample::{Sample, Spread};

/// All that was measured, and on what.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    kernel: String,
    versions: Vec<String>,
    parameters: String,
    samples: Vec<Sample>,
    #[serde(skip)]
    contenders: Vec<Contender>,
    #[serde(skip)]
    jobs: Vec<Job>,
}

/// Which figure a table shows.
#[derive(Clone, Copy)]
enum Figure {
    Throughput,
    Cpu,
}

impl Report {
    /// Gathers the samples and says what they were taken on.
    pub(crate) fn new(
        options: &Options,
        contenders: &[Contender],
        jobs: &[Job],
        files: &Files,
        samples: Vec<Sample>,
    ) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned();
        let parameters = format!(
            "{} rounds, {} s where not bounded by size, 4K jobs over {} MiB, 256K jobs over {} MiB, \
             seed {}",
            options.rounds,
            options.seconds,
            options.size_mib,
            options.sequential_size_mib,
            options.seed
        );
        Ok(Self {
            machine: machine()?,
            kernel,
            versions: versions(contenders, files),
            parameters,
            samples,
            contenders: contenders.to_vec(),
            jobs: jobs.to_vec(),
        })
    }

    /// Writes every sample to `path`.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("cannot encode the samples")?;
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "{}, Linux {}; {}\n{}\n\n",
            self.machine,
            self.kernel,
            self.versions.join(", "),
            self.parameters
        );
        text += "Throughput: thousands of requests a second (4K), MB/s (256K); \
                 median, and least-most:\n\n";
        text += &self.table(Figure::Throughput);
        text += "\nProcessor time of the server a request, in microseconds; median:\n\n";
        text += &self.table(Figure::Cpu);
        let ratios = self.ratios();
        if !ratios.is_empty() {
            text += "\nusnap against each peer, median of the rounds' ratios: throughput (more than 1 is \
                     faster) / processor time (less than 1 is cheaper):\n\n";
            text += &ratios;
        }
        text
    }

    fn table(&self, figure: Figure) -> String {
        let mut text = self.heading("server");
        for contender in &self.contenders {
            let cells = self
                .jobs
                .iter()
                .map(|job| match self.spread(*contender, job, figure) {
                    Some(spread) => cell(job, figure, spread),
                    None => "-".to_owned(),
                });
            text += &row(&contender.to_string(), cells);
        }
        text
    }

    fn ratios(&self) -> String {
        let (ours, peers): (Vec<Contender>, Vec<Contender>) = self
            .contenders
            .iter()
            .partition(|contender| contender.is_ours());
        if ours.is_empty() || peers.is_empty() {
            return String::new();
        }
        let mut text = self.heading("usnap / peer");
        for our in &ours {
            for peer in &peers {
                let cells = self.jobs.iter().map(|job| {
                    let ratio = |figure| self.ratio(*our, *peer, job, figure);
                    match (ratio(Figure::Throughput), ratio(Figure::Cpu)) {
                        (Some(faster), Some(cheaper)) => format!("{faster:.2} / {cheaper:.2}"),
                        _ => "-".to_owned(),
                    }
                });
                text += &row(&format!("{our} / {peer}"), cells);
            }
        }
        text
    }

    fn heading(&self, first: &str) -> String {
        let rule = "|---".repeat(self.jobs.len() + 1);
        row(first, self.jobs.iter().map(Job::to_string)) + &rule + "|\n"
    }

    /// The median of the rounds' ratios: within a round the two were measured soon after each other,
    /// so that what else the machine does falls on both.
    fn ratio(&self, our: Contender, peer: Contender, job: &Job, figure: Figure) -> Option<f64> {
        let pairs = self
            .figures(our, job, figure)
            .into_iter()
            .zip(self.figures(peer, job, figure));
        Spread::of(pairs.map(|(ours, theirs)| ours / theirs)).map(|spread| spread.median)
    }

    fn spread(&self, contender: Contender, job: &Job, figure: Figure) -> Option<Spread> {
        Spread::of(self.figures(contender, job, figure))
    }

    /// One figure a round, in the rounds' order.
    fn figures(&self, contender: Contender, job: &Job, figure: Figure) -> Vec<f64> {
        let (server, name) = (contender.to_string(), job.to_string());
        let these = self
            .samples
            .iter()
            .filter(|s| s.server == server && s.job == name);
        let figure = |sample: &Sample| match figure {
            Figure::Throughput if job.counts_bytes() => sample.mb_per_second,
            Figure::Throughput => sample.iops / 1000.0,
            Figure::Cpu => sample.cpu_us,
        };
        these.map(figure).collect()
    }
}

fn cell(job: &Job, figure: Figure, spread: Spread) -> String {
    let Spread {
        least,
        median,
        most,
    } = spread;
    match figure {
        Figure::Cpu => format!("{median:.1}"),
        Figure::Throughput if job.counts_bytes() => format!("{median:.0} ({least:.0}-{most:.0})"),
        Figure::Throughput => format!("{median:.1} ({least:.1}-{most:.1})"),
    }
}

fn row(first: &str, cells: impl Iterator<Item = String>) -> String {
    let mut text = format!("| {first} |");
    for cell in cells {
        text += &format!(" {cell} |");
    }
    text + "\n"
}

fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let count = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    Ok(format!("{model}, {count} processors"))
}

/// The first line of each program's `--version`.
fn versions(contenders: &[Contender], files: &Files) -> Vec<String> {
    let mut programs: Vec<&str> = contenders
        .iter()
        .flat_map(|one| one.programs())
        .copied()
        .collect();
    programs.dedup();
    let mut tools: Vec<Tool> = programs.into_iter().map(Tool::new).collect();
    tools.push(Tool::new("fio"));
    if contenders.iter().any(|contender| contender.is_ours()) {
        tools.push(Tool::new(&files.usnap));
    }
    let first_line = |tool: Tool| {
        let said = tool.arg("--version").ok().ok()?;
        // Some call themselves by their whole path.
        let named = said.lines().next()?;
        let (first, rest) = named.split_once(' ').unwrap_or((named, ""));
        let (_, name) = first.rsplit_once('/').unwrap_or(("", first));
        Some(format!("{name} {rest}").trim_end().to_owned())
    };
    tools.into_iter().filter_map(first_line).collect()
}
