//! Requests that begin while another one waits for the device, as with many threads, but in one and
//! so the same each time: before each call the device lets another request be made, whole. So
//! chunks are taken, written and committed while others are pending, and written during each step
//! of a commit; and each call fails once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use usnap_engine::device::{BlockDevice, Extent, ZeroFlags};
use usnap_engine::sim::{Calls, Failure, Fault, Flaky};
use usnap_engine::{Durability, Error, ErrorKind, Result as EngineResult, Snapshot};

use crate::case::Case;
use crate::nth::{FAILURES, case};
use crate::operation::{Operation, any_operation};
use crate::random::Random;
use crate::run::{Run, ask, data_of, demand, is_promise, options, range_of};
use crate::workers::{from_environment, run};

const OPERATIONS: u64 = 200;

/// What one request came to.
struct Outcome {
    error: Option<ErrorKind>,
    /// Calls that failed in it, and not in one that began meanwhile.
    met: u64,
    was_latched: bool,
}

struct State {
    run: Run<'static>,
    random: Random,
    /// What is under way, if anything; no more than one begins meanwhile.
    outer: Option<Operation>,
    is_nested: bool,
    stamp: u64,
    /// Where others wrote during the request under way, and how often calls failed for them.
    beside: Vec<(usize, usize)>,
    beside_met: u64,
    count: u64,
    violation: Option<String>,
}

/// A device that lets others in before each change.
struct Meeting {
    below: Arc<Flaky>,
    snapshot: OnceLock<Weak<Snapshot>>,
    failure: Failure,
    state: Mutex<State>,
}

/// Something in the first chunks of the history, or in the last.
fn any_in(case: &Case, first_half: bool, random: &mut Random) -> Operation {
    let middle = case.offset(case.shape.exceptions + case.shape.history_chunks / 2);
    loop {
        let operation = any_operation(case, random);
        let fits = match range_of(operation) {
            None => true,
            Some((offset, len)) if first_half => offset + len <= middle,
            Some((offset, _)) => offset >= middle,
        };
        if fits {
            return operation;
        }
    }
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with it")
    }

    /// Somebody else comes.
    fn meet(&self) {
        let Some(snapshot) = self.snapshot.get().and_then(Weak::upgrade) else {
            return;
        };
        let operation = {
            // Not in the end, when the run itself looks at the store.
            let Ok(mut state) = self.state.try_lock() else {
                return;
            };
            let Some(outer) = state.outer.filter(|_| !state.is_nested) else {
                return;
            };
            if state.random.below(3) == 0 {
                return;
            }
            let case = state.run.case;
            let mut operation = any_in(case, false, &mut state.random);
            // Who waits for the commit that is under way would wait for this thread.
            let commits = |op| is_promise(op, Durability::Flush) || op == Operation::Timer;
            while commits(outer) && commits(operation) {
                operation = any_in(case, false, &mut state.random);
            }
            state.is_nested = true;
            state.count += 1;
            state.beside.extend(range_of(operation));
            operation
        };
        let before = self.below.faults_met();
        let result = self.request(&snapshot, operation);
        let mut state = self.state();
        state.is_nested = false;
        state.beside_met += self.below.faults_met() - before;
        if let Err(what) = result {
            let what = format!("{operation:?} during {:?}: {what}", state.outer);
            state.violation.get_or_insert(what);
        }
    }

    /// One request, under way or during another.
    fn request(&self, snapshot: &Snapshot, operation: Operation) -> Result<(), String> {
        let was_latched = snapshot.report().latched.is_some();
        let (data, met_before) = {
            let mut state = self.state();
            state.stamp += 1;
            let data = data_of(operation, state.stamp);
            state.run.begins(operation, &data);
            (data, self.below.faults_met())
        };
        let result = ask(snapshot, operation, &data);
        let mut state = self.state();
        let beside = if state.is_nested { 0 } else { state.beside_met };
        let outcome = Outcome {
            error: result.as_ref().err().map(Error::kind),
            met: self.below.faults_met() - met_before - beside,
            was_latched,
        };
        let latched = snapshot.report().latched.is_some();
        self.judge(&state.run, &outcome, latched)
            .map_err(|e| format!("{e}: {result:?}"))?;
        if latched {
            return Ok(());
        }
        let done = result.is_ok();
        let promises = done && is_promise(operation, state.run.durability);
        let unfinished = match state.outer.filter(|_| state.is_nested) {
            Some(outer) => Vec::from_iter(range_of(outer)),
            None => std::mem::take(&mut state.beside),
        };
        state.run.ends_beside(snapshot, operation, done)?;
        if promises {
            state.run.values.flush_but(&unfinished);
        }
        Ok(())
    }

    fn judge(&self, run: &Run<'_>, outcome: &Outcome, latched: bool) -> Result<(), String> {
        if outcome.was_latched {
            let is_right = matches!(outcome.error, None | Some(ErrorKind::Latched));
            return demand(is_right, || "after the latch".to_owned());
        }
        if outcome.met == 0 {
            // It may find that somebody else's flush has latched the store.
            let may_fail = latched && outcome.error == Some(ErrorKind::Latched);
            return demand(outcome.error.is_none() || may_fail, || {
                "failed without a fault".to_owned()
            });
        }
        let calls = self.below.failed_calls();
        let call = calls.last().ok_or("a fault without a call")?;
        let (kind, latches) = run.verdict(*call, self.failure);
        let is_right = (outcome.error, latched) == (Some(kind), latches)
            || outcome.error.is_none() && run.absorbs(*call, kind);
        demand(is_right && outcome.met == 1, || {
            format!("{call:?} failed, latched: {latched}")
        })
    }
}

impl BlockDevice for Meeting {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn name(&self) -> &str {
        "meeting"
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> EngineResult<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> EngineResult<()> {
        self.meet();
        self.below.write_at(data, offset)
    }

    fn flush(&self) -> EngineResult<()> {
        self.meet();
        self.below.flush()
    }

    fn discard_at(&self, offset: u64, len: u64) -> EngineResult<()> {
        self.meet();
        self.below.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> EngineResult<()> {
        self.meet();
        self.below.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> EngineResult<()> {
        self.meet();
        self.below.reserve_at(offset, len)
    }

    fn needs_reservation(&self) -> bool {
        self.below.needs_reservation()
    }

    fn extent_at(&self, offset: u64, len: u64) -> EngineResult<Extent> {
        self.below.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

/// Plays a history while call number `nth` fails; how many calls there were, how many requests
/// began during others.
fn play(case: &'static Case, seed: u64, nth: u64, failure: Failure) -> Result<(u64, u64), String> {
    let run = Run::new(case, Durability::Flush)?;
    let below = run.recorder.device.clone();
    if seed % 2 == 1 {
        below.need_reservations();
    }
    let device = Arc::new(Meeting {
        below: below.clone(),
        snapshot: OnceLock::new(),
        failure,
        state: Mutex::new(State {
            run,
            random: Random::new(seed),
            outer: None,
            is_nested: false,
            stamp: 0,
            beside: Vec::new(),
            beside_met: 0,
            count: 0,
            violation: None,
        }),
    });
    let options = options(Durability::Flush);
    let snapshot = Snapshot::on_devices(case.origin.clone(), device.clone(), &options)
        .map_err(|e| format!("{e:?}"))?;
    let snapshot = Arc::new(snapshot);
    let _only_once = device.snapshot.set(Arc::downgrade(&snapshot));
    below.fail(Fault::nth(Calls::Any, nth, failure));
    let mut random = Random::new(seed + 1000);
    for _ in 0..OPERATIONS {
        let operation = any_in(case, true, &mut random);
        {
            let mut state = device.state();
            state.outer = Some(operation);
            state.beside.clear();
            state.beside_met = 0;
        }
        let result = device.request(&snapshot, operation);
        result.map_err(|e| format!("{operation:?}: {e}"))?;
        let mut state = device.state();
        state.outer = None;
        if let Some(what) = state.violation.take() {
            return Err(what);
        }
    }
    let calls = below.calls();
    let mut state = device.state();
    state.run.end(Some(&snapshot), nth)?;
    Ok((calls, state.count))
}

#[test]
fn whichever_call_fails_the_error_is_not_told_to_a_request_beside_it() {
    let first = from_environment("USNAP_FAULT_SEED", 1);
    // With reservations, and without.
    for seed in [first, first + 1] {
        // The device that it stands on lives as long as the store.
        let case: &'static Case = Box::leak(Box::new(case(512)));
        let (calls, nested) = play(case, seed, u64::MAX, FAILURES[0]).unwrap();
        assert!(
            calls > 200 && nested > 100,
            "{calls} calls, {nested} nested"
        );
        let ways = FAILURES.len() as u64;
        let unit = "requests beside others";
        run("faults: nested", unit, 0..calls * ways, u64::MAX, |job| {
            let (nth, way) = (job / ways, usize::try_from(job % ways).expect("small"));
            let failure = FAILURES[way];
            play(case, seed, nth, failure)
                .map(|(_, nested)| nested)
                .map_err(|e| format!("USNAP_FAULT_SEED={seed}, call {nth}, {failure:?}: {e}"))
        });
    }
}
