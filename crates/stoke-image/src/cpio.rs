//! cpio archives in the `newc` form, which the kernel unpacks into its initial file system
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`, `init/initramfs.c`).
//!
//! The same entries give the same bytes: inode numbers count up, times are zero, everything belongs to root.

use std::collections::BTreeSet;
use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
/// Length of an entry's header: the magic and thirteen fields of eight hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
/// The longest name that the kernel accepts (`PATH_MAX`); a longer one is skipped silently.
const NAME_MAX: usize = 4096;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes an archive.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    written: usize,
    entries: u32,
    directories: BTreeSet<String>,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, entries: 0, directories: BTreeSet::new() }
    }

    /// Adds a directory and the ones above it; one that is there already is left as it is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.directories.insert(path.to_owned());
        self.entry(&Entry { name: path, mode: DIRECTORY | mode, links: 2, device: (0, 0), content: &[] })
    }

    /// Adds a file and the directories above it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.leaf(path, FILE | mode, (0, 0), content)
    }

    /// Adds a symbolic link and the directories above it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.leaf(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device and the directories above it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        self.leaf(path, CHARACTER_DEVICE | mode, (major, minor), &[])
    }

    /// Ends the archive, padded so that another one may follow it (the kernel skips zeroes between them).
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(&Entry { name: TRAILER, mode: 0, links: 1, device: (0, 0), content: &[] })?;
        self.pad(512)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn leaf(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let name = path.trim_matches('/');
        self.parents(name)?;
        self.entry(&Entry { name, mode, links: 1, device, content })
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent, 0o755),
            None => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let too_large = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {what}", entry.name));
        if entry.name.len() >= NAME_MAX {
            return Err(too_large("the name is too long for cpio"));
        }
        let size = u32::try_from(entry.content.len()).map_err(|_| too_large("over 4 GiB do not fit into cpio"))?;
        let name_size = u32::try_from(entry.name.len() + 1).map_err(|_| too_large("the name is too long"))?;
        // The trailer is no file: its inode is 0, as in archives of GNU cpio.
        let inode = if entry.name == TRAILER { 0 } else { self.entries + 1 };
        self.entries = self.entries.max(inode);
        let (major, minor) = entry.device;
        let fields = [inode, entry.mode, 0, 0, entry.links, 0, size, 0, 0, major, minor, name_size, 0];
        let fields = fields.map(|field| format!("{field:08X}")).concat();
        self.bytes(MAGIC.as_bytes())?;
        self.bytes(fields.as_bytes())?;
        self.bytes(entry.name.as_bytes())?;
        self.bytes(&[0])?;
        self.pad(4)?;
        self.bytes(entry.content)?;
        self.pad(4)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        Ok(())
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        let missing = self.written.next_multiple_of(to) - self.written;
        self.bytes(vec![0; missing].as_slice())
    }
}

/// An entry of an archive that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Path without a leading slash.
    pub path: String,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Content, or the target of a symbolic link.
    pub content: Vec<u8>,
}

/// Why bytes are no archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a newc archive at byte {at}")]
pub struct NotCpio {
    /// Where.
    pub at: usize,
}

/// Reads the entries of an archive, or of several behind each other, without compression.
///
/// # Errors
/// If the bytes are something else.
pub fn read(archive: &[u8]) -> Result<Vec<Found>, NotCpio> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(rest) = archive.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.first() == Some(&0) {
            at += 1;
            continue;
        }
        let (entry, length) = read_entry(rest).ok_or(NotCpio { at })?;
        at += length;
        found.extend((entry.path != TRAILER).then_some(entry));
    }
    Ok(found)
}

fn read_entry(rest: &[u8]) -> Option<(Found, usize)> {
    let header = rest.get(..HEADER)?.strip_prefix(MAGIC.as_bytes())?;
    let field = |index: usize| -> Option<u32> {
        let digits = header.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (size, name_size) = (usize::try_from(field(6)?).ok()?, usize::try_from(field(11)?).ok()?);
    let name = rest.get(HEADER..HEADER.checked_add(name_size)?)?;
    let path = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?.to_owned();
    let begin = (HEADER + name_size).next_multiple_of(4);
    let end = begin.checked_add(size)?;
    let content = rest.get(begin..end)?.to_vec();
    let entry = Found { path, mode: field(1)?, device: (field(9)?, field(10)?), content };
    Some((entry, end.next_multiple_of(4)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directories_above_come_first_and_once() {
        let mut writer = Writer::new(Vec::new());
        writer.file("/etc/a/b", 0o644, b"x").unwrap();
        writer.file("/etc/a/c", 0o600, b"").unwrap();
        writer.character_device("/dev/console", 0o600, 5, 1).unwrap();
        writer.symlink("/bin", "usr/bin").unwrap();
        let found = read(&writer.finish().unwrap()).unwrap();
        let paths: Vec<_> = found.iter().map(|entry| (entry.path.as_str(), entry.mode)).collect();
        let expected = [
            ("etc", 0o40755),
            ("etc/a", 0o40755),
            ("etc/a/b", 0o100_644),
            ("etc/a/c", 0o100_600),
            ("dev", 0o40755),
            ("dev/console", 0o20600),
            ("bin", 0o120_777),
        ];
        assert_eq!(paths, expected);
        assert_eq!(found[5].device, (5, 1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(files in proptest::collection::btree_map("[a-z]{1,20}", any::<Vec<u8>>(), 0..8)) {
            let mut writer = Writer::new(Vec::new());
            for (name, content) in &files {
                writer.file(name, 0o644, content).unwrap();
            }
            let archive = writer.finish().unwrap();
            prop_assert_eq!(archive.len() % 512, 0);
            let found = read(&[archive.clone(), archive].concat()).unwrap();
            prop_assert_eq!(found.len(), files.len() * 2);
            for (entry, (name, content)) in found.iter().zip(&files) {
                prop_assert_eq!((&entry.path, &entry.content), (name, content));
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>) {
            let _ = read(&bytes);
            bytes.splice(0..0, *b"070701");
            let _ = read(&bytes);
        }
    }
}
