//! Publishing: all parts of a version get their names, then the index names the version. In one step for readers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stoke_api::Digest;
use stoke_api::report::BuiltImage;
use stoke_api::workload::{Architecture, BlobRef};

use super::layout::{DERIVED_FROM, INPUTS, MANIFEST, NAME, REF_NAME};
use super::{Descriptor, ImageConfig, Index, Manifest, Store, StoreError};

/// Media types of the parts.
pub(crate) mod media {
    pub(crate) const NETBOOT: &str = "application/vnd.stokehold.netboot.v1";
    pub(crate) const CONFIG: &str = "application/vnd.stokehold.netboot.config.v1+json";
    pub(crate) const KERNEL: &str = "application/vnd.stokehold.kernel";
    pub(crate) const INITRAMFS: &str = "application/vnd.stokehold.initramfs";
    pub(crate) const ROOT: &str = "application/vnd.stokehold.root.verity";
    pub(crate) const UKI: &str = "application/vnd.stokehold.uki";
    pub(crate) const PACKAGES: &str = "application/vnd.stokehold.packages.v1+json";
    pub(crate) const SBOM: &str = "application/spdx+json";
    pub(crate) const FARM: &str = "application/vnd.stokehold.farm.v1";
    pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";
}

/// A finished part of a version, still in the builder's workspace.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) media_type: &'static str,
    pub(crate) file: PathBuf,
    pub(crate) blob: BlobRef,
}

/// A version before it is published.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) inputs: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) parts: Vec<Part>,
}

impl Store {
    /// Publishes a version. Publishing the same content again makes it the newest.
    pub(crate) fn publish(&self, draft: &Draft) -> Result<BuiltImage, StoreError> {
        let _lock = self.lock()?;
        // Under the lock, so that nobody prunes what this version shares with one that goes.
        for part in &draft.parts {
            self.adopt(&part.file, &part.blob)?;
        }
        let config = self.put_json(&draft.config)?;
        let layers = draft.parts.iter().map(|part| Descriptor::new(part.media_type, &part.blob)).collect();
        let config = Descriptor::new(media::CONFIG, &config);
        let manifest = self.put_json(&manifest(media::NETBOOT, config, layers, None))?;
        let mut entry = entry(media::NETBOOT, &manifest);
        let tag = format!("{}:{}", draft.name, manifest.digest.short());
        entry.annotations = annotations([(NAME, &draft.name), (INPUTS, &draft.inputs.to_string()), (REF_NAME, &tag)]);
        self.append_version(&draft.name, entry.clone())?;
        self.image(&entry)
    }

    /// Keeps a farm's part beside the version that it belongs to: it goes when the version goes.
    pub(crate) fn attach(&self, image: &BuiltImage, derived_from: &Digest, part: &Part) -> Result<BlobRef, StoreError> {
        let _lock = self.lock()?;
        self.adopt(&part.file, &part.blob)?;
        let config = Descriptor::new(media::EMPTY, &self.put_bytes(b"{}")?);
        let subject = Descriptor::new(MANIFEST, &self.measure_blob(&image.digest)?);
        let layers = vec![Descriptor::new(part.media_type, &part.blob)];
        let manifest = self.put_json(&manifest(media::FARM, config, layers, Some(subject)))?;
        let mut entry = entry(media::FARM, &manifest);
        entry.annotations = annotations([(DERIVED_FROM, &derived_from.to_string())]);
        self.append(entry.clone(), |old| old.annotations == entry.annotations)?;
        Ok(part.blob)
    }

    /// A farm's part that was made from the same before.
    pub(crate) fn attached(&self, derived_from: &Digest, media_type: &str) -> Result<Option<BlobRef>, StoreError> {
        let (index, wanted) = (self.index()?, derived_from.to_string());
        let mut entries = index.manifests.iter();
        let Some(entry) = entries.find(|entry| entry.annotation(DERIVED_FROM) == Some(&wanted)) else {
            return Ok(None);
        };
        let manifest: Manifest = self.json(&self.blob_path(&entry.digest))?;
        let blob = manifest.layer(media_type).map(Descriptor::blob);
        Ok(blob.filter(|blob| self.blob_path(&blob.digest).exists()))
    }

    /// Puts an entry at the end of the index, and takes out the ones that it replaces.
    pub(super) fn append(&self, entry: Descriptor, replaces: impl Fn(&Descriptor) -> bool) -> Result<(), StoreError> {
        let mut index = self.index()?;
        index.manifests.retain(|old| !replaces(old));
        index.manifests.push(entry);
        self.write_index(&index)
    }

    pub(super) fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        let path = self.root.join("index.json");
        let text = serde_json::to_vec_pretty(index);
        let text = text.map_err(|source| StoreError::Damaged { path: path.clone(), source })?;
        self.replace(&path, &text)
    }

    pub(super) fn put_json(&self, value: &impl serde::Serialize) -> Result<BlobRef, StoreError> {
        let text = serde_json::to_vec(value);
        let text = text.map_err(|source| StoreError::Damaged { path: self.root.clone(), source })?;
        self.put_bytes(&text)
    }

    pub(super) fn measure_blob(&self, digest: &Digest) -> Result<BlobRef, StoreError> {
        let size = fs_err::metadata(self.blob_path(digest))?.len();
        Ok(BlobRef { digest: *digest, size })
    }

    /// What an entry of the index stands for.
    pub(super) fn image(&self, entry: &Descriptor) -> Result<BuiltImage, StoreError> {
        let manifest: Manifest = self.json(&self.blob_path(&entry.digest))?;
        let config: ImageConfig = self.json(&self.blob_path(&manifest.config.digest))?;
        let part = |media_type, part| {
            let layer = manifest.layer(media_type).map(Descriptor::blob);
            layer.ok_or(StoreError::Incomplete { digest: entry.digest, part })
        };
        Ok(BuiltImage {
            architecture: match config.architecture.as_str() {
                "arm64" => Architecture::Arm64,
                _ => Architecture::Amd64,
            },
            digest: entry.digest,
            size: manifest.parts().map(|part| part.size).sum(),
            kernel_version: config.kernel_version,
            inputs: entry.annotation(INPUTS).and_then(|text| text.parse().ok()).unwrap_or(Digest([0; 32])),
            kernel: part(media::KERNEL, "kernel")?,
            initramfs: part(media::INITRAMFS, "initramfs")?,
            uki: manifest.layer(media::UKI).map(Descriptor::blob),
            root: config.root,
            kernel_arguments: config.kernel_arguments,
            built_at: config.built_at,
        })
    }
}

pub(super) fn manifest(
    kind: &str,
    config: Descriptor,
    layers: Vec<Descriptor>,
    subject: Option<Descriptor>,
) -> Manifest {
    let (media_type, artifact_type) = (MANIFEST.to_owned(), kind.to_owned());
    Manifest { schema_version: 2, media_type, artifact_type, config, layers, subject }
}

pub(super) fn entry(kind: &str, manifest: &BlobRef) -> Descriptor {
    Descriptor { artifact_type: Some(kind.to_owned()), ..Descriptor::new(MANIFEST, manifest) }
}

pub(super) fn annotations<const N: usize>(pairs: [(&str, &String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
}
