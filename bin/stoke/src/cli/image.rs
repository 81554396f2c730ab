//! `stoke image …`: what can be typed behind it.

use clap::Subcommand;

use super::Files;

/// Verbs for images.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build the images that a file describes
    Build(Files),
    /// Write down every package of the recipes in a file, with its hash
    ///
    /// A recipe that names the lock file (`spec.source.debian.lock`) is built from exactly these packages: the same image on any day and host. Run it again to take what the archive has then.
    Lock(Files),
    /// List the images of this installation
    List,
}
