//! The root by NBD: connections are negotiated here and then given to the kernel, which reads by itself. A
//! [`Keeper`] replaces those that die.
//!
//! Kernel side: Linux' `drivers/block/nbd.c`, `include/uapi/linux/nbd-netlink.h`.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};

use crate::journal::Journal;
use crate::netlink::{Message, Received, Socket, append, attribute, u32_at};

const FAMILY: &str = "nbd";
const CMD_CONNECT: u8 = 1;
const CMD_DISCONNECT: u8 = 2;
const CMD_RECONFIGURE: u8 = 3;
const CMD_LINK_DEAD: u8 = 4;
const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

const BLOCK_SIZE: u64 = 4096;
/// Seconds after which a request without answer makes its connection dead.
const REQUEST_TIMEOUT: u64 = 30;
/// Seconds that reads wait for a new connection when all are dead: a node outlives its farm's absence. A month.
const DEAD_CONN_TIMEOUT: u64 = 30 * 24 * 3600;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const NEGOTIATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the kernel may take to notice that a connection has ended which we have shut down.
const NOTICE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Who serves the root, and what it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Export {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) name: String,
    /// What its size must be.
    pub(crate) size: u64,
}

impl Export {
    /// Connects to the first server that answers, beginning with number `first`.
    fn connect(&self, first: usize) -> Result<(TcpStream, u16)> {
        let mut last = None;
        for offset in 0..self.servers.len() {
            let Some(server) = self.servers.get((first + offset) % self.servers.len()) else { continue };
            match self.connect_to(*server) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error.context(format!("NBD server {server}"))),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no NBD server is named")))
    }

    fn connect_to(&self, server: SocketAddr) -> Result<(TcpStream, u16)> {
        let mut stream = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT).context("could not connect")?;
        stream.set_read_timeout(Some(NEGOTIATE_TIMEOUT))?;
        stream.set_write_timeout(Some(NEGOTIATE_TIMEOUT))?;
        let negotiated = stoke_nbd::client::negotiate(&mut stream, &self.name)?;
        if negotiated.size < self.size {
            bail!("export {:?} has {} bytes, the root has {}", self.name, negotiated.size, self.size);
        }
        // From here on the kernel reads, and it would take our limits for its own.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        stream.set_nodelay(true)?;
        // An idle connection whose server is gone without a word.
        let alive = TcpKeepalive::new().with_time(Duration::from_secs(20)).with_interval(Duration::from_secs(5));
        SockRef::from(&stream).set_tcp_keepalive(&alive.with_retries(4))?;
        Ok((stream, negotiated.flags))
    }
}

/// An attached device, with descriptors of the connections that the kernel uses.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) connections: Vec<OwnedFd>,
}

impl Device {
    /// Connects so many times, spread over the servers, and makes a device of it.
    pub(crate) fn attach(export: &Export, connections: usize) -> Result<Self> {
        let (mut sockets, mut flags) = (Vec::new(), 0);
        for number in 0..connections {
            let (stream, its_flags) = export.connect(number)?;
            flags = its_flags;
            sockets.push(OwnedFd::from(stream));
            if flags & stoke_nbd::wire::FLAG_CAN_MULTI_CONN == 0 {
                break;
            }
        }
        let mut netlink = Socket::generic(0)?;
        let family = netlink.family(FAMILY)?;
        let answers = netlink.request(&connect_message(family.id, export.size, flags, &sockets));
        let answers = answers.context("the kernel refuses to attach the NBD device")?;
        let index = answers.iter().find_map(index).context("the kernel does not say which NBD device it attached")?;
        Ok(Self { index, connections: sockets })
    }

    /// Its block device.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/nbd{}", self.index))
    }
}

/// Gives a device back, if nobody uses it.
pub(crate) fn detach(index: u32) -> Result<()> {
    let mut netlink = Socket::generic(0)?;
    let family = netlink.family(FAMILY)?;
    let message = Message::generic(family.id, CMD_DISCONNECT).with(ATTR_INDEX, &index.to_ne_bytes());
    netlink.request(&message).map(drop)
}

fn connect_message(family: u16, size: u64, flags: u16, sockets: &[OwnedFd]) -> Message {
    Message::generic(family, CMD_CONNECT)
        .with(ATTR_SIZE_BYTES, &size.to_ne_bytes())
        .with(ATTR_BLOCK_SIZE_BYTES, &BLOCK_SIZE.to_ne_bytes())
        .with(ATTR_TIMEOUT, &REQUEST_TIMEOUT.to_ne_bytes())
        .with(ATTR_SERVER_FLAGS, &u64::from(flags).to_ne_bytes())
        .with(ATTR_DEAD_CONN_TIMEOUT, &DEAD_CONN_TIMEOUT.to_ne_bytes())
        .with_nested(ATTR_SOCKETS, &socket_list(sockets))
}

fn reconnect_message(family: u16, index: u32, socket: &OwnedFd) -> Message {
    Message::generic(family, CMD_RECONFIGURE)
        .with(ATTR_INDEX, &index.to_ne_bytes())
        .with_nested(ATTR_SOCKETS, &socket_list(std::slice::from_ref(socket)))
}

fn socket_list(sockets: &[OwnedFd]) -> Vec<u8> {
    let mut list = Vec::new();
    for socket in sockets {
        let mut item = Vec::new();
        append(&mut item, SOCK_FD, &socket.as_raw_fd().to_ne_bytes());
        append(&mut list, SOCK_ITEM | 0x8000, &item);
    }
    list
}

fn index(answer: &Received) -> Option<u32> {
    u32_at(attribute(answer.body.get(4..)?, ATTR_INDEX)?, 0)
}

/// Whether the kernel says that a connection of this device is dead.
fn is_dead_link(message: &Received, family: u16, device: u32) -> bool {
    message.kind == family && message.body.first() == Some(&CMD_LINK_DEAD) && index(message) == Some(device)
}

/// Replaces the connections of a device that die, for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Keeper {
    export: Export,
    device: Device,
    family: u16,
    requests: Socket,
    news: Socket,
    /// Which server comes next.
    turn: usize,
    /// Connections that the kernel has called dead and that were not replaced yet.
    called_dead: usize,
}

impl Keeper {
    /// Takes a device over.
    pub(crate) fn new(export: Export, device: Device) -> Result<Self> {
        let mut requests = Socket::generic(0)?;
        let family = requests.family(FAMILY)?;
        let news = Socket::generic(family.mask())?;
        Ok(Self { export, device, family: family.id, requests, news, turn: 0, called_dead: 0 })
    }

    /// Watches and replaces, for as long as there is the device.
    ///
    /// # Errors
    /// If the kernel does not take a connection: the device is not attached any more.
    pub(crate) fn run(&mut self, journal: &Journal) -> Result<Infallible> {
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = self.ended();
            if ended.is_none() && self.called_dead == 0 {
                self.wait();
                continue;
            }
            match self.export.connect(self.turn) {
                Ok((stream, _)) => {
                    let server = self.replace(ended, stream)?;
                    journal.say(&format!("nbd{}: connected again to {server}", self.device.index));
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    journal.say(&format!("nbd{}: could not connect again: {error:#}", self.device.index));
                    self.turn = self.turn.wrapping_add(1);
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A connection that has ended, whoever ended it: the kernel shuts those down that it gives up.
    fn ended(&self) -> Option<usize> {
        let mut states = self.poll_list();
        poll(&mut states, Some(&Timespec::default())).ok()?;
        states.iter().position(|state| state.revents().intersects(ENDED))
    }

    /// Until a connection ends, or the kernel says that one did.
    fn wait(&mut self) {
        let mut states = self.poll_list();
        states.push(PollFd::from_borrowed_fd(self.news.as_fd(), PollFlags::IN));
        // Interrupted or not: the caller looks.
        let _ = poll(&mut states, None);
        self.hear(Duration::ZERO);
    }

    fn poll_list(&self) -> Vec<PollFd<'_>> {
        self.device.connections.iter().map(|fd| PollFd::new(fd, PollFlags::RDHUP)).collect()
    }

    /// Takes note of what the kernel says. False if it said nothing in time.
    fn hear(&mut self, patience: Duration) -> bool {
        let Ok(Some(messages)) = self.news.receive(patience) else { return false };
        let dead = messages.iter().filter(|message| is_dead_link(message, self.family, self.device.index));
        self.called_dead += dead.count();
        true
    }

    /// Gives the new connection to the kernel in place of a dead one. Without a number it is one that
    /// this process does not know, because another one had replaced it before.
    fn replace(&mut self, number: Option<usize>, stream: TcpStream) -> Result<String> {
        let server = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
        if let Some(old) = number.and_then(|number| self.device.connections.get(number)) {
            let _ = rustix::net::shutdown(old, rustix::net::Shutdown::Both);
        }
        self.until_the_kernel_knows();
        let socket = OwnedFd::from(stream);
        let message = reconnect_message(self.family, self.device.index, &socket);
        self.requests.request(&message).context("the kernel refuses the new connection")?;
        self.called_dead = self.called_dead.saturating_sub(1);
        match number.and_then(|number| self.device.connections.get_mut(number)) {
            Some(slot) => *slot = socket,
            None => self.device.connections.push(socket),
        }
        Ok(server)
    }

    /// The kernel takes a new connection only in place of one that it has marked dead itself
    /// (`nbd_reconnect_socket`), and silently drops it otherwise.
    fn until_the_kernel_knows(&mut self) {
        let until = Instant::now() + NOTICE;
        while self.called_dead == 0 && self.hear(until.saturating_duration_since(Instant::now())) {}
    }
}

const ENDED: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    #[test]
    fn connections_are_listed_as_the_kernel_parses_them() {
        let sockets: Vec<OwnedFd> = (0..2).map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap())).collect();
        let list = socket_list(&sockets);
        let numbers: Vec<_> = attributes(&list)
            .map(|(kind, item)| (kind, u32_at(attribute(item, SOCK_FD).unwrap(), 0).unwrap().cast_signed()))
            .collect();
        let expected: Vec<_> = sockets.iter().map(|socket| (SOCK_ITEM, socket.as_raw_fd())).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn the_error_names_the_server_that_was_tried_last() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let export = Export { servers: vec![closed], name: "x".into(), size: 1 };
        let error = export.connect(0).unwrap_err();
        assert_eq!(error.to_string(), format!("NBD server {closed}"));
        let none = Export { servers: Vec::new(), ..export };
        assert_eq!(none.connect(0).unwrap_err().to_string(), "no NBD server is named");
    }
}
