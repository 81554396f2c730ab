//! `stoke image …`: what can be typed behind it.

use clap::Subcommand;

use super::Files;

/// Verbs for images.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build the images that a file describes
    Build(Files),
    /// List the images of this installation
    List,
}
