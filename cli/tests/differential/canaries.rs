//! The judge itself: whatever of ours is bent, it must complain.

use anyhow::{Result, ensure};
use usnap_engine::Durability;
use usnap_test_support::guest::inside_guest;
use usnap_test_support::{Need, missing};

use crate::boot::{Part, fast_root, play_on_kernel};
use crate::campaign::{play_ours, whole};
use crate::history::{History, bytes};
use crate::judge::{OursPlayed, Strictness, judge};
use crate::ours::{Files, Ours};
use crate::play::{Device, Played, Side};
use crate::{SECTOR, generate};

/// A rule that is broken on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bend {
    None,
    /// New chunks are taken for a write's chunks from the last to the first.
    TakesChunksBackwards,
    /// The area behind a full one is left as it was.
    LeavesTheNextArea,
    /// The status counts no header chunk.
    WrongStatus,
    /// A write of part of a chunk copies nothing around it.
    CopiesNothing,
    /// Committed entries are lost at a deactivation.
    LosesAnEntry,
    /// A full device is told to the client as a broken one.
    WrongError,
}

struct Bent {
    ours: Ours,
    bend: Bend,
    chunk: u64,
}

impl Device for Bent {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<i32> {
        let chunk = bytes(self.chunk);
        let errno = match self.bend {
            Bend::TakesChunksBackwards if offset.is_multiple_of(self.chunk * SECTOR) => {
                let mut errno = 0;
                for (index, piece) in data.chunks(chunk).enumerate().rev() {
                    let at = offset + (index * chunk) as u64;
                    errno = errno.max(self.ours.write(at, piece)?);
                }
                errno
            }
            Bend::CopiesNothing if data.len() < chunk => {
                let start = offset / (self.chunk * SECTOR) * (self.chunk * SECTOR);
                let mut all = vec![0; chunk];
                let within = usize::try_from(offset - start)?;
                let end = (within + data.len()).min(chunk);
                all[within..end].copy_from_slice(&data[..end - within]);
                self.ours.write(start, &all)?
            }
            _ => self.ours.write(offset, data)?,
        };
        Ok(match (self.bend, errno) {
            (Bend::WrongError, 28) => 5,
            _ => errno,
        })
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Result<Vec<u8>, i32>> {
        self.ours.read(offset, len)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<i32> {
        self.ours.discard(offset, len)
    }

    fn flush(&mut self) -> Result<i32> {
        self.ours.flush()
    }
}

impl Side for Bent {
    fn activate(&mut self) -> Result<()> {
        self.ours.activate()
    }

    fn deactivate(&mut self) -> Result<()> {
        self.ours.deactivate()
    }

    fn status(&mut self) -> Result<String> {
        let status = self.ours.status()?;
        Ok(match self.bend {
            Bend::WrongStatus => status.replace('/', "0/"),
            _ => status,
        })
    }

    fn cow(&self) -> Result<Vec<u8>> {
        let mut cow = self.ours.cow()?;
        let (chunk, per_area) = (bytes(self.chunk), bytes(self.chunk) / 16);
        match self.bend {
            Bend::LeavesTheNextArea => {
                let next = (1 + per_area + 1) * chunk;
                if let Some(area) = cow.get_mut(next..next + chunk) {
                    area.fill(0xee);
                }
            }
            Bend::LosesAnEntry => cow[chunk..chunk + 16].fill(0),
            _ => {}
        }
        Ok(cow)
    }
}

/// Small chunks over old bytes, a full area and a device that ends: all rules matter.
const HISTORY: &str =
    "5 2 400 140 PO garbage 0 w0+20#1 w30+1#2 f w40+60#3 r0+50 a w100+40#4 w200+2#5 w300+20#6";

fn judge_bent(history: &History, kernel: &Played, bend: Bend) -> Result<Result<(), String>> {
    let shape = &history.shape;
    let files = Files::create(fast_root(), shape)?;
    let mut side = Bent {
        ours: Ours::new(files, shape, Durability::EveryWrite),
        bend,
        chunk: shape.chunk,
    };
    let ours = play_ours(history, &mut side)?;
    let steps = 0..history.steps.len();
    Ok(judge(history, &steps, kernel, &ours, Strictness::Bytes))
}

#[test]
fn each_rule_that_is_broken_on_our_side_is_noticed() -> Result<()> {
    if inside_guest() || missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let history: History = HISTORY.parse()?;
    let kernel = play_on_kernel(&[Part::whole(&history)])?.swap_remove(0);
    let straight = judge_bent(&history, &kernel, Bend::None)?;
    ensure!(straight.is_ok(), "{straight:?}");
    for bend in [
        Bend::TakesChunksBackwards,
        Bend::LeavesTheNextArea,
        Bend::WrongStatus,
        Bend::CopiesNothing,
        Bend::LosesAnEntry,
        Bend::WrongError,
    ] {
        let judged = judge_bent(&history, &kernel, bend)?;
        ensure!(judged.is_err(), "{bend:?} went unnoticed");
    }
    Ok(())
}

#[test]
fn one_wrong_byte_or_answer_of_any_history_is_noticed() -> Result<()> {
    for seed in 0..60 {
        let history = generate::history(seed);
        let ours = whole(&history, Durability::EveryWrite)?;
        if ours.before_end.is_some() {
            // The kernel's side of it is another one.
            continue;
        }
        let honest = as_the_kernel_shows(&history, &ours);
        let steps = 0..history.steps.len();
        let judged = |kernel: &Played| judge(&history, &steps, kernel, &ours, Strictness::Bytes);
        ensure!(
            judged(&honest).is_ok(),
            "seed {seed}: {:?}",
            judged(&honest)
        );
        let mut bent = Vec::new();
        for index in 0..honest.seen.len() {
            for what in 0..3 {
                let mut kernel = honest.clone();
                let seen = &mut kernel.seen[index];
                match what {
                    0 => seen.errno ^= 1,
                    1 => seen.content ^= 1,
                    _ => seen.status.push('0'),
                }
                bent.push(kernel);
            }
        }
        // In the header, in area 0.
        for at in [4, bytes(history.shape.chunk) + 8] {
            let mut kernel = honest.clone();
            kernel.cow[at] ^= 1;
            bent.push(kernel);
        }
        for kernel in bent {
            ensure!(judged(&kernel).is_err(), "seed {seed}: went unnoticed");
        }
    }
    Ok(())
}

/// What the kernel is to show where we show this.
fn as_the_kernel_shows(history: &History, ours: &OursPlayed) -> Played {
    use crate::model::{Expect, expectations};
    let mut kernel = ours.played.clone();
    let mut last = Expect::Same;
    let expected = expectations(history).unwrap_or_default();
    for (seen, (expect, _)) in kernel.seen.iter_mut().zip(expected) {
        last = expect;
        if expect != Expect::Same {
            "Overflow".clone_into(&mut seen.status);
        }
        if expect == Expect::Overflow {
            seen.errno = 5;
        }
    }
    if let (true, Some(end)) = (last != Expect::Same, kernel.seen.last_mut()) {
        "Overflow".clone_into(&mut end.status);
    }
    kernel
}
