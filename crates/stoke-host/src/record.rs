//! What a workload was started with, beside its process: `workload.json`.
//!
//! It is written when the process has what it says. If it is missing or older than the process, the configuration is
//! told again: that is harmless, and a crash at any moment ends in the right state.

use serde::{Deserialize, Serialize};
use stoke_api::workload::Workload;

use crate::files::write_json;
use crate::paths::WorkloadFiles;
use crate::process::ProcessId;

/// What a workload was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// What the process has.
    pub(crate) workload: Workload,
    /// The process.
    pub(crate) process: ProcessId,
    /// When it was started: milliseconds since 1970.
    pub(crate) started_ms: u64,
    /// How often it ended unasked.
    pub(crate) restarts: u32,
    /// Which start of the host this was: what was running before the last one is not running any more.
    #[serde(default)]
    boot: String,
}

impl Record {
    pub(crate) fn new(workload: Workload, process: ProcessId, started_ms: u64, restarts: u32) -> Self {
        Self { workload, process, started_ms, restarts, boot: boot() }
    }

    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot == boot()
    }

    pub(crate) fn read(files: &WorkloadFiles) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(&files.record).ok()?).ok()
    }

    pub(crate) fn write(&self, files: &WorkloadFiles) -> std::io::Result<()> {
        write_json(&files.record, self)
    }
}

/// Names this start of the host (random(4)).
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
