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
}

impl Record {
    pub(crate) fn read(files: &WorkloadFiles) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(&files.record).ok()?).ok()
    }

    pub(crate) fn write(&self, files: &WorkloadFiles) -> std::io::Result<()> {
        write_json(&files.record, self)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
