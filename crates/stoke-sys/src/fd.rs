//! Descriptors that a process was born with.

use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::{Errno, fcntl_getfd};

/// Takes ownership of descriptor `number`, which the parent left open for this process.
///
/// To be called once for each number, at the start of `main`, before anything else is opened.
///
/// # Errors
/// `EBADF` if nothing is open under that number or it is one of the three standard ones.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    if number <= 2 {
        return Err(Errno::BADF);
    }
    // JUSTIFICATION: a number that was handed over in a message has to become a descriptor again.
    // SAFETY: only used for F_GETFD, which fails with EBADF if the number is not open.
    let candidate = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(candidate)?;
    // JUSTIFICATION: as above.
    // SAFETY: it is open, as just checked, and by this function's contract nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    #[test]
    fn an_open_number_is_taken_and_a_closed_one_refused() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        assert_eq!(inherited(number).unwrap().as_raw_fd(), number);
        assert_eq!(inherited(1_000_000).unwrap_err(), Errno::BADF);
        assert_eq!(inherited(1).unwrap_err(), Errno::BADF);
    }
}
