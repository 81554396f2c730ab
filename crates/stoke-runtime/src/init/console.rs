//! A terminal of the container: its master goes to the caller, its other side becomes the process's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Uid, makedev};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::mounts::{attach, is_device, open_tree, place, resolve};
use crate::error::{Context as _, Error, Result};
use crate::spec::Process;

/// A pair that nobody uses yet.
pub(super) struct Terminal {
    master: OwnedFd,
    /// The process's side.
    side: OwnedFd,
}

/// Opens a terminal of the container's own devpts.
pub(super) fn open(root: BorrowedFd<'_>, process: &Process) -> Result<Terminal> {
    let what = || "process.terminal".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master =
        resolve(root, Path::new("/dev/pts/ptmx"), flags).or_else(|_| resolve(root, Path::new("/dev/ptmx"), flags));
    let master = master.context(|| "process.terminal: the container has no /dev/pts/ptmx".to_owned())?;
    // A file of the image that only looks like it would give the caller whatever the image wants.
    if !is_device(&master, FileType::CharacterDevice, makedev(5, 2)) {
        return Err(Error::field("process.terminal", "/dev/pts/ptmx is no terminal multiplexer"));
    }
    rustix::pty::unlockpt(&master).context(what)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let side = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(what)?;
    if let Some(size) = process.console_size {
        let window = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&side, window).context(|| "process.consoleSize".to_owned())?;
    }
    rustix::fs::fchown(&side, Some(Uid::from_raw(process.user.uid)), None).context(what)?;
    Ok(Terminal { master, side })
}

impl Terminal {
    /// Binds it to `/dev/console`.
    pub(super) fn bind(&self, root: &OwnedFd) -> Result<()> {
        let what = || "process.terminal: cannot bind /dev/console".to_owned();
        let place = place(root, Path::new("/dev/console"), false)?;
        let tree = open_tree(&self.side, Path::new(""), false).context(what)?;
        rustix::fs::fchmod(&self.side, Mode::from_raw_mode(0o620)).context(what)?;
        attach(tree, place).context(what)
    }

    /// Gives the master to whoever is at the socket.
    pub(super) fn send(&self, socket: impl AsFd) -> Result<()> {
        let sent = crate::wire::send_descriptor(socket, b"/dev/ptmx", self.master.as_fd());
        sent.context(|| "process.terminal: cannot send it to the console socket".to_owned())
    }

    /// Makes the other side the process's controlling terminal and its three descriptors.
    pub(super) fn take(self) -> Result<()> {
        let what = || "process.terminal: cannot become the process's".to_owned();
        rustix::process::ioctl_tiocsctty(&self.side).context(what)?;
        rustix::stdio::dup2_stdin(&self.side).context(what)?;
        rustix::stdio::dup2_stdout(&self.side).context(what)?;
        rustix::stdio::dup2_stderr(&self.side).context(what)
    }
}
