//! Load on a device of ours, without the wire: a thread a connection, a call after another. There
//! is nothing to queue in, so the depth means nothing here.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use usnap_engine::device::{BlockDevice, ZeroFlags};

use super::plan::{Plan, Tally};
use super::source::{Next, Source};
use super::workload::Operation;

/// Runs the plan's requests on `device` until they end, on this thread.
pub(super) fn load(
    device: &dyn BlockDevice,
    plan: &Plan<'_>,
    number: u64,
    begun: Instant,
) -> Result<Tally> {
    let result = run(device, plan, number, begun);
    if result.is_err() {
        plan.has_failed.store(true, Ordering::Relaxed);
    }
    result
}

fn run(device: &dyn BlockDevice, plan: &Plan<'_>, number: u64, begun: Instant) -> Result<Tally> {
    let mut source = Source::new(plan, number);
    let mut tally = Tally::default();
    let mut buf = Vec::new();
    let mut since_flush = 0;
    loop {
        let now = Instant::now();
        if plan.is_over(begun, now) {
            return Ok(tally);
        }
        let task = match source.next() {
            Next::Task(task) => task,
            Next::Later => {
                std::thread::yield_now();
                continue;
            }
            Next::End => return Ok(tally),
        };
        let len = usize::try_from(task.bytes).unwrap_or(usize::MAX);
        if buf.len() != len {
            buf.resize(len, 0);
        }
        if task.operation == Operation::Write {
            source.fill(&task, &mut buf);
        }
        let since = Instant::now();
        match task.operation {
            Operation::Read | Operation::Mix => device.read_at(&mut buf, task.offset)?,
            Operation::Write => device.write_at(&buf, task.offset)?,
            Operation::Trim => device.discard_at(task.offset, task.bytes.into())?,
            Operation::Zero => {
                device.zero_at(task.offset, task.bytes.into(), ZeroFlags::default())?;
            }
        }
        let ended = Instant::now();
        tally.latency.record(ended.saturating_duration_since(since));
        tally.elapsed = ended.saturating_duration_since(begun);
        source.ended(&task, &buf, &mut tally)?;
        since_flush += u32::from(task.operation == Operation::Write);
        if plan.fsync.is_some_and(|writes| since_flush >= writes) {
            since_flush = 0;
            device.flush()?;
            let flushed = Instant::now();
            tally.flushes += 1;
            tally
                .flush_latency
                .record(flushed.saturating_duration_since(ended));
            tally.elapsed = flushed.saturating_duration_since(begun);
        }
    }
}
