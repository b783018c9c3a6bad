//! Spreads jobs over the processors, counts, says how far it is.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a run came to.
pub(crate) struct Total {
    pub(crate) jobs: u64,
    /// What the jobs counted together.
    pub(crate) count: u64,
}

/// A number that the environment may set.
pub(crate) fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => otherwise,
    }
}

/// Says something whether the test's output is shown or not: totals are wanted from every run.
pub(crate) fn say(text: &str) {
    let _unheard = writeln!(std::io::stderr(), "{text}");
}

/// Runs `job` for the numbers from `first` on, as long as it wants to (`job` answers with what it counted, or a violation) and `wanted` are not reached. Fails with the first
/// violation.
pub(crate) fn run(
    name: &str,
    unit: &str,
    jobs: std::ops::Range<u64>,
    wanted: u64,
    job: impl Fn(u64) -> Result<u64, String> + Sync,
) -> Total {
    // Once a large piece was freed, glibc no longer gives each smaller one back to the system: half
    // of the time would go into that.
    drop(std::hint::black_box(vec![1_u8; 24 << 20]));
    let next = AtomicU64::new(jobs.start);
    let (done, count) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let violation: Mutex<Option<String>> = Mutex::new(None);
    let begun = Instant::now();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let mut said = Instant::now();
        while !stop.load(Ordering::Relaxed) && count.load(Ordering::Relaxed) < wanted {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= jobs.end {
                return;
            }
            match job(number) {
                Ok(more) => count.fetch_add(more, Ordering::Relaxed),
                Err(what) => {
                    stop.store(true, Ordering::Relaxed);
                    violation
                        .lock()
                        .expect("no worker panics")
                        .get_or_insert(what);
                    return;
                }
            };
            done.fetch_add(1, Ordering::Relaxed);
            if said.elapsed() > Duration::from_secs(30) {
                said = Instant::now();
                let (done, count) = (done.load(Ordering::Relaxed), count.load(Ordering::Relaxed));
                say(&format!("{name}: {done} histories, {count} {unit} so far"));
            }
        }
    };
    std::thread::scope(|scope| {
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
    if let Some(what) = violation.into_inner().expect("no worker panics") {
        panic!("{what}");
    }
    let total = Total {
        jobs: done.into_inner(),
        count: count.into_inner(),
    };
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!(
        "{name}: {} histories, {} {unit} in {seconds:.1} s ({:.0}/s), 0 violations",
        total.jobs,
        total.count,
        total.count as f64 / seconds
    ));
    total
}
