//! Servers that an update reboots by SSH, because their agents did not hear: each request once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use stoke_api::ObjectRef;
use stoke_reconcile::{Occurrence, SshReboot};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::paths::Folders;
use crate::store::LocalStore;

const NOTE: &str = "ssh-reboots";
/// How long a login may take. A system that goes down may never end it.
const LIMIT: Duration = Duration::from_mins(1);
/// Of what ssh says, no more than this is told.
const WORDS: usize = 300;

/// What was asked for and done.
pub struct SshReboots {
    notes: Arc<LocalStore>,
    /// By node, the number of requests that were carried out: on disk before they are.
    done: BTreeMap<String, u64>,
    running: JoinSet<Occurrence>,
}

impl SshReboots {
    /// Goes on from what was done.
    ///
    /// # Errors
    /// If the notes cannot be read.
    pub fn open(notes: Arc<LocalStore>) -> anyhow::Result<Self> {
        let done = notes.note(NOTE)?.unwrap_or_default();
        Ok(Self { notes, done, running: JoinSet::new() })
    }

    /// Begins what is asked for anew by `reboot`, which gives back what came of it, and tells how earlier requests ended.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub fn carry_out<F>(
        &mut self,
        wanted: &[SshReboot],
        reboot: impl Fn(&ObjectRef) -> F,
    ) -> anyhow::Result<Vec<Occurrence>>
    where
        F: Future<Output = String> + Send + 'static,
    {
        for SshReboot { node, count } in wanted {
            let name = node.to_string();
            if self.done.get(&name).is_some_and(|done| done >= count) {
                continue;
            }
            self.done.insert(name, *count);
            self.notes.set_note(NOTE, &self.done)?;
            let (object, said) = (node.clone(), reboot(node));
            self.running.spawn(async move {
                let message = said.await;
                tracing::info!(%object, "{message}");
                Occurrence { object, reason: "UpdateReboot".to_owned(), message }
            });
        }
        let mut ended = Vec::new();
        while let Some(one) = self.running.try_join_next() {
            ended.push(one?);
        }
        Ok(ended)
    }
}

/// How this host logs in: by `stoke ssh`, which knows namespaces, keys and host keys.
pub(crate) struct Login {
    stoke: PathBuf,
    state: PathBuf,
}

impl Login {
    pub(crate) fn new(stoke: PathBuf, folders: &Folders) -> Self {
        Self { stoke, state: folders.state.clone() }
    }

    pub(crate) fn reboot(&self, node: &ObjectRef) -> impl Future<Output = String> + Send + use<> {
        let mut command = Command::new(&self.stoke);
        command.arg("--state").arg(&self.state).arg("ssh").arg(node.to_string());
        command.args(["--", "systemctl", "reboot"]);
        log_in(command)
    }
}

/// Runs a command that logs in and reboots. What came of it, for people.
pub async fn log_in(mut command: Command) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        // A connection that breaks is a system that went down.
        Err(_) => "rebooted by SSH, without an answer".to_owned(),
        Ok(Ok(output)) if output.status.success() => "rebooted by SSH".to_owned(),
        Ok(Ok(output)) => {
            let words: String =
                String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
            format!("the reboot by SSH ended so: {}", words.chars().take(WORDS).collect::<String>())
        }
        Ok(Err(error)) => format!("the reboot by SSH cannot be started: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Instant;

    fn reboots(folder: &Path, program: &str) -> (SshReboots, Login) {
        let notes = Arc::new(LocalStore::open(&folder.join("store")).unwrap());
        let folders = Folders { state: folder.to_owned(), run: folder.join("run") };
        (SshReboots::open(notes).unwrap(), Login::new(program.into(), &folders))
    }

    fn wanted(count: u64) -> Vec<SshReboot> {
        let node = ObjectRef { kind: stoke_api::Kind::Server, namespace: None, name: "rack1-07".parse().unwrap() };
        vec![SshReboot { node, count }]
    }

    async fn said((reboots, login): &mut (SshReboots, Login), wanted: &[SshReboot]) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let ended = reboots.carry_out(wanted, |node| login.reboot(node)).unwrap();
            if !ended.is_empty() || (reboots.running.is_empty() && begin.elapsed() > Duration::from_millis(200)) {
                return ended.into_iter().map(|one| one.message).collect();
            }
            assert!(begin.elapsed() < Duration::from_mins(1));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn each_request_is_carried_out_once_also_by_who_comes_after() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = reboots(folder.path(), "/bin/true");
        assert_eq!(said(&mut first, &wanted(1)).await, ["rebooted by SSH"]);
        assert!(said(&mut first, &wanted(1)).await.is_empty());
        drop(first);
        let mut second = reboots(folder.path(), "/bin/false");
        assert!(said(&mut second, &wanted(1)).await.is_empty());
        let failed = said(&mut second, &wanted(2)).await;
        assert!(failed[0].starts_with("the reboot by SSH ended so"), "{failed:?}");
    }
}
