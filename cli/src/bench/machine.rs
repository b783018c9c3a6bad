//! What it was measured on.

use std::fs;

use serde::Serialize;

/// The machine that the load ran on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) cpu_model: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) usnap: &'static str,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            cpus,
            cpu_model: model.map(|(_, name)| name.trim().to_owned()),
            kernel: kernel.map(|release| release.trim().to_owned()),
            usnap: env!("CARGO_PKG_VERSION"),
        }
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        let model = self.cpu_model.as_deref().unwrap_or("unknown processor");
        let kernel = self.kernel.as_deref().unwrap_or("unknown");
        format!(
            "{} x {model}, Linux {kernel}, usnap {}",
            self.cpus, self.usnap
        )
    }
}
