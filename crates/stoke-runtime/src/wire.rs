//! What the runtime and a container's first process say to each other: whole messages over a Unix socket, in JSON.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};
use crate::spec::{Process, Spec};

/// Longer messages do not come.
const LONGEST: usize = 64 * 1024;

/// What the first process of a container is given before it begins, in memory that it inherits.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say it")]
pub struct Plan {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub spec: Spec,
    /// The container's folder in each hierarchy, if the specification has them mounted.
    pub cgroups: Vec<CgroupTree>,
    /// Numbers of inherited descriptors.
    pub link: i32,
    pub listener: i32,
    pub root_tree: i32,
    /// For each mount of the specification, the tree to attach, if it was opened outside.
    pub trees: Vec<Option<i32>>,
    pub console: Option<i32>,
    pub seccomp: Option<i32>,
    /// The standard error that the caller gave.
    pub stderr: Option<i32>,
    pub options: Options,
}

/// A folder of cgroups to mount.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say it")]
pub struct CgroupTree {
    /// Where the hierarchy is mounted below `/sys/fs/cgroup`.
    pub name: String,
    pub controllers: Vec<String>,
    /// Number of the inherited descriptor.
    pub tree: i32,
}

/// What a process that `exec` adds is given.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say it")]
pub struct Joining {
    pub id: String,
    pub process: Process,
    pub seccomp_flags: u64,
    pub personality: Option<String>,
    pub link: i32,
    /// Files by which it enters cgroups of version 1.
    pub tasks: Vec<i32>,
    /// Kinds of namespaces (as in `config.json`) and inherited descriptors of them, in the order in which they are joined.
    pub namespaces: Vec<(String, i32)>,
    pub console: Option<i32>,
    pub seccomp: Option<i32>,
    pub options: Options,
}

/// Flags of the command line that concern the inside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say it")]
pub struct Options {
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub preserve_fds: u32,
}

/// A message.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The first process is there, and no longer dies with liblxc's monitor.
    Hello,
    /// Go on. Hooks in the container get this state.
    Go {
        /// Process number as the runtime sees it.
        pid: i32,
    },
    /// All is prepared; or what was sent is received; or the container is written down.
    Ready,
    /// A seccomp listener, in an attached descriptor.
    Listener,
    /// It cannot go on.
    Failed {
        /// Why, in one line.
        message: String,
        /// What a shell would exit with.
        code: u8,
    },
}

/// One end of a connection.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// What arrived.
pub struct Received {
    /// The message.
    pub message: Message,
    /// The process that sent it, in this process's numbers, if that was asked for.
    pub sender: Option<Pid>,
    /// A descriptor that came along.
    pub descriptor: Option<OwnedFd>,
}

impl Link {
    /// Two connected ends.
    pub fn pair() -> Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        pair.map(|(one, other)| (Self(one), Self(other))).context(|| "cannot make sockets".to_owned())
    }

    /// An end that is open already.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The socket itself, for another process.
    pub fn into_socket(self) -> OwnedFd {
        self.0
    }

    /// Has each message come with the process that sent it.
    pub fn identify(&self) -> Result<()> {
        rustix::net::sockopt::set_socket_passcred(&self.0, true).context(|| "cannot ask for credentials".to_owned())
    }

    /// Sends a message, with a descriptor if there is one.
    pub fn send(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message).unwrap_or_default();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        rustix::net::sendmsg(&self.0, &[io::IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message. None if the other side is gone.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let mut text = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let received = loop {
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // What was sent before the other side died is lost with it.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let (mut sender, mut descriptor) = (None, None);
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
                RecvAncillaryMessage::ScmRights(descriptors) => descriptor = descriptors.into_iter().next(),
                _ => {}
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(text.get(..received.bytes).unwrap_or_default())?;
        Ok(Some(Received { message, sender, descriptor }))
    }

    /// Waits for a descriptor, whatever text comes with it.
    pub fn receive_descriptor(&self) -> Result<OwnedFd> {
        let mut text = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .context(|| "cannot get a descriptor".to_owned())?;
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        descriptor.ok_or_else(|| Error::State("no descriptor came".to_owned()))
    }

    /// Waits for a message; the other side's death and its failure are errors.
    pub fn expect(&self, what: &str) -> Result<Received> {
        let received = self.receive().context(|| format!("cannot hear of {what}"))?;
        match received {
            Some(Received { message: Message::Failed { message, code }, .. }) => Err(Error::Init { message, code }),
            Some(received) => Ok(received),
            None => Err(Error::Init { message: format!("the container's process died before {what}"), code: 1 }),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The address of a socket in a folder, however long the folder's path is: an address has 107 bytes (unix(7)).
fn address(path: &Path) -> Result<(OwnedFd, SocketAddrUnix)> {
    use rustix::fs::{Mode, OFlags};
    let what = || format!("{} is no place for a socket", path.display());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{number}/{name}")).context(what)?;
    Ok((folder, address))
}

/// A socket at which the container's first process waits.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let what = || format!("cannot listen at {}", path.display());
    let (_folder, address) = address(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.context(what)?;
    rustix::net::bind(&socket, &address).context(what)?;
    rustix::net::listen(&socket, 8).context(what)?;
    Ok(socket)
}

/// Connects to a socket of messages, or one of bytes as callers have them.
pub fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let what = || format!("cannot connect to {}", path.display());
    let (_folder, address) = address(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).context(what)?;
    rustix::net::connect(&socket, &address).context(what)?;
    Ok(socket)
}

/// Sends a descriptor and a text over a socket of bytes: a terminal to whoever shows it, a seccomp listener to its agent.
pub fn send_descriptor(socket: impl AsFd, text: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[io::IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_sender_and_brings_a_descriptor() {
        let (one, other) = Link::pair().unwrap();
        other.identify().unwrap();
        one.send(&Message::Hello, Some(one.as_fd())).unwrap();
        let received = other.receive().unwrap().unwrap();
        assert!(matches!(received.message, Message::Hello));
        assert_eq!(received.sender, Some(rustix::process::getpid()));
        assert!(received.descriptor.is_some());
        drop((one, received));
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn a_socket_may_be_deep_in_folders() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("start.sock");
        let _listener = listen(&path).unwrap();
        connect(&path, SocketType::SEQPACKET).unwrap();
    }
}
