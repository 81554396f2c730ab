//! `stoke image …`, one file a verb. All work with and without a running installation: processes share the store.

mod build;
mod list;
mod lock;
mod meter;

use std::process::ExitCode;

use crate::cli::Image;
use crate::folders::Folders;

/// Runs a verb.
pub(super) fn run(folders: &Folders, verb: &Image) -> anyhow::Result<ExitCode> {
    match verb {
        Image::Build(files) => build::run(folders, files),
        Image::List => list::run(folders),
        Image::Lock(files) => lock::run(folders, files),
    }
}
