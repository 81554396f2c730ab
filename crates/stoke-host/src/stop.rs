//! Ending a workload, step by step, without waiting in between.
//!
//! ```text
//!   PowerOff ----------> Ask -------------> Terminate ------> Kill
//!   (a machine: until    (POST /stop,       (SIGTERM)         (SIGKILL, repeated
//!    its guest is off)    5 s)               5 s               until it is gone)
//! ```

use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::Signal;
use stoke_api::objects::Power;
use stoke_api::report::Report;

use crate::files::write_json;
use crate::http;
use crate::paths::WorkloadFiles;
use crate::process::ProcessId;

/// What a guest has to shut down, beyond which its hypervisor cuts it off by itself; and some more.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(45);
/// What a role has for its requests in flight.
const ASK_LIMIT: Duration = Duration::from_secs(7);
/// What a process has after SIGTERM.
const TERMINATE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    PowerOff,
    Ask,
    Terminate,
    Kill,
}

impl Stage {
    fn limit(self) -> Duration {
        match self {
            Self::PowerOff => POWER_OFF_LIMIT,
            Self::Ask => ASK_LIMIT,
            Self::Terminate => TERMINATE_LIMIT,
            Self::Kill => Duration::from_secs(1),
        }
    }

    fn next(self) -> Self {
        match self {
            Self::PowerOff => Self::Ask,
            Self::Ask => Self::Terminate,
            Self::Terminate | Self::Kill => Self::Kill,
        }
    }
}

/// How far the end of a workload is.
#[derive(Debug)]
pub(crate) struct Stop {
    stage: Option<Stage>,
    since: Instant,
}

impl Stop {
    pub(crate) fn new() -> Self {
        Self { stage: None, since: Instant::now() }
    }

    /// Goes on with the end of `process`. Call it again until the process is gone.
    pub(crate) async fn advance(
        &mut self,
        name: &str,
        process: ProcessId,
        files: &WorkloadFiles,
        last: Option<&Report>,
    ) {
        let off = matches!(last, Some(Report::Vm(report)) if report.power == Power::Off);
        let next = match self.stage {
            None if is_machine(name) => Stage::PowerOff,
            None => Stage::Ask,
            Some(Stage::PowerOff) if off => Stage::Ask,
            Some(stage) if self.since.elapsed() >= stage.limit() => stage.next(),
            Some(_) => return,
        };
        (self.stage, self.since) = (Some(next), Instant::now());
        tracing::info!(workload = name, pid = process.pid, "stopping: {next:?}");
        enter(next, name, process, files).await;
    }
}

/// Whether a workload of this name is a machine.
pub(crate) fn is_machine(workload: &str) -> bool {
    workload.starts_with("vm-")
}

async fn enter(stage: Stage, name: &str, process: ProcessId, files: &WorkloadFiles) {
    let post =
        async |path: &str| http::request(&files.socket, Method::POST, path, Vec::new(), Duration::from_secs(2)).await;
    match stage {
        // What fails here is tried by harder means in the next stage.
        Stage::PowerOff => {
            if let Err(error) = write_power_off(files) {
                tracing::warn!(workload = name, "cannot switch the machine off: {error}");
            }
            drop(post("/reload").await);
        }
        Stage::Ask => drop(post("/stop").await),
        Stage::Terminate => end(name, process, Signal::TERM),
        Stage::Kill => end(name, process, Signal::KILL),
    }
}

/// A build's tools are in its group; they have no other owner who would end them.
pub(crate) fn end(name: &str, process: ProcessId, signal: Signal) {
    if name.starts_with("build-") { process.signal_group(signal) } else { process.signal(signal) }
}

/// Only the wanted power is changed: everything else in the configuration stays as the process knows it.
fn write_power_off(files: &WorkloadFiles) -> std::io::Result<()> {
    let mut config: serde_json::Value = serde_json::from_slice(&fs_err::read(&files.config)?)?;
    if let Some(power) = config.get_mut("power") {
        *power = serde_json::to_value(Power::Off)?;
    }
    write_json(&files.config, &config)
}
