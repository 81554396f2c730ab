//! Ends everything of an installation, with or without a living `stoke up`: goes on past errors and says what was done.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use rustix::process::Signal;
use stoke_api::control::{Down, Downed};
use stoke_api::report::Report;

use crate::egress;
use crate::http::{self, HttpError};
use crate::paths::{Folders, WorkloadFiles};
use crate::process::{self, ProcessId};
use crate::stop::{Stop, is_machine};
use crate::up::lock;

/// Guests get half a minute to shut down; then there are harder means.
const LIMIT: Duration = Duration::from_mins(2);
/// How often an end is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What an installation has in its state folder. Other files there are not ours.
const STATE: [&str; 10] =
    ["machines", "farms", "leases", "logs", "images", "builds", "boot", "keys", "store.redb", "lock"];

/// Ends everything: asks the `stoke up` that runs, or does it itself.
///
/// # Errors
/// If a `stoke up` runs and does not answer.
pub async fn down(folders: &Folders, purge: bool) -> anyhow::Result<Downed> {
    let request = serde_json::to_vec(&Down { purge })?;
    match http::request(&folders.control_socket(), Method::POST, "/v1/down", request, LIMIT).await {
        Ok(answer) => serde_json::from_slice(&answer.body).with_context(|| format!("refused: {}", answer.text())),
        Err(HttpError::Connect { .. }) if folders.state.exists() => {
            let _lock = lock(folders)?;
            Ok(end_everything(folders, purge).await)
        }
        Err(HttpError::Connect { .. }) => Ok(Downed::default()),
        Err(error) => Err(error.into()),
    }
}

/// Ends all that runs, machines first and the namespaces last. The caller holds the lock.
pub(crate) async fn end_everything(folders: &Folders, purge: bool) -> Downed {
    let mut downed = Downed::default();
    // A guest needs its root, and so its farm, to shut down.
    end_processes(folders, is_machine, &mut downed).await;
    end_hypervisors(folders, &mut downed);
    end_processes(folders, |name| name != "node", &mut downed).await;
    tear_down_links(folders, &mut downed).await;
    for pasta in egress::running(folders) {
        end_hard("pasta", pasta, &mut downed).await;
    }
    forget(folders, purge, &mut downed);
    downed
}

async fn end_processes(folders: &Folders, chosen: impl Fn(&str) -> bool, downed: &mut Downed) {
    let ends = process::serving().into_iter().filter_map(|(socket, id)| {
        let name = workload_of(folders, &socket)?;
        chosen(&name).then(|| end_process(folders, name, id))
    });
    for (name, failure) in futures::future::join_all(ends).await {
        match failure {
            None => downed.removed.push(format!("stopped {name}")),
            Some(failure) => downed.failures.push(failure),
        }
    }
}

/// The workload whose admin socket this is.
fn workload_of(folders: &Folders, socket: &Path) -> Option<String> {
    let name = socket.strip_prefix(folders.workloads()).ok()?.parent()?.to_str()?;
    (WorkloadFiles::new(folders, name).socket == socket).then(|| name.to_owned())
}

async fn end_process(folders: &Folders, name: String, id: ProcessId) -> (String, Option<String>) {
    let files = WorkloadFiles::new(folders, &name);
    let mut stop = Stop::new();
    let ended = async {
        while id.is_alive() {
            let report = status(&files).await;
            stop.advance(&name, id, &files, report.as_ref()).await;
            tokio::time::sleep(LOOK).await;
        }
    };
    let failure = tokio::time::timeout(LIMIT, ended).await.err();
    let failure = failure.map(|_| format!("{name} (process {}) does not end", id.pid));
    (name, failure)
}

async fn status(files: &WorkloadFiles) -> Option<Report> {
    let answer = http::request(&files.socket, Method::GET, "/status", Vec::new(), Duration::from_secs(1)).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

/// Hypervisors whose `stoke-vm` was killed have nobody who would end them.
fn end_hypervisors(folders: &Folders, downed: &mut Downed) {
    for id in process::hypervisors(&folders.workloads()) {
        id.signal(Signal::TERM);
        downed.removed.push(format!("ended hypervisor {}", id.pid));
    }
}

async fn end_hard(what: &str, id: ProcessId, downed: &mut Downed) {
    for signal in [Signal::TERM, Signal::KILL] {
        id.signal(signal);
        for _ in 0..20 {
            if !id.is_alive() {
                downed.removed.push(format!("stopped {what}"));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    downed.failures.push(format!("{what} (process {}) does not end", id.pid));
}

/// Gives uplinks back and removes what is ours: the node agent does it, being in the namespaces. Then it ends, and what it
/// left behind, if it was dead, is removed from here.
async fn tear_down_links(folders: &Folders, downed: &mut Downed) {
    let agent = WorkloadFiles::new(folders, "node").socket;
    let answer = http::request(&agent, Method::POST, "/teardown", Vec::new(), Duration::from_secs(20)).await;
    if let Ok(answer) = answer {
        let failures = serde_json::from_slice::<Vec<String>>(&answer.body);
        downed.failures.extend(failures.unwrap_or_else(|_| vec![answer.text()]));
    }
    end_processes(folders, |_| true, downed).await;
    let (run, installation) = (folders.run.clone(), folders.installation());
    match tokio::task::spawn_blocking(move || stoke_node::teardown(&run, &installation)).await {
        Ok(Ok(())) => {}
        Ok(Err(failures)) => downed.failures.extend(failures),
        Err(error) => downed.failures.push(format!("the teardown of links failed: {error}")),
    }
}

fn forget(folders: &Folders, purge: bool, downed: &mut Downed) {
    let run = ["workloads", "known_hosts", "ns", "ns.inode", "ports.sock", "pasta.pid", "pasta.json", "control.sock"];
    for name in run {
        remove(&folders.run.join(name), downed);
    }
    let _ = std::fs::remove_dir(&folders.run);
    if !purge {
        return;
    }
    for name in STATE {
        remove(&folders.state.join(name), downed);
    }
    // Only if nothing else is there: other files are not ours.
    let _ = std::fs::remove_dir(&folders.state);
}

fn remove(path: &Path, downed: &mut Downed) {
    let Ok(found) = std::fs::symlink_metadata(path) else { return };
    // Builds of an ordinary user leave files of subordinate ids.
    let removed = if found.is_dir() { stoke_image::store::remove_tree(path) } else { std::fs::remove_file(path) };
    match removed {
        Ok(()) => downed.removed.push(format!("removed {}", path.display())),
        Err(error) => downed.failures.push(format!("cannot remove {}: {error}", path.display())),
    }
}
