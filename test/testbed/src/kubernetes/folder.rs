//! A folder, and cgroups, that are removed also when the process of the test is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Removes the cgroups that are called so in any hierarchy, when their processes are gone.
const REMOVE_CGROUPS: &str = r#"
left=1
for try in $(seq 100); do
    left=0
    for cgroup in /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1"; do
        [ -d "$cgroup" ] || continue
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
    done
    [ $left = 1 ] || break
    sleep 0.1
done
"#;

/// A folder of a server or node.
pub(super) struct Folder {
    path: TempDir,
    cgroup: Option<String>,
    /// Waits for the end of this process, however that comes, and removes everything.
    sweeper: Child,
}

impl Folder {
    pub(super) fn new() -> Result<Self> {
        Self::make(None)
    }

    /// One with the cgroups of that name, which others make.
    pub(super) fn with_cgroup(cgroup: &str) -> Result<Self> {
        Self::make(Some(cgroup.to_owned()))
    }

    fn make(cgroup: Option<String>) -> Result<Self> {
        // A short path: sockets below it must fit 107 bytes.
        let path = tempfile::Builder::new().prefix("stk").tempdir().context("cannot make a folder")?;
        let remove = "rm -rf -- \"$2\" || { sleep 1; rm -rf -- \"$2\"; }";
        let script = match &cgroup {
            Some(_) => format!("read -r _\n{REMOVE_CGROUPS}\n{remove}"),
            None => format!("read -r _; {remove}"),
        };
        let mut sweeper = Command::new("setsid");
        sweeper.args(["sh", "-c", &script, "sweeper", cgroup.as_deref().unwrap_or_default()]).arg(path.path());
        sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { sweeper: sweeper.spawn().context("cannot start setsid")?, path, cgroup })
    }

    pub(super) fn path(&self) -> &Path {
        self.path.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = Command::new("sh").args(["-c", REMOVE_CGROUPS, "sweeper", cgroup]).status();
        }
        // Nothing is left for it to remove. That of the folder comes after this.
        let _ = self.sweeper.kill();
        let _ = self.sweeper.wait();
    }
}
