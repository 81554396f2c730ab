//! The loopback interface of a new network namespace, which is born down (netdevice(7)).

use std::io;
use std::os::fd::OwnedFd;

use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `SIOCSIFFLAGS` of Linux' `include/uapi/linux/sockios.h`.
const SET_FLAGS: Opcode = 0x8914;
/// `IFF_UP | IFF_RUNNING`.
const UP: i16 = 0x41;

/// `struct ifreq` with flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Brings `lo` of the calling thread's network namespace up.
///
/// # Errors
/// What the kernel says: it needs `CAP_NET_ADMIN` over the namespace.
pub fn bring_up() -> io::Result<()> {
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let request = Request { name, flags: UP, rest: [0; 22] };
    // JUSTIFICATION: rustix has no ioctl for interfaces.
    // SAFETY: the opcode reads a `struct ifreq`, which `Request` is, and writes nothing.
    let setter = unsafe { Setter::<SET_FLAGS, Request>::new(request) };
    // JUSTIFICATION: as above.
    // SAFETY: as above.
    unsafe { ioctl(&socket, setter) }?;
    Ok(())
}
