//! Packets that leave together.
//!
//! Blocks of one client that follow each other are one buffer, which the kernel cuts (`UDP_SEGMENT`): the way through its
//! layers is then walked once for a whole window. Where that does not work (a path with a small MTU, an interface that adds no
//! checksums) each block is a datagram from the start.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stoke_sys::datagrams::{self, BATCH, Outgoing, SEGMENTS};

use crate::packet;

/// Bytes that wait at most before they are sent.
const MOST: usize = 256 << 10;
/// Bytes of one buffer that the kernel cuts: a datagram's limit, whose length is in 16 bits with the headers.
const LARGEST: usize = 65_000;
/// How long a full socket is waited for. What then still does not go is as good as lost on the wire.
const FULL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Packets to send.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    packets: Vec<Packet>,
    /// Clients to whom the kernel does not cut.
    pub(super) uncut: Vec<SocketAddr>,
}

struct Packet {
    to: SocketAddr,
    range: Range<usize>,
    /// Bytes of each segment, for data.
    segment: Option<u16>,
    segments: usize,
}

impl Packet {
    /// Whether a segment of this length can follow.
    fn takes(&self, to: SocketAddr, length: usize) -> bool {
        let full = self.segment.map(usize::from);
        let whole = full.is_some_and(|full| self.range.len() == full * self.segments && length <= full);
        self.to == to && whole && self.segments < SEGMENTS && self.range.len() + length <= LARGEST
    }
}

impl Outbox {
    /// Adds a packet.
    pub(super) fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.packets.push(Packet { to, range: begin..self.bytes.len(), segment: None, segments: 1 });
    }

    /// Adds a block whose content `fill` writes; `cut` if it may be part of a buffer that the kernel cuts.
    ///
    /// # Errors
    /// If `fill` fails; nothing is added then.
    pub(super) fn data(
        &mut self,
        to: SocketAddr,
        block: u16,
        length: u16,
        cut: bool,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&packet::data_header(block));
        let content = self.bytes.len();
        self.bytes.resize(content + usize::from(length), 0);
        if let Err(error) = fill(self.bytes.get_mut(content..).unwrap_or_default()) {
            self.bytes.truncate(begin);
            return Err(error);
        }
        let end = self.bytes.len();
        if let Some(last) = self.packets.last_mut().filter(|last| cut && last.takes(to, end - begin)) {
            last.range.end = end;
            last.segments += 1;
        } else {
            let segment = u16::try_from(end - begin).ok();
            self.packets.push(Packet { to, range: begin..end, segment, segments: 1 });
        }
        Ok(())
    }

    /// Sends everything if there is much of it, or if it is to be sent `now`.
    pub(super) fn send(&mut self, socket: &UdpSocket, now: bool) {
        if now || self.packets.len() >= BATCH || self.bytes.len() >= MOST {
            self.send_all(socket, false);
        }
    }

    /// Sends everything through a socket that is connected.
    pub(super) fn send_connected(&mut self, socket: &UdpSocket) {
        self.send_all(socket, true);
    }

    /// What cannot be sent is as good as lost on the wire, and treated the same: it is sent again.
    fn send_all(&mut self, socket: &UdpSocket, connected: bool) {
        let mut outgoing = [Outgoing { to: None, bytes: &[], segment: None }; BATCH];
        let mut rest = self.packets.as_slice();
        while !rest.is_empty() {
            let count = rest.len().min(BATCH);
            for (outgoing, packet) in outgoing.iter_mut().zip(rest) {
                *outgoing = packet.outgoing(&self.bytes, connected);
            }
            let sent = send_some(socket, outgoing.get(..count).unwrap_or_default()).unwrap_or_else(|error| {
                let Some(first) = rest.first() else { return 0 };
                if first.segments > 1 && cannot_cut(&error) {
                    self.uncut.push(first.to);
                    first.send_one_by_one(&self.bytes, socket, connected);
                } else {
                    tracing::debug!(client = %first.to, %error, "TFTP packet lost");
                }
                1
            });
            rest = rest.get(sent.max(1)..).unwrap_or_default();
        }
        self.packets.clear();
        self.bytes.clear();
    }
}

impl Packet {
    fn outgoing<'a>(&self, bytes: &'a [u8], connected: bool) -> Outgoing<'a> {
        let to = (!connected).then_some(self.to);
        let segment = self.segment.filter(|_| self.segments > 1);
        Outgoing { to, bytes: bytes.get(self.range.clone()).unwrap_or_default(), segment }
    }

    fn send_one_by_one(&self, bytes: &[u8], socket: &UdpSocket, connected: bool) {
        let whole = self.outgoing(bytes, connected);
        let length = self.segment.map_or(usize::MAX, usize::from).max(1);
        for bytes in whole.bytes.chunks(length) {
            if let Err(error) = send_some(socket, &[Outgoing { bytes, segment: None, ..whole }]) {
                return tracing::debug!(client = %self.to, %error, "TFTP packets lost");
            }
        }
    }
}

/// Sends, and waits once for a socket that is full.
fn send_some(socket: &UdpSocket, outgoing: &[Outgoing<'_>]) -> io::Result<usize> {
    loop {
        match datagrams::send(socket, outgoing) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&FULL)).unwrap_or(0) == 0 {
                    return Err(error);
                }
            }
            other => return other,
        }
    }
}

/// A segment longer than the path takes (`EINVAL` or `EMSGSIZE`), no checksums by the interface (`EIO`), a kernel before
/// 4.18 that does not know the message at all (`EINVAL`): `udp_send_skb` of Linux' `net/ipv4/udp.c`.
fn cannot_cut(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::INVAL | Errno::MSGSIZE | Errno::IO | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_client_are_one_buffer() {
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut outbox = Outbox::default();
        let mut data = |to, block, length, cut| {
            outbox
                .data(to, block, length, cut, |room| {
                    room.fill(7);
                    Ok(())
                })
                .unwrap();
        };
        data(one, 1, 100, true);
        data(one, 2, 100, true);
        data(one, 3, 50, true);
        // The last one was short: a new buffer begins.
        data(one, 4, 50, true);
        data(other, 1, 50, true);
        data(other, 2, 50, false);
        let shape: Vec<_> = outbox.packets.iter().map(|packet| (packet.segments, packet.range.len())).collect();
        assert_eq!(shape, [(3, 262), (1, 54), (1, 54), (1, 54)]);
        assert!(outbox.data(one, 9, 10, true, |_| Err(io::ErrorKind::UnexpectedEof.into())).is_err());
        assert_eq!(outbox.bytes.len(), 262 + 3 * 54);
    }

    #[test]
    fn a_buffer_fits_a_datagram() {
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut outbox = Outbox::default();
        for block in 0..100 {
            outbox.data(to, block, 1468, true, |_| Ok(())).unwrap();
        }
        assert!(outbox.packets.iter().all(|packet| packet.range.len() <= LARGEST && packet.segments <= SEGMENTS));
        assert_eq!(outbox.packets.len(), 3);
    }
}
