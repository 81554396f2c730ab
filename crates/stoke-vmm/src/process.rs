//! A QEMU that outlives whoever started it, and watching one whoever started it.
//!
//! [`spawn`] gives it a process group of its own, no standard input, and a file for its messages: neither a terminal's
//! Ctrl-C nor our own end reaches it. A [`Process`] holds a pidfd, so it never means another process that got the same
//! number later.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

/// Why a QEMU did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program is not there.
    #[error("{program} is missing: install the package qemu-system-x86")]
    Missing {
        /// The program.
        program: String,
    },
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// Descriptors that are being inherited are inheritable by any child for a moment: one start at a time. The rest of the
/// process starts no children by other ways.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts `program` with `arguments`, which are made from the numbers that the descriptors have in the new process.
///
/// # Errors
/// If the program is missing or cannot be started; how it ends later is seen by [`Process::exited`].
pub fn spawn(
    program: &str,
    inherited: &[BorrowedFd<'_>],
    messages: &Path,
    arguments: impl FnOnce(&[RawFd]) -> Vec<OsString>,
) -> Result<Process, SpawnError> {
    let error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SpawnError::Missing { program: program.to_owned() },
        _ => SpawnError::Start { program: program.to_owned(), source },
    };
    let messages =
        File::create(messages).map_err(|source| SpawnError::Start { program: program.to_owned(), source })?;
    let _one_at_a_time = STARTING.lock();
    // A plain dup(2) does not carry the close-on-exec flag over, which every other descriptor of ours has.
    let copies: Vec<OwnedFd> =
        inherited.iter().map(rustix::io::dup).collect::<Result<_, _>>().map_err(|errno| error(errno.into()))?;
    let numbers: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(program);
    command.args(arguments(&numbers)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages).process_group(0);
    let child = command.spawn().map_err(error)?;
    Process::of_child(child).map_err(error)
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    ended: watch::Receiver<bool>,
    child: Option<Child>,
}

impl Process {
    /// Watches a process that somebody else started.
    ///
    /// # Errors
    /// If there is none with that number.
    pub fn adopt(pid: i32) -> io::Result<Self> {
        Self::watch(Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?, None)
    }

    fn of_child(child: Child) -> io::Result<Self> {
        Self::watch(Pid::from_child(&child), Some(child))
    }

    /// A thread waits, since there is no way to wait for a pidfd in an event loop without unsafe code; it does nothing
    /// else, and ends with the process that it watches or with ours.
    fn watch(pid: Pid, child: Option<Child>) -> io::Result<Self> {
        let pidfd = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        let (over, ended) = watch::channel(false);
        let watched = Arc::clone(&pidfd);
        std::thread::Builder::new().name("watch-qemu".to_owned()).spawn(move || {
            // Readable when the process ends (pidfd_open(2)), also as a zombie that somebody else has to reap.
            while poll(&mut [PollFd::new(&*watched, PollFlags::IN)], None) == Err(Errno::INTR) {}
            over.send_replace(true);
        })?;
        Ok(Self { pid, pidfd, ended, child })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for its end. The status is known only of our own children.
    pub async fn exited(&mut self) -> Option<ExitStatus> {
        // The sender is only gone after it has said so.
        let _ = self.ended.wait_for(|ended| *ended).await;
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Ends it at once.
    pub fn kill(&self) {
        // It may have ended by itself, which is as good.
        let _ = pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }
}

/// The last lines of a file of messages, for people.
pub fn last_messages(path: &Path, lines: usize) -> String {
    let text = fs_err::read_to_string(path).unwrap_or_default();
    let mut last: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(lines).collect();
    last.reverse();
    last.join("; ")
}
