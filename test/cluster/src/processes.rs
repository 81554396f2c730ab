//! Processes of pods, as this host sees them: nodes are namespaces of it.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Lab;

/// A process of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Its id here.
    pub process: i32,
    /// Its command line.
    pub command: String,
}

impl Victim {
    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn kill(&self) -> Result<()> {
        let process = Pid::from_raw(self.process).context("no process")?;
        Ok(kill_process(process, Signal::KILL)?)
    }

    /// Whether it runs.
    pub fn lives(&self) -> bool {
        fs_err::read(format!("/proc/{}/cmdline", self.process)).is_ok_and(|line| !line.is_empty())
    }
}

/// The processes of pods with these labels whose command line begins with this program, and these arguments.
///
/// # Errors
/// If there are none.
pub fn victims(lab: &Lab, namespace: &str, labels: &str, program: &str) -> Result<Vec<Victim>> {
    let pods = lab.kubectl(&["--namespace", namespace, "get", "pods", "--selector", labels, "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let items = pods.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let uids: Vec<_> =
        items.iter().filter_map(|pod| Some(format!("pod{}", pod.pointer("/metadata/uid")?.as_str()?))).collect();
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc")? {
        let folder = entry?.path();
        let Some(process) = folder.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // A process that ends meanwhile is none of them.
        let cgroup = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&line).replace('\0', " ");
        if uids.iter().any(|uid| cgroup.contains(uid)) && names(&command, program) {
            found.push(Victim { process, command });
        }
    }
    ensure!(!found.is_empty(), "no {program} runs in the pods {labels} of {namespace}: {uids:?}");
    Ok(found)
}

/// Whether a command line begins with these words, wherever the program is.
fn names(command: &str, words: &str) -> bool {
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let program = program.rsplit('/').next().unwrap_or_default();
    format!("{program} {arguments}").starts_with(&format!("{words} "))
}
