//! Load on one connection: requests go out in batches, answers come in batches, and each is timed
//! from when it was handed to the socket to when its last byte was received.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use usnap_nbd::proto::client::blocking::{ClientError, Refusal};
use usnap_nbd::proto::client::pipeline::{Ended, Pipeline};
use usnap_nbd::proto::client::{ClientNegotiated, ClientOptions, block_status_extents};
use usnap_nbd::proto::uri::NbdUri;
use usnap_nbd::proto::{Request, RequestKind};

use super::connect::{LOOK_UP, Timed, wait_for};
use super::plan::{Plan, Tally};
use super::source::{Mismatch, Next, Source, Task};
use super::target::Opening;
use super::workload::Operation;

/// Where contents come from, as qemu and usnap tell it: 1 is the device itself.
const DEPTH_CONTEXT: &str = "qemu:allocation-depth";
/// As much of the map is asked for at once.
const MAP_BYTES: u64 = 1 << 30;

/// A connection in transmission.
pub(super) struct Connection {
    socket: OwnedFd,
    pipeline: Pipeline,
}

impl Connection {
    /// Connects.
    pub(super) fn open(uri: &NbdUri, how: &Opening) -> Result<Self> {
        let mut socket = Timed::connect(&uri.address, how.patience)?;
        let options = ClientOptions {
            contexts: vec![DEPTH_CONTEXT.to_owned()],
            ..ClientOptions::new(uri.export_name.clone())
        };
        let pipeline = Pipeline::connect(&mut socket, options, how.depth, how.verify)?;
        Ok(Self {
            socket: socket.into_blocking()?,
            pipeline,
        })
    }

    pub(super) fn negotiated(&self) -> &ClientNegotiated {
        self.pipeline.negotiated()
    }

    /// Runs the plan's requests until they end.
    pub(super) fn load(&mut self, plan: &Plan<'_>, number: u64, begun: Instant) -> Result<Tally> {
        let mut load = Load {
            source: Source::new(plan, number),
            tally: Tally::default(),
            waiting: vec![None; self.pipeline.slots()],
            plan,
            begun,
            since_flush: 0,
            is_over: false,
            broken: None,
        };
        let result = self.run(&mut load);
        if result.is_err() {
            plan.has_failed.store(true, Ordering::Relaxed);
        }
        result.map(|()| load.tally)
    }

    fn run(&mut self, load: &mut Load<'_>) -> Result<()> {
        let mut heard = load.begun;
        let mut now = Instant::now();
        loop {
            let is_later = load.queue(&mut self.pipeline, now)?;
            if self.pipeline.in_flight() == 0 {
                if load.is_over {
                    return Ok(());
                }
                if is_later {
                    // Others have every block that was drawn.
                    std::thread::sleep(Duration::from_micros(100));
                }
                now = Instant::now();
                heard = now;
                continue;
            }
            let received = self.exchange()?;
            now = Instant::now();
            if received > 0 {
                heard = now;
                self.pipeline
                    .received(received, |ended| load.ended(ended, now))?;
                if let Some(broken) = load.broken.take() {
                    return Err(broken);
                }
            } else if now.saturating_duration_since(heard) >= load.plan.patience {
                bail!("no answer in {} seconds", load.plan.patience.as_secs_f64());
            }
        }
    }

    /// Sends what is queued, as far as the socket takes it, and receives; how many bytes, 0 where
    /// nothing came for a while.
    fn exchange(&mut self) -> Result<usize> {
        while !self.pipeline.outgoing().is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.socket, self.pipeline.outgoing(), flags) {
                Ok(len) => self.pipeline.sent(len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let wanted = PollFlags::IN | PollFlags::OUT;
                    let ready = wait_for(&self.socket, wanted, LOOK_UP)?;
                    // It may take no more before its answers are received.
                    if ready.intersects(!PollFlags::OUT) {
                        return self.receive(RecvFlags::DONTWAIT);
                    }
                    if ready.is_empty() {
                        return Ok(0);
                    }
                }
                Err(error) => return Err(closed(error)),
            }
        }
        self.receive(RecvFlags::empty())
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<usize> {
        match recv(&self.socket, self.pipeline.room(), flags) {
            Ok((0, _)) => Err(anyhow!("the server closed the connection")),
            Ok((len, _)) => Ok(len),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(closed(error)),
        }
    }

    /// Makes one request and waits for its end.
    fn call(&mut self, offset: u64, kind: RequestKind, patience: Duration) -> Result<Vec<u8>> {
        self.pipeline.queue(offset, kind, |_| {})?;
        let deadline = Instant::now() + patience;
        let mut answer = None;
        while self.pipeline.in_flight() > 0 {
            let received = self.exchange()?;
            self.pipeline.received(received, |ended| {
                answer = Some(ended.result.map(<[u8]>::to_vec));
            })?;
            if Instant::now() >= deadline {
                bail!("no answer in {} seconds", patience.as_secs_f64());
            }
        }
        match answer {
            Some(Ok(data)) => Ok(data),
            Some(Err(refusal)) => Err(ClientError::Refused(refusal).into()),
            None => Err(anyhow!("no answer")),
        }
    }

    /// Makes durable what was written, where the server can do that.
    pub(super) fn flush(&mut self, patience: Duration) -> Result<()> {
        if !self.negotiated().supports(RequestKind::Flush) {
            return Ok(());
        }
        let called = self.call(0, RequestKind::Flush, patience);
        called.map(drop).context("flush")
    }

    /// The parts of a range that the device holds itself, in bytes; `None` where the server does
    /// not tell, or has more to tell than is worth to know.
    pub(super) fn own_parts(
        &mut self,
        offset: u64,
        len: u64,
        patience: Duration,
    ) -> Result<Option<Vec<(u64, u64)>>> {
        const PARTS_MAX: usize = 1 << 22;
        let kind = |len| RequestKind::BlockStatus {
            len,
            req_one: false,
        };
        if !self.negotiated().supports(kind(0)) {
            return Ok(None);
        }
        let deadline = Instant::now() + patience;
        let (mut at, end) = (offset, offset + len);
        let mut parts: Vec<(u64, u64)> = Vec::new();
        while at < end {
            if parts.len() > PARTS_MAX || Instant::now() > deadline {
                return Ok(None);
            }
            let kind = kind((end - at).min(MAP_BYTES));
            let answer = self.call(at, kind, patience).context("block status")?;
            let request = Request {
                cookie: usnap_nbd::proto::Cookie(0),
                offset: at,
                kind,
            };
            let style = self.negotiated().reply_style;
            let (_, extents) = block_status_extents(style, &request, &answer)?;
            for extent in extents {
                let until = at.saturating_add(extent.len).min(end);
                match parts.last_mut() {
                    _ if extent.flags != 1 => {}
                    Some(last) if last.1 == at => last.1 = until,
                    _ => parts.push((at, until)),
                }
                at = until;
            }
        }
        Ok(Some(parts))
    }

    /// Says goodbye; nobody waits for an answer.
    pub(super) fn close(self) {
        let goodbye = Request {
            cookie: usnap_nbd::proto::Cookie(u64::MAX),
            offset: 0,
            kind: RequestKind::Disconnect,
        };
        let mut header = [0; 32];
        if let Ok(len) = self.negotiated().encode_request(&mut header, &goodbye) {
            let header = header.get(..len).unwrap_or_default();
            let _is_gone_already = send(
                &self.socket,
                header,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
        }
    }
}

fn closed(error: Errno) -> anyhow::Error {
    anyhow!(std::io::Error::from(error)).context("the connection failed")
}

/// What is in a slot of the pipeline.
#[derive(Clone, Copy)]
struct Waiting {
    /// `None` is a flush.
    task: Option<Task>,
    since: Instant,
}

/// One connection's part of a sample.
struct Load<'a> {
    source: Source<'a>,
    tally: Tally,
    waiting: Vec<Option<Waiting>>,
    plan: &'a Plan<'a>,
    begun: Instant,
    /// Writes since the last flush.
    since_flush: u32,
    is_over: bool,
    /// What ends it.
    broken: Option<anyhow::Error>,
}

impl Load<'_> {
    /// Queues as much as there is room for; whether there would have been more.
    #[inline]
    fn queue(&mut self, pipeline: &mut Pipeline, now: Instant) -> Result<bool> {
        if !self.is_over && self.plan.is_over(self.begun, now) {
            self.is_over = true;
        }
        let mut first = None;
        let mut is_later = false;
        while !self.is_over && pipeline.in_flight() < self.plan.depth {
            if self
                .plan
                .fsync
                .is_some_and(|writes| self.since_flush >= writes)
            {
                // A flush covers what was answered before it: all of that first.
                if pipeline.in_flight() > 0 {
                    break;
                }
                self.since_flush = 0;
                let slot = pipeline.queue(0, RequestKind::Flush, |_| {})?;
                let since = *first.get_or_insert_with(Instant::now);
                self.note(slot, Waiting { task: None, since });
                break;
            }
            if self.tally_waits_for_flush() {
                break;
            }
            let task = match self.source.next() {
                Next::Task(task) => task,
                Next::Later => {
                    is_later = true;
                    break;
                }
                Next::End => {
                    self.is_over = true;
                    break;
                }
            };
            let source = &self.source;
            let kind = kind_of(&task);
            let slot = pipeline.queue(task.offset, kind, |place| source.fill(&task, place))?;
            if task.operation == Operation::Write {
                self.since_flush += 1;
            }
            // The clock is read once a batch, when the first of it is ready.
            let since = *first.get_or_insert_with(Instant::now);
            let task = Some(task);
            self.note(slot, Waiting { task, since });
        }
        Ok(is_later)
    }

    /// Whether a flush is on its way, which the next write waits for.
    fn tally_waits_for_flush(&self) -> bool {
        self.plan.fsync.is_some()
            && self
                .waiting
                .iter()
                .flatten()
                .any(|waiting| waiting.task.is_none())
    }

    #[inline]
    fn note(&mut self, slot: usize, waiting: Waiting) {
        if let Some(place) = self.waiting.get_mut(slot) {
            *place = Some(waiting);
        }
    }

    #[inline]
    fn ended(&mut self, ended: Ended<'_>, now: Instant) {
        let waiting = self.waiting.get_mut(ended.slot).and_then(Option::take);
        let Some(waiting) = waiting else { return };
        let latency = now.saturating_duration_since(waiting.since);
        self.tally.elapsed = now.saturating_duration_since(self.begun);
        let data = match ended.result {
            Ok(data) => data,
            Err(refusal) => {
                let error = refused(&ended.request, refusal);
                self.broken.get_or_insert(error);
                return;
            }
        };
        match waiting.task {
            None => {
                self.tally.flushes += 1;
                self.tally.flush_latency.record(latency);
            }
            Some(task) => {
                self.tally.latency.record(latency);
                let ended = self.source.ended(&task, data, &mut self.tally);
                if let Err(mismatch) = ended {
                    self.broken.get_or_insert_with(|| mismatched(mismatch));
                }
            }
        }
    }
}

fn mismatched(mismatch: Mismatch) -> anyhow::Error {
    anyhow::Error::new(mismatch)
}

fn refused(request: &Request, refusal: Refusal) -> anyhow::Error {
    let what = match request.kind {
        RequestKind::Read { .. } => "read",
        RequestKind::Write { .. } => "write",
        RequestKind::Flush => return anyhow!(ClientError::Refused(refusal)).context("flush"),
        RequestKind::Trim { .. } => "trim",
        _ => "request",
    };
    let (len, offset) = (request.kind.effect_len(), request.offset);
    anyhow!(ClientError::Refused(refusal)).context(format!("{what} of {len} bytes at {offset}"))
}

#[inline]
fn kind_of(task: &Task) -> RequestKind {
    match task.operation {
        Operation::Read | Operation::Mix => RequestKind::Read {
            len: task.bytes,
            dont_fragment: false,
        },
        Operation::Write => RequestKind::Write {
            len: task.bytes,
            fua: false,
        },
        Operation::Trim => RequestKind::Trim {
            len: task.bytes.into(),
            fua: false,
        },
        Operation::Zero => RequestKind::WriteZeroes {
            len: task.bytes.into(),
            fua: false,
            no_hole: false,
            fast_zero: false,
        },
    }
}
