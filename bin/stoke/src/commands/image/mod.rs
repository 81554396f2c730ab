//! `stoke image …`, one file a verb. All work with and without a running installation: processes share the store, and a
//! running one sees at once what changed.

mod build;
mod diff;
mod files;
mod keys;
mod list;
mod lock;
mod meter;
mod named;
mod prune;
mod registry;
mod rollback;
mod shelf;
mod show;
mod sign;
mod transfer;
mod verify;

use std::process::ExitCode;

pub(crate) use named::ImageName;
pub(super) use shelf::objects;

use crate::cli::Image;
use crate::folders::Folders;

/// Runs a verb.
pub(super) fn run(folders: &Folders, verb: &Image) -> anyhow::Result<ExitCode> {
    match verb {
        Image::Build(files) => build::run(folders, files),
        Image::Lock(files) => lock::run(folders, files),
        Image::List(list) => list::run(folders, list),
        Image::Show(show) => show::run(folders, show),
        Image::Diff(diff) => diff::run(folders, diff),
        Image::Verify(verify) => verify::run(folders, verify),
        Image::Sign(sign) => sign::run(folders, sign),
        Image::Keys(keys) => keys::run(folders, keys),
        Image::Keep(keep) => prune::keep(folders, keep),
        Image::Rollback(rollback) => rollback::run(folders, rollback),
        Image::Prune(prune) => prune::run(folders, prune),
        Image::Export(export) => files::export(folders, export),
        Image::Import(import) => files::import(folders, import),
        Image::Push(push) => registry::push(folders, push),
        Image::Pull(pull) => registry::pull(folders, pull),
    }
}
