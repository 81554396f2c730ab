//! The holder: a process that does nothing but stay in the namespaces, so that they outlive all of ours that do something.
//!
//! Killed all at once, agent, router and farm would take the namespaces with them, and running machines would be left on
//! bridges that nobody can reach. The holder is a shell that looks every few seconds whether the installation is still
//! there (the record in its run folder) and ends when it is not.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// Its process id, in the run folder.
const PID_FILE: &str = "holder.pid";
const SCRIPT: &str = "while test -e \"$1\"; do sleep 5; done";

/// The id that was recorded; whose process it is now, the caller must see.
pub(crate) fn pid(run_dir: &Path) -> Option<u32> {
    std::fs::read_to_string(file(run_dir)).ok()?.trim().parse().ok()
}

/// Starts a holder in the namespaces of this process. It stays as long as `record` exists.
pub(crate) fn start(run_dir: &Path, record: &Path) -> io::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "stokehold-holder"]).arg(std::path::absolute(record)?).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: no Ctrl-C reaches it, and it ends together with its `sleep`.
    let child = command.process_group(0).spawn()?;
    std::fs::write(file(run_dir), format!("{}\n", child.id()))
}

/// Ends the holder at once. The caller has seen that the process is ours.
pub(crate) fn end(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    match kill_process_group(pid, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        ended => Ok(ended?),
    }
}

/// Where its process id is.
pub(crate) fn file(run_dir: &Path) -> PathBuf {
    run_dir.join(PID_FILE)
}
