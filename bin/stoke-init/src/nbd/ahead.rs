//! Fetching what boots read before this one does, as earlier boots have shown.
//!
//! File systems read their device past the page cache, so what is fetched must be kept below them: dm-verity is then not
//! over the NBD device but over a loop device, whose reads of the NBD device go through the page cache (`lo_rw_aio` in
//! Linux' drivers/block/loop.c). That memory is the kernel's to take back.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::setpriority_process;
use stoke_sys::loopdev::{self, LoopDevice};

use crate::journal::Journal;
use crate::modules::Loader;

/// Part of an image: offset and length in bytes.
pub(crate) type Range = (u64, u32);

/// Bytes that are read at once. The boot's own reads wait for one of these at most.
const PIECE: usize = 256 << 10;
const BLOCK: u32 = 4096;
/// Nice value of what may wait for everything else.
const LAST: i32 = 19;

/// A device that reads from this one through the page cache. None if the kernel has no loop devices: the root does without.
pub(crate) fn cached(device: &Path, loader: &mut Loader, journal: &Journal) -> Option<LoopDevice> {
    let attached = loader.load("loop", c"max_loop=0").and_then(|()| Ok(loopdev::attach(File::open(device)?, BLOCK)?));
    match attached {
        Ok(attached) => Some(attached),
        Err(error) => {
            journal.say(&format!("what boots read is not fetched ahead: {error:#}"));
            None
        }
    }
}

/// Reads these parts into the page cache, one after the other, when the processor has nothing better to do.
pub(crate) fn fetch(device: &Path, ranges: Vec<Range>, journal: &Arc<Journal>) {
    let (device, journal) = (device.to_owned(), Arc::clone(journal));
    std::thread::spawn(move || {
        // Linux sets this for the thread alone (setpriority(2)).
        let _ = setpriority_process(None, LAST);
        let begin = Instant::now();
        match File::open(&device).and_then(|file| read(&file, &ranges)) {
            Ok(bytes) => {
                let (kib, ms) = (bytes / 1024, begin.elapsed().as_millis());
                journal.say(&format!("fetched {kib} KiB ahead that boots read, in {ms} ms"));
            }
            Err(error) => journal.say(&format!("what boots read is not fetched ahead: {error}")),
        }
    });
}

/// Reads all of it; returns how much that was.
fn read(file: &File, ranges: &[Range]) -> std::io::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; PIECE], 0);
    for (offset, length) in ranges {
        let (mut at, end) = (*offset, offset.saturating_add(u64::from(*length)));
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            match file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)? {
                // A list that is longer than the image.
                0 => break,
                count => at += count as u64,
            }
        }
        bytes += at - offset;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_read_and_nothing_beyond_the_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(read(&file, &[(0, 300 << 10), (512 << 10, 4096)]).unwrap(), (300 << 10) + 4096);
        assert_eq!(read(&file, &[((1 << 20) - 10, 4096), (5 << 20, 4096)]).unwrap(), 10);
    }
}
