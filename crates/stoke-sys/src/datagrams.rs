//! Many UDP datagrams in one system call: `recvmmsg(2)`, and `sendmmsg(2)` with segmentation by the kernel (`udp(7)`).
//!
//! rustix has no `recvmmsg`, and no `UDP_SEGMENT` among the control messages of its `sendmmsg`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr;

/// Datagrams that one call receives or sends at most.
pub const BATCH: usize = 64;
/// Room for a few datagrams is quicker to prepare.
const FEW: usize = 4;
/// Segments that the kernel cuts one buffer into at most: `UDP_MAX_SEGMENTS` of Linux before 6.9.
pub const SEGMENTS: usize = 64;

/// `SOL_UDP` and `UDP_SEGMENT` of Linux' `udp.h`.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

/// Room for an address of either family: `struct sockaddr_in6` is the longer one.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Name([u8; 28]);

impl Name {
    const EMPTY: Self = Self([0; 28]);

    /// `struct sockaddr_in` or `struct sockaddr_in6`, and how long it is.
    fn of(address: SocketAddr) -> (Self, u32) {
        let port = address.port().to_be_bytes();
        let (mut name, length) = match address {
            SocketAddr::V4(address) => {
                let [a, b, c, d] = address.ip().octets();
                let mut name = Self::EMPTY;
                let bytes = [0, 0, 0, 0, a, b, c, d];
                name.0.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
                (name, 16)
            }
            SocketAddr::V6(address) => {
                let flow = address.flowinfo().to_ne_bytes();
                let scope = address.scope_id().to_ne_bytes();
                let bytes = [0; 4].into_iter().chain(flow).chain(address.ip().octets()).chain(scope);
                let mut name = Self::EMPTY;
                name.0.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
                (name, 28)
            }
        };
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
        name.0.iter_mut().zip(family.into_iter().chain(port)).for_each(|(to, byte)| *to = byte);
        (name, length)
    }

    fn address(&self) -> Option<SocketAddr> {
        let (family, rest) = self.0.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => Some((Ipv4Addr::from(*rest.first_chunk::<4>()?), port).into()),
            libc::AF_INET6 => {
                let (flow, rest) = rest.split_first_chunk::<4>()?;
                let (address, rest) = rest.split_first_chunk::<16>()?;
                let (flow, scope) = (u32::from_ne_bytes(*flow), u32::from_ne_bytes(*rest.first_chunk::<4>()?));
                Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

/// One control message that says how long a segment is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    header: libc::cmsghdr,
    size: u16,
    padding: [u8; 6],
}

impl Segment {
    fn of(size: u16) -> Self {
        // `CMSG_LEN`: the header, and the number without its padding.
        let length = size_of::<libc::cmsghdr>() + size_of::<u16>();
        let header = libc::cmsghdr { cmsg_len: length, cmsg_level: SOL_UDP, cmsg_type: UDP_SEGMENT };
        Self { header, size, padding: [0; 6] }
    }
}

const NO_HEADER: libc::msghdr = libc::msghdr {
    msg_name: ptr::null_mut(),
    msg_namelen: 0,
    msg_iov: ptr::null_mut(),
    msg_iovlen: 0,
    msg_control: ptr::null_mut(),
    msg_controllen: 0,
    msg_flags: 0,
};
const NO_MESSAGE: libc::mmsghdr = libc::mmsghdr { msg_hdr: NO_HEADER, msg_len: 0 };
const NO_VECTOR: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// Room for datagrams that come in.
pub struct Inbox {
    room: usize,
    bytes: Box<[u8]>,
    received: Vec<(Option<SocketAddr>, usize)>,
}

impl Inbox {
    /// Room for datagrams of up to `room` bytes; what is longer is cut off there.
    pub fn new(room: usize) -> Self {
        let room = room.max(1);
        Self { room, bytes: vec![0; room * BATCH].into(), received: Vec::with_capacity(BATCH) }
    }

    /// Takes up to `most` datagrams, [`BATCH`] at most, that are there already, in place of those that it holds.
    /// Returns how many came.
    ///
    /// # Errors
    /// `EAGAIN` if there is none, and what ICMP has told of earlier ones.
    pub fn receive(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        self.received.clear();
        let most = most.clamp(1, BATCH);
        if most <= FEW { self.receive_into::<FEW>(socket, most) } else { self.receive_into::<BATCH>(socket, most) }
    }

    fn receive_into<const ROOM: usize>(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        let (mut names, mut vectors) = ([Name::EMPTY; ROOM], [NO_VECTOR; ROOM]);
        let mut messages = [NO_MESSAGE; ROOM];
        let rooms = self.bytes.chunks_exact_mut(self.room);
        let slots = messages.iter_mut().zip(&mut names).zip(&mut vectors).zip(rooms).take(most);
        for (((message, name), vector), room) in slots {
            *vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            message.msg_hdr.msg_name = ptr::from_mut(name).cast();
            message.msg_hdr.msg_namelen = 28;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        let (socket, count) = (socket.as_fd().as_raw_fd(), u32::try_from(most).unwrap_or(1));
        // JUSTIFICATION: rustix does not wrap the call.
        // SAFETY: `count` messages are there; each points to a name and a vector of arrays that outlive the call, and each
        // vector to a part of `bytes` of its own. A null timeout is allowed.
        let got = unsafe { libc::recvmmsg(socket, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut()) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let lengths = messages.iter().take(got).map(|message| usize::try_from(message.msg_len).unwrap_or_default());
        self.received.extend(names.iter().map(Name::address).zip(lengths));
        Ok(got)
    }

    /// The datagrams that the last call took, each with its sender.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let rooms = self.bytes.chunks_exact(self.room);
        self.received.iter().zip(rooms).filter_map(|((from, length), room)| Some(((*from)?, room.get(..*length)?)))
    }
}

/// What goes out in one piece, or in several of one length that the kernel cuts.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// To whom; `None` on a socket that is connected.
    pub to: Option<SocketAddr>,
    /// The payload, of all segments one after the other.
    pub bytes: &'a [u8],
    /// Bytes of each segment; only the last one may be shorter. At most [`SEGMENTS`] of them. `None`: all is one datagram.
    pub segment: Option<u16>,
}

/// Sends the first of these, [`BATCH`] at most; returns how many left.
///
/// # Errors
/// That of the first one, of which then nothing left: `EAGAIN` if the socket is full; `EINVAL`, `EMSGSIZE` or `EIO` if it
/// was to be cut and a segment does not fit the path, or the interface cannot add checksums.
pub fn send(socket: impl AsFd, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    if datagrams.len() <= FEW { send_of::<FEW>(socket, datagrams) } else { send_of::<BATCH>(socket, datagrams) }
}

fn send_of<const ROOM: usize>(socket: impl AsFd, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    let most = datagrams.len().min(ROOM);
    let (mut names, mut vectors) = ([Name::EMPTY; ROOM], [NO_VECTOR; ROOM]);
    let mut segments = [const { MaybeUninit::<Segment>::uninit() }; ROOM];
    let mut messages = [NO_MESSAGE; ROOM];
    let slots = messages.iter_mut().zip(&mut names).zip(&mut vectors).zip(&mut segments);
    for ((((message, name), vector), segment), datagram) in slots.zip(datagrams) {
        // The kernel only reads what is sent.
        *vector = libc::iovec { iov_base: datagram.bytes.as_ptr().cast_mut().cast(), iov_len: datagram.bytes.len() };
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        if let Some(to) = datagram.to {
            let length;
            (*name, length) = Name::of(to);
            message.msg_hdr.msg_name = ptr::from_mut(name).cast();
            message.msg_hdr.msg_namelen = length;
        }
        if let Some(size) = datagram.segment {
            message.msg_hdr.msg_control = ptr::from_mut(segment.write(Segment::of(size))).cast();
            message.msg_hdr.msg_controllen = size_of::<Segment>();
        }
    }
    let (socket, count) = (socket.as_fd().as_raw_fd(), u32::try_from(most).unwrap_or_default());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // JUSTIFICATION: rustix' wrapper takes no control message of this kind.
    // SAFETY: `count` messages are there; names, vectors and control messages that they point to outlive the call, are
    // initialised, and as long as is said; the vectors point to the caller's payloads, which are only read.
    let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), count, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for text in ["10.1.2.3:69", "[fd00::7]:1069", "[fe80::1%3]:4000"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Name::of(address).0.address(), Some(address));
        }
        assert_eq!(Name::EMPTY.address(), None);
    }

    #[test]
    fn the_control_message_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<Segment>(), 24);
    }

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let pair = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        pair.1.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        pair
    }

    fn received(socket: &UdpSocket) -> Vec<u8> {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    #[test]
    fn a_buffer_is_cut_into_segments() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (from, to) = pair(address);
            let bytes: Vec<u8> = (0..250).collect();
            let whole = Outgoing { to: to.local_addr().ok(), bytes: &bytes, segment: None };
            let cut = Outgoing { segment: Some(100), ..whole };
            assert_eq!(send(&from, &[cut, whole]).unwrap(), 2);
            let lengths: Vec<_> = (0..4).map(|_| received(&to)).collect();
            assert_eq!(lengths, [&bytes[..100], &bytes[100..200], &bytes[200..], &bytes]);
        }
    }

    #[test]
    fn datagrams_come_in_together() {
        let (from, to) = pair("127.0.0.1:0");
        for text in ["one", "two", "seventeen"] {
            from.send_to(text.as_bytes(), to.local_addr().unwrap()).unwrap();
        }
        let mut inbox = Inbox::new(5);
        assert_eq!(inbox.receive(&to, 2).unwrap(), 2);
        assert_eq!(inbox.receive(&to, BATCH).unwrap(), 1);
        let sender = from.local_addr().unwrap();
        assert_eq!(inbox.datagrams().collect::<Vec<_>>(), [(sender, &b"seven"[..])]);
        assert_eq!(inbox.receive(&to, BATCH).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(inbox.datagrams().count(), 0);
    }

    #[test]
    fn a_connected_socket_needs_no_address() {
        let (from, to) = pair("127.0.0.1:0");
        from.connect(to.local_addr().unwrap()).unwrap();
        assert_eq!(send(&from, &[Outgoing { to: None, bytes: b"hello", segment: None }]).unwrap(), 1);
        assert_eq!(received(&to), b"hello");
    }
}
