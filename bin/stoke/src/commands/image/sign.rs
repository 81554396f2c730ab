//! `stoke image sign`, and whose signatures a version has.

use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::Digest;
use stoke_image::ImageSignature;
use stoke_image::store::{payload, signed_digest};
use stoke_signing::PublicKey;

use super::{keys, shelf};
use crate::cli::SignImage;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(super) fn run(folders: &Folders, sign: &SignImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let version = sign.image.find(&store)?.image;
    let key = keys::private(folders, &sign.key)?;
    let faults = store.check(&version, &mut |_| ())?;
    if let Some(fault) = faults.first() {
        return Err(Failure::hinted(
            format!("{} is not signed: {fault}", sign.image),
            "build it again, or take it in again: stoke image build, pull or import",
        ));
    }
    let name = || sign.image.key();
    let reference = sign.reference.clone().unwrap_or_else(name);
    let payload = payload(&reference, &version.digest);
    let good = store.signatures(&version.digest)?;
    let line = format!("{}:{} signed by {}\n", sign.image.key(), version.digest.short(), key.public().fingerprint());
    // A signature of today is not the one of yesterday; one is enough.
    if !good.iter().any(|one| one.payload == payload && is_by(key.public(), one, &version.digest)) {
        let signature = key.sign(&payload).context("cannot sign")?;
        store.add_signature(&version.digest, &ImageSignature { payload, signature })?;
    }
    output::print(&line)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a key has signed a version: the signature is its own, and the signed document is about this version.
pub(super) fn is_by(key: &PublicKey, signature: &ImageSignature, version: &Digest) -> bool {
    signed_digest(&signature.payload) == Some(*version) && key.verifies(&signature.payload, &signature.signature)
}

/// Fails unless one of the signatures is the key's.
pub(super) fn demand(key: &PublicKey, signatures: &[ImageSignature], version: &Digest) -> anyhow::Result<()> {
    if signatures.iter().any(|signature| is_by(key, signature, version)) {
        return Ok(());
    }
    let message = match signatures.len() {
        0 => format!("{version} is not signed"),
        some => format!("{version} is not signed by this key: none of its {some} signatures is"),
    };
    Err(Failure::hinted(message, format!("the key's fingerprint is {}", key.fingerprint())))
}
