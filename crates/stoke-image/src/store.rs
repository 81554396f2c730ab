//! The store: an OCI image layout in a folder (OCI image specification, `image-layout.md`).
//!
//! ```text
//!  oci-layout, index.json     the layout; the newest version of a name is its last entry in the index
//!  blobs/sha256/HEX           content, never changed once it has its name
//!  cache/                     what saves work and may be deleted at any time
//!  tmp/OWNER/                 half-done work; its `owner` file is locked while the owner lives
//!  lock                       held while the index changes
//! ```
//!
//! Readers take no lock: a blob appears by a rename when it is complete, and so does the index, after all the blobs
//! that it names. Whoever is killed leaves at most a folder in `tmp`, which the next [`Store::open`] removes.

mod archive;
mod container;
mod contents;
mod incoming;
mod layout;
mod prune;
mod publish;
mod signatures;
mod versions;
mod workspace;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::File;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::report::BuiltImage;
use stoke_api::workload::BlobRef;

pub use archive::{Accept, ArchiveError};
pub use container::{Container, Layer};
pub use contents::{Content, Fault};
pub use incoming::{Incoming, IncomingError};
pub use layout::Package;
pub(crate) use layout::{Descriptor, ImageConfig, Index, Manifest};
pub use prune::Pruned;
pub(crate) use publish::{Draft, Part, media};
pub use signatures::{Attached, ImageSignature, payload, signed_digest};
pub use versions::Version;
pub(crate) use workspace::Workspace;
pub use workspace::remove_tree;

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file. The message names it.
    #[error(transparent)]
    File(#[from] io::Error),
    /// Something in the store is not what it should be.
    #[error("{path} of the image store is damaged; delete the store's folder, images are built again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
    /// A version without one of its parts.
    #[error("image {digest} has no {part}; build it again")]
    Incomplete {
        /// The version.
        digest: Digest,
        /// What it lacks.
        part: &'static str,
    },
    /// There is no such version.
    #[error("{name} has no version {digest}")]
    NoVersion {
        /// The image.
        name: String,
        /// The version that was asked for.
        digest: Digest,
    },
}

/// An image store. Cheap to open; any number of processes may have it open.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens a store, making it if there is none, and removes what killed builds left behind.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        fs::create_dir_all(dir.as_ref())?;
        let store = Self { root: fs::canonicalize(dir.as_ref())? };
        fs::create_dir_all(store.blobs().join("sha256"))?;
        fs::create_dir_all(store.tmp())?;
        fs::create_dir_all(store.cache())?;
        let layout = store.root.join("oci-layout");
        if !layout.exists() {
            store.replace(&layout, layout::OCI_LAYOUT.as_bytes())?;
        }
        store.sweep()?;
        Ok(store)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of blobs: `blobs/sha256/HEX`.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join("sha256").join(digest.hex())
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The newest version of an image, by `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn find(&self, name: &str) -> Result<Option<BuiltImage>, StoreError> {
        let index = self.index()?;
        index.versions(name).last().map(|version| self.image(version)).transpose()
    }

    /// The newest version of an image that was built from these inputs.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn find_built_from(&self, name: &str, inputs: &Digest) -> Result<Option<BuiltImage>, StoreError> {
        let (index, wanted) = (self.index()?, inputs.to_string());
        let found = index.versions(name).rfind(|version| version.annotation(layout::INPUTS) == Some(&wanted));
        found.map(|version| self.image(version)).transpose()
    }

    /// All versions of all images with their names, oldest first.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn list(&self) -> Result<Vec<(String, BuiltImage)>, StoreError> {
        let index = self.index()?;
        let named = index.manifests.iter().filter_map(|entry| Some((entry.annotation(layout::NAME)?, entry)));
        named.map(|(name, entry)| Ok((name.to_owned(), self.image(entry)?))).collect()
    }

    /// The packages that are installed in a version.
    ///
    /// # Errors
    /// If the store is damaged, or has no such version.
    pub fn packages(&self, image: &BuiltImage) -> Result<Vec<Package>, StoreError> {
        let manifest: Manifest = self.json(&self.blob_path(&image.digest))?;
        let list = manifest.layer(media::PACKAGES);
        let list = list.ok_or(StoreError::Incomplete { digest: image.digest, part: "package list" })?;
        self.json(&self.blob_path(&list.digest))
    }

    /// The bill of materials of a version: SPDX in JSON. Versions of older programs have none.
    ///
    /// # Errors
    /// If the store is damaged, or has no such version.
    pub fn sbom(&self, image: &BuiltImage) -> Result<Option<Vec<u8>>, StoreError> {
        let manifest: Manifest = self.json(&self.blob_path(&image.digest))?;
        let bill = manifest.layer(media::SBOM);
        Ok(bill.map(|bill| fs::read(self.blob_path(&bill.digest))).transpose()?)
    }

    /// Stores bytes. Storing the same again changes nothing.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put_bytes(&self, content: &[u8]) -> Result<BlobRef, StoreError> {
        let blob = BlobRef { digest: Digest(Sha256::digest(content).into()), size: content.len() as u64 };
        let path = self.blob_path(&blob.digest);
        if !path.exists() {
            self.replace(&path, content)?;
        }
        Ok(blob)
    }

    /// Stores a copy of a file.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn put_file(&self, path: impl AsRef<Path>) -> Result<BlobRef, StoreError> {
        let workspace = self.workspace()?;
        let copy = workspace.path().join("blob");
        let mut to = File::create(&copy)?;
        let blob = hash_while_copying(File::open(path.as_ref())?, &mut to)?;
        to.sync_all()?;
        self.adopt(&copy, &blob)?;
        Ok(blob)
    }

    /// Gives a complete and synced file of this store's `tmp` its name as a blob.
    fn adopt(&self, file: &Path, blob: &BlobRef) -> Result<(), StoreError> {
        let path = self.blob_path(&blob.digest);
        if !path.exists() {
            fs::rename(file, &path)?;
            sync_folder(&path)?;
        }
        Ok(())
    }

    fn index(&self) -> Result<Index, StoreError> {
        let path = self.root.join("index.json");
        if path.exists() { self.json(&path) } else { Ok(Index::default()) }
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: the store's file")]
    fn json<T: serde::de::DeserializeOwned>(&self, path: &Path) -> Result<T, StoreError> {
        let text = fs::read(path)?;
        serde_json::from_slice(&text).map_err(|source| StoreError::Damaged { path: path.to_owned(), source })
    }

    /// Writes a file of the store so that readers see the old one or the new one, whatever happens.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let workspace = self.workspace()?;
        let fresh = workspace.path().join("fresh");
        let mut file = File::create(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync_folder(path)?;
        Ok(())
    }

    /// Waits until nobody else changes the index.
    fn lock(&self) -> Result<std::fs::File, StoreError> {
        let lock = File::create(self.root.join("lock"))?.into_file();
        lock.lock()?;
        Ok(lock)
    }
}

/// Makes a rename in a file's folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Copies everything, and says what it was.
fn hash_while_copying(mut from: impl Read, mut to: impl Write) -> io::Result<BlobRef> {
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = from.read(&mut buffer)?;
        let chunk = buffer.get(..read).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(BlobRef { digest: Digest(hash.finalize().into()), size });
        }
        hash.update(chunk);
        to.write_all(chunk)?;
        size += chunk.len() as u64;
    }
}

/// Digest and size of a file; what was written to it is on disk afterwards.
pub(crate) fn measure(path: &Path) -> io::Result<BlobRef> {
    let mut file = File::open(path)?;
    let blob = hash_while_copying(&mut file, io::sink())?;
    file.sync_all()?;
    Ok(blob)
}
