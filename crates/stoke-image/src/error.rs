//! Why a build failed: each with the field to change or the next step, where one is known.

use std::io;
use std::path::PathBuf;

use stoke_api::Bytes;

use crate::store::StoreError;

/// Why a build failed. Nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The recipe names nothing that this can build.
    #[error("{message}")]
    Recipe {
        /// The field, from the object's root.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The archive has no such package.
    #[error("package {package:?} is not in {archive}; correct its name, or name the component that has it")]
    UnknownPackage {
        /// The field, from the object's root.
        field: String,
        /// The package.
        package: String,
        /// Suite and components: `bookworm main`.
        archive: String,
    },
    /// The archive could not be read.
    #[error("cannot read the archive of {suite}: {message}")]
    Archive {
        /// The suite.
        suite: String,
        /// What apt said.
        message: String,
    },
    /// The lock file cannot be used.
    #[error("{path}: {message}", path = path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the next step.
        message: String,
    },
    /// A locked package that no archive has any more, and the cache neither.
    #[error(
        "the archive no longer has {package} ({message}); lock again to take what there is now (stoke image lock), or name a mirror in spec.source.debian.mirror that keeps old versions, such as snapshot.debian.org"
    )]
    PackageGone {
        /// Name, version and architecture.
        package: String,
        /// What the archive said.
        message: String,
    },
    /// A command of the recipe failed.
    #[error("hook failed: {message}")]
    Hook {
        /// The field, from the object's root.
        field: String,
        /// Its exit status and last words.
        message: String,
    },
    /// An image, an archive or a folder that no tree can be made of.
    #[error("{name} cannot be used: {why}")]
    Source {
        /// The field, from the object's root.
        field: String,
        /// What it is, for people: a path, a reference.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program is not installed.
    #[error("{tool} is not installed; install the Debian package {package}")]
    ToolMissing {
        /// The program.
        tool: String,
        /// The package that has it.
        package: String,
    },
    /// A program failed.
    #[error("{tool} failed ({status}): {output}")]
    Tool {
        /// The program.
        tool: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// An ordinary user without subordinate ids.
    #[error(
        "{user} has no subordinate ids, which a build without root needs; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )]
    NoSubordinateIds {
        /// The user.
        user: String,
    },
    /// No room.
    #[error("no space left in {path}: {free} free, about {needed} needed; free some, or use another folder by --state", path = path.display())]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// What is free.
        free: Bytes,
        /// What the build needs.
        needed: Bytes,
    },
    /// The tree cannot become this form.
    #[error("the tree cannot boot: {message}")]
    Tree {
        /// The field to change.
        field: String,
        /// What is missing, with the next step.
        message: String,
    },
    /// The stub of the unified kernel image has no room, or is none.
    #[error("cannot make the unified kernel image")]
    Uki(#[from] crate::uki::UkiError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file. The message names it.
    #[error(transparent)]
    File(#[from] io::Error),
}

impl BuildError {
    /// The field of the `Image` that is to blame, if one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Recipe { field, .. }
            | Self::UnknownPackage { field, .. }
            | Self::Hook { field, .. }
            | Self::Source { field, .. }
            | Self::Tree { field, .. } => Some(field),
            Self::Archive { .. } => Some("spec.source.debian.suite"),
            Self::Lock { .. } | Self::PackageGone { .. } => Some("spec.source.debian.lock"),
            _ => None,
        }
    }
}
