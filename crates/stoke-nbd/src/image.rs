//! A file that is served, opened once for all connections.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use crate::holes::Holes;
use crate::hot::{Range, Recorder};

/// Holes that are taken note of; what is behind them is data.
const HOLES: usize = 16 << 10;
/// What the kernel is told to read ahead at once, so that one piece of advice does not block for long.
const ADVICE: u64 = 4 << 20;

/// An image.
#[derive(Debug)]
pub struct Image {
    file: File,
    size: u64,
    holes: Arc<Holes>,
    /// What boots read of it.
    pub hot: Recorder,
}

impl Image {
    /// An image from a file that is not written to any more.
    ///
    /// # Errors
    /// If its size or its holes cannot be had.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let holes = Arc::new(holes(&file, size)?);
        Ok(Self { file, size, holes, hot: Recorder::default() })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where nothing is stored.
    pub fn holes(&self) -> Arc<Holes> {
        self.holes.clone()
    }

    /// Its file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills the buffer from `offset` on.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Asks for a range to be in memory soon.
    pub fn read_ahead(&self, offset: u64, length: u32) {
        let end = offset.saturating_add(length.into()).min(self.size);
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(ADVICE);
            // Advice: whether it was taken shows in nothing but time.
            let _ = fadvise(&self.file, at, NonZeroU64::new(piece), Advice::WillNeed);
            at += piece;
        }
    }

    /// Asks for all of these to be in memory soon, the first ones first.
    pub fn read_ahead_all(&self, ranges: &[Range]) {
        for (offset, length) in ranges {
            self.read_ahead(*offset, *length);
        }
    }
}

/// The holes of a file as its file system tells them (lseek(2), `SEEK_HOLE`); none where it cannot.
fn holes(file: &File, size: u64) -> io::Result<Holes> {
    let (mut holes, mut at) = (Vec::new(), 0);
    while at < size && holes.len() < HOLES {
        let begin = match seek(file, SeekFrom::Hole(at)) {
            Ok(begin) if begin < size => begin,
            Ok(_) | Err(Errno::INVAL | Errno::NXIO | Errno::OPNOTSUPP) => break,
            Err(error) => return Err(error.into()),
        };
        at = match seek(file, SeekFrom::Data(begin)) {
            Ok(end) => end.min(size),
            // Nothing but the hole is left.
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        holes.push((begin, at));
    }
    Ok(Holes::new(holes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_file_system_tells_where_nothing_is_stored() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 65_536]).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&vec![2; 65_536], 512 << 10).unwrap();
        let image = Image::new(file).unwrap();
        let expected = Holes::new(vec![(65_536, 512 << 10), ((512 << 10) + 65_536, 1 << 20)]);
        assert_eq!((image.size(), &*image.holes()), (1 << 20, &expected));
    }
}
