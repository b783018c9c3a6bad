//! What the log says of a failed flush, and that nobody but the leader waits for whoever reads it.

use std::fmt::{Debug, Write};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, subscriber};
use usnap_engine::device::BlockDevice;
use usnap_engine::sim::{CallKind, Calls, Failure, Fault};
use usnap_engine::{ErrorKind, Snapshot};

use crate::bench::Bench;

/// A log whose reader asks the store for its state before it reads on.
#[derive(Default)]
struct SlowLog {
    snapshot: Arc<OnceLock<Snapshot>>,
    messages: Mutex<String>,
    /// A reader did not get its answer.
    is_stuck: Mutex<bool>,
}

struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, _field: &Field, value: &dyn Debug) {
        writeln!(self.0, "{value:?}").unwrap();
    }
}

fn ask(snapshot: &OnceLock<Snapshot>, answered: &Sender<()>) {
    let snapshot = snapshot.get().unwrap();
    assert!(snapshot.report().latched.is_some());
    assert!(snapshot.write_at(&[1; 4096], 50 * 4096).is_err());
    assert!(snapshot.flush().is_err());
    answered.send(()).unwrap();
}

impl SlowLog {
    fn wait_for_others(&self) {
        let snapshot = Arc::clone(&self.snapshot);
        let (answered, answer) = channel();
        std::thread::spawn(move || ask(&snapshot, &answered));
        let is_stuck = answer.recv_timeout(Duration::from_secs(10)).is_err();
        *self.is_stuck.lock().unwrap() |= is_stuck;
    }
}

/// A handle that can be given away.
struct Handle(Arc<SlowLog>);

impl Subscriber for Handle {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message(&mut self.0.messages.lock().unwrap()));
        self.0.wait_for_others();
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[test]
fn a_failed_flush_is_said_with_what_it_may_have_lost_and_stops_nobody() {
    let bench = Bench::with_exceptions(4096, 3);
    bench.write(0, 1);
    bench.write(8, 1);
    let failure = Failure::whole(ErrorKind::Io);
    let first_sync = Fault::nth(Calls::Only(CallKind::Flush), 0, failure);
    bench.device.fail(first_sync);
    let log = Arc::new(SlowLog::default());
    assert!(log.snapshot.set(bench.snapshot).is_ok());
    subscriber::with_default(Handle(Arc::clone(&log)), || {
        assert!(log.snapshot.get().unwrap().flush().is_err());
    });
    assert!(!*log.is_stuck.lock().unwrap(), "somebody waits for the log");
    let said = log.messages.lock().unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    for words in ["nothing more is written", "may be lost", "overwrote chunks"] {
        assert!(said.contains(words), "{said}");
    }
}
