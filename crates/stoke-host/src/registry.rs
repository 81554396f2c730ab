//! Image versions in OCI registries, as artifacts of ours with their signatures: as referrers (OCI distribution
//! specification 1.1), and under the tag where cosign looks for them.

use std::io::Read;

use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::workload::BlobRef;
use stoke_image::store::signed_digest;
use stoke_image::{ImageSignature, Store};
use stoke_registry::{Fetched, Reference, Referrer, Registry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Is told how far a transfer is.
pub trait Meter {
    /// What is done now.
    fn at(&self, _what: &str) {}
    /// So many bytes more are done.
    fn add(&self, _bytes: u64) {}
}

/// Nobody wants to know.
impl Meter for () {}

/// Uploads a version, and everything that is attached to it.
///
/// # Errors
/// If the store cannot be read or the registry does not take it. What was uploaded before stays there and is not uploaded
/// again; the tag is set when all parts are there.
pub fn push(
    store: &Store,
    version: &Digest,
    reference: &Reference,
    registry: &Registry,
    meter: &dyn Meter,
) -> anyhow::Result<()> {
    for part in store.contents(version)?.iter().skip(1) {
        meter.at(&format!("push {}", part.name));
        let blob = BlobRef { digest: part.digest, size: part.size };
        if !put_file(registry, store, &blob, meter)? {
            meter.add(part.size);
        }
    }
    meter.at("push manifest");
    let manifest = fs_err::read(store.blob_path(version))?;
    registry.put_manifest(&reference.wanted(), MANIFEST, &manifest)?;
    for attached in store.attached_to(version)? {
        meter.at(&format!("push {}", attached.artifact_type));
        for blob in &attached.blobs {
            put_file(registry, store, blob, meter)?;
        }
        let content = fs_err::read(store.blob_path(&attached.manifest.digest))?;
        let BlobRef { digest, size } = attached.manifest;
        let artifact_type = attached.artifact_type.clone();
        let referrer = Referrer { media_type: MANIFEST.to_owned(), digest, size, artifact_type };
        registry.put_referrer(version, &referrer, &content)?;
    }
    put_for_cosign(registry, store, version)
}

/// Uploads a blob of the store. Whether it was not there yet.
fn put_file(registry: &Registry, store: &Store, blob: &BlobRef, meter: &dyn Meter) -> anyhow::Result<bool> {
    let path = store.blob_path(&blob.digest);
    let open = || Ok(Counted { from: fs_err::File::open(&path)?, meter });
    Ok(registry.put_blob(blob, open)?)
}

/// Tells a meter what was read.
struct Counted<'a, R> {
    from: R,
    meter: &'a dyn Meter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.meter.add(read as u64);
        Ok(read)
    }
}

/// All signatures once more where cosign looks for them, beside those that others put there.
fn put_for_cosign(registry: &Registry, store: &Store, version: &Digest) -> anyhow::Result<()> {
    let own = store.signatures(version)?;
    let tag = ImageSignature::tag(version);
    let mut all = match registry.manifest(&tag)? {
        Some(there) => fetch_signatures(registry, &there, version)?,
        None => Vec::new(),
    };
    if own.iter().all(|signature| all.contains(signature)) {
        return Ok(());
    }
    all.extend(own);
    all.sort();
    all.dedup();
    let (manifest, blobs) = ImageSignature::detached(&all);
    for content in blobs {
        let blob = BlobRef { digest: Digest(Sha256::digest(&content).into()), size: content.len() as u64 };
        registry.put_blob(&blob, || Ok(content.as_slice()))?;
    }
    registry.put_manifest(&tag, MANIFEST, &manifest)?;
    Ok(())
}

/// All signatures of a version that the registry has, by the list of referrers and under cosign's tag.
///
/// # Errors
/// If the registry does not answer.
pub fn signatures(registry: &Registry, version: &Digest) -> anyhow::Result<Vec<ImageSignature>> {
    let mut found = Vec::new();
    for referrer in registry.referrers(version)? {
        if let Some(manifest) = registry.manifest(&referrer.digest.to_string())? {
            found.extend(fetch_signatures(registry, &manifest, version)?);
        }
    }
    if let Some(manifest) = registry.manifest(&ImageSignature::tag(version))? {
        found.extend(fetch_signatures(registry, &manifest, version)?);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The signatures in a manifest, as far as they are about the version.
fn fetch_signatures(registry: &Registry, manifest: &Fetched, version: &Digest) -> anyhow::Result<Vec<ImageSignature>> {
    let mut found = Vec::new();
    for (blob, signature) in ImageSignature::layers(&manifest.content) {
        let mut payload = Vec::new();
        registry.get_blob(&blob, &mut payload, &mut |_| ())?;
        if signed_digest(&payload) == Some(*version) {
            found.push(ImageSignature { payload, signature });
        }
    }
    Ok(found)
}
