//! Loop devices (Linux' `include/uapi/linux/loop.h`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};

const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
/// `LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR`: it goes when its last user goes.
const FLAGS: u32 = 1 | 4;
/// How often another process may take the free device before us.
const ATTEMPTS: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// Why no loop device could be made.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// A device node is missing: the module `loop` is not loaded, or `/dev` is not there.
    #[error("could not open {path} (is the module loop loaded?)")]
    Open {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("could not attach a file to a loop device")]
    Refused(#[source] rustix::io::Errno),
}

/// A loop device over a file. It is detached by the kernel when its last user has closed it.
#[derive(Debug)]
pub struct LoopDevice {
    /// The device node.
    pub path: PathBuf,
    /// Keeps the device until somebody else uses it.
    _open: File,
}

/// Attaches `file` read-only to a free loop device with blocks of `block_size` bytes.
///
/// # Errors
/// If there is none, or the file cannot be attached.
pub fn attach(file: impl AsFd, block_size: u32) -> Result<LoopDevice, LoopError> {
    let control = open(PathBuf::from("/dev/loop-control"))?.1;
    let mut last = rustix::io::Errno::BUSY;
    for _ in 0..ATTEMPTS {
        // JUSTIFICATION: the kernel finds the free number only by this call.
        // SAFETY: `GetFree` passes no pointer and the descriptor is the control device.
        let number = unsafe { ioctl(&control, GetFree) }.map_err(LoopError::Refused)?;
        let (path, device) = open(PathBuf::from(format!("/dev/loop{number}")))?;
        match configure(&device, &file, block_size) {
            Ok(()) => return Ok(LoopDevice { path, _open: device }),
            // Another process was faster.
            Err(rustix::io::Errno::BUSY) => last = rustix::io::Errno::BUSY,
            Err(other) => return Err(LoopError::Refused(other)),
        }
    }
    Err(LoopError::Refused(last))
}

fn configure(device: &File, file: &impl AsFd, block_size: u32) -> Result<(), rustix::io::Errno> {
    let number = file.as_fd().as_raw_fd();
    let fd = u32::try_from(number).map_err(|_| rustix::io::Errno::BADF)?;
    // JUSTIFICATION: the only way to configure size, flags and file in one step.
    // SAFETY: LOOP_CONFIGURE reads a `loop_config`, whose layout `Config` has, as its size asserts.
    let setter = unsafe { Setter::<LOOP_CONFIGURE, Config>::new(config(fd, block_size)) };
    // JUSTIFICATION: as above.
    // SAFETY: the kernel only reads the structure, which lives until the call returns.
    unsafe { ioctl(device, setter) }
}

fn config(fd: u32, block_size: u32) -> Config {
    let info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: FLAGS,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    Config { fd, block_size, info, reserved: [0; 8] }
}

fn open(path: PathBuf) -> Result<(PathBuf, File), LoopError> {
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(LoopError::Open { path, source }),
    }
}

/// `LOOP_CTL_GET_FREE`: no argument, the number is the result.
struct GetFree;

// JUSTIFICATION: rustix has no ready pattern for a call whose result is its return value.
// SAFETY: the call takes no argument; its non-negative result is the number.
unsafe impl Ioctl for GetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut rustix::ffi::c_void) -> rustix::io::Result<u32> {
        u32::try_from(output).map_err(|_| rustix::io::Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_file_in_memory_reads_back_through_a_loop_device() {
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(memory);
        file.write_all(&[7; 8192]).unwrap();
        let device = attach(&file, 4096).unwrap();
        let mut back = Vec::new();
        File::open(&device.path).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back, [7; 8192]);
    }
}
