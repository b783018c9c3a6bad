//! Plays a history on a snapshot, and stops wherever the power may go.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice, ZeroFlags};
use usnap_engine::sim::{CrashState, Event, LogWrites};
use usnap_engine::{Durability, ErrorKind, Snapshot, SnapshotOptions};

use crate::case::{Case, Unused};
use crate::operation::Operation;
use crate::stream::Stream;
use crate::values::{Values, payload};

/// A moment at which the power may go.
pub(crate) struct Cut<'a> {
    pub(crate) state: &'a CrashState,
    pub(crate) values: &'a Values,
    /// The store was opened by us, whole: what was behind the terminator is gone.
    pub(crate) opened: bool,
}

/// Judges what a cut may leave.
pub(crate) type OnCut<'a> = dyn FnMut(&Cut<'_>) -> Result<(), String> + 'a;

/// A history under way.
pub(crate) struct Player<'a> {
    case: &'a Case,
    snapshot: Snapshot,
    log: Arc<LogWrites>,
    stream: &'a mut dyn Stream,
    state: CrashState,
    pub(crate) values: Values,
    every_write: bool,
    opened: bool,
    bent: Vec<Event>,
}

impl<'a> Player<'a> {
    /// Opens the store in `image`, which shows `content`; cuts meanwhile are judged.
    pub(crate) fn open(
        case: &'a Case,
        image: Vec<u8>,
        content: Vec<u8>,
        every_write: bool,
        stream: &'a mut dyn Stream,
        on_cut: &mut OnCut<'_>,
    ) -> Result<Self, String> {
        let memory = MemDevice::from_bytes(&image);
        if case.shape.unused == Unused::Zeros {
            // A sparse file, as on a journaling filesystem: chunks are written ahead.
            memory.prefer_rewrites();
        }
        let log = Arc::new(LogWrites::new(Arc::new(memory)));
        let options = SnapshotOptions {
            durability: if every_write {
                Durability::EveryWrite
            } else {
                Durability::Flush
            },
            ..SnapshotOptions::default()
        };
        let snapshot = Snapshot::on_devices(case.origin.clone(), log.clone(), &options)
            .map_err(|e| format!("does not open: {e:?}"))?;
        let mut player = Self {
            case,
            snapshot,
            log,
            stream,
            state: CrashState::new(image),
            values: Values::new(content),
            every_write,
            opened: false,
            bent: Vec::new(),
        };
        player.see(on_cut)?;
        player.opened = true;
        player.cut(on_cut)?;
        Ok(player)
    }

    /// Does one thing; cuts during it and after it are judged. `stamp` tells its bytes from others'.
    pub(crate) fn step(
        &mut self,
        operation: Operation,
        stamp: u64,
        on_cut: &mut OnCut<'_>,
    ) -> Result<(), String> {
        let result = self.call(operation, stamp);
        let done = match result {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::NoSpace && self.case.shape.room.is_some() => false,
            Err(e) => return Err(format!("{operation:?} failed: {e:?}")),
        };
        self.see(on_cut)?;
        self.settle(operation, done)?;
        self.cut(on_cut)
    }

    fn call(&mut self, operation: Operation, stamp: u64) -> usnap_engine::Result<()> {
        let snapshot = &self.snapshot;
        match operation {
            Operation::Write { offset, len } | Operation::WriteFua { offset, len } => {
                let data = payload(stamp, offset, len);
                self.values.write(offset, &data);
                snapshot.write_at(&data, offset as u64)?;
                if matches!(operation, Operation::WriteFua { .. }) {
                    snapshot.flush()?;
                }
                Ok(())
            }
            Operation::Zero {
                offset,
                len,
                no_hole,
            } => {
                self.values.write(offset, &vec![0; len]);
                let flags = ZeroFlags {
                    no_hole,
                    fast: false,
                };
                snapshot.zero_at(offset as u64, len as u64, flags)
            }
            Operation::Trim { offset, len } => {
                self.values.trim(offset, len);
                snapshot.discard_at(offset as u64, len as u64)
            }
            Operation::Flush => snapshot.flush(),
            Operation::Timer => snapshot.commit_pending().map(drop),
        }
    }

    /// Takes what the device did; before each flush the power may go.
    fn see(&mut self, on_cut: &mut OnCut<'_>) -> Result<(), String> {
        for event in self.log.take_log() {
            self.stream.pass(event, &mut self.bent);
        }
        self.stream.end_of_call(&mut self.bent);
        for event in std::mem::take(&mut self.bent) {
            if matches!(event, Event::Flush { .. }) {
                self.cut(on_cut)?;
            }
            self.state.add(&event);
        }
        Ok(())
    }

    fn cut(&self, on_cut: &mut OnCut<'_>) -> Result<(), String> {
        on_cut(&Cut {
            state: &self.state,
            values: &self.values,
            opened: self.opened,
        })
    }

    /// Compares what there is now, and notes what is durable.
    fn settle(&mut self, operation: Operation, done: bool) -> Result<(), String> {
        let mut found = vec![0; self.case.origin_bytes.len()];
        let read = self.snapshot.read_at(&mut found, 0);
        read.map_err(|e| format!("cannot be read: {e:?}"))?;
        match operation {
            Operation::Trim { offset, len } => self.values.settle(offset, len, &found)?,
            Operation::Write { offset, len }
            | Operation::WriteFua { offset, len }
            | Operation::Zero { offset, len, .. }
                if !done =>
            {
                self.values.settle(offset, len, &found)?;
            }
            _ => {}
        }
        if found != self.values.now() {
            return Err("the running snapshot shows something else than was written".to_owned());
        }
        let is_durable = match operation {
            Operation::Flush | Operation::WriteFua { .. } => true,
            Operation::Timer => false,
            _ => self.every_write,
        };
        if done && is_durable {
            self.values.flush();
        }
        Ok(())
    }
}
