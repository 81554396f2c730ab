//! Processes of this host: who they are over time, and which of them serve a socket of ours.
//!
//! A process id alone is used again by the kernel; with the time of its start it names one process for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the host did: field 22 of `/proc/PID/stat` (proc(5)).
    pub start: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        let fields = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may contain anything.
        let (_, rest) = fields.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        // A zombie has ended; it only waits to be counted by its parent.
        (state != "Z" && state != "X").then_some(Self { pid, start })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(self, signal: Signal) {
        if let Some(pid) = self.number() {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Sends a signal to it and to all processes of its group.
    pub fn signal_group(self, signal: Signal) {
        if let Some(pid) = self.number() {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn number(self) -> Option<Pid> {
        if !self.is_alive() {
            return None;
        }
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// The processes that were started with `--socket PATH`, by that path. What the kernel knows needs no record that could
/// be lost between a start and its writing down.
pub fn serving() -> BTreeMap<PathBuf, ProcessId> {
    with_argument("--socket").collect()
}

/// The processes that were started with an argument, by the path behind it.
pub(crate) fn with_argument(argument: &str) -> impl Iterator<Item = (PathBuf, ProcessId)> {
    processes().filter_map(move |pid| Some((path_argument(pid, argument)?, ProcessId::of(pid)?)))
}

fn path_argument(pid: u32, argument: &str) -> Option<PathBuf> {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = words.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    words.find(|word| word == argument)?;
    words.next().map(|path| PathBuf::from(path.into_owned()))
}

/// The last line of a log, for people.
pub fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    tail.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(|line| line.chars().take(300).collect())
}

/// Hypervisors that have a socket or file in `folder`.
pub fn hypervisors(folder: &Path) -> Vec<ProcessId> {
    let folder = format!("{}/", folder.display());
    let ours = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        name.starts_with("qemu-system") && String::from_utf8_lossy(&words).contains(&folder)
    };
    processes().filter(ours).filter_map(ProcessId::of).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
