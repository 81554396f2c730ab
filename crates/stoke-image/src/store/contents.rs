//! What a version is made of, and whether that is still what it was when it was published.

use std::io::{self, Read};

use fs_err::File;
use stoke_api::Digest;
use stoke_api::report::BuiltImage;

use super::{Descriptor, Manifest, Store, StoreError, hash_while_copying, media};
use crate::verity;

/// A part of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What it is, for people: `kernel`, `root`.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Something in a version that is not what it was when it was published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A part is gone.
    #[error("the {part} is missing ({digest})")]
    Missing {
        /// Which part.
        part: String,
        /// Its digest.
        digest: Digest,
    },
    /// A part has other content.
    #[error("the {part} was changed: it is {found}, not {digest}")]
    Changed {
        /// Which part.
        part: String,
        /// What it should be.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// The root and its hash tree do not belong together.
    #[error("the root does not have the root hash {0}")]
    RootHash(String),
    /// What the version says of its root is about another root.
    #[error("the version names a root that is not among its parts")]
    OtherRoot,
}

/// Tells somebody how many bytes have been read.
struct Counted<'a, R> {
    from: R,
    tell: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        (self.tell)(read as u64);
        Ok(read)
    }
}

impl Store {
    /// The parts of a version, its manifest and configuration among them.
    ///
    /// # Errors
    /// If the store is damaged, or has no such version.
    pub fn contents(&self, version: &Digest) -> Result<Vec<Content>, StoreError> {
        let manifest: Manifest = self.json(&self.blob_path(version))?;
        let own = Descriptor::new(super::layout::MANIFEST, &self.measure_blob(version)?);
        let parts = std::iter::once(&own).chain(manifest.parts());
        Ok(parts.map(content).collect())
    }

    /// Reads all of a version and compares it with its digests, its root with the root hash, too. `read` is told of each
    /// piece: in all, [`BuiltImage::size`] and the root's size once more.
    ///
    /// # Errors
    /// If a file cannot be read. That something is missing or was changed is not an error but a [`Fault`].
    pub fn check(&self, image: &BuiltImage, read: &mut dyn FnMut(u64)) -> Result<Vec<Fault>, StoreError> {
        if let Some(fault) = self.check_blob("manifest", &image.digest, read)? {
            return Ok(vec![fault]);
        }
        let mut faults = Vec::new();
        let contents = self.contents(&image.digest)?;
        for part in contents.iter().skip(1) {
            faults.extend(self.check_blob(&part.name, &part.digest, read)?);
        }
        let root = &image.root;
        if !contents.iter().any(|part| part.media_type == media::ROOT && part.digest == root.blob) {
            faults.push(Fault::OtherRoot);
        } else if faults.is_empty() {
            let file = Counted { from: File::open(self.blob_path(&root.blob))?, tell: read };
            if !verity::is_intact(file, &root.verity)? {
                faults.push(Fault::RootHash(root.verity.root_hash.clone()));
            }
        }
        Ok(faults)
    }

    fn check_blob(&self, part: &str, digest: &Digest, read: &mut dyn FnMut(u64)) -> Result<Option<Fault>, StoreError> {
        let part = part.to_owned();
        let file = match File::open(self.blob_path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Fault::Missing { part, digest: *digest }));
            }
            other => other?,
        };
        let found = hash_while_copying(Counted { from: file, tell: read }, io::sink())?.digest;
        Ok((found != *digest).then_some(Fault::Changed { part, digest: *digest, found }))
    }
}

fn content(part: &Descriptor) -> Content {
    let words = [
        (super::layout::MANIFEST, "manifest"),
        (media::CONFIG, "configuration"),
        (media::KERNEL, "kernel"),
        (media::INITRAMFS, "initramfs"),
        (media::ROOT, "root"),
        (media::UKI, "unified kernel image"),
        (media::PACKAGES, "package list"),
        (media::SBOM, "bill of materials"),
    ];
    let word = words.iter().find(|(media_type, _)| *media_type == part.media_type).map(|(_, word)| *word);
    Content {
        name: word.unwrap_or(&part.media_type).to_owned(),
        media_type: part.media_type.clone(),
        digest: part.digest,
        size: part.size,
    }
}
