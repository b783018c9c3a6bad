//! A boot of the guest that plays many histories, from outside: two disks hold the slices that are
//! their origins and COW devices, a file lists them, another one takes what was seen.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use usnap_test_support::lab::text;
use usnap_test_support::{Guest, Scratch};

use crate::history::{History, bytes};
use crate::play::{Played, Seen};
use crate::{LAB, SECTOR};

/// The list's and the answers' names for the guest.
pub(crate) const LIST: &str = "USNAP_DIFF_LIST";
pub(crate) const ANSWERS: &str = "USNAP_DIFF_ANSWERS";
/// A boot takes at most so many: their disks lie in memory.
const PARTS_IN_A_BOOT: usize = 250;

/// What a kernel is to play: some of a history.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) history: History,
    pub(crate) steps: Range<usize>,
    /// What its COW device holds.
    pub(crate) cow: Vec<u8>,
}

/// The same, as the guest reads it: where its devices begin, in sectors, instead of what they hold.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) history: History,
    pub(crate) steps: Range<usize>,
    pub(crate) origin_start: u64,
    pub(crate) cow_start: u64,
}

impl Part {
    /// All of a history, from an unused COW device on.
    pub(crate) fn whole(history: &History) -> Self {
        Self {
            steps: 0..history.steps.len(),
            cow: history.shape.unused_cow(),
            history: history.clone(),
        }
    }
}

/// Where files go that nobody needs durable: in memory, where there is such a place.
pub(crate) fn fast_root() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { LAB.root() }
}

/// Lets the kernel play these; as many boots as that takes.
pub(crate) fn play_on_kernel(parts: &[Part]) -> Result<Vec<Played>> {
    let mut played = Vec::new();
    for parts in parts.chunks(PARTS_IN_A_BOOT) {
        played.extend(boot(parts)?);
    }
    Ok(played)
}

fn boot(parts: &[Part]) -> Result<Vec<Played>> {
    // The guest's disk zeroes by a call that files in memory do not know.
    let discards = parts.iter().any(|part| part.history.shape.discards);
    let root = if discards { LAB.root() } else { fast_root() };
    let disks = Scratch::new(root, "disks")?;
    let scratch = LAB.scratch("differential")?;
    let (origins, cows) = (disks.join("origins"), disks.join("cows"));
    let (list, answers) = (scratch.join("list"), scratch.join("answers"));
    let mut listed = Vec::new();
    let (mut origin_start, mut cow_start) = (0, 0);
    let (origin_disk, cow_disk) = (File::create(&origins)?, File::create(&cows)?);
    for part in parts {
        origin_disk.write_all_at(&part.history.shape.origin_content(), origin_start * SECTOR)?;
        cow_disk.write_all_at(&part.cow, cow_start * SECTOR)?;
        listed.push(Listed {
            history: part.history.clone(),
            steps: part.steps.clone(),
            origin_start,
            cow_start,
        });
        // A page apart, so that neighbours share none.
        origin_start = (origin_start + part.history.shape.origin).next_multiple_of(8) + 8;
        cow_start = (cow_start + part.history.shape.cow).next_multiple_of(8) + 8;
    }
    origin_disk.set_len(origin_start * SECTOR)?;
    cow_disk.set_len(cow_start * SECTOR)?;
    let lines: Vec<String> = listed.iter().map(ToString::to_string).collect();
    fs::write(&list, lines.join("\n"))?;
    let name = "kernel::the_guest_plays_what_it_is_given";
    let guest = Guest::new()
        .disk("ORIGINS", &origins)
        .disk("COWS", &cows)
        .variable(LIST, text(&list)?)
        .variable(ANSWERS, text(&answers)?)
        .limit(Duration::from_secs(600));
    guest.run_test(&scratch, name)?;
    let answers = fs::read_to_string(&answers).context("the guest left no answers")?;
    let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); parts.len()];
    for line in answers.lines() {
        let (part, answer) = line.split_once(' ').context("an answer without a part")?;
        let part: usize = part.parse()?;
        seen.get_mut(part)
            .context("an answer to nothing")?
            .push(answer.parse()?);
    }
    let cow_disk = File::open(&cows)?;
    let mut played = Vec::new();
    for ((part, listed), seen) in parts.iter().zip(&listed).zip(seen) {
        ensure!(
            seen.len() == part.steps.len() + 1,
            "{} answers to {} steps of {}",
            seen.len(),
            part.steps.len(),
            part.history
        );
        let mut cow = vec![0; bytes(part.history.shape.cow)];
        cow_disk.read_exact_at(&mut cow, listed.cow_start * SECTOR)?;
        played.push(Played { seen, cow });
    }
    Ok(played)
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Range { start, end } = self.steps;
        let (origin, cow) = (self.origin_start, self.cow_start);
        write!(f, "{origin} {cow} {start} {end} {}", self.history)
    }
}

impl FromStr for Listed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.splitn(5, ' ');
        let mut word = || words.next().with_context(|| format!("cut off: {text}"));
        Ok(Self {
            origin_start: word()?.parse()?,
            cow_start: word()?.parse()?,
            steps: word()?.parse()?..word()?.parse()?,
            history: word()?.parse()?,
        })
    }
}
