//! Each call to the device fails once.

use usnap_engine::sim::{Calls, Failure, Fault};
use usnap_engine::{Durability, ErrorKind, Snapshot};

use crate::case::{Case, Shape, Unused};
use crate::operation::any_operation;
use crate::random::Random;
use crate::run::{Request, Run, demand, options};
use crate::workers::{from_environment, run};

const OPERATIONS: u64 = 200;

pub(crate) const FAILURES: [Failure; 4] = [
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

/// Stores with junk to clear, and entries short of a full area.
pub(crate) fn case(chunk_len: usize) -> Case {
    Case::new(Shape {
        chunk_len,
        exceptions: chunk_len / 16 - 12,
        holes: false,
        junk: true,
        unused: Unused::Stale,
        history_chunks: 160,
        room: None,
    })
}

/// Requests: three changes, then a read.
pub(crate) fn requests(case: &Case, seed: u64) -> Vec<Request> {
    let mut random = Random::new(seed);
    let mut one = |n: u64| {
        if n % 4 != 3 {
            return Request::Change(any_operation(case, &mut random));
        }
        let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("small");
        let offset = below(case.origin_bytes.len());
        let len = 1 + below((case.origin_bytes.len() - offset).min(20_000));
        Request::Read { offset, len }
    };
    (0..OPERATIONS).map(&mut one).collect()
}

/// Plays the history while call number `nth` fails; whether there was such a call.
fn play(
    case: &Case,
    requests: &[Request],
    durability: Durability,
    nth: u64,
    failure: Failure,
) -> Result<bool, String> {
    let mut run = Run::new(case, durability)?;
    let device = run.recorder.device.clone();
    if nth % 2 == 1 {
        device.need_reservations();
    }
    run.recorder.fail(Fault::nth(Calls::Any, nth, failure));
    let options = options(durability);
    let opened = Snapshot::on_devices(case.origin.clone(), device.clone(), &options);
    let met = device.faults_met() == 1;
    demand(opened.is_err() == met, || {
        format!("the open: {:?}, met: {met}", opened.as_ref().err())
    })?;
    let snapshot = opened.ok();
    if let Some(snapshot) = &snapshot {
        for (stamp, request) in (1..).zip(requests) {
            run.request(snapshot, *request, stamp, failure)
                .map_err(|e| format!("request {stamp}, {request:?}: {e}"))?;
        }
    }
    let met = device.faults_met() > 0;
    run.end(snapshot.as_ref(), nth)?;
    Ok(met)
}

/// How many calls the history makes without a fault, with and without reservations.
fn calls(case: &Case, requests: &[Request], durability: Durability) -> Result<u64, String> {
    let mut most = 0;
    for nth in [1_000_000, 1_000_001] {
        let mut run = Run::new(case, durability)?;
        if nth % 2 == 1 {
            run.recorder.device.need_reservations();
        }
        let device = run.recorder.device.clone();
        let options = options(durability);
        let snapshot = Snapshot::on_devices(case.origin.clone(), device.clone(), &options)
            .map_err(|e| format!("{e:?}"))?;
        for (stamp, request) in (1..).zip(requests) {
            run.request(&snapshot, *request, stamp, FAILURES[0])?;
        }
        most = most.max(device.calls());
        run.end(Some(&snapshot), 0)?;
    }
    Ok(most)
}

fn each_call_fails(name: &str, chunk_len: usize, durability: Durability) {
    let seed = from_environment("USNAP_FAULT_SEED", 1);
    let case = case(chunk_len);
    let requests = requests(&case, seed);
    let calls = calls(&case, &requests, durability).unwrap();
    assert!(calls > 250, "only {calls} calls");
    let ways = FAILURES.len() as u64;
    let total = run(name, "faults", 0..calls * ways, u64::MAX, |job| {
        let (nth, way) = (job / ways, usize::try_from(job % ways).expect("small"));
        let failure = FAILURES[way];
        match play(&case, &requests, durability, nth, failure) {
            Ok(met) => Ok(u64::from(met)),
            Err(e) => Err(format!(
                "USNAP_FAULT_SEED={seed}, call {nth}, {failure:?}: {e}"
            )),
        }
    });
    // The last few calls are there only with reservations.
    assert!(
        total.count > calls * ways * 9 / 20,
        "{} faults met",
        total.count
    );
}

#[test]
fn whichever_call_fails_nothing_is_lost_with_chunks_of_a_sector() {
    each_call_fails("faults: 512", 512, Durability::Flush);
}

#[test]
fn whichever_call_fails_nothing_is_lost_with_chunks_of_four_sectors() {
    each_call_fails("faults: 2K", 2048, Durability::Flush);
}

#[test]
fn whichever_call_fails_nothing_is_lost_where_every_write_is_durable() {
    each_call_fails("faults: every write", 1024, Durability::EveryWrite);
}
