//! TAP devices: one `ioctl` that no safe crate wraps.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::ioctl::{Opcode, Updater, opcode};

/// `TUNSETIFF` of Linux' `if_tun.h`. Its declared argument is an `int`, although it takes a `struct ifreq`.
const TUNSETIFF: Opcode = opcode::write::<core::ffi::c_int>(b'T', 202);
/// Ethernet frames, without the four bytes of packet information before them, with a `virtio_net_hdr` instead; an error
/// if a device of that name exists (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL`).
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000 | 0x8000;
/// `IFNAMSIZ`.
const NAME_SIZE: usize = 16;

/// `struct ifreq` with the one member of its union that `TUNSETIFF` reads.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    flags: u16,
    rest: [u8; 22],
}

/// Creates a TAP device in the network namespace of this thread. It is not persistent: it goes when the last copy of
/// the descriptor is closed.
///
/// # Errors
/// With [`io::ErrorKind::ResourceBusy`] if the name is taken, and if the system refuses.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    let mut request = InterfaceRequest { name: [0; NAME_SIZE], flags: FLAGS, rest: [0; 22] };
    // The last byte stays zero: the kernel reads a string.
    let room = request.name.get_mut(..name.len()).filter(|room| room.len() < NAME_SIZE);
    room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    set_interface(&device, &mut request)?;
    Ok(device.into())
}

fn set_interface(device: &File, request: &mut InterfaceRequest) -> io::Result<()> {
    // JUSTIFICATION: an ioctl's number says nothing of its argument; only its caller knows the type.
    // SAFETY: `TUNSETIFF` reads and writes one `struct ifreq` (40 bytes, `InterfaceRequest` has this layout).
    let set = unsafe { Updater::<TUNSETIFF, InterfaceRequest>::new(request) };
    // SAFETY: the descriptor is of `/dev/net/tun`, whose driver handles `TUNSETIFF` as described.
    unsafe { rustix::ioctl::ioctl(device.as_fd(), set) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        assert_eq!(create("sixteen-bytes-xx").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
