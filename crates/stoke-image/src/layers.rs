//! Layers into one tree: whiteouts, opaque folders, hard links and extended attributes applied (OCI image specification,
//! `layer.md`), and a plain tar archive held to the same rules.
//!
//! ```text
//!  layers, lowest first ── read once ──> index (names, kinds, owners; no content)
//!                       └─ read again ─> tree: folders, then the content that is still there, then links
//! ```
//!
//! Nothing is unpacked: names are resolved in the index, through its own symbolic links, and the top of the tree is as far up
//! as any of them gets. So no archive can write anywhere, and owners survive when an ordinary user builds.
//!
//! What strangers wrote is bounded: bytes, names, the ratio of a compressed layer. The first read checks every layer against
//! the digest that the image promises, before anything is made of it.

mod bound;
mod index;
mod write;

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use stoke_api::Digest;

pub(crate) use bound::{Bounded, HeaderBudget, Limits};
use index::Index;

/// Times from here on are no time that a file of an image has: 32 bits are what squashfs keeps.
pub(crate) const ANY_TIME: u64 = u32::MAX as u64;

/// What is wrong with layers or archives.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// A name that leaves the tree.
    #[error("the name {0:?} leads out of the tree; names are relative and have no \"..\"")]
    NameLeaves(String),
    /// A name that no file system takes.
    #[error("the name {0:?} is not one that a file can have")]
    Name(String),
    /// A parent that is no folder.
    #[error("{0:?} is below something that is no folder")]
    NotAFolder(String),
    /// Links in a circle.
    #[error("{0:?} is behind symbolic links that go in a circle")]
    LinkLoop(String),
    /// A hard link to nothing.
    #[error("{path:?} is a hard link to {target:?}, which is not there")]
    LinkToNothing {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A device node that gives a node's users the node.
    #[error("{path:?} is a device node ({major}:{minor}); an image may have such ones below /dev only")]
    Device {
        /// Its name.
        path: String,
        /// Its numbers.
        major: u32,
        /// Its numbers.
        minor: u32,
    },
    /// A kind of entry that is none of a file.
    #[error("{path:?} is of a kind that no tree has ({kind:?})")]
    Kind {
        /// Its name.
        path: String,
        /// The type flag of the archive.
        kind: char,
    },
    /// Too much of something.
    #[error("{0}")]
    TooMuch(String),
    /// Another content than was promised.
    #[error("layer {promised} has been tampered with or is damaged: its content is {found}")]
    Tampered {
        /// What the image promises.
        promised: Digest,
        /// What there is.
        found: Digest,
    },
    /// A compression that is not read here.
    #[error("it is compressed by {0}; use gzip or zstd, or none")]
    Compression(&'static str),
    /// The archive itself.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// Writing the tree.
    #[error("the tree cannot be written: {0}")]
    Write(io::Error),
}

/// Opens the stored form of a layer at its beginning.
pub(crate) type Opener = Box<dyn Fn() -> io::Result<Box<dyn Read>>>;

/// A layer: a tar archive, possibly compressed.
pub(crate) struct Layer {
    pub(crate) open: Opener,
    /// What its stored form must be.
    pub(crate) stored: Option<Digest>,
    /// What the archive itself must be.
    pub(crate) archive: Option<Digest>,
    /// Bytes of the stored form.
    pub(crate) size: u64,
    /// Times from this one on are those of a build and mean nothing.
    pub(crate) built_from: u64,
}

/// Writes the tree that the layers, lowest first, make together. `read` hears how many stored bytes were read, which is
/// twice what there is in the end.
pub(crate) fn flatten(
    layers: &[Layer],
    limits: &Limits,
    out: &mut dyn Write,
    read: &mut dyn FnMut(u64),
) -> Result<(), LayerError> {
    let mut index = Index::new(limits);
    for (number, layer) in layers.iter().enumerate() {
        index.begin(number, layer.built_from);
        layer.each(limits, |entry| index.apply(entry))?;
        read(layer.size);
    }
    let tree = index.finish()?;
    let mut writer = write::Writer::new(&tree, out);
    writer.folders()?;
    for (number, layer) in layers.iter().enumerate() {
        let mut sequence = 0;
        layer.each(limits, |entry| {
            sequence += 1;
            writer.content(number, sequence, entry)
        })?;
        read(layer.size);
    }
    writer.rest()
}

impl Layer {
    /// Shows each entry of the archive, and then checks that it was the one that was promised.
    fn each(
        &self,
        limits: &Limits,
        mut visit: impl FnMut(&mut tar::Entry<'_, &mut dyn Read>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let mut stored = Hashing::new((self.open)().map_err(LayerError::Read)?);
        let budget = HeaderBudget::default();
        let mut archive = Hashing::new(Bounded::new(decompressed(&mut stored)?, limits, self.size, budget.clone()));
        {
            let source: &mut dyn Read = &mut archive;
            let mut archive = tar::Archive::new(source);
            // What describes an entry is held in memory: it gets a bound of its own.
            budget.begin();
            for entry in archive.entries().map_err(read_error)? {
                let mut entry = entry.map_err(read_error)?;
                budget.end();
                visit(&mut entry)?;
                io::copy(&mut entry, &mut io::sink()).map_err(read_error)?;
                budget.begin();
            }
            budget.end();
        }
        io::copy(&mut archive, &mut io::sink()).map_err(read_error)?;
        let found = archive.digest();
        drop(archive);
        io::copy(&mut stored, &mut io::sink()).map_err(read_error)?;
        promised(self.stored, stored.digest())?;
        promised(self.archive, found)
    }
}

fn promised(promised: Option<Digest>, found: Digest) -> Result<(), LayerError> {
    match promised.filter(|promised| *promised != found) {
        Some(promised) => Err(LayerError::Tampered { promised, found }),
        None => Ok(()),
    }
}

/// An error while reading; a bound that was reached has its own words.
pub(crate) fn read_error(error: io::Error) -> LayerError {
    match bound::reached(&error) {
        Some(message) => LayerError::TooMuch(message),
        None => LayerError::Read(error),
    }
}

/// The archive in a stored form, whatever it is compressed by.
pub(crate) fn decompressed<'a>(mut stored: impl Read + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    let mut magic = Vec::new();
    stored.by_ref().take(6).read_to_end(&mut magic).map_err(LayerError::Read)?;
    let kind = magic.clone();
    let whole = io::Cursor::new(magic).chain(stored);
    match kind.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(whole)))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Box::new(zstd::Decoder::new(whole).map_err(LayerError::Read)?)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(LayerError::Compression("xz")),
        [b'B', b'Z', b'h', ..] => Err(LayerError::Compression("bzip2")),
        _ => Ok(Box::new(whole)),
    }
}

/// Hashes what is read.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(self.hash.clone().finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
