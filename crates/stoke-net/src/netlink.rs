//! A synchronous routing netlink socket (RFC 3549), and one that only listens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// More than the kernel puts into one datagram (`NLMSG_GOODSIZE` and the 32 KiB of `netlink_dump`).
const BUFFER: usize = 64 * 1024;
/// Links and addresses (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR` of Linux' `rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// How often a list is asked for again that changed while the kernel wrote it.
const DUMP_ATTEMPTS: u32 = 10;

/// A socket to the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// What came of one datagram.
#[derive(Default)]
struct Heard {
    /// Whether the answer is complete.
    end: bool,
    /// Whether the list changed while the kernel wrote it.
    interrupted: bool,
}

impl Netlink {
    /// Opens a socket.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: socket(0, SocketFlags::CLOEXEC)?, sequence: 0 })
    }

    /// Asks for a change and waits until it is done.
    ///
    /// # Errors
    /// With the kernel's reason.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        let mut none = Vec::new();
        while !self.hear(&mut none)?.end {}
        Ok(())
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// With the kernel's reason, and if the list never held still.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.dump_once(message.clone())? {
                return Ok(list);
            }
        }
        Err(io::Error::other("the kernel's list changed each time that it was read"))
    }

    fn dump_once(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.send(message, NLM_F_DUMP)?;
        let (mut list, mut complete) = (Vec::new(), true);
        loop {
            let heard = self.hear(&mut list)?;
            complete &= !heard.interrupted;
            if heard.end {
                return Ok(complete.then_some(list));
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        rustix::net::send(&self.socket, &buffer, SendFlags::empty())?;
        Ok(())
    }

    /// Reads one datagram, which holds several messages.
    fn hear(&mut self, list: &mut Vec<RouteNetlinkMessage>) -> io::Result<Heard> {
        let mut buffer = vec![0; BUFFER];
        let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        let mut heard = Heard::default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages begin at multiples of four (NLMSG_ALIGN).
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
            // An answer to a question that was given up.
            if message.header.sequence_number != self.sequence {
                continue;
            }
            heard.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => list.push(inner),
                NetlinkPayload::Done(_) => heard.end = true,
                NetlinkPayload::Error(error) if error.code.is_none() => heard.end = true,
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(heard)
    }
}

/// Hears when links or addresses of the namespace change.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
}

impl Monitor {
    /// Starts listening.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: socket(GROUPS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)? })
    }

    /// Reads everything that was heard; whether there was anything. What it was does not matter: who hears looks at
    /// the whole.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn drain(&self) -> io::Result<bool> {
        let mut heard = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                // More was said than the socket could keep: something changed.
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => heard = true,
                Err(rustix::io::Errno::AGAIN) => return Ok(heard),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until something was heard, at most this long.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit))?;
        self.drain()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn socket(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    // No protocol is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}
