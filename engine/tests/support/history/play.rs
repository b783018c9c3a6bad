//! Plays a history: each step on the engine and on plain vectors, and after each step everything
//! that can be seen from outside compared.

use usnap_engine::device::{Attempt, BlockDevice, ZeroFlags};
use usnap_engine::{ErrorKind, Result as EngineResult, Snapshot};

use super::backing::{Backing, InMemory, OnFiles, Stacked};
use super::expected::{Expected, Outcome};
use super::plain_loader::{compose, load};
use super::{Operation, Shape};

/// What a history is played on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Where {
    /// Memory.
    Memory,
    /// Files in a temporary folder.
    Files,
    /// Other snapshots, in memory.
    Snapshots,
}

/// Plays a history.
///
/// # Errors
/// The first difference, as a sentence.
pub(crate) fn play(shape: &Shape, operations: &[Operation], place: Where) -> Result<(), String> {
    match place {
        Where::Memory => play_on(shape, operations, &InMemory::new(shape)),
        Where::Files => play_on(shape, operations, &OnFiles::new(shape)),
        Where::Snapshots => play_on(shape, operations, &Stacked::new(shape)),
    }
}

fn play_on(shape: &Shape, operations: &[Operation], backing: &dyn Backing) -> Result<(), String> {
    let expected = Expected::new(shape, backing.origin(), backing.origin_is_zero());
    let mut player = Player {
        snapshot: Some(backing.open()?),
        backing,
        expected,
    };
    for (number, operation) in (1..).zip(operations) {
        player
            .step(number, *operation)
            .and_then(|()| player.compare())
            .map_err(|e| format!("step {number}, {operation:?}: {e}"))?;
    }
    player.finish().map_err(|e| format!("at the end: {e}"))
}

struct Player<'a> {
    backing: &'a dyn Backing,
    snapshot: Option<Snapshot>,
    expected: Expected,
}

fn check(truth: bool, complaint: impl FnOnce() -> String) -> Result<(), String> {
    if truth { Ok(()) } else { Err(complaint()) }
}

fn outcome(result: EngineResult<()>) -> Result<Outcome, String> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(e) if e.kind() == ErrorKind::NoSpace => Ok(Outcome::NoSpace),
        Err(e) if e.kind() == ErrorKind::NotSupported => Ok(Outcome::NotSupported),
        Err(e) => Err(format!("{e:?}")),
    }
}

fn same(found: Outcome, wanted: Outcome) -> Result<(), String> {
    check(found == wanted, || {
        format!("ended {found:?}, should have {wanted:?}")
    })
}

/// Bytes that tell the step and, mostly, the place they were written by and to.
fn payload(step: u64, offset: u64, len: u64) -> Vec<u8> {
    let mix = |i: u64| (i / 3 + step).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    (offset..offset + len)
        .map(|i| u8::try_from(mix(i)).expect("eight bits"))
        .collect()
}

impl Player<'_> {
    fn snapshot(&self) -> &Snapshot {
        self.snapshot.as_ref().expect("open between steps")
    }

    fn step(&mut self, number: u64, operation: Operation) -> Result<(), String> {
        let chunk_bytes = self.expected.chunk_bytes;
        let size_bytes = self.expected.size_bytes();
        let range = |span: super::Span| span.resolve(size_bytes, chunk_bytes);
        match operation {
            Operation::Read(span) => {
                let (offset, len) = range(span);
                self.try_read(offset, len)?;
                self.compare_range(offset, len)
            }
            Operation::Write(span) => {
                let (offset, len) = range(span);
                let data = payload(number, offset, len);
                let found = outcome(self.snapshot().write_at(&data, offset))?;
                same(found, self.expected.write(offset, &data))
            }
            Operation::Discard(span) => {
                let (offset, len) = range(span);
                let found = outcome(self.snapshot().discard_at(offset, len))?;
                let before = self.expected.content.clone();
                same(found, self.expected.discard(offset, len))?;
                if !self.backing.discard_zeroes() && !self.expected.discard_is_exact() {
                    self.accept_what_is_kept(&before)?;
                }
                Ok(())
            }
            Operation::Zero {
                span,
                no_hole,
                fast,
            } => {
                let (offset, len) = range(span);
                let flags = ZeroFlags { no_hole, fast };
                let found = outcome(self.snapshot().zero_at(offset, len, flags))?;
                same(found, self.expected.zero(offset, len, no_hole, fast))
            }
            Operation::Flush => self.flush(),
            Operation::Commit => {
                let any = self.snapshot().commit_pending();
                let wanted = self.expected.order.len() > self.expected.committed;
                self.expected.flush();
                check(any.as_ref().ok() == Some(&wanted), || {
                    format!("commit_pending said {any:?}, not {wanted}")
                })
            }
            Operation::Extents(span) => {
                let (offset, len) = range(span);
                self.compare_extents(offset, len)
            }
            Operation::Reopen => {
                self.flush()?;
                self.reopen()
            }
            Operation::Abandon => {
                if self.backing.has_journal() {
                    self.expected.flush();
                } else {
                    self.expected.abandon();
                }
                self.reopen()
            }
            Operation::Grow(by) => {
                let cow_bytes = self.expected.cow_bytes + u64::from(by) % (3 * chunk_bytes);
                if self.backing.grow(cow_bytes) {
                    self.expected.cow_bytes = cow_bytes;
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        self.expected.flush();
        self.snapshot().flush().map_err(|e| format!("{e:?}"))
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.expected.refused = 0;
        // The COW file has one user: the old one goes first.
        self.snapshot = None;
        self.snapshot = Some(self.backing.open()?);
        self.compare_extents(0, self.expected.size_bytes())
    }

    fn compare(&self) -> Result<(), String> {
        self.compare_range(0, self.expected.size_bytes())?;
        let report = self.snapshot().report();
        let expected = &self.expected;
        let written = expected.order.len();
        let free = expected.capacity() - written;
        let found = report.exceptions;
        let wanted = usnap_engine::ExceptionCounts {
            committed: expected.committed as u64,
            uncommitted: (written - expected.committed) as u64,
            free: free as u64,
        };
        check(found == wanted, || {
            format!("reports {found:?}, not {wanted:?}")
        })?;
        let chunk_bytes = report.chunk_size.bytes();
        let is_all_written = written as u64 == expected.size_bytes().div_ceil(chunk_bytes);
        check(report.is_full == (free == 0 && !is_all_written), || {
            format!("says full: {}, with {free} free", report.is_full)
        })?;
        let (found, wanted) = (report.status.to_string(), expected.status());
        check(found == wanted, || format!("status {found}, not {wanted}"))?;
        let (found, wanted) = (report.counters.refused_for_space, expected.refused);
        check(found == wanted, || {
            format!("counts {found} refusals, not {wanted}")
        })
    }

    fn compare_range(&self, offset: u64, len: u64) -> Result<(), String> {
        let start = usize::try_from(offset).expect("small");
        let mut found = vec![0xa5; usize::try_from(len).expect("small")];
        self.snapshot()
            .read_at(&mut found, offset)
            .map_err(|e| format!("{e:?}"))?;
        let wanted = &self.expected.content[start..start + found.len()];
        let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
        match differs {
            None => Ok(()),
            Some(i) => Err(format!(
                "byte {} reads {}, should be {}",
                start + i,
                found[i],
                wanted[i]
            )),
        }
    }

    /// Where zeros are expected, what was there before may be there still.
    fn accept_what_is_kept(&mut self, before: &[u8]) -> Result<(), String> {
        let mut found = vec![0; before.len()];
        let read = self.snapshot().read_at(&mut found, 0);
        read.map_err(|e| format!("{e:?}"))?;
        let expected = self.expected.content.iter_mut();
        for ((wanted, found), before) in expected.zip(found).zip(before) {
            if found == *before {
                *wanted = found;
            }
        }
        Ok(())
    }

    /// A read that may not wait either does not happen or is right.
    fn try_read(&self, offset: u64, len: u64) -> Result<(), String> {
        let start = usize::try_from(offset).expect("small");
        let mut found = vec![0xa5; usize::try_from(len).expect("small")];
        let attempt = self.snapshot().try_read_at(&mut found, offset);
        let attempt = attempt.map_err(|e| format!("{e:?}"))?;
        let wanted = &self.expected.content[start..start + found.len()];
        check(attempt == Attempt::WouldBlock || found == wanted, || {
            format!("without waiting, {offset}+{len} reads something else")
        })
    }

    /// Block status covers the range, never says zero where the content isn't, and names the COW
    /// device exactly where there is an exception.
    fn compare_extents(&self, offset: u64, len: u64) -> Result<(), String> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let extent = self.snapshot().extent_at(at, end - at);
            let extent = extent.map_err(|e| format!("{e:?}"))?;
            let what = || format!("{extent:?} at {at} of {offset}+{len}");
            check(extent.len > 0 && extent.len <= end - at, what)?;
            check(extent.zero || !extent.hole, what)?;
            let range = usize::try_from(at).expect("small")
                ..usize::try_from(at + extent.len).expect("small");
            let zeros = self.expected.content[range].iter().all(|&byte| byte == 0);
            check(!extent.zero || zeros, what)?;
            let here = |byte: u64| self.expected.is_mapped(byte) == (extent.depth == 1);
            check(
                (at..at + extent.len)
                    .step_by(512)
                    .chain([at + extent.len - 1])
                    .all(here),
                what,
            )?;
            at += extent.len;
        }
        Ok(())
    }

    /// The store as others read it: an independent loader, byte by byte.
    fn finish(mut self) -> Result<(), String> {
        self.compare_extents(0, self.expected.size_bytes())?;
        self.flush()?;
        self.snapshot = None;
        let cow = self.backing.cow();
        let expected = &self.expected;
        check(self.backing.origin() == expected.origin, || {
            "the origin changed".to_owned()
        })?;
        let composed = compose(&expected.origin, &cow)?;
        check(composed == expected.content, || {
            "origin and store together are not the snapshot".to_owned()
        })?;
        let numbers = (0..).map(|n| expected.nth_new_chunk(n));
        let wanted: Vec<(u64, u64)> = expected.order.iter().copied().zip(numbers).collect();
        let found = load(&cow)?.exceptions;
        check(found == wanted, || {
            format!("exceptions {found:?}, should be {wanted:?}")
        })?;
        // An origin that grows later must not find somebody's old bytes there.
        check(
            expected.behind_the_end(&cow).iter().all(|&b| b == 0),
            || "the last chunk's part behind the snapshot's end is not zeros".to_owned(),
        )
    }
}
