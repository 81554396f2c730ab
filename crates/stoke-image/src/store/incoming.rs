//! A version that comes from elsewhere: an archive or a registry. Nothing of it is in the store before all of it is there
//! and is what its digests say.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use fs_err as fs;
use fs_err::File;
use stoke_api::Digest;
use stoke_api::report::BuiltImage;
use stoke_api::workload::BlobRef;

use super::layout::{MANIFEST, NAME, REF_NAME};
use super::publish::{annotations, entry};
use super::{
    Descriptor, ImageConfig, ImageSignature, Manifest, Store, StoreError, Workspace, hash_while_copying, media,
};

/// Bound of a manifest or a configuration.
const LARGEST_DOCUMENT: u64 = 4 << 20;

/// Why something that came in is not a version of an image.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content could not be read or written.
    #[error("cannot take it in: {0}")]
    Content(#[source] io::Error),
    /// It has another digest than it should.
    #[error("{wanted} was changed on its way: what came is {found}")]
    Tampered {
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is longer than it should be.
    #[error("{digest} is longer than the {size} bytes that it should have")]
    TooLong {
        /// What it should be.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// A part did not come.
    #[error("it is not complete: {0} is missing")]
    Missing(Digest),
    /// It is something else.
    #[error("{digest} is no netboot image of Stokehold: {why}")]
    NoImage {
        /// Its manifest.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
}

/// What has come so far. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    workspace: Workspace,
    blobs: BTreeMap<Digest, u64>,
}

impl Incoming {
    /// Nothing has come yet.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn begin(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { store: store.clone(), workspace: store.workspace()?, blobs: BTreeMap::new() })
    }

    /// Where a blob of this digest is put by who downloads it himself, to be handed in by [`Self::adopt`].
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.workspace.path().join(digest.hex())
    }

    /// Whether the blob has come, or was here before, in this size.
    pub fn has(&self, blob: &BlobRef) -> bool {
        let here = || fs::metadata(self.store.blob_path(&blob.digest)).is_ok_and(|file| file.len() == blob.size);
        self.blobs.get(&blob.digest).is_some_and(|size| *size == blob.size) || here()
    }

    /// Takes a blob in, and compares it with its digest.
    ///
    /// # Errors
    /// If it cannot be read or written, or is another one.
    pub fn add(&mut self, digest: &Digest, from: impl Read) -> Result<BlobRef, IncomingError> {
        let path = self.path(digest);
        let mut file = File::create(&path).map_err(IncomingError::Content)?;
        let blob = hash_while_copying(from, &mut file).map_err(IncomingError::Content)?;
        file.sync_all().map_err(IncomingError::Content)?;
        self.note(digest, blob)
    }

    /// Takes in what was put at [`Self::path`].
    ///
    /// # Errors
    /// If it cannot be read, or is another one.
    pub fn adopt(&mut self, digest: &Digest) -> Result<BlobRef, IncomingError> {
        let blob = super::measure(&self.path(digest)).map_err(IncomingError::Content)?;
        self.note(digest, blob)
    }

    fn note(&mut self, wanted: &Digest, blob: BlobRef) -> Result<BlobRef, IncomingError> {
        if blob.digest != *wanted {
            return Err(IncomingError::Tampered { wanted: *wanted, found: blob.digest });
        }
        self.blobs.insert(blob.digest, blob.size);
        Ok(blob)
    }

    /// The parts that a version's manifest names, which must have come.
    ///
    /// # Errors
    /// If it is no manifest of a netboot image.
    pub fn parts(&self, version: &Digest) -> Result<Vec<BlobRef>, IncomingError> {
        Ok(self.manifest(version)?.parts().map(Descriptor::blob).collect())
    }

    fn manifest(&self, version: &Digest) -> Result<Manifest, IncomingError> {
        let manifest: Manifest = self.document(version, version)?;
        let no_image = |why: &str| IncomingError::NoImage { digest: *version, why: why.to_owned() };
        if manifest.artifact_type != media::NETBOOT {
            let hint = "another kind of image; name it as spec.source.oci of an Image and build that";
            return Err(no_image(hint));
        }
        for wanted in [media::KERNEL, media::INITRAMFS, media::ROOT] {
            if manifest.layer(wanted).is_none() {
                return Err(no_image(&format!("it has no {wanted}")));
            }
        }
        Ok(manifest)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, digest: &Digest, of: &Digest) -> Result<T, IncomingError> {
        let text = self.read(digest)?.ok_or(IncomingError::Missing(*digest))?;
        serde_json::from_slice(&text).map_err(|error| IncomingError::NoImage { digest: *of, why: error.to_string() })
    }

    /// A small blob that has come, or was here before.
    fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, IncomingError> {
        let path = if self.blobs.contains_key(digest) { self.path(digest) } else { self.store.blob_path(digest) };
        match fs::metadata(&path) {
            Ok(file) if file.len() > LARGEST_DOCUMENT => {
                Err(IncomingError::NoImage { digest: *digest, why: "it is too large for a document".to_owned() })
            }
            Ok(_) => fs::read(&path).map(Some).map_err(IncomingError::Content),
            Err(_) => Ok(None),
        }
    }

    /// Signatures of a version in a manifest that has come, as far as their documents have come, too, and are about it.
    pub(super) fn signatures(&self, manifest: &Digest, version: &Digest) -> Result<Vec<ImageSignature>, IncomingError> {
        let text = self.read(manifest)?.ok_or(IncomingError::Missing(*manifest))?;
        let mut found = Vec::new();
        for (blob, signature) in ImageSignature::layers(&text) {
            let payload = self.read(&blob.digest)?.ok_or(IncomingError::Missing(blob.digest))?;
            if super::signed_digest(&payload) == Some(*version) {
                found.push(ImageSignature { payload, signature });
            }
        }
        Ok(found)
    }

    /// Publishes a version whose manifest and parts have come, as the newest of `name`.
    ///
    /// # Errors
    /// If something is missing or does not fit. Nothing is published then.
    pub fn publish(&self, name: &str, version: &Digest) -> Result<BuiltImage, IncomingError> {
        let manifest = self.manifest(version)?;
        for part in manifest.parts() {
            self.complete(part)?;
        }
        self.plausible(version, &manifest)?;
        let _lock = self.store.lock()?;
        let size = self.blobs.get(version).copied();
        let size = size.map_or_else(|| self.store.measure_blob(version).map(|blob| blob.size), Ok)?;
        let own = Descriptor::new(MANIFEST, &BlobRef { digest: *version, size });
        for part in manifest.parts().chain([&own]) {
            if self.blobs.contains_key(&part.digest) {
                // A copy stays behind: another version of the same archive may share the part.
                let path = self.path(&part.digest);
                let copy = path.with_extension("link");
                fs::hard_link(&path, &copy).map_err(StoreError::File)?;
                self.store.adopt(&copy, &part.blob())?;
                let _ = fs::remove_file(&copy);
            }
        }
        let mut entry = entry(media::NETBOOT, &own.blob());
        let tag = format!("{name}:{}", version.short());
        // Without the digest of inputs: who can send an archive must not decide what a recipe of ours makes.
        entry.annotations = annotations([(NAME, &name.to_owned()), (REF_NAME, &tag)]);
        self.store.append_version(name, entry.clone())?;
        Ok(self.store.image(&entry)?)
    }

    fn complete(&self, part: &Descriptor) -> Result<(), IncomingError> {
        let come = self.blobs.get(&part.digest).copied();
        let here = || fs::metadata(self.store.blob_path(&part.digest)).map(|file| file.len()).ok();
        match come.or_else(here) {
            None => Err(IncomingError::Missing(part.digest)),
            Some(size) if size == part.size => Ok(()),
            Some(_) => Err(IncomingError::TooLong { digest: part.digest, size: part.size }),
        }
    }

    /// Whether the configuration is about the parts that came.
    fn plausible(&self, version: &Digest, manifest: &Manifest) -> Result<(), IncomingError> {
        let config: ImageConfig = self.document(&manifest.config.digest, version)?;
        let root = manifest.layer(media::ROOT);
        let fits = root.is_some_and(|layer| layer.digest == config.root.blob && layer.size == config.root.size)
            && config.root.verity.hash_offset <= config.root.size
            && config.root.verity.hash_offset == config.root.verity.data_blocks.saturating_mul(4096);
        if fits {
            return Ok(());
        }
        Err(IncomingError::NoImage { digest: *version, why: "it names a root that is not its own".to_owned() })
    }
}
