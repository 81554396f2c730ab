//! Which keys have signed which image versions: asked of the image store, verified here, read by the reconcilers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fs_err as fs;
use stoke_api::Digest;
use stoke_api::objects::AnyObject;
use stoke_image::store::signed_digest;
use stoke_image::{ImageSignature, Store};
use stoke_signing::PublicKey;

/// Keys by their text, as objects and files have them.
pub(crate) type Keys = BTreeSet<String>;
/// By a key's text, the versions that it has signed; or why it is no key.
pub(crate) type Signed = BTreeMap<String, Result<BTreeSet<Digest>, String>>;

/// The keys that farms want versions to be signed by.
pub(crate) fn wanted_keys(objects: &[AnyObject]) -> Keys {
    let farms = objects.iter().filter_map(|object| match object {
        AnyObject::Farm(farm) => Some(&farm.spec.image_keys),
        _ => None,
    });
    farms.flatten().cloned().collect()
}

/// The public keys of this installation: whoever made them here may want to see what they signed.
pub(crate) fn own_keys(folder: &Path) -> Keys {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let public = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "pub"));
    public.filter_map(|path| fs::read_to_string(path).ok()).collect()
}

/// What has been found out.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// By key.
    pub(crate) signed: Signed,
    /// By version, the fingerprints of the keys that have signed it.
    pub(crate) signers: BTreeMap<Digest, Vec<String>>,
}

/// Verifies the signatures of versions with all keys.
///
/// # Errors
/// If the store is damaged.
pub(crate) fn verify(store: &Store, versions: &[Digest], keys: &Keys) -> Result<Findings, stoke_image::StoreError> {
    let mut findings = Findings::default();
    let mut parsed = Vec::new();
    for text in keys {
        match PublicKey::parse(text) {
            Ok(key) => {
                findings.signed.insert(text.clone(), Ok(BTreeSet::new()));
                parsed.push((text, key));
            }
            Err(error) => {
                findings.signed.insert(text.clone(), Err(error.to_string()));
            }
        }
    }
    for version in versions {
        let signatures = store.signatures(version)?;
        for (text, key) in parsed.iter().filter(|(_, key)| signatures.iter().any(|one| is_by(key, one, version))) {
            if let Some(Ok(signed)) = findings.signed.get_mut(*text) {
                signed.insert(*version);
            }
            let signers = findings.signers.entry(*version).or_default();
            let fingerprint = key.fingerprint().to_string();
            if !signers.contains(&fingerprint) {
                signers.push(fingerprint);
            }
        }
    }
    Ok(findings)
}

/// Whether a key has signed a version: the signature is its own, and the signed document is about this version.
fn is_by(key: &PublicKey, signature: &ImageSignature, version: &Digest) -> bool {
    signed_digest(&signature.payload) == Some(*version) && key.verifies(&signature.payload, &signature.signature)
}

/// By version, the fingerprints of the keys that are known here and have signed it: the farms' keys, and those in the
/// folder `own`.
///
/// # Errors
/// If the store is damaged.
pub fn signers(
    store: &Store,
    versions: &[Digest],
    objects: &[AnyObject],
    own: &Path,
) -> Result<BTreeMap<Digest, Vec<String>>, stoke_image::StoreError> {
    let mut keys = wanted_keys(objects);
    keys.extend(own_keys(own));
    Ok(verify(store, versions, &keys)?.signers)
}
