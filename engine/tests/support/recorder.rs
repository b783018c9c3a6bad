//! A device in memory, below a log of what is done to it, below a device that fails where it is
//! told to.

use std::sync::Arc;

use usnap_engine::device::MemDevice;
use usnap_engine::sim::{Event, Fault, Flaky, LogWrites};

/// The three of them.
pub(crate) struct Recorder {
    /// The lowest one.
    pub(crate) memory: Arc<MemDevice>,
    log: Arc<LogWrites>,
    /// What is given to those who are watched.
    pub(crate) device: Arc<Flaky>,
}

impl Recorder {
    pub(crate) fn new(image: &[u8]) -> Self {
        let memory = Arc::new(MemDevice::from_bytes(image));
        let log = Arc::new(LogWrites::new(memory.clone()));
        let device = Arc::new(Flaky::new(log.clone()));
        Self {
            memory,
            log,
            device,
        }
    }

    /// What was done since the last time this was asked.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        self.log.take_log()
    }

    /// The bytes, as a reader sees them.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.memory.to_bytes()
    }

    /// Lets calls fail.
    pub(crate) fn fail(&self, fault: Fault) {
        self.device.fail(fault);
    }

    /// How many calls have failed.
    pub(crate) fn faults_met(&self) -> u64 {
        self.device.faults_met()
    }
}
