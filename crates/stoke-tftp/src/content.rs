//! What is served: bytes in memory, a file on disk, a text with the line ends of the wire.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Content of a file.
pub trait Content: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Fills the buffer from this place on.
    ///
    /// # Errors
    /// If there is less, or it cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Content for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = from.checked_add(buffer.len()).and_then(|end| self.get(from..end));
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file on disk whose size was known when it was opened.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    size: u64,
}

impl OnDisk {
    /// Takes a file as it is now, and lets the kernel read it ahead.
    ///
    /// # Errors
    /// If its size cannot be known.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        // Advice; a file system that takes none is slower, not wrong.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed);
        Ok(Self { file, size })
    }
}

impl Content for OnDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A text with the line ends of mode netascii (RFC 1350, section 1; RFC 764): a line feed becomes carriage return and
/// line feed, a carriage return is followed by a zero byte.
///
/// It is held in memory for as long as the transfer lasts, so [`NetasciiRoom`] limits what all of them hold.
#[derive(Debug)]
pub struct Netascii {
    text: Vec<u8>,
    room: Arc<AtomicUsize>,
}

impl Content for Netascii {
    fn size(&self) -> u64 {
        self.text.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        Content::read_exact_at(&self.text, buffer, offset)
    }
}

impl Drop for Netascii {
    fn drop(&mut self) {
        self.room.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

/// Memory for translated texts.
#[derive(Debug)]
pub struct NetasciiRoom {
    used: Arc<AtomicUsize>,
    most: usize,
}

impl NetasciiRoom {
    /// Room for this many bytes of translated texts in all.
    pub fn new(most: usize) -> Self {
        Self { used: Arc::default(), most }
    }

    /// Translates a text.
    ///
    /// # Errors
    /// If it cannot be read, or there is no room for it now.
    pub fn translate(&self, content: &dyn Content) -> io::Result<Netascii> {
        let size = usize::try_from(content.size()).unwrap_or(usize::MAX);
        // The worst case of the text as it is doubles it.
        let used = self.used.load(Ordering::Relaxed);
        if size.saturating_mul(2).saturating_add(used) > self.most {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut plain = vec![0; size];
        content.read_exact_at(&mut plain, 0)?;
        let text = netascii(&plain);
        self.used.fetch_add(text.len(), Ordering::Relaxed);
        Ok(Netascii { text, room: self.used.clone() })
    }
}

fn netascii(plain: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(plain.len() + plain.len() / 32);
    for byte in plain {
        match byte {
            b'\n' => text.extend(b"\r\n"),
            b'\r' => text.extend(b"\r\0"),
            byte => text.push(*byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_translated() {
        assert_eq!(netascii(b"one\ntwo\r\nthree\rfour"), b"one\r\ntwo\r\0\r\nthree\r\0four");
    }

    #[test]
    fn texts_give_their_room_back() {
        let room = NetasciiRoom::new(100);
        let text = b"x".repeat(40);
        let first = room.translate(&text).unwrap();
        assert_eq!(room.translate(&text).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        drop(first);
        assert_eq!(room.translate(&text).unwrap().size(), 40);
    }
}
