//! The console's history: a file that QEMU appends to, whether anybody of us runs or not.
//!
//! The file is the only truth about what the console showed: live viewers read it too. Its beginning is given back to
//! the file system as a hole when it grows, so offsets stay valid and a guest cannot fill the disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

/// What a viewer is shown of the past, in bytes.
pub(crate) const HISTORY: u64 = 256 * 1024;

/// Bytes that stay on disk at least.
const KEPT: u64 = 4 << 20;

/// Bytes that may be on disk before the older ones go.
const LARGEST: u64 = 8 << 20;

/// A block of most file systems: holes are made of whole blocks.
const BLOCK: u64 = 4096;

/// The console's history.
#[derive(Clone, Debug)]
pub(crate) struct ConsoleLog {
    path: PathBuf,
}

impl ConsoleLog {
    /// The log in this file, which need not exist yet.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Everything that was ever written, in bytes.
    pub(crate) fn length(&self) -> u64 {
        fs_err::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Where a new viewer begins to read.
    pub(crate) fn history_start(&self) -> u64 {
        self.length().saturating_sub(HISTORY)
    }

    /// Up to 64 KiB from an offset on; nothing at the end.
    pub(crate) fn read(&self, offset: u64) -> Vec<u8> {
        let mut buffer = vec![0; 64 * 1024];
        let size = File::open(&self.path).and_then(|file| file.read_at(&mut buffer, offset)).unwrap_or(0);
        buffer.truncate(size);
        buffer
    }

    /// The history that a new viewer would get.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let mut tail = Vec::new();
        let mut offset = self.history_start();
        while tail.len() < 2 * usize::try_from(HISTORY).unwrap_or(usize::MAX) {
            let piece = self.read(offset);
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            tail.extend(piece);
        }
        tail
    }

    /// Gives the oldest part back to the file system if there is much, given where the last hole ended. Returns where the
    /// hole ends now. File systems without holes keep everything.
    pub(crate) fn trim(&self, hole_end: u64) -> u64 {
        let length = self.length();
        if length.saturating_sub(hole_end) <= LARGEST {
            return hole_end;
        }
        let end = (length - KEPT) / BLOCK * BLOCK;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = File::options().write(true).open(&self.path).map(|file| fallocate(&file, flags, 0, end));
        if let Ok(Err(errno)) = punched {
            tracing::debug!(path = %self.path.display(), %errno, "the file system makes no holes");
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn log_of(size: usize) -> (tempfile::TempDir, ConsoleLog) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let bytes: Vec<u8> = (0..size).map(|index| u8::try_from(index % 251).unwrap()).collect();
        fs_err::write(&path, bytes).unwrap();
        (folder, ConsoleLog::new(path))
    }

    #[test]
    fn a_viewer_gets_the_last_part_of_a_long_history() {
        let (_folder, log) = log_of(300_000);
        let tail = log.tail();
        assert_eq!(tail.len(), 256 * 1024);
        assert_eq!(tail.last(), Some(&u8::try_from(299_999 % 251).unwrap()));
    }

    #[test]
    fn a_log_that_does_not_exist_is_empty() {
        let log = ConsoleLog::new("/nonexistent/console.log");
        assert_eq!((log.length(), log.tail().len(), log.trim(0)), (0, 0, 0));
    }

    #[test]
    fn a_long_log_gives_its_beginning_back_and_keeps_its_end() {
        let (_folder, log) = log_of(10 << 20);
        let tail = log.tail();
        let hole_end = log.trim(0);
        assert_eq!(hole_end, 6 << 20);
        assert_eq!(log.trim(hole_end), hole_end);
        assert_eq!((log.length(), log.tail()), (10 << 20, tail));
        assert!(fs_err::metadata(&log.path).unwrap().blocks() * 512 <= 5 << 20);
    }
}
