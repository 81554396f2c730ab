//! `stoke image verify`.

use std::process::ExitCode;

use stoke_image::Store;
use stoke_image::store::Version;

use super::shelf::Known;
use super::transfer::Transfer;
use super::{keys, shelf, sign};
use crate::cli::VerifyImages;
use crate::folders::Folders;
use crate::output;

pub(super) fn run(folders: &Folders, verify: &VerifyImages) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let versions = wanted(&store, verify)?;
    let key = verify.key.as_ref().map(|key| keys::public(folders, key)).transpose()?;
    let digests: Vec<_> = versions.iter().map(|(_, version)| version.image.digest).collect();
    let known = Known::of(folders, &store, &digests)?;
    let mut wrong = 0;
    for (name, Version { image, .. }) in &versions {
        let name = format!("{name}:{}", image.digest.short());
        let transfer = Transfer::new(&name, image.size + image.root.size);
        let faults = store.check(image, &mut |bytes| transfer.add(bytes))?;
        drop(transfer);
        let mut problems: Vec<_> = faults.iter().map(ToString::to_string).collect();
        if let Some(key) = &key {
            let signed = sign::demand(key, &store.signatures(&image.digest)?, &image.digest);
            problems.extend(signed.err().map(|error| error.to_string()));
        }
        let signers = known.signers(&image.digest);
        let signed = if signers.is_empty() { String::new() } else { format!(", signed by {}", signers.join(", ")) };
        output::print(&match problems.as_slice() {
            [] => format!("{name} good: root hash {}{signed}\n", image.root.verity.root_hash),
            some => some.iter().map(|problem| format!("{name} BAD: {problem}\n")).collect::<Vec<_>>().concat(),
        })?;
        wrong += usize::from(!problems.is_empty());
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wanted(store: &Store, verify: &VerifyImages) -> anyhow::Result<Vec<(String, Version)>> {
    let mut versions = Vec::new();
    if verify.images.is_empty() {
        for name in store.names()? {
            versions.extend(store.versions(&name)?.into_iter().map(|version| (name.clone(), version)));
        }
    }
    for image in &verify.images {
        versions.push((image.key(), image.find(store)?));
    }
    Ok(versions)
}
