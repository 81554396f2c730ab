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

/// Pause between two starts.
const PAUSE: Duration = Duration::from_secs(3);

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
    /// What was wrong last; told once.
    told: Option<String>,
}

impl Egress {
    /// Takes over what runs.
    pub(crate) fn adopt(folders: Folders) -> Self {
        let running = read(&folders);
        Self { folders, running, child: None, not_before: Instant::now(), told: None }
    }

    /// Starts or ends `pasta`, so that it is there if it is wanted.
    pub(crate) fn ensure(&mut self, wanted: bool) {
        if let Some(child) = &mut self.child {
            // Waited for, lest it stays a zombie.
            let _ = child.try_wait();
        }
        self.running = self.running.filter(|record| record.process.is_alive());
        let namespace = namespace(&self.folders);
        match (self.running, namespace) {
            (Some(record), Some(namespace)) if wanted && record.namespace == namespace => {}
            (Some(record), Some(_)) => record.process.signal(Signal::TERM),
            (None, Some(namespace)) if wanted && Instant::now() >= self.not_before => self.start(namespace),
            _ => {}
        }
    }

    fn start(&mut self, namespace: u64) {
        self.not_before = Instant::now() + PAUSE;
        match self.try_start(namespace) {
            Ok(record) => {
                tracing::info!(pid = record.process.pid, "pasta: the way out");
                (self.running, self.told) = (Some(record), None);
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.told.as_ref() != Some(&error) {
                    tracing::warn!("no way out of the namespace: {error}; is the package passt installed?");
                }
                self.told = Some(error);
            }
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
