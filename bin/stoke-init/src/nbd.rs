//! The root by NBD: connections are negotiated here and then given to the kernel, which reads by itself, over all of them,
//! whichever servers they are to. A [`Keeper`] replaces those that die and moves those that are in the wrong place.
//!
//! Kernel side: Linux' `drivers/block/nbd.c`, `include/uapi/linux/nbd-netlink.h`.

pub(crate) mod ahead;
mod servers;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::journal::Journal;
use crate::netlink::{Message, Received, Socket, append, attribute, u32_at};
pub(crate) use servers::{Export, Servers};
use servers::{misplaced, server_of};

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
/// How long the kernel may take to notice that a connection has ended which we have shut down.
const NOTICE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked at where the connections are, and how long a server that could not take one is left alone.
const LOOK: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
const LEFT_ALONE: Duration = Duration::from_mins(1);

/// An attached device, with descriptors of the connections that the kernel uses.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) connections: Vec<OwnedFd>,
}

impl Device {
    /// Connects so many times, spread over the servers, and makes a device of it.
    pub(crate) fn attach(export: &Export, connections: usize) -> Result<Self> {
        let (sockets, flags) = connect_all(export, connections)?;
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

/// So many connections, in turn to each server. Those that do not answer are left out: the [`Keeper`] looks for them later.
fn connect_all(export: &Export, wanted: usize) -> Result<(Vec<OwnedFd>, u16)> {
    let (mut sockets, mut flags, mut servers) = (Vec::new(), u16::MAX, export.servers.clone());
    let mut last = anyhow::anyhow!("no NBD server is named");
    while sockets.len() < wanted && !servers.is_empty() {
        let number = sockets.len() % servers.len();
        let Some(server) = servers.get(number) else { break };
        match export.connect_to(*server) {
            Ok((stream, its_flags)) => {
                flags &= its_flags;
                sockets.push(OwnedFd::from(stream));
            }
            Err(error) => {
                last = error;
                servers.remove(number);
            }
        }
        if flags & stoke_nbd::wire::FLAG_CAN_MULTI_CONN == 0 {
            sockets.truncate(1);
            break;
        }
    }
    if sockets.is_empty() { Err(last) } else { Ok((sockets, flags)) }
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

/// Replaces the connections of a device that die, for as long as the process lives, and keeps them spread over the servers.
#[derive(Debug)]
pub(crate) struct Keeper {
    export: Export,
    servers: Servers,
    device: Device,
    family: u16,
    requests: Socket,
    news: Socket,
    /// Servers that could not take a connection, and when.
    failures: HashMap<SocketAddr, Instant>,
    /// Connections that the kernel has called dead and that were not replaced yet.
    called_dead: usize,
}

impl Keeper {
    /// Takes a device over.
    pub(crate) fn new(export: Export, servers: Servers, device: Device) -> Result<Self> {
        let mut requests = Socket::generic(0)?;
        let family = requests.family(FAMILY)?;
        let news = Socket::generic(family.mask())?;
        let (failures, called_dead) = (HashMap::new(), 0);
        Ok(Self { export, servers, device, family: family.id, requests, news, failures, called_dead })
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
                self.put_in_place(journal)?;
                self.wait();
                continue;
            }
            match self.connect() {
                Ok(stream) => {
                    let server = self.replace(ended, stream)?;
                    journal.say(&format!("nbd{}: connected again, to {server}", self.device.index));
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    journal.say(&format!("nbd{}: could not connect again: {error:#}", self.device.index));
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The servers of the device's connections; none for one that has ended.
    fn places(&self) -> Vec<Option<SocketAddr>> {
        self.device.connections.iter().map(server_of).collect()
    }

    /// Connects to the server that has the fewest connections, or to the next one; first to those that did not fail lately.
    fn connect(&mut self) -> Result<TcpStream> {
        let (places, mut servers) = (self.places(), self.servers.list());
        let load = |server: &SocketAddr| places.iter().flatten().filter(|other| *other == server).count();
        servers.sort_by_key(|server| (self.failed_lately(server), load(server)));
        let mut last = anyhow::anyhow!("no NBD server is named");
        for server in servers {
            match self.connect_to(server) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn connect_to(&mut self, server: SocketAddr) -> Result<TcpStream> {
        match self.export.connect_to(server) {
            Ok((stream, _)) => {
                self.failures.remove(&server);
                Ok(stream)
            }
            Err(error) => {
                self.failures.insert(server, Instant::now());
                Err(error)
            }
        }
    }

    fn failed_lately(&self, server: &SocketAddr) -> bool {
        self.failures.get(server).is_some_and(|at| at.elapsed() < LEFT_ALONE)
    }

    /// Moves one connection that is in the wrong place: its server is not named any more, or another one has none. The new
    /// connection is there before the old one goes.
    fn put_in_place(&mut self, journal: &Journal) -> Result<()> {
        let mut servers = self.servers.list();
        self.failures.retain(|server, _| servers.contains(server));
        servers.retain(|server| !self.failed_lately(server));
        let Some((number, server)) = misplaced(&self.places(), &servers) else { return Ok(()) };
        if let Ok(stream) = self.connect_to(server) {
            self.replace(Some(number), stream)?;
            journal.say(&format!("nbd{}: connection {number} is now to {server}", self.device.index));
        }
        Ok(())
    }

    /// A connection that has ended, whoever ended it: the kernel shuts those down that it gives up.
    fn ended(&self) -> Option<usize> {
        let mut states = self.poll_list();
        poll(&mut states, Some(&Timespec::default())).ok()?;
        states.iter().position(|state| state.revents().intersects(ENDED))
    }

    /// Until a connection ends, the kernel says that one did, or it is time to look where they are.
    fn wait(&mut self) {
        let mut states = self.poll_list();
        states.push(PollFd::from_borrowed_fd(self.news.as_fd(), PollFlags::IN));
        // Interrupted or not: the caller looks.
        let _ = poll(&mut states, Some(&LOOK));
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
}
