//! Watching the room for changes: a thread that looks once a second, and when the store rings at
//! the chunk where the next level is passed. Nothing is done on a write's way but that comparison.

mod hook;
mod levels;
mod rate;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use usnap_engine::{Snapshot, Space, SpaceAlarm};

use self::hook::{Hook, end_all};
pub(crate) use self::hook::{OnSpace, parse};
use self::levels::Levels;
use self::rate::Rate;
use crate::report::SpaceReport;

/// How often the room is looked at when nothing rings.
const INTERVAL: Duration = Duration::from_secs(1);
/// A client that goes on writing where nothing is left rings at each write.
const SHORTEST: Duration = Duration::from_millis(20);
/// The levels that are worth a line in the log, in hundredths.
const SAID: [u64; 4] = [70, 80, 90, 95];

/// The running watch; stops when dropped.
pub(super) struct SpaceWatch {
    stops: Arc<AtomicBool>,
    alarm: Arc<SpaceAlarm>,
    outlook: Outlook,
    thread: Option<JoinHandle<()>>,
}

/// What the watch knows that a single look does not tell.
#[derive(Clone, Default)]
pub(crate) struct Outlook(Arc<Mutex<Rate>>);

impl Outlook {
    /// What is to be reported of `space`.
    pub(crate) fn report(&self, space: &Space) -> SpaceReport {
        let rate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds_left = rate.seconds_left(space.left_bytes);
        SpaceReport::live(space, seconds_left)
    }

    fn note(&self, space: &Space) {
        let mut rate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rate.note(Instant::now(), space.used_bytes);
    }
}

impl SpaceWatch {
    /// Watches the room of `snapshot`, kept in `cow` or in memory.
    pub(super) fn start(
        snapshot: Arc<Snapshot>,
        cow: Option<&Path>,
        on_space: &[OnSpace],
    ) -> io::Result<Self> {
        let (stops, alarm) = (Arc::new(AtomicBool::new(false)), snapshot.space_alarm());
        let outlook = Outlook::default();
        let mut watcher = Watcher {
            name: cow.map_or_else(
                || "memory for changes".to_owned(),
                |cow| format!("COW {}", cow.display()),
            ),
            // The command may change its directory.
            cow: cow.map_or_else(OsString::new, |cow| {
                std::path::absolute(cow)
                    .unwrap_or_else(|_| cow.to_owned())
                    .into_os_string()
            }),
            said: Levels::new(SAID),
            hooked: Levels::new(on_space.iter().map(|hook| hook.percent)),
            hooks: on_space.iter().cloned().map(Hook::new).collect(),
            outlook: outlook.clone(),
            alarm: Arc::clone(&alarm),
            snapshot,
        };
        let told = Arc::clone(&stops);
        let thread = std::thread::Builder::new()
            .name("space-watch".to_owned())
            .spawn(move || {
                loop {
                    // Read before the look: what came before the end is looked at.
                    let is_last = told.load(Ordering::Acquire);
                    watcher.look();
                    if is_last {
                        break;
                    }
                    std::thread::sleep(SHORTEST);
                    watcher.alarm.wait(INTERVAL);
                }
                end_all(&mut watcher.hooks);
            })?;
        Ok(Self {
            stops,
            alarm,
            outlook,
            thread: Some(thread),
        })
    }

    /// What is known of the rate.
    pub(super) fn outlook(&self) -> Outlook {
        self.outlook.clone()
    }

    /// Looks a last time, and waits for the commands that run.
    pub(super) fn end(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            // It can only have panicked, and then the panic is in the log.
            let _ = thread.join();
        }
    }
}

/// Stops without waiting.
impl Drop for SpaceWatch {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        self.alarm.ring();
    }
}

struct Watcher {
    snapshot: Arc<Snapshot>,
    alarm: Arc<SpaceAlarm>,
    name: String,
    cow: OsString,
    said: Levels,
    hooked: Levels,
    hooks: Vec<Hook>,
    outlook: Outlook,
}

impl Watcher {
    fn look(&mut self) {
        let space = self.snapshot.space();
        self.outlook.note(&space);
        // What is enough for every chunk can't run out, and a COW that can never be full is no alarm.
        let is_enough = self.snapshot.is_room_for_all(&space);
        let percent = if is_enough { 0 } else { space.percent_used() };
        let said = self.said.pass(percent);
        let hooked = self.hooked.pass(percent);
        if !said.is_empty() || !hooked.is_empty() {
            let report = self.outlook.report(&space);
            if !said.is_empty() {
                tracing::warn!("{}: {report}", self.name);
            }
            for index in hooked {
                if let Some(hook) = self.hooks.get_mut(index) {
                    hook.start(&variables(&self.cow, hook.percent(), &report));
                }
            }
        }
        self.hooks.iter_mut().for_each(Hook::reap);
        let next = self.said.next().into_iter().chain(self.hooked.next()).min();
        let next = next.filter(|_| !is_enough);
        let chunk_bytes = self.snapshot.chunk_size().bytes();
        self.alarm.set(next.map_or(u64::MAX, |percent| {
            space.bytes_at(percent).div_ceil(chunk_bytes)
        }));
    }
}

fn variables(cow: &OsString, percent: u64, report: &SpaceReport) -> [(&'static str, OsString); 4] {
    let seconds_left = report.seconds_left.map(|seconds| seconds.to_string());
    [
        ("USNAP_COW", cow.clone()),
        ("USNAP_PERCENT", percent.to_string().into()),
        ("USNAP_BYTES_LEFT", report.bytes_left.to_string().into()),
        (
            "USNAP_SECONDS_LEFT",
            seconds_left.unwrap_or_default().into(),
        ),
    ]
}
