//! Rounds of SIGKILL: a server under load is killed at some moment, started again on the same store,
//! and must hold everything that it had answered. The next round goes on from there, so what one
//! start made good is the ground of the next.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{KIB, MIB, RawClient, Rng, Scratch};

use crate::LAB;
use crate::contender::{Contender, Running};
use crate::load::{Answers, Load, lock, run};
use crate::machine::run_dir;
use crate::written::{Written, Wrong};

const ORIGIN_BYTES: u64 = 8 * MIB;
/// The error lists so many of what went wrong.
const SHOWN: usize = 5;

/// What a series of rounds came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rounds: u64,
    /// Kills while the store was being opened, on top of the rounds.
    pub(crate) kills_at_open: u64,
    pub(crate) answers: Answers,
    /// Rounds after which something that had been answered was gone.
    pub(crate) rounds_with_loss: u64,
    /// Sectors that were gone, over all rounds.
    pub(crate) sectors_lost: u64,
    /// Stores that would not be served again.
    pub(crate) not_opened: u64,
    /// Starts that said that a journal was replayed.
    pub(crate) replays: u64,
    /// Calls of `check` that found damage.
    pub(crate) damaged: u64,
    pub(crate) failures: Vec<String>,
}

/// One store and how it is treated, drawn from a seed.
#[derive(Debug)]
struct History {
    seed: u64,
    rounds: u64,
    options: Vec<String>,
    load: Load,
    longest: Duration,
}

/// Does `rounds` rounds with stores in `place`, and says what happened.
///
/// # Errors
/// Something other than loss, damage or a store that can't be opened again, which are counted.
pub(crate) fn rounds(
    contender: Contender,
    place: &Path,
    rounds: u64,
    seed: u64,
) -> Result<Outcome> {
    let origin = if contender == Contender::UsnapOnDevice {
        Scratch::new(&run_dir("killed"), "origin")?
    } else {
        LAB.scratch("killed-origin")?
    };
    let image = origin.join("origin.img");
    random_file(&image, ORIGIN_BYTES, 7)?;
    let mut outcome = Outcome::default();
    let mut next_seed = seed;
    while outcome.rounds < rounds {
        let mut history = History::draw(next_seed);
        next_seed = Rng::new(next_seed).next_u64() >> 16;
        history.rounds = history.rounds.min(rounds - outcome.rounds);
        let store = contender.store(place)?;
        history
            .play(contender, &image, &store, &mut outcome)
            .with_context(|| format!("{}: {history:?}", contender.name()))?;
        clear(place)?;
    }
    Ok(outcome)
}

impl History {
    fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut pick = |from: &[&str]| -> String {
            let index = rng.below(from.len() as u64);
            from[usize::try_from(index).unwrap_or(0)].to_owned()
        };
        let mut options = vec![
            "--chunk-size".to_owned(),
            pick(&["512", "1K", "4K", "4K", "4K", "16K", "64K"]),
            "--commit-interval".to_owned(),
            pick(&["0", "0.01", "0.05", "0.3", "5"]),
        ];
        let sizes = pick(&[
            "",
            "",
            "",
            "--cow-size 700K",
            "--cow-size 3M",
            "--cow-size 1M --max-cow 6M",
        ]);
        options.extend(sizes.split_whitespace().map(str::to_owned));
        let longest = pick(&["20", "150", "400"]).parse().unwrap_or(150);
        let flush_every = pick(&["0", "0", "5", "60", "1000"]).parse().unwrap_or(0);
        let depth = pick(&["1", "4", "32"]).parse().unwrap_or(4);
        let load = Load {
            clients: 1 + rng.below(6),
            depth,
            flush_every,
            reach: usize::MAX,
            writes_only: rng.below(4) == 0,
        };
        Self {
            seed,
            rounds: 2 + rng.below(10),
            options,
            load,
            longest: Duration::from_millis(longest),
        }
    }

    fn play(
        &self,
        contender: Contender,
        origin: &Path,
        store: &Path,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut rng = Rng::new(self.seed ^ 0x5ee1);
        let written = Mutex::new(Written::new(fs::read(origin)?));
        contender.create(origin, store)?;
        for round in 0..self.rounds {
            let Some(server) = self.start(contender, origin, store, round, outcome)? else {
                return Ok(());
            };
            self.compare(&server, &written, round, outcome)?;
            let longest = u64::try_from(self.longest.as_micros())?;
            let pause = Duration::from_micros(500 + rng.below(longest));
            let socket = server.socket();
            let load_seed = rng.next_u64();
            let load = self.load_of(round);
            let answers = run(&load, &socket, &written, load_seed, || {
                thread::sleep(pause);
                server.kill()
            });
            outcome.answers += answers.with_context(|| format!("round {round}"))?;
            lock(&written).cut_off();
            outcome.rounds += 1;
            self.disturb(contender, origin, store, &mut rng, outcome)?;
        }
        let Some(server) = self.start(contender, origin, store, self.rounds, outcome)? else {
            return Ok(());
        };
        self.compare(&server, &written, self.rounds, outcome)?;
        server.stop()?;
        if !contender.is_sound(store)? {
            outcome.damaged += 1;
            outcome.note(self, "check finds damage after an orderly end");
        }
        Ok(())
    }

    /// Each round reaches further than the one before: a fast server would otherwise have written all
    /// chunks soon, and then a kill endangers nothing.
    fn load_of(&self, round: u64) -> Load {
        let reach = (ORIGIN_BYTES * (round + 1) / self.rounds).max(MIB);
        Load {
            reach: usize::try_from(reach).unwrap_or(usize::MAX),
            ..self.load.clone()
        }
    }

    /// Between a kill and the next start: nothing, a look by `check`, kills of servers that are
    /// opening the store.
    fn disturb(
        &self,
        contender: Contender,
        origin: &Path,
        store: &Path,
        rng: &mut Rng,
        outcome: &mut Outcome,
    ) -> Result<()> {
        if rng.below(4) == 0 && !contender.is_sound(store)? {
            outcome.damaged += 1;
            outcome.note(self, "check finds damage after a kill");
        }
        while rng.below(3) == 0 {
            let longest = 1 << rng.below(16);
            let pause = Duration::from_micros(rng.below(longest));
            contender.kill_after(origin, store, &self.options, pause)?;
            outcome.kills_at_open += 1;
        }
        Ok(())
    }

    fn start(
        &self,
        contender: Contender,
        origin: &Path,
        store: &Path,
        round: u64,
        outcome: &mut Outcome,
    ) -> Result<Option<Running>> {
        match contender.start(origin, store, &self.options) {
            Ok(server) => {
                outcome.replays += u64::from(server.log()?.contains("replay"));
                Ok(Some(server))
            }
            Err(error) => {
                outcome.not_opened += 1;
                outcome.note(self, &format!("round {round}: not opened: {error:#}"));
                Ok(None)
            }
        }
    }

    /// Reads the whole device and holds it against what was answered.
    fn compare(
        &self,
        server: &Running,
        written: &Mutex<Written>,
        round: u64,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let found = RawClient::connect(&server.socket())?.read_all()?;
        let mut written = lock(written);
        let wrong = written.judge(&found);
        if !wrong.is_empty() {
            outcome.rounds_with_loss += 1;
            outcome.sectors_lost += wrong.len() as u64;
            let said = format!("round {round}: {}\n{}", list(&wrong), server.log()?);
            outcome.note(self, &said);
        }
        written.adopt(found);
        Ok(())
    }
}

impl Outcome {
    fn note(&mut self, history: &History, what: &str) {
        if self.failures.len() < SHOWN {
            let seed = history.seed;
            let said = format!("USNAP_FAULT_SEED={seed} {history:?}: {what}");
            self.failures.push(said);
        }
    }

    /// One line for a table.
    pub(crate) fn line(&self, name: &str) -> String {
        format!(
            "{name:<24} {:>6} {:>8} {:>10} {:>9} {:>8} {:>7} {:>12} {:>12} {:>10}",
            self.rounds,
            self.kills_at_open,
            self.answers.done,
            self.answers.no_space,
            self.answers.flushes,
            self.replays,
            self.rounds_with_loss,
            self.sectors_lost,
            self.not_opened + self.damaged,
        )
    }

    /// Expects that nothing was lost.
    ///
    /// # Errors
    /// Something was; the error names the seeds.
    pub(crate) fn nothing_lost(&self) -> Result<()> {
        let failures = self.failures.join("\n");
        let bad = self.rounds_with_loss + self.not_opened + self.damaged;
        ensure!(
            bad == 0 && self.failures.is_empty(),
            "of {} rounds {} lost what was answered ({} sectors), {} stores were not opened again, \
             {} were damaged:\n{failures}",
            self.rounds,
            self.rounds_with_loss,
            self.sectors_lost,
            self.not_opened,
            self.damaged
        );
        Ok(())
    }
}

/// The head of a table of [`Outcome::line`]s.
pub(crate) fn head() -> String {
    format!(
        "{:<24} {:>6} {:>8} {:>10} {:>9} {:>8} {:>7} {:>12} {:>12} {:>10}",
        "SIGKILL",
        "rounds",
        "at open",
        "answered",
        "no space",
        "flushes",
        "replays",
        "rounds lost",
        "sectors lost",
        "not usable"
    )
}

/// The wrong sectors, as runs.
fn list(wrong: &[Wrong]) -> String {
    let mut said = format!("{} sectors lost:", wrong.len());
    let mut rest = wrong;
    for _ in 0..SHOWN {
        let Some(first) = rest.first() else { break };
        let run = (0..)
            .zip(rest)
            .take_while(|(index, wrong)| {
                wrong.sector == first.sector + index && wrong.holds == first.holds
            })
            .count();
        // Writing to a string does not fail.
        let _ = write!(said, " {}+{run} ({})", first.sector, first.holds);
        rest = &rest[run..];
    }
    said
}

/// Removes everything in `place`: the store, and what lies beside it.
fn clear(place: &Path) -> Result<()> {
    let entries: Vec<PathBuf> = fs::read_dir(place)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    for path in entries {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// The origin must be larger than the small stores, or they never run full.
const _: () = assert!(ORIGIN_BYTES > 3 * MIB && ORIGIN_BYTES > 700 * KIB);
