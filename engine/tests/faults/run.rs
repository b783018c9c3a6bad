//! A history on a device that fails, and what is demanded of it.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{CallKind, CrashState, Failure};
use usnap_engine::{Durability, Error, ErrorKind, Snapshot, SnapshotOptions};

use crate::case::Case;
use crate::operation::Operation;
use crate::plain_loader::{compose, load};
use crate::recorder::Recorder;
use crate::values::{Values, payload};

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Change(Operation),
    Read { offset: usize, len: usize },
}

/// A sentence unless `truth` holds.
pub(crate) fn demand(truth: bool, complaint: impl FnOnce() -> String) -> Result<(), String> {
    if truth { Ok(()) } else { Err(complaint()) }
}

pub(crate) fn options(durability: Durability) -> SnapshotOptions {
    SnapshotOptions {
        durability,
        ..SnapshotOptions::default()
    }
}

/// Asks the snapshot.
pub(crate) fn ask(
    snapshot: &Snapshot,
    operation: Operation,
    data: &[u8],
) -> usnap_engine::Result<()> {
    match operation {
        Operation::Write { offset, .. } => snapshot.write_at(data, offset as u64),
        Operation::WriteFua { offset, .. } => {
            snapshot.write_at(data, offset as u64)?;
            snapshot.flush()
        }
        Operation::Zero {
            offset,
            len,
            no_hole,
        } => {
            let flags = ZeroFlags {
                no_hole,
                fast: false,
            };
            snapshot.zero_at(offset as u64, len as u64, flags)
        }
        Operation::Trim { offset, len } => snapshot.discard_at(offset as u64, len as u64),
        Operation::Flush => snapshot.flush(),
        Operation::Timer => snapshot.commit_pending().map(drop),
    }
}

/// The bytes of a write or zeroing.
pub(crate) fn data_of(operation: Operation, stamp: u64) -> Vec<u8> {
    match operation {
        Operation::Write { offset, len } | Operation::WriteFua { offset, len } => {
            payload(stamp, offset, len)
        }
        Operation::Zero { len, .. } => vec![0; len],
        Operation::Trim { .. } | Operation::Flush | Operation::Timer => Vec::new(),
    }
}

/// Where an operation changes something.
pub(crate) fn range_of(operation: Operation) -> Option<(usize, usize)> {
    match operation {
        Operation::Write { offset, len }
        | Operation::WriteFua { offset, len }
        | Operation::Zero { offset, len, .. }
        | Operation::Trim { offset, len } => Some((offset, len)),
        Operation::Flush | Operation::Timer => None,
    }
}

/// Whether everything before it is durable once it has succeeded.
pub(crate) fn is_promise(operation: Operation, durability: Durability) -> bool {
    match operation {
        Operation::Flush | Operation::WriteFua { .. } => true,
        Operation::Timer => false,
        _ => durability == Durability::EveryWrite,
    }
}

/// A store, its device, and what a client may find.
pub(crate) struct Run<'a> {
    pub(crate) case: &'a Case,
    pub(crate) recorder: Recorder,
    pub(crate) values: Values,
    pub(crate) durability: Durability,
}

impl<'a> Run<'a> {
    pub(crate) fn new(case: &'a Case, durability: Durability) -> Result<Self, String> {
        Ok(Self {
            recorder: Recorder::new(&case.image),
            values: Values::new(case.content()?),
            case,
            durability,
        })
    }

    /// What the error must be, and whether the store is latched, if this call failed so.
    pub(crate) fn verdict(&self, call: (CallKind, u64), failure: Failure) -> (ErrorKind, bool) {
        let (kind, offset) = call;
        let to_area = self.is_area(offset);
        match (kind, failure.kind) {
            // However a flush fails, it is final.
            (CallKind::Flush, _) => (ErrorKind::Io, true),
            // A commit that finds no space is tried again; else it can't be.
            (CallKind::Write, other) if to_area => (other, other != ErrorKind::NoSpace),
            (_, other) => (other, false),
        }
    }

    /// Space for many chunks that can't be had is asked for again, for fewer.
    pub(crate) fn absorbs(&self, call: (CallKind, u64), kind: ErrorKind) -> bool {
        call.0 == CallKind::Reserve && kind == ErrorKind::NoSpace && !self.is_area(call.1)
    }

    fn is_area(&self, offset: u64) -> bool {
        let chunk_len = self.case.shape.chunk_len as u64;
        offset / chunk_len % (chunk_len / 16 + 1) == 1
    }

    /// One request. If a call fails that it makes, it fails as `failure` says.
    pub(crate) fn request(
        &mut self,
        snapshot: &Snapshot,
        request: Request,
        stamp: u64,
        failure: Failure,
    ) -> Result<(), String> {
        let was_latched = snapshot.report().latched.is_some();
        let before = self.recorder.faults_met();
        let result = match request {
            Request::Read { offset, len } => self.read(snapshot, offset, len, was_latched)?,
            Request::Change(operation) => {
                let data = data_of(operation, stamp);
                self.begins(operation, &data);
                ask(snapshot, operation, &data)
            }
        };
        if was_latched {
            return after_latch(request, result.as_ref().err());
        }
        let calls = self.recorder.device.failed_calls();
        let met = calls.len() as u64 - before;
        demand(met < 2, || "a request went on after a failure".to_owned())?;
        let latched = snapshot.report().latched.is_some();
        let found = result.as_ref().err().map(Error::kind);
        match calls.last().filter(|_| met == 1) {
            None => demand(found.is_none() && !latched, || {
                format!("failed, {latched}, without a fault: {result:?}")
            })?,
            Some(call) => {
                let (kind, latches) = self.verdict(*call, failure);
                let is_absorbed = found.is_none() && self.absorbs(*call, kind);
                demand(
                    (found, latched) == (Some(kind), latches) || is_absorbed,
                    || format!("{call:?} failed: {result:?}, latched: {latched}"),
                )?;
            }
        }
        match request {
            Request::Change(operation) if !latched => {
                self.ends(snapshot, operation, found.is_none())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn begins(&mut self, operation: Operation, data: &[u8]) {
        match operation {
            Operation::Trim { offset, len } => self.values.trim(offset, len),
            _ => {
                if let Some((offset, _)) = range_of(operation) {
                    self.values.write(offset, data);
                }
            }
        }
    }

    /// What failed, or was only discarded, may have been done in part.
    pub(crate) fn ends(
        &mut self,
        snapshot: &Snapshot,
        operation: Operation,
        done: bool,
    ) -> Result<(), String> {
        self.ends_beside(snapshot, operation, done)?;
        if done && is_promise(operation, self.durability) {
            self.values.flush();
        }
        Ok(())
    }

    /// The same where others are under way: what is durable now is for the caller to say.
    pub(crate) fn ends_beside(
        &mut self,
        snapshot: &Snapshot,
        operation: Operation,
        done: bool,
    ) -> Result<(), String> {
        if let Some((offset, len)) = range_of(operation)
            && (!done || matches!(operation, Operation::Trim { .. }))
        {
            let found = self.read_all(snapshot)?;
            self.values.settle(offset, len, &found)?;
        }
        Ok(())
    }

    pub(crate) fn read_all(&self, snapshot: &Snapshot) -> Result<Vec<u8>, String> {
        let mut found = vec![0; self.case.origin_bytes.len()];
        let read = || snapshot.read_at(&mut found, 0);
        let read = self.recorder.device.without_fault(read);
        read.map_err(|e| format!("cannot be read: {e:?}"))?;
        Ok(found)
    }

    /// A read of a running snapshot is exact; of a latched one what was not committed may be refused.
    fn read(
        &self,
        snapshot: &Snapshot,
        offset: usize,
        len: usize,
        latched: bool,
    ) -> Result<usnap_engine::Result<()>, String> {
        let mut found = vec![0; len];
        let result = snapshot.read_at(&mut found, offset as u64);
        if result.is_ok() {
            if latched {
                self.values.check_range(offset, &found)?;
            } else {
                demand(found == self.values.now()[offset..][..len], || {
                    format!("reads something else at {offset}+{len}")
                })?;
            }
        }
        Ok(result)
    }

    /// The end of a run: what there is, here and after a power cut, and after opening it again.
    pub(crate) fn end(&mut self, snapshot: Option<&Snapshot>, seed: u64) -> Result<(), String> {
        self.recorder.device.mend();
        let log = self.recorder.take_log();
        let mut state = CrashState::new(self.case.image.clone());
        log.iter().for_each(|event| state.add(event));
        if let Some(snapshot) = snapshot {
            self.goes_on(snapshot)?;
        }
        let before_the_end = state.cached().to_vec();
        for image in state.samples(3, seed).chain([before_the_end]) {
            self.opens_again(&image)
                .map_err(|e| format!("after a power cut: {e}"))?;
        }
        let image = self.recorder.image();
        self.opens_again(&image)
            .map_err(|e| format!("opened again: {e}"))
    }

    /// Latched, committed chunks are read and no flush succeeds; else all is as if nothing had
    /// been.
    fn goes_on(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let committed = self.case.offset(self.case.shape.exceptions);
        if snapshot.report().latched.is_some() {
            let mut found = vec![0; committed];
            let read = snapshot.read_at(&mut found, 0);
            read.map_err(|e| format!("committed chunks can't be read: {e:?}"))?;
            self.values.check_range(0, &found)?;
            let flush = snapshot.flush().map_err(|e| e.kind());
            return demand(flush == Err(ErrorKind::Latched), || {
                format!("a flush after the latch: {flush:?}")
            });
        }
        let found = self.read_all(snapshot)?;
        demand(found == self.values.now(), || {
            "reads something else".to_owned()
        })?;
        snapshot
            .flush()
            .map_err(|e| format!("the last flush: {e:?}"))?;
        let composed = compose(&self.case.origin_bytes, &self.recorder.image())?;
        demand(composed == found, || {
            "the store is something else".to_owned()
        })?;
        demand(snapshot.report().exceptions.uncommitted == 0, || {
            "exceptions are left after a flush".to_owned()
        })
    }

    /// A store that somebody opens: the same to an independent loader and to us, and it serves.
    fn opens_again(&self, image: &[u8]) -> Result<(), String> {
        let content = compose(&self.case.origin_bytes, image)?;
        self.values.check(&content)?;
        let cow = Arc::new(MemDevice::from_bytes(image));
        let options = options(Durability::Flush);
        let snapshot = Snapshot::on_devices(self.case.origin.clone(), cow.clone(), &options)
            .map_err(|e| format!("{e:?}"))?;
        let mut found = vec![0; content.len()];
        let read = snapshot.read_at(&mut found, 0);
        read.map_err(|e| format!("{e:?}"))?;
        demand(found == content, || "we read something else".to_owned())?;
        let (at, data) = (self.case.offset(self.case.kernels), [9; 700]);
        let written = snapshot.write_at(&data, at as u64);
        written
            .and_then(|()| snapshot.flush())
            .map_err(|e| format!("{e:?}"))?;
        let before = load(image)?.exceptions.len();
        let after = load(&cow.to_bytes())?.exceptions.len();
        demand(after > before, || {
            format!("{before} exceptions, then {after}")
        })
    }
}

/// Once latched, changes are refused, and reads of what was not committed.
fn after_latch(request: Request, error: Option<&Error>) -> Result<(), String> {
    let kind = error.map(Error::kind);
    let is_right = match request {
        Request::Read { .. } => matches!(kind, None | Some(ErrorKind::Io)),
        // Where nothing is mapped there is nothing to discard; and a timer without work does none.
        Request::Change(Operation::Trim { .. } | Operation::Timer) => {
            matches!(kind, None | Some(ErrorKind::Latched))
        }
        Request::Change(_) => kind == Some(ErrorKind::Latched),
    };
    demand(is_right, || {
        format!("{request:?} after the latch: {error:?}")
    })
}
