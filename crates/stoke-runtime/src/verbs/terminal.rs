//! A person's terminal in place of a console socket: `run` and `exec --tty` in the foreground.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios};

use crate::error::{Context as _, Error, Result};
use crate::wire::Link;

/// Waits for the container's terminal, and copies between it and ours.
pub(super) struct Proxy(OwnedFd);

/// Our own terminal, as it was; it is so again when this goes.
struct Raw(Termios);

impl Raw {
    fn begin() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _gone = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

impl Proxy {
    /// A proxy, and the socket that the container's process sends its terminal to.
    pub(super) fn new() -> Result<(Self, OwnedFd)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        pair.map(|(one, other)| (Self(one), other)).context(|| "cannot make sockets".to_owned())
    }

    /// Copies until the other side has ended.
    pub(super) fn run(self) -> Result<()> {
        let master = Link::new(self.0).receive_descriptor()?;
        let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let _raw = Raw::begin();
        if let Ok(size) = rustix::termios::tcgetwinsize(stdin) {
            let _no_terminal = rustix::termios::tcsetwinsize(&master, size);
        }
        let mut buffer = vec![0; 16 * 1024];
        let mut reads_input = true;
        loop {
            let mut polled = vec![PollFd::new(&master, PollFlags::IN)];
            if reads_input {
                polled.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.context(|| "cannot wait for the terminal".to_owned())?,
            };
            let is_ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
            if is_ready.first() == Some(&true) {
                // Its last other side is closed: the kernel answers EIO.
                let Some(read) = rustix::io::read(&master, &mut buffer).ok().filter(|read| *read > 0) else { break };
                write_all(stdout, buffer.get(..read).unwrap_or_default())?;
            }
            if is_ready.get(1) == Some(&true) {
                let read = rustix::io::read(stdin, &mut buffer).unwrap_or_default();
                reads_input = read > 0;
                write_all(&master, buffer.get(..read).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

fn write_all(to: impl std::os::fd::AsFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::system("cannot write to the terminal", error)),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}
