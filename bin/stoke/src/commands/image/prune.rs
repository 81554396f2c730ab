//! `stoke image prune` and `stoke image keep`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use stoke_api::{AnyObject, Digest};

use super::shelf;
use crate::cli::{KeepImage, PruneImages};
use crate::folders::Folders;
use crate::output;

/// What an image without an object of its own keeps: as the objects' default.
const OLDER: u32 = 3;

pub(super) fn keep(folders: &Folders, keep: &KeepImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let (name, digest) = (keep.image.key(), keep.image.find(&store)?.image.digest);
    store.keep(&name, &digest, !keep.off)?;
    let word = if keep.off { "may be pruned" } else { "is kept" };
    output::print(&format!("{name}:{} {word}\n", digest.short()))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(folders: &Folders, prune: &PruneImages) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let objects = shelf::objects(folders)?;
    let used: Vec<Digest> = stoke_host::in_use(&objects).into_keys().collect();
    let limits = limits(&objects);
    let mut names: Vec<_> = prune.images.iter().map(super::ImageName::key).collect();
    for image in &prune.images {
        // It says that there is none, and what there is.
        image.find(&store)?;
    }
    if names.is_empty() {
        names.extend(store.names()?);
    }
    let mut gone = 0;
    for name in names {
        let older = prune.keep.or_else(|| limits.get(&name).copied()).unwrap_or(OLDER);
        let keep = usize::try_from(older).unwrap_or(usize::MAX).saturating_add(1);
        let (versions, freed) = if prune.dry_run {
            (store.prunable(&name, keep, &used)?, None)
        } else {
            let pruned = store.prune(&name, keep, &used)?;
            (pruned.versions, Some(pruned.bytes))
        };
        gone += versions.len();
        let word = if prune.dry_run { "would remove" } else { "removed" };
        let lines: Vec<_> = versions.iter().map(|version| format!("{word} {name}:{}\n", version.short())).collect();
        let freed = freed.filter(|_| !versions.is_empty()).map(|bytes| format!("{} are free\n", output::size(bytes)));
        output::print(&format!("{}{}", lines.concat(), freed.unwrap_or_default()))?;
    }
    if gone == 0 {
        output::print("nothing to remove\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many older versions each image keeps.
fn limits(objects: &[AnyObject]) -> BTreeMap<String, u32> {
    let limit = |object: &AnyObject| match object {
        AnyObject::Image(image) => {
            let reference = object.reference();
            Some((format!("{}/{}", reference.namespace?, reference.name), image.spec.revision_history_limit))
        }
        _ => None,
    };
    objects.iter().filter_map(limit).collect()
}
