//! As PID 1 of a pod: children that nobody waits for are reaped.

use anyhow::Context as _;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, getpid, waitid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// Starts reaping if this process is PID 1; any other process has no orphans.
pub(crate) fn reap_as_init() -> anyhow::Result<()> {
    if getpid() != Pid::INIT {
        return Ok(());
    }
    let mut children = signal(SignalKind::child()).context("cannot wait for SIGCHLD")?;
    tokio::spawn(async move {
        while children.recv().await.is_some() {
            reap();
        }
    });
    Ok(())
}

/// A QEMU that this process started is reaped by whoever watches it (`Process::exited`); it is asked first and reports
/// by pidfd. Losing that race costs only the exit status.
fn reap() {
    let ended = || waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
    while let Ok(Some(_)) = ended() {
        if !matches!(waitpid(None, WaitOptions::NOHANG), Ok(Some(_))) {
            return;
        }
    }
}
