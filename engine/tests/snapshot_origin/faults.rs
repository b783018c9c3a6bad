//! Each call to each device fails once, with EIO and ENOSPC, whole and in part: no snapshot ever
//! shows anything but its moment and its own writes, or an error; nor does its store, opened by
//! itself afterwards; and the origin goes on, or says that it can't.

use std::collections::BTreeMap;
use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{CallKind, Calls, Failure, Fault, Flaky, When};
use usnap_engine::snapshot_origin::{MemberState, SnapshotOrigin, WhenFull};
use usnap_engine::store::initialise;
use usnap_engine::{ErrorKind, Result, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

use crate::random::Random;
use crate::values::{Values, payload};
use crate::workers::run;

const SIZE: usize = 40 * 1024 + 512;
const STEPS: u64 = 70;
const CHUNKS_OF: [u64; 2] = [512, 2048];
const FAILURES: [Failure; 4] = [
    Failure {
        kind: ErrorKind::Io,
        short: false,
    },
    Failure {
        kind: ErrorKind::NoSpace,
        short: false,
    },
    Failure {
        kind: ErrorKind::Io,
        short: true,
    },
    Failure {
        kind: ErrorKind::NoSpace,
        short: true,
    },
];

struct One {
    device: Arc<Flaky>,
    snapshot: Arc<Snapshot>,
    values: Values,
}

struct Play {
    below: Arc<Flaky>,
    origin: SnapshotOrigin,
    content: Values,
    snapshots: Vec<One>,
    when_full: WhenFull,
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("small")
}

fn read_all(device: &dyn BlockDevice) -> Result<Vec<u8>> {
    let mut content = vec![0; index(device.size_bytes())];
    device.read_at(&mut content, 0).map(|()| content)
}

fn flaky(device: MemDevice) -> Arc<Flaky> {
    Arc::new(Flaky::new(Arc::new(device)))
}

impl Play {
    fn new(when_full: WhenFull) -> Self {
        let content = payload(7, 0, SIZE);
        let below = flaky(MemDevice::from_bytes(&content));
        let origin = SnapshotOrigin::on_device(below.clone(), when_full);
        let snapshots = CHUNKS_OF.map(|chunk_bytes| {
            let cow = MemDevice::new(200 * 1024);
            let chunk_size = ChunkSize::from_bytes(chunk_bytes).expect("a power of two");
            initialise(&cow, chunk_size, None).expect("there is room");
            let device = flaky(cow);
            let name = format!("of {chunk_bytes}");
            let options = SnapshotOptions::default();
            let added = origin.add_device(&name, None, device.clone(), &options);
            One {
                device,
                snapshot: added.expect("nothing fails yet"),
                values: Values::new(content.clone()),
            }
        });
        Self {
            below,
            origin,
            content: Values::new(content),
            snapshots: snapshots.into(),
            when_full,
        }
    }

    /// The device that is to fail: the origin, or one of the COW devices.
    fn device(&self, number: usize) -> &Flaky {
        match number {
            0 => &self.below,
            cow => &self.snapshots[cow - 1].device,
        }
    }

    fn met(&self) -> u64 {
        let cows = self.snapshots.iter().map(|one| one.device.faults_met());
        self.below.faults_met() + cows.sum::<u64>()
    }

    /// Without a fault, what it was has to be the one of these two that is there.
    fn look_at_origin(&mut self, offset: usize, len: usize) -> std::result::Result<(), String> {
        let found = self.below.without_fault(|| read_all(&*self.below));
        let found = found.map_err(|e| format!("{e:?}"))?;
        self.content.settle(offset, len, &found)?;
        self.content.check(&found)?;
        (found == self.content.now())
            .then_some(())
            .ok_or("the origin has something else".to_owned())
    }

    fn step(&mut self, random: &mut Random, stamp: u64) -> std::result::Result<(), String> {
        let offset = index(random.below(SIZE as u64 / 256)) * 256;
        let len = (1 + index(random.below(6000))).min(SIZE - offset);
        let (at, long) = (offset as u64, len as u64);
        let data = payload(stamp, offset, len);
        let who = index(random.below(4));
        let kind = random.below(8);
        let before = self.met();
        let result = if who == 0 || who == 3 {
            let result = match kind {
                0 => self.origin.flush(),
                1 => {
                    self.content.write(offset, &vec![0; len]);
                    self.origin.zero_at(at, long, ZeroFlags::default())
                }
                _ => {
                    self.content.write(offset, &data);
                    self.origin.write_at(&data, at)
                }
            };
            self.look_at_origin(offset, len)?;
            result
        } else {
            let one = &mut self.snapshots[who - 1];
            let result = match kind {
                0 => one.snapshot.flush(),
                _ => {
                    one.values.write(offset, &data);
                    one.snapshot.write_at(&data, at)
                }
            };
            let found = one.device.without_fault(|| {
                let below = &self.below;
                below.without_fault(|| read_all(&*one.snapshot))
            });
            if let Ok(found) = found {
                one.values.settle(offset, len, &found)?;
            }
            result
        };
        match result {
            // With the snapshot that failed dropped the origin's write succeeds.
            Ok(()) => Ok(()),
            Err(_) if self.met() > before => Ok(()),
            // Latched, dropped, or not to be invalidated, since.
            Err(error) if before > 0 && error.kind() != ErrorKind::NoSpace => Ok(()),
            Err(error) => Err(format!("failed by itself: {error:?}")),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (one, state) in self.snapshots.iter().zip(self.origin.snapshots()) {
            let found = one
                .device
                .without_fault(|| self.below.without_fault(|| read_all(&*one.snapshot)));
            match found {
                Ok(found) => {
                    one.values
                        .check(&found)
                        .map_err(|e| format!("{}: {e}", state.name))?;
                    if state.state != MemberState::Active {
                        return Err(format!("{} is dropped, and read", state.name));
                    }
                }
                Err(_) if self.met() > 0 => {}
                Err(error) => return Err(format!("{}: {error:?}", state.name)),
            }
            if self.when_full == WhenFull::Refuse && state.state != MemberState::Active {
                return Err(format!("{} is dropped", state.name));
            }
        }
        Ok(())
    }

    /// What anybody finds who opens the stores later.
    fn check_stores(&self) -> std::result::Result<u64, String> {
        let mut dropped = 0;
        for (one, state) in self.snapshots.iter().zip(self.origin.snapshots()) {
            one.device.mend();
            self.below.mend();
            let options = SnapshotOptions::default();
            let (origin, cow) = (self.below.clone(), one.device.clone());
            match Snapshot::on_devices(origin, cow, &options) {
                Ok(snapshot) => {
                    if state.state != MemberState::Active {
                        return Err(format!("{} is dropped, and opened", state.name));
                    }
                    let found = read_all(&snapshot).map_err(|e| format!("{e:?}"))?;
                    let checked = one.values.check(&found);
                    checked.map_err(|e| format!("{}, by itself: {e}", state.name))?;
                }
                Err(e) if e.kind() == ErrorKind::InvalidStore => dropped += 1,
                Err(e) => return Err(format!("{}: {e:?}", state.name)),
            }
        }
        Ok(dropped)
    }
}

/// Plays one history while a call fails; whether there was such a call, and how many snapshots it
/// cost.
fn play(
    number: usize,
    nth: u64,
    failure: Failure,
    when_full: WhenFull,
) -> std::result::Result<(bool, u64), String> {
    let mut play = Play::new(when_full);
    let fault = Fault::nth(Calls::Any, nth, failure);
    play.device(number).fail(fault);
    let mut random = Random::new(5);
    let what = |e: String| format!("device {number}, call {nth}, {failure:?}, {when_full:?}: {e}");
    for stamp in 1..=STEPS {
        play.step(&mut random, stamp)
            .and_then(|()| play.check())
            .map_err(|e| what(format!("step {stamp}: {e}")))?;
    }
    let is_met = play.met() > 0;
    if !is_met {
        play.device(number).mend();
        play.origin.close().map_err(|e| what(format!("{e:?}")))?;
    }
    let dropped = play.check_stores().map_err(what)?;
    Ok((is_met, dropped))
}

#[test]
fn whatever_call_fails_no_snapshot_becomes_wrong() {
    let outcomes = std::sync::Mutex::new(BTreeMap::<(usize, bool), u64>::new());
    run("snapshot origin: faults", "calls", 0..24, u64::MAX, |job| {
        let number = index(job % 3);
        let failure = FAILURES[index(job / 3 % 4)];
        let when_full = if job < 12 {
            WhenFull::Drop
        } else {
            WhenFull::Refuse
        };
        for nth in 0.. {
            let (is_met, dropped) = play(number, nth, failure, when_full)?;
            if !is_met {
                return Ok(nth);
            }
            let mut outcomes = outcomes.lock().expect("no job panics");
            *outcomes.entry((number, dropped > 0)).or_default() += 1;
        }
        Ok(0)
    });
    let outcomes = outcomes.into_inner().expect("no job panics");
    let count = |number, dropped| outcomes.get(&(number, dropped)).copied().unwrap_or(0);
    assert_eq!(count(0, true), 0, "the origin's failures drop nobody");
    assert!(count(0, false) > 100, "{outcomes:?}");
    for cow in 1..=2 {
        assert!(
            count(cow, true) > 50 && count(cow, false) > 50,
            "{outcomes:?}"
        );
    }
}

#[test]
fn where_a_snapshot_can_not_be_invalidated_the_origin_stays_as_it_is() {
    let play = Play::new(WhenFull::Drop);
    let one = &play.snapshots[0];
    let every = |kind| Fault {
        calls: Calls::Only(kind),
        when: When::Share {
            seed: 1,
            per_mille: 1000,
        },
        failure: Failure::whole(ErrorKind::Io),
    };
    play.origin.write_at(&[3; 512], 512).unwrap();
    for kind in [CallKind::Write, CallKind::Flush] {
        one.device.fail(every(kind));
        for _ in 0..2 {
            let error = play.origin.write_at(&[1; 2000], 4096).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        }
        let mut found = vec![0; SIZE];
        play.below.read_at(&mut found, 0).unwrap();
        let mut wanted = payload(7, 0, SIZE);
        wanted[512..1024].fill(3);
        assert!(found == wanted, "{kind:?}");
        assert!(one.snapshot.read_at(&mut found, 0).is_err());
        assert_eq!(play.origin.snapshots()[0].state, MemberState::Active);
        // What is saved may still change.
        play.origin.write_at(&[3; 512], 512).unwrap();
    }
    one.device.mend();
    play.origin.write_at(&[1; 2000], 4096).unwrap();
    let states = play.origin.snapshots();
    assert!(matches!(states[0].state, MemberState::Dropped { .. }));
    assert_eq!(states[1].state, MemberState::Active);
}
