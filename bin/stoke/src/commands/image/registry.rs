//! `stoke image push` and `stoke image pull`: versions in OCI registries, as artifacts of ours with their signatures: as
//! referrers (OCI distribution specification 1.1), and under the tag where cosign looks for them.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::workload::BlobRef;
use stoke_image::store::{Incoming, signed_digest};
use stoke_image::{ImageSignature, Store};
use stoke_registry::{Fetched, Options, Referrer, Registry};

use super::transfer::Transfer;
use super::{ImageName, keys, shelf, sign};
use crate::cli::{PullImage, PushImage, RegistryAccess};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn options(access: &RegistryAccess) -> Options {
    Options { auth_file: access.auth_file.clone(), ca_file: access.ca_file.clone() }
}

pub(super) fn push(folders: &Folders, push: &PushImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let image = push.image.find(&store)?.image;
    let mut reference = push.reference.clone();
    if reference.digest.is_some_and(|digest| digest != image.digest) {
        return Err(Failure::usage("a digest cannot be chosen: it is the content's", "HOST/REPOSITORY:TAG"));
    }
    reference.tag.get_or_insert_with(|| image.digest.short());
    reference.digest = None;
    let registry = Registry::open(&reference, &options(&push.access))?;
    let transfer = Transfer::new(&push.image.key(), image.size);
    let contents = store.contents(&image.digest)?;
    for part in contents.iter().skip(1) {
        transfer.at(&format!("push {}", part.name));
        let blob = BlobRef { digest: part.digest, size: part.size };
        if !put_file(&registry, &store, &blob, &transfer)? {
            transfer.add(part.size);
        }
    }
    transfer.at("push manifest");
    let manifest = fs_err::read(store.blob_path(&image.digest))?;
    registry.put_manifest(&reference.wanted(), MANIFEST, &manifest)?;
    for attached in store.attached_to(&image.digest)? {
        transfer.at(&format!("push {}", attached.artifact_type));
        for blob in &attached.blobs {
            put_file(&registry, &store, blob, &transfer)?;
        }
        let content = fs_err::read(store.blob_path(&attached.manifest.digest))?;
        let BlobRef { digest, size } = attached.manifest;
        let artifact_type = attached.artifact_type.clone();
        let referrer = Referrer { media_type: MANIFEST.to_owned(), digest, size, artifact_type };
        registry.put_referrer(&image.digest, &referrer, &content)?;
    }
    put_for_cosign(&registry, &store, &image.digest)?;
    drop(transfer);
    output::print(&format!("{reference}@{}\n", image.digest))?;
    Ok(ExitCode::SUCCESS)
}

/// Uploads a blob of the store. Whether it was not there yet.
fn put_file(registry: &Registry, store: &Store, blob: &BlobRef, transfer: &Transfer) -> anyhow::Result<bool> {
    let path = store.blob_path(&blob.digest);
    let open = || Ok(Counted { from: fs_err::File::open(&path)?, transfer });
    Ok(registry.put_blob(blob, open)?)
}

/// Tells a transfer what was read.
struct Counted<'a, R> {
    from: R,
    transfer: &'a Transfer,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.transfer.add(read as u64);
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

pub(super) fn pull(folders: &Folders, pull: &PullImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open_or_make(folders)?;
    let key = pull.key.as_ref().map(|key| keys::public(folders, key)).transpose()?;
    let name = name(pull)?;
    let registry = Registry::open(&pull.reference, &options(&pull.access))?;
    let found = registry.manifest(&pull.reference.wanted())?;
    let found = found.ok_or_else(|| {
        Failure::hinted(format!("there is no {}", pull.reference), "look for another tag, or push it there first")
    })?;
    let signatures = signatures(&registry, &found.digest)?;
    if let Some(key) = &key {
        sign::demand(key, &signatures, &found.digest)?;
    }
    let image = download(&store, &registry, &found, &name)?;
    for signature in &signatures {
        store.add_signature(&image, signature)?;
    }
    output::print(&format!("{name}@{image}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// What the image is called here.
fn name(pull: &PullImage) -> anyhow::Result<String> {
    if let Some(name) = &pull.name {
        let plain = || Failure::usage("a version cannot be chosen: it is the content's digest", "--name NAME");
        return if name.has_version() { Err(plain()) } else { Ok(name.key()) };
    }
    let last = pull.reference.repository.rsplit('/').next().unwrap_or_default();
    let parsed = last.parse::<ImageName>();
    parsed.map(|name| name.key()).map_err(|why| Failure::usage(why, "say what the image is called here: --name NAME"))
}

/// Takes a version in: all parts that are not here already, then the version in one step.
fn download(store: &Store, registry: &Registry, found: &Fetched, name: &str) -> anyhow::Result<Digest> {
    let mut incoming = Incoming::begin(store)?;
    incoming.add(&found.digest, found.content.as_slice())?;
    let parts = incoming.parts(&found.digest).with_context(|| format!("nothing of {name} was taken in"))?;
    let transfer = Transfer::new(name, parts.iter().map(|part| part.size).sum());
    for part in &parts {
        if incoming.has(part) {
            transfer.add(part.size);
            continue;
        }
        transfer.at(&format!("pull {}, {}", part.digest.short(), output::size(part.size)));
        let mut file = fs_err::File::create(incoming.path(&part.digest))?;
        registry.get_blob(part, &mut file, &mut |bytes| transfer.add(bytes))?;
        drop(file);
        incoming.adopt(&part.digest)?;
    }
    Ok(incoming.publish(name, &found.digest)?.digest)
}

/// All signatures of a version that the registry has, by the list of referrers and under cosign's tag.
fn signatures(registry: &Registry, version: &Digest) -> anyhow::Result<Vec<ImageSignature>> {
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
