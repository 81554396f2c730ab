//! `stoke image rollback`.

use std::process::ExitCode;

use stoke_image::Store;
use stoke_image::store::Version;

use super::shelf;
use crate::cli::RollbackImage;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(super) fn run(folders: &Folders, rollback: &RollbackImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let name = rollback.image.key();
    let to = match (&rollback.to, rollback.image.has_version()) {
        (Some(version), false) => rollback.image.of_version(version)?.find(&store)?,
        (None, false) => before(&store, rollback)?,
        _ => {
            return Err(Failure::usage(
                "a version is named in the image's place",
                format!("name it behind --to: stoke image rollback {name} --to VERSION"),
            ));
        }
    };
    let digest = to.image.digest;
    let since = if store.hand_out(&name, &digest)? { "from now on" } else { "already" };
    output::print(&format!("{name} hands out {digest} {since}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The version before the one that is handed out.
fn before(store: &Store, rollback: &RollbackImage) -> anyhow::Result<Version> {
    let present = rollback.image.find(store)?.image.digest;
    let mut older = store.versions(&rollback.image.key())?.into_iter();
    older.find(|version| version.image.digest == present);
    older.next().ok_or_else(|| {
        Failure::hinted(
            format!("{} has no version before {}", rollback.image.key(), present.short()),
            "older ones were pruned; spec.revisionHistoryLimit says how many stay",
        )
    })
}
