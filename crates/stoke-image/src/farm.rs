//! A farm's own parts of an image: its CA, by which nodes know it. Outside of the image's digest.

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::node::CA_PATH;
use stoke_api::report::BuiltImage;
use stoke_api::workload::BlobRef;

use crate::BuildError;
use crate::cpio::Writer;
use crate::store::{Part, Store, measure, media};
use crate::uki;

/// The farm's initramfs, loaded behind the image's: its CA certificate, in PEM. The same certificate gives the same blob.
///
/// # Errors
/// If it cannot be stored.
pub fn farm_initramfs(store: &Store, ca_pem: &str) -> Result<BlobRef, BuildError> {
    let mut writer = Writer::new(Vec::new());
    writer.file(CA_PATH, 0o644, ca_pem.as_bytes())?;
    Ok(store.put_bytes(&writer.finish()?)?)
}

/// What makes a boot program one that firmware starts under Secure Boot.
pub struct Signature<'a> {
    /// Tells the key apart.
    pub fingerprint: &'a str,
    /// Signs: from a program to the signed program.
    pub sign: &'a dyn Fn(Vec<u8>) -> std::io::Result<Vec<u8>>,
}

/// The image's unified kernel image with the farm's initramfs behind the image's own, signed if the farm has a key. Made
/// once: it stays in the store as long as the version.
///
/// # Errors
/// If the image has none, or it cannot be signed or stored.
pub fn farm_uki(
    store: &Store,
    image: &BuiltImage,
    farm_initramfs: &BlobRef,
    signature: Option<&Signature<'_>>,
) -> Result<BlobRef, BuildError> {
    let mut known_by = format!("{} {}", image.digest, farm_initramfs.digest);
    if let Some(signature) = signature {
        known_by = format!("{known_by} signed by {}", signature.fingerprint);
    }
    let derived_from = Digest(Sha256::digest(known_by).into());
    if let Some(made) = store.attached(&derived_from, media::UKI)? {
        return Ok(made);
    }
    let missing = crate::StoreError::Incomplete { digest: image.digest, part: "unified kernel image" };
    let Some(uki) = image.uki else { return Err(missing.into()) };
    let (stub, mut parts) = uki::take_apart(&fs::read(store.blob_path(&uki.digest))?)?;
    // An archive without compression must begin at a multiple of four (`unpack_to_rootfs` in init/initramfs.c).
    parts.initramfs.resize(parts.initramfs.len().next_multiple_of(4), 0);
    parts.initramfs.extend(fs::read(store.blob_path(&farm_initramfs.digest))?);
    let workspace = store.workspace()?;
    let file = workspace.path().join("uki");
    let unsigned = uki::assemble(&stub, &parts)?;
    let content = match signature {
        Some(signature) => (signature.sign)(unsigned)?,
        None => unsigned,
    };
    fs::write(&file, content)?;
    let part = Part { media_type: media::UKI, blob: measure(&file)?, file };
    Ok(store.attach(image, &derived_from, &part)?)
}
