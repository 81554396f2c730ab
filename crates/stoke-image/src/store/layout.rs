//! The files of an OCI image layout, as far as images of ours use them (OCI image specification 1.1: `image-index.md`,
//! `manifest.md`).
//!
//! Written by hand: maps of annotations must keep one order, or the same content had two digests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stoke_api::Digest;
use stoke_api::node::RootInfo;
use stoke_api::workload::BlobRef;

/// Content of `oci-layout`.
pub(super) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Annotation in the index: `NAMESPACE/NAME`.
pub(crate) const NAME: &str = "dev.stokehold.image.name";
/// Annotation in the index: digest of what the version was built from. Outside of the manifest: other tools may well
/// make the same content.
pub(crate) const INPUTS: &str = "dev.stokehold.image.inputs";
/// Annotation in the index: what a farm's part was made from.
pub(crate) const DERIVED_FROM: &str = "dev.stokehold.derived-from";
/// Annotation in the index: the version is not pruned.
pub(crate) const KEPT: &str = "dev.stokehold.image.kept";
/// Annotation in the index: farms hand out this version, and not the newest.
pub(crate) const HANDED_OUT: &str = "dev.stokehold.image.handed-out";
/// Annotation in the index: when the version came into this store, in seconds since 1970.
pub(crate) const PUBLISHED: &str = "dev.stokehold.image.published";
/// The annotation that other tools find a version by.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Names content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, blob: &BlobRef) -> Self {
        let BlobRef { digest, size } = *blob;
        Self { media_type: media_type.to_owned(), digest, size, artifact_type: None, annotations: BTreeMap::new() }
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    pub(crate) fn blob(&self) -> BlobRef {
        BlobRef { digest: self.digest, size: self.size }
    }
}

/// `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u8,
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

impl Default for Index {
    fn default() -> Self {
        let media_type = "application/vnd.oci.image.index.v1+json".to_owned();
        Self { schema_version: 2, media_type, manifests: Vec::new() }
    }
}

impl Index {
    /// The version that farms hand out: the one that was chosen, else the newest.
    pub(crate) fn handed_out<'a>(&'a self, name: &'a str) -> Option<&'a Descriptor> {
        let chosen = self.versions(name).rfind(|entry| entry.annotation(HANDED_OUT).is_some());
        chosen.or_else(|| self.versions(name).next_back())
    }

    /// The versions of one image, oldest first.
    pub(crate) fn versions<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Descriptor> {
        self.manifests.iter().filter(move |entry| entry.annotation(NAME) == Some(name))
    }
}

/// The manifest of a version, or of a part that belongs to one ([`Manifest::subject`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u8,
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) artifact_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
}

impl Manifest {
    pub(crate) fn layer(&self, media_type: &str) -> Option<&Descriptor> {
        self.layers.iter().find(|layer| layer.media_type == media_type)
    }

    /// Everything that the manifest needs.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// What a version says of itself beside its parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageConfig {
    pub(crate) architecture: String,
    pub(crate) kernel_version: String,
    pub(crate) kernel_arguments: Vec<String>,
    pub(crate) root: RootInfo,
    /// As in [`stoke_api::node::Baked`]; 0 in versions that were built before it was recorded.
    #[serde(default)]
    pub(crate) built_at: u64,
}

/// A package that is installed in an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
}
