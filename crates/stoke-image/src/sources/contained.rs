//! buildah and skopeo as processes: contained, so that they leave nothing on this host and end with us.
//!
//! Their storage is a folder of the store's cache. As root they would also write to `/var/lib/containers` (a cache of what
//! is in which registry); in their mount namespace a folder of ours is there.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use fs_err as fs;
use rustix::process::{getegid, geteuid};

use crate::BuildError;
use crate::process::{self, MORTAL, mortal};
use crate::recipe::Privilege;

/// Namespaces that end with their first process.
const NAMESPACES: [&str; 6] = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
/// Puts a folder in the place of the host's state, then becomes the program.
const AS_ROOT: &str = "mkdir -p /var/lib/containers && mount --bind \"$1\" /var/lib/containers && shift && exec \"$@\"";
const AS_USER: &str = "shift && exec \"$@\"";
/// Both outputs of the program are one.
const AS_ONE: &str = " 2>&1";
/// How many of the last lines are kept to explain a failure.
const KEPT_LINES: usize = 60;

/// What programs of containers run with.
pub(super) struct Containment<'a> {
    pub(super) privilege: Privilege,
    /// The folder of the cache that is theirs.
    pub(super) folder: PathBuf,
    /// Where half-done work goes, and where they run.
    pub(super) workspace: &'a Path,
}

/// How a program ended, and the last that it said.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) said: Vec<String>,
}

impl Containment<'_> {
    /// Runs a program and shows each line that it writes.
    pub(super) fn run(
        &self,
        program: &OsStr,
        arguments: &[String],
        mut hear: impl FnMut(&str),
    ) -> Result<Ended, BuildError> {
        let mut command = self.command(program, AS_ONE)?;
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = std::collections::VecDeque::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).into_owned();
                hear(&line);
                if said.len() == KEPT_LINES {
                    said.pop_front();
                }
                said.push_back(line);
            }
        }
        Ok(Ended { status: child.wait()?, said: said.into() })
    }

    /// What a program answers, to the byte; or what it complained of.
    pub(super) fn ask(&self, program: &OsStr, arguments: &[String]) -> Result<Result<Vec<u8>, String>, BuildError> {
        let mut command = self.command(program, "")?;
        let output = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        if output.status.success() {
            return Ok(Ok(output.stdout));
        }
        let said = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
        Ok(Err(Ended { status: output.status, said }.last_words()))
    }

    fn command(&self, program: &OsStr, outputs: &str) -> Result<Command, BuildError> {
        let program = process::find(program)?;
        let host = self.folder.join("host");
        fs::create_dir_all(&host)?;
        let mut command = match self.privilege {
            Privilege::Root => {
                let mut command = mortal(OsStr::new("unshare"));
                command.args(NAMESPACES).args(["sh", "-c", &format!("{AS_ROOT}{outputs}"), "sh"]);
                command
            }
            // The signal is set inside: the kernel forgets it when a process gets capabilities (`commit_creds`).
            Privilege::Unshare => {
                let mut command = Command::new("unshare");
                command.args(["--map-root-user", "--map-auto", "--", "setpriv"]).args(MORTAL).arg("unshare");
                command.args(NAMESPACES).args(["sh", "-c", &format!("{AS_USER}{outputs}"), "sh"]);
                // What these programs tell themselves when they have made the namespace on their own.
                command.env("_CONTAINERS_USERNS_CONFIGURED", "done");
                command.env("_CONTAINERS_ROOTLESS_UID", geteuid().as_raw().to_string());
                command.env("_CONTAINERS_ROOTLESS_GID", getegid().as_raw().to_string());
                command.env("XDG_DATA_HOME", &host);
                command
            }
        };
        command.arg(host).arg(program).env("TMPDIR", self.workspace).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).current_dir(self.workspace);
        Ok(command)
    }
}

impl Ended {
    /// Whether there was no room.
    pub(super) fn disk_was_full(&self) -> bool {
        self.said.iter().any(|line| line.to_lowercase().contains("no space left on device"))
    }

    /// The last lines in one, without the decoration of logs.
    pub(super) fn last_words(&self) -> String {
        let plain: Vec<String> = self.said.iter().map(|line| message_of(line)).collect();
        process::last_lines(&plain.join("\n"))
    }
}

/// `time="…" level=fatal msg="…"` is its message.
fn message_of(line: &str) -> String {
    match line.split_once("msg=\"") {
        Some((_, rest)) if line.starts_with("time=") => rest.trim_end_matches('"').replace("\\\"", "\""),
        _ => line.to_owned(),
    }
}
