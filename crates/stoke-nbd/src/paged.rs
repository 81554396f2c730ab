//! Reading a file that is most likely in the page cache, without leaving the task: `preadv2` with `RWF_NOWAIT` copies what
//! is there and says so when something is not; only then a thread of the blocking pool is asked.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};

/// A buffer that moves to the blocking pool and back. Fixed in size, so that nothing is zeroed twice.
pub type Buffer = Box<[u8]>;

/// Fills `buffer[at..at + length]` from the file at `offset`. The buffer comes back in every case.
///
/// # Errors
/// If the file is shorter, or cannot be read.
pub async fn read_exact_at(
    file: &Arc<File>,
    mut buffer: Buffer,
    (at, length): (usize, usize),
    offset: u64,
) -> (Buffer, io::Result<()>) {
    let Some(space) = buffer.get_mut(at..at + length) else {
        return (buffer, Err(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let done = read_cached(file, space, offset);
    if done == length {
        return (buffer, Ok(()));
    }
    let file = file.clone();
    let (at, length, offset) = (at + done, length - done, offset + done as u64);
    let read = move || {
        let space = buffer.get_mut(at..at + length).unwrap_or_default();
        let result = file.read_exact_at(space, offset);
        (buffer, result)
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(done) => done,
        Err(error) => (Buffer::default(), Err(io::Error::other(error))),
    }
}

/// Copies what is in memory; returns how much that was.
fn read_cached(file: &File, space: &mut [u8], offset: u64) -> usize {
    let mut done = 0;
    while let Some(rest) = space.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(rest)], offset + done as u64, ReadWriteFlags::NOWAIT) {
            Err(Errno::INTR) => {}
            // The end of the file, a page that is not there, a file system that cannot tell: the slow path sorts it out.
            Ok(0) | Err(_) => break,
            Ok(count) => done += count,
        }
    }
    done
}
