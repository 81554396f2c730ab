//! Signatures of versions, in the form that cosign writes and reads (its `specs/SIGNATURE_SPEC.md`).
//!
//! What is signed is a small JSON document that names the version's digest. Document and signature are the layer of a
//! manifest of their own, whose `subject` is the version (OCI image specification 1.1, `manifest.md`): outside of the
//! version's digest, so that anybody may add one. Keys are nowhere in here: who signs and who verifies brings them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use stoke_api::Digest;
use stoke_api::workload::BlobRef;

use super::layout::MANIFEST;
use super::publish::{entry, manifest};
use super::{Descriptor, Index, Manifest, Store, StoreError};

/// Media types of a signature's manifest.
pub(crate) mod media {
    /// Kind of the manifest.
    pub(crate) const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
    /// The signed document.
    pub(crate) const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    /// Its configuration, as cosign has it.
    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
}

/// Annotation of the layer: the signature in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What the document says that it is.
const TYPE: &str = "cosign container image signature";
/// Bound of a signed document.
pub(super) const LARGEST_PAYLOAD: u64 = 64 << 10;

/// A signature as it is stored: nothing about it has been verified.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageSignature {
    /// The document that is signed: see [`signed_digest`].
    pub payload: Vec<u8>,
    /// The signature over it.
    pub signature: Vec<u8>,
}

/// Something that is attached to a version, and travels with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its manifest.
    pub manifest: BlobRef,
    /// What it is.
    pub artifact_type: String,
    /// What its manifest needs.
    pub blobs: Vec<BlobRef>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    critical: Critical,
    #[serde(default)]
    optional: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// The document to be signed for a version. `reference` is the name that the image has where it is used, for example
/// `registry.example.org/farm/node`; there are policies that look at it.
pub fn payload(reference: &str, version: &Digest) -> Vec<u8> {
    let critical = Critical {
        identity: Identity { docker_reference: reference.to_owned() },
        image: Image { docker_manifest_digest: version.to_string() },
        kind: TYPE.to_owned(),
    };
    // Text and nothing else: this cannot fail.
    serde_json::to_vec(&Document { critical, optional: None }).unwrap_or_default()
}

/// The version that a signed document is about; `None` if it is no such document.
pub fn signed_digest(payload: &[u8]) -> Option<Digest> {
    let document: Document = serde_json::from_slice(payload).ok()?;
    let Critical { image, kind, .. } = document.critical;
    (kind == TYPE).then(|| image.docker_manifest_digest.parse().ok())?
}

impl ImageSignature {
    /// The layers that hold signatures in a manifest: of ours, or one that cosign wrote.
    pub fn layers(manifest: &[u8]) -> Vec<(BlobRef, Vec<u8>)> {
        let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return Vec::new() };
        let layers = manifest.layers.iter().filter(|layer| layer.media_type == media::PAYLOAD);
        let layers = layers.filter(|layer| layer.size <= LARGEST_PAYLOAD);
        layers.filter_map(|layer| Some((layer.blob(), signature_of(layer)?))).collect()
    }

    /// The manifest that carries signatures without a subject, under the tag that cosign looks for
    /// ([`tag`](Self::tag)), and the blobs that it needs.
    pub fn detached(signatures: &[Self]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let config = br"{}".to_vec();
        let blob = |content: &[u8]| BlobRef {
            digest: Digest(<sha2::Sha256 as sha2::Digest>::digest(content).into()),
            size: content.len() as u64,
        };
        let layers = signatures.iter().map(|one| layer(&blob(&one.payload), &one.signature)).collect();
        let config_layer = Descriptor::new(media::CONFIG, &blob(&config));
        let detached = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: String::new(),
            config: config_layer,
            layers,
            subject: None,
        };
        let blobs = std::iter::once(config).chain(signatures.iter().map(|one| one.payload.clone()));
        (serde_json::to_vec(&detached).unwrap_or_default(), blobs.collect())
    }

    /// The tag under which cosign looks for the signatures of a version.
    pub fn tag(version: &Digest) -> String {
        format!("sha256-{}.sig", version.hex())
    }
}

fn layer(payload: &BlobRef, signature: &[u8]) -> Descriptor {
    let mut layer = Descriptor::new(media::PAYLOAD, payload);
    layer.annotations = BTreeMap::from([(SIGNATURE.to_owned(), STANDARD.encode(signature))]);
    layer
}

fn signature_of(layer: &Descriptor) -> Option<Vec<u8>> {
    STANDARD.decode(layer.annotation(SIGNATURE)?).ok()
}

impl Store {
    /// Attaches a signature to a version. Whether it was not there yet.
    ///
    /// # Errors
    /// If there is no such version, or the store is damaged or cannot be written.
    pub fn add_signature(&self, version: &Digest, signature: &ImageSignature) -> Result<bool, StoreError> {
        if self.signatures(version)?.contains(signature) {
            return Ok(false);
        }
        let _lock = self.lock()?;
        let subject = Descriptor::new(MANIFEST, &self.measure_blob(version)?);
        let config = Descriptor::new(media::CONFIG, &self.put_bytes(b"{}")?);
        let layers = vec![layer(&self.put_bytes(&signature.payload)?, &signature.signature)];
        let blob = self.put_json(&manifest(media::SIGNATURE, config, layers, Some(subject)))?;
        let entry = entry(media::SIGNATURE, &blob);
        self.append(entry.clone(), |old| old.digest == entry.digest)?;
        Ok(true)
    }

    /// The signatures that are attached to a version, as they are: nobody has verified them.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn signatures(&self, version: &Digest) -> Result<Vec<ImageSignature>, StoreError> {
        let mut found = Vec::new();
        for (_, manifest) in self.attachments(&self.index()?, version)? {
            let layers = manifest.layers.iter().filter(|layer| layer.media_type == media::PAYLOAD);
            for layer in layers.filter(|layer| layer.size <= LARGEST_PAYLOAD) {
                let Some(signature) = signature_of(layer) else { continue };
                let payload = fs_err::read(self.blob_path(&layer.digest))?;
                found.push(ImageSignature { payload, signature });
            }
        }
        Ok(found)
    }

    /// What is attached to a version and travels with it, signatures among it.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn attached_to(&self, version: &Digest) -> Result<Vec<Attached>, StoreError> {
        let attachments = self.attachments(&self.index()?, version)?;
        let attached = attachments.into_iter().map(|(entry, manifest)| Attached {
            manifest: entry.blob(),
            blobs: manifest.parts().map(Descriptor::blob).collect(),
            artifact_type: manifest.artifact_type,
        });
        Ok(attached.collect())
    }

    /// What is attached to a version and travels with it: all but what farms of this installation made of it.
    pub(super) fn attachments(
        &self,
        index: &Index,
        version: &Digest,
    ) -> Result<Vec<(Descriptor, Manifest)>, StoreError> {
        let unnamed = index.manifests.iter().filter(|entry| entry.annotation(super::layout::NAME).is_none());
        let mut found = Vec::new();
        for entry in unnamed.filter(|entry| entry.artifact_type.as_deref() != Some(super::media::FARM)) {
            let manifest: Manifest = self.json(&self.blob_path(&entry.digest))?;
            if manifest.subject.as_ref().is_some_and(|subject| subject.digest == *version) {
                found.push((entry.clone(), manifest));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_names_its_version() {
        let version = Digest([7; 32]);
        let document = payload("registry.example.org/farm/node", &version);
        let text = String::from_utf8(document.clone()).unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"registry.example.org/farm/node"}},"image":{{"docker-manifest-digest":"{version}"}},"type":"cosign container image signature"}},"optional":null}}"#
            )
        );
        assert_eq!(signed_digest(&document), Some(version));
        assert_eq!(signed_digest(text.replace("cosign container", "another").as_bytes()), None);
        assert_eq!(signed_digest(b"{}"), None);
    }

    #[test]
    fn what_is_detached_is_found_again() {
        let one = ImageSignature { payload: b"{}".to_vec(), signature: vec![1, 2, 3] };
        let (manifest, blobs) = ImageSignature::detached(std::slice::from_ref(&one));
        assert_eq!(blobs, [b"{}".to_vec(), b"{}".to_vec()]);
        let layers = ImageSignature::layers(&manifest);
        assert_eq!(
            layers.iter().map(|(blob, bytes)| (blob.size, bytes.clone())).collect::<Vec<_>>(),
            [(2, vec![1, 2, 3])]
        );
        assert!(ImageSignature::layers(b"not json").is_empty());
    }
}
