//! Attributes of the calling process that a container's first process sets just before it becomes somebody else's program.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use rustix::process::{Pid, Signal};

/// `SECCOMP_SET_MODE_FILTER` of Linux' `seccomp.h`.
const SET_MODE_FILTER: libc::c_uint = 1;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const SECCOMP_NEW_LISTENER: u64 = 1 << 3;
/// `IOPRIO_WHO_PROCESS` and `IOPRIO_CLASS_SHIFT` of `ioprio.h`.
const IO_PRIORITY_OF_PROCESS: libc::c_int = 1;
const IO_CLASS_SHIFT: u32 = 13;

/// `struct sched_attr` as of Linux 5.3 (`include/uapi/linux/sched/types.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the kernel's names")]
pub struct Scheduling {
    size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub utilization_min: u32,
    pub utilization_max: u32,
}

/// Loads a seccomp filter, a program of classic BPF in the kernel's layout (8 bytes an instruction). Gives the listener if
/// the flags ask for one ([`SECCOMP_NEW_LISTENER`]).
///
/// # Errors
/// What seccomp(2) says.
pub fn load_seccomp(program: &[u8], flags: u64) -> io::Result<Option<OwnedFd>> {
    // The kernel reads `struct sock_filter`s; they are as long as this, and aligned no more than this.
    let instructions: Vec<u64> =
        program.as_chunks::<8>().0.iter().map(|instruction| u64::from_ne_bytes(*instruction)).collect();
    let length = u16::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len: length, filter: instructions.as_ptr().cast_mut().cast() };
    // JUSTIFICATION: neither std nor rustix has seccomp(2).
    // SAFETY: the kernel reads `len` instructions behind the pointer, which `instructions` owns until after the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const filter) };
    let number = RawFd::try_from(result(answer)?).unwrap_or(-1);
    if flags & SECCOMP_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // JUSTIFICATION: the call above answers a new descriptor as a number.
    // SAFETY: with this flag the number is a descriptor that the kernel has just made for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Sets the execution domain (personality(2)).
///
/// # Errors
/// What the kernel says.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // JUSTIFICATION: neither std nor rustix has personality(2).
    // SAFETY: the call takes a number and changes flags of the process that memory safety does not depend on.
    result(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) }).map(drop)
}

/// Sets class and level of I/O priority of a process (ioprio_set(2)).
///
/// # Errors
/// What the kernel says.
pub fn set_io_priority(process: Pid, class: u32, level: u32) -> io::Result<()> {
    let process = process.as_raw_nonzero().get();
    let value = (class << IO_CLASS_SHIFT) | level;
    // JUSTIFICATION: neither std nor rustix has ioprio_set(2).
    // SAFETY: the call takes numbers only.
    result(unsafe { libc::syscall(libc::SYS_ioprio_set, IO_PRIORITY_OF_PROCESS, process, value) }).map(drop)
}

/// Sets policy and parameters of scheduling of a process (sched_setattr(2)).
///
/// # Errors
/// What the kernel says.
pub fn set_scheduling(process: Pid, scheduling: &Scheduling) -> io::Result<()> {
    let size = u32::try_from(size_of::<Scheduling>()).unwrap_or_default();
    let attributes = Scheduling { size, ..*scheduling };
    let process = process.as_raw_nonzero().get();
    // JUSTIFICATION: neither std nor rustix has sched_setattr(2).
    // SAFETY: the kernel reads as many bytes as `size` says, which is the structure's own size.
    result(unsafe { libc::syscall(libc::SYS_sched_setattr, process, &raw const attributes, 0) }).map(drop)
}

/// Joins a new, empty session keyring, so that keys of the caller are not seen (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// What the kernel says; `ENOSYS` without keyrings.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // JUSTIFICATION: neither std nor rustix has keyctl(2).
    // SAFETY: a null name asks for an anonymous keyring; the kernel reads no memory.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    result(answer).map(drop)
}

/// Closes every descriptor from `first` on when the process executes another program (close_range(2)).
///
/// # Errors
/// What the kernel says.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // JUSTIFICATION: neither std nor rustix has close_range(2).
    // SAFETY: marking descriptors closes none of them now, so that nobody's descriptor changes under it.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    result(answer).map(drop)
}

/// Gives every signal its default action and blocks none, as a new program expects it.
///
/// # Errors
/// None that the kernel gives for these signals.
pub fn default_signals() -> io::Result<()> {
    // JUSTIFICATION: rustix has no signal masks.
    // SAFETY: a zeroed set is a valid value, and is the empty one for the kernels that this runs on.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // JUSTIFICATION: as above.
    // SAFETY: the set is read, the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || (32..=33).contains(&signal) {
            continue;
        }
        // JUSTIFICATION: what ignores signals in a parent is inherited, and neither std nor rustix changes it back.
        // SAFETY: the default action runs no code of ours.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Executes another program in place of this one, with exactly this environment (execve(2)). Unlike the ways of std and of C
/// it never gives a file that is no program to a shell. Returns only if it fails.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // JUSTIFICATION: std's way asks a shell when the kernel says `ENOEXEC`, and rustix' is not stable.
    // SAFETY: both arrays end with null, and their strings live until after the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// A signal of the real-time range, from 34 to 64; those before are the C library's own.
pub fn real_time_signal(number: i32) -> Option<Signal> {
    // JUSTIFICATION: rustix names no signals of this range.
    // SAFETY: the number is that of a signal, and none that the C library keeps for itself.
    (34..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

fn result(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<Scheduling>(), 56);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        assert!(load_seccomp(&[], 0).is_err());
    }
}
