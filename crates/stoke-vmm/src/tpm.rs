//! The TPM of a machine: swtpm, a process beside QEMU.
//!
//! It ends by itself when QEMU's connection to it does (`--terminate`), so whatever ends QEMU ends it, too. Its state is in
//! the machine's state folder: the same TPM is in the machine at each start.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::process::{Process, SpawnError, last_messages, spawn};
use crate::spec::VmFiles;

/// The program.
pub const PROGRAM: &str = "swtpm";
/// How long it may take until it listens; it takes 20 ms on an idle host.
const START_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);

/// Why a machine has no TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The program is not there.
    #[error("swtpm, which is the machine's TPM, is missing: install the package swtpm")]
    Missing,
    /// It could not be started.
    #[error(transparent)]
    Spawn(SpawnError),
    /// Its folder could not be made.
    #[error("cannot prepare the TPM's folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended, or does not listen.
    #[error("the machine's TPM does not start: {0}")]
    Silent(String),
}

/// Starts the TPM of a machine that is off, and waits until QEMU can connect to it. It is a new one if the machine has none.
///
/// # Errors
/// If the package is missing, or it does not start.
pub async fn start(files: &VmFiles) -> Result<Process, TpmError> {
    previous_one_gone(files).await?;
    prepare(files)?;
    let messages = files.tpm_messages();
    let mut process = spawn(PROGRAM, &[], &messages, |_| arguments(files)).map_err(|error| match error {
        SpawnError::Missing { .. } => TpmError::Missing,
        error @ SpawnError::Start { .. } => TpmError::Spawn(error),
    })?;
    let limit = Instant::now() + START_LIMIT;
    while !files.tpm_socket().exists() {
        if process.has_ended() || Instant::now() > limit {
            process.kill();
            process.exited().await;
            return Err(TpmError::Silent(last_messages(&messages, 2)));
        }
        sleep(LOOK).await;
    }
    Ok(process)
}

/// Waits for the end of the TPM of the start before, whose QEMU has just ended: it takes its socket away when it goes.
async fn previous_one_gone(files: &VmFiles) -> Result<(), TpmError> {
    let pid = std::fs::read_to_string(files.tpm_pid()).ok().and_then(|text| text.trim().parse().ok());
    // Watched first, looked at second: if the number went to another process in between, the arguments say so.
    let Some((pid, Ok(mut process))) = pid.map(|pid: i32| (pid, Process::adopt(pid))) else { return Ok(()) };
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let socket = files.tpm_socket();
    let is_ours = String::from_utf8_lossy(&arguments).contains(&*socket.to_string_lossy());
    if is_ours && timeout(START_LIMIT, process.exited()).await.is_err() {
        return Err(TpmError::Silent(format!("the one of the last start, process {pid}, does not end")));
    }
    Ok(())
}

fn prepare(files: &VmFiles) -> Result<(), TpmError> {
    let path = files.tpm_state();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    let stale = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let cleared =
        std::fs::remove_file(files.tpm_socket()).or_else(|error| if stale(&error) { Ok(()) } else { Err(error) });
    made.and(cleared).map_err(|source| TpmError::Folder { path, source })
}

/// The arguments after the program's name.
fn arguments(files: &VmFiles) -> Vec<OsString> {
    let with = |before: &str, path: PathBuf, after: &str| {
        let mut text = OsString::from(before);
        text.push(path);
        text.push(after);
        text
    };
    vec![
        "socket".into(),
        "--tpm2".into(),
        "--terminate".into(),
        "--tpmstate".into(),
        with("dir=", files.tpm_state(), ",mode=0600"),
        "--ctrl".into(),
        with("type=unixio,path=", files.tpm_socket(), ",mode=0600"),
        "--pid".into(),
        with("file=", files.tpm_pid(), ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tpm_is_made_once_and_ends_when_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), folder.path());
        for _ in 0..2 {
            let mut tpm = start(&files).await.unwrap();
            assert!(files.tpm_socket().exists() && !tpm.has_ended());
            tpm.kill();
            tpm.exited().await;
        }
    }

    #[tokio::test]
    async fn one_that_does_not_start_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), &folder.path().join("missing"));
        let error = start(&files).await.unwrap_err();
        assert!(error.to_string().starts_with("the machine's TPM does not start: "), "{error}");
    }
}
