//! Packets below IP (`packet(7)`): IPv4 to a station by its link-layer address, for a client that answers no ARP yet; and
//! ARP itself.
//!
//! rustix has the socket calls, but no `struct sockaddr_ll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, netdevice, recv, sendto,
    socket_with,
};

/// `ETH_P_IP` of Linux' `if_ether.h`.
const ETHERTYPE_IPV4: u16 = 0x0800;
/// `ETH_P_ARP` of the same.
const ETHERTYPE_ARP: u16 = 0x0806;
/// No packets are received (`packet_create` in Linux' `net/packet/af_packet.c`).
const NOTHING: u16 = 0;

/// `struct sockaddr_ll` of Linux' `if_packet.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LinkAddress {
    family: u16,
    /// In network byte order.
    protocol: u16,
    index: i32,
    hardware: u16,
    kind: u8,
    length: u8,
    address: [u8; 8],
}

impl LinkAddress {
    fn new(index: i32, protocol: u16) -> Self {
        Self { family: AddressFamily::PACKET.as_raw(), protocol: protocol.to_be(), index, ..Self::default() }
    }
}

// JUSTIFICATION: the trait is how rustix takes an address of a family that it does not know.
// SAFETY: the pointer is to all of a `struct sockaddr_ll`, without padding, alive and unchanged during the call.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        const LENGTH: SocketAddrLen = 20;
        f(ptr::from_ref(self).cast(), LENGTH)
    }
}

/// A socket that sends on one interface and receives nothing.
#[derive(Debug)]
pub struct LinkSocket {
    socket: OwnedFd,
    index: u32,
    hardware_address: [u8; 6],
}

impl LinkSocket {
    /// Opens a socket on the interface of that name in this thread's network namespace.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface, `EPERM` without `CAP_NET_RAW`.
    pub fn open(interface: &str) -> io::Result<Self> {
        Self::receiving(interface, NOTHING)
    }

    fn receiving(interface: &str, ethertype: u16) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0: the kernel queues no received packets on it before it is bound to one.
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        let signed = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        bind(&socket, &LinkAddress::new(signed, ethertype))?;
        let hardware_address = own_address(&socket)?;
        Ok(Self { socket, index, hardware_address })
    }

    /// Index of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Link-layer address of the interface.
    pub fn hardware_address(&self) -> [u8; 6] {
        self.hardware_address
    }

    /// Sends an IPv4 packet, header included, to a station.
    ///
    /// # Errors
    /// `EAGAIN` if the interface's queue is full; if the interface is down or gone.
    pub fn send(&self, packet: &[u8], station: [u8; 6]) -> io::Result<()> {
        self.send_as(ETHERTYPE_IPV4, packet, station)
    }

    fn send_as(&self, ethertype: u16, packet: &[u8], station: [u8; 6]) -> io::Result<()> {
        let mut address = [0; 8];
        address.iter_mut().zip(station).for_each(|(target, byte)| *target = byte);
        let index = i32::try_from(self.index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let to = LinkAddress { length: 6, address, ..LinkAddress::new(index, ethertype) };
        sendto(&self.socket, packet, SendFlags::empty(), &to)?;
        Ok(())
    }
}

/// A socket that sends ARP packets on one interface and receives those that pass there, its own as well.
#[derive(Debug)]
pub struct ArpSocket(LinkSocket);

impl ArpSocket {
    /// Opens a socket on the interface of that name in this thread's network namespace. It never blocks.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface, `EPERM` without `CAP_NET_RAW`.
    pub fn open(interface: &str) -> io::Result<Self> {
        LinkSocket::receiving(interface, ETHERTYPE_ARP).map(Self)
    }

    /// Link-layer address of the interface.
    pub fn hardware_address(&self) -> [u8; 6] {
        self.0.hardware_address
    }

    /// Sends a packet to all stations.
    ///
    /// # Errors
    /// `EAGAIN` if the interface's queue is full; if the interface is down or gone.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send_as(ETHERTYPE_ARP, packet, [0xff; 6])
    }

    /// Receives a packet without its link-layer header; its length.
    ///
    /// # Errors
    /// `EAGAIN` if none is there; if the interface is down or gone.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = recv(&self.0.socket, buffer, RecvFlags::empty())?;
        Ok(length)
    }
}

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

/// A bound packet socket's own name has its interface's address (`packet_getname` in Linux' `net/packet/af_packet.c`).
fn own_address(socket: &OwnedFd) -> io::Result<[u8; 6]> {
    const FIXED: u32 = 18;
    let name = getsockname(socket)?;
    let read = |address: *const SocketAddrOpaque, length: SocketAddrLen| {
        if length < FIXED {
            return None;
        }
        // JUSTIFICATION: the address is in a family that rustix does not take apart.
        // SAFETY: at least 18 bytes are there, of which the last six begin at 12; bytes need no alignment.
        Some(unsafe { address.cast::<[u8; 18]>().read() })
    };
    // JUSTIFICATION: as above.
    // SAFETY: the closure reads no more than the length that it is given.
    let bytes = unsafe { name.with_sockaddr(read) };
    let tail = bytes.and_then(|bytes| bytes.last_chunk::<6>().copied());
    tail.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<LinkAddress>(), 20);
    }

    #[test]
    fn an_interface_that_is_not_there_is_no_device() {
        let error = LinkSocket::open("stoke-no-such").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    }

    #[test]
    fn the_loopback_has_an_address_of_zeroes() {
        assert_eq!(LinkSocket::open("lo").unwrap().hardware_address(), [0; 6]);
        assert_eq!(ArpSocket::open("lo").unwrap().hardware_address(), [0; 6]);
    }
}
