//! `stoke image …`: what can be typed behind it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Files, Format};
use crate::commands::ImageName;

/// Verbs for images.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build the images that a file describes
    Build(Files),
    /// Write down every package of the recipes in a file, with its hash
    ///
    /// A recipe that names the lock file (`spec.source.debian.lock`) is built from exactly these packages: the same image on any day and host. Run it again to take what the archive has then.
    Lock(Files),
    /// List images and their versions, newest first
    List(ListImages),
    /// Show a version: its parts, packages, signatures, and who uses it
    Show(ShowImage),
    /// Show how two versions differ: packages, kernel, sizes
    Diff(DiffImages),
    /// Read versions again: every part against its digest, the root against its root hash, the signatures
    ///
    /// Fails if anything was changed or is missing.
    Verify(VerifyImages),
    /// Sign a version
    ///
    /// The signature is kept beside the version, in the form of cosign, and goes along with `push` and `export`. Farms with `spec.imageKeys` hand out nothing that none of these keys has signed.
    Sign(SignImage),
    /// Keys that sign
    #[command(subcommand)]
    Keys(ImageKeys),
    /// Keep a version: it is never pruned
    Keep(KeepImage),
    /// Hand out the version before, or any other one
    ///
    /// Nodes get it at their next boot, or in waves where the farm has an `update`. A newer build ends it.
    Rollback(RollbackImage),
    /// Remove old versions
    ///
    /// As many as the image's `revisionHistoryLimit` says stay, and always: the one that is handed out, those that are kept, and those that a node runs or boots next.
    Prune(PruneImages),
    /// Write a version with its signatures as an OCI archive
    Export(ExportImage),
    /// Take in the versions of an OCI archive
    Import(ImportImage),
    /// Copy a version and its signatures to an OCI registry
    Push(PushImage),
    /// Copy a version and its signatures from an OCI registry
    Pull(PullImage),
}

#[derive(Debug, Args)]
pub(crate) struct ListImages {
    /// The image; all if absent
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<ImageName>,
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ShowImage {
    /// The image, `[NAMESPACE/]NAME[:VERSION]`; the version that is handed out if none is named
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageName,
    /// List its packages, too
    #[arg(long)]
    pub(crate) packages: bool,
    /// Print its bill of materials instead: SPDX 2.3 in JSON
    #[arg(long, conflicts_with_all = ["packages", "output"])]
    pub(crate) sbom: bool,
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct DiffImages {
    /// The one version, `[NAMESPACE/]NAME[:VERSION]`
    #[arg(value_name = "FROM")]
    pub(crate) from: ImageName,
    /// The other; the newest of the same image if absent
    #[arg(value_name = "TO")]
    pub(crate) to: Option<ImageName>,
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyImages {
    /// Images, `[NAMESPACE/]NAME[:VERSION]`; every version of all if absent
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<ImageName>,
    /// A public key that must have signed them
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SignImage {
    /// The image, `[NAMESPACE/]NAME[:VERSION]`
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageName,
    /// The private key: a file in PEM that only you can read, or the name of one that `keys create` made
    #[arg(long, value_name = "FILE|NAME", default_value = "default")]
    pub(crate) key: PathBuf,
    /// The name that the image has in the registry where it will be verified, for tools that look at it
    #[arg(long, value_name = "HOST/REPOSITORY")]
    pub(crate) reference: Option<String>,
}

/// Verbs for keys that sign.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageKeys {
    /// Make a key, and print its public half
    Create {
        /// Its name, or the path of a file for it
        #[arg(value_name = "NAME|FILE", default_value = "default")]
        key: PathBuf,
    },
    /// List the keys of this installation
    List,
    /// Print the public half of a key, as `spec.imageKeys` of a farm wants it
    Show {
        /// Its name, or its file
        #[arg(value_name = "NAME|FILE", default_value = "default")]
        key: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeepImage {
    /// The image, `[NAMESPACE/]NAME[:VERSION]`
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageName,
    /// Do not keep it any more
    #[arg(long)]
    pub(crate) off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackImage {
    /// The image, `[NAMESPACE/]NAME`
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageName,
    /// The version to hand out; the one before the present one if absent
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneImages {
    /// Images, `[NAMESPACE/]NAME`; all if absent
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<ImageName>,
    /// How many older versions stay, beside the newest [default: the image's revisionHistoryLimit]
    #[arg(long, value_name = "N")]
    pub(crate) keep: Option<u32>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportImage {
    /// The image, `[NAMESPACE/]NAME[:VERSION]`
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageName,
    /// The archive; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ImportImage {
    /// The archive; `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What the image is called here, `[NAMESPACE/]NAME`; as the archive calls it if absent
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<ImageName>,
    /// A public key that must have signed it
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

/// How a registry is reached.
#[derive(Debug, Args)]
pub(crate) struct RegistryAccess {
    /// File with credentials, as docker and podman write it; their own files if absent
    #[arg(long, value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,
    /// File with the certificate authorities that are believed; the host's if absent
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PushImage {
    /// The image, `[NAMESPACE/]NAME[:VERSION]`
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageName,
    /// Where to: `HOST/REPOSITORY[:TAG]`; the tag is the version if none is named
    #[arg(value_name = "REFERENCE")]
    pub(crate) reference: stoke_registry::Reference,
    #[command(flatten)]
    pub(crate) access: RegistryAccess,
}

#[derive(Debug, Args)]
pub(crate) struct PullImage {
    /// Where from: `HOST/REPOSITORY[:TAG][@DIGEST]`
    #[arg(value_name = "REFERENCE")]
    pub(crate) reference: stoke_registry::Reference,
    /// What the image is called here, `[NAMESPACE/]NAME`; the last word of the repository if absent
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<ImageName>,
    /// A public key that must have signed it
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) access: RegistryAccess,
}
