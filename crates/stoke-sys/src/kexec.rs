//! Another kernel in place of the running one: `kexec_file_load(2)`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

/// `SIGRTMIN+6` of glibc, which systemd is built with: `kexec.target` (systemd(1), section "Signals").
const TO_KEXEC: libc::c_int = 34 + 6;

/// Loads the kernel that [`LINUX_REBOOT_CMD_KEXEC`](rustix::system::RebootCommand::Kexec) starts, and its initramfs. Both are
/// read now; nobody may have them open for writing.
///
/// # Errors
/// What the kernel says: `EPERM` if kexec is turned off or locked down, `EKEYREJECTED` or `ENODATA` if a signature is demanded
/// that is not there, `ENOEXEC` if this is no kernel, `ETXTBSY` if a file is open for writing, `ENOSYS` if it cannot do this at all.
pub fn load(kernel: impl AsFd, initramfs: impl AsFd, command_line: &CStr) -> Result<(), Errno> {
    let (kernel, initramfs) = (kernel.as_fd().as_raw_fd(), initramfs.as_fd().as_raw_fd());
    let length = command_line.to_bytes_with_nul().len();
    let flags: libc::c_ulong = 0;
    // JUSTIFICATION: no crate wraps this call.
    // SAFETY: both descriptors are borrowed for the call; the command line is `length` bytes that end with a zero and are only read.
    let result =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel, initramfs, length, command_line.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Asks systemd, if that is PID 1, to shut down cleanly and start the kernel that was loaded.
///
/// # Errors
/// If this process may not send it a signal.
pub fn ask_init() -> Result<(), Errno> {
    // JUSTIFICATION: safe wrappers know no signals by number.
    // SAFETY: takes numbers only.
    let result = unsafe { libc::kill(1, TO_KEXEC) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused() {
        let nothing = std::fs::File::open("/dev/null").unwrap();
        // Who may not do it at all is told so first; no host is harmed by an empty kernel.
        let refused = load(&nothing, &nothing, c"quiet").unwrap_err();
        assert!(
            [Errno::PERM, Errno::NOEXEC, Errno::INVAL, Errno::NOSYS, Errno::BADF].contains(&refused),
            "{refused:?}"
        );
    }
}
