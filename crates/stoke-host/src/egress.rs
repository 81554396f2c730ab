//! The way out of the namespace: keeps one `pasta` for it, and one of an earlier `stoke up` is kept, too.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stoke_node::egress::{PID_FILE, pasta_command};

use crate::files::write_json;
use crate::paths::Folders;
use crate::process::{self, ProcessId};

/// Pause between the first two starts; twice as long after each that came to nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_LIMIT: Duration = Duration::from_mins(1);
/// Who has run this long did not fail at its start.
const STABLE: Duration = Duration::from_secs(30);

/// Who runs, and for which namespace: a namespace made anew needs another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    process: ProcessId,
    namespace: u64,
}

/// The way out.
pub(crate) struct Egress {
    folders: Folders,
    running: Option<Record>,
    child: Option<Child>,
    not_before: Instant,
    started: Instant,
    /// Starts in a row that came to nothing.
    failures: u32,
    /// What was wrong last; told once.
    told: Option<String>,
}

impl Egress {
    /// Takes over what runs.
    pub(crate) fn adopt(folders: Folders) -> Self {
        let running = read(&folders);
        let now = Instant::now();
        Self { folders, running, child: None, not_before: now, started: now, failures: 0, told: None }
    }

    /// Starts or ends `pasta`, so that it is there if it is wanted.
    pub(crate) fn ensure(&mut self, wanted: bool) {
        if let Some(child) = &mut self.child {
            // Waited for, lest it stays a zombie.
            let _ = child.try_wait();
        }
        if self.running.is_some_and(|record| !record.process.is_alive()) {
            self.note_end(wanted);
        }
        let namespace = namespace(&self.folders);
        match (self.running, namespace) {
            (Some(record), Some(namespace)) if wanted && record.namespace == namespace => {}
            (Some(record), Some(_)) => record.process.signal(Signal::TERM),
            (None, Some(namespace)) if wanted && Instant::now() >= self.not_before => self.start(namespace),
            _ => {}
        }
    }

    fn note_end(&mut self, wanted: bool) {
        self.running = None;
        self.failures = if self.started.elapsed() >= STABLE { 0 } else { self.failures + 1 };
        let pause = PAUSE.saturating_mul(1 << self.failures.min(10)).min(PAUSE_LIMIT);
        self.not_before = self.started + pause;
        if wanted {
            let why = process::last_line(&self.folders.log("pasta")).unwrap_or_default();
            self.tell(format!("pasta ended: {why}"));
        }
    }

    /// Says what is wrong, once.
    fn tell(&mut self, error: String) {
        if self.told.as_ref() != Some(&error) {
            tracing::warn!("no way out of the namespace: {error}");
        }
        self.told = Some(error);
    }

    fn start(&mut self, namespace: u64) {
        self.started = Instant::now();
        self.not_before = self.started + PAUSE;
        match self.try_start(namespace) {
            Ok(record) => {
                tracing::info!(pid = record.process.pid, "pasta: the way out");
                self.running = Some(record);
            }
            Err(error) => self.tell(format!("{error:#}; is the package passt installed?")),
        }
    }

    fn try_start(&mut self, namespace: u64) -> anyhow::Result<Record> {
        let log = self.folders.log("pasta");
        fs_err::create_dir_all(self.folders.state.join("logs"))?;
        let log = fs_err::OpenOptions::new().create(true).append(true).open(log)?.into_parts().0;
        let mut command = pasta_command(&self.folders.namespaces(), &self.folders.run.join(PID_FILE))?;
        let child = command.current_dir("/").stdout(Stdio::null()).stderr(log).process_group(0).spawn()?;
        let process = ProcessId::of(child.id()).ok_or_else(|| anyhow::anyhow!("pasta ended at once"))?;
        self.child = Some(child);
        let record = Record { process, namespace };
        write_json(&record_file(&self.folders), &record)?;
        Ok(record)
    }
}

fn record_file(folders: &Folders) -> PathBuf {
    folders.run.join("pasta.json")
}

fn read(folders: &Folders) -> Option<Record> {
    let record: Record = serde_json::from_slice(&std::fs::read(record_file(folders)).ok()?).ok()?;
    record.process.is_alive().then_some(record)
}

/// The inode of the installation's network namespace.
fn namespace(folders: &Folders) -> Option<u64> {
    std::fs::metadata(folders.namespaces().join("net")).ok().map(|found| found.ino())
}

/// The processes that are the way out, by what the kernel knows of them: a record can be lost.
pub(crate) fn running(folders: &Folders) -> Vec<ProcessId> {
    let own = folders.run.join(PID_FILE);
    process::with_argument("--pid").filter(|(path, _)| *path == own).map(|(_, process)| process).collect()
}
