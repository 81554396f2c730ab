//! Where trees come from: each source is known by a digest before anything is made, and makes one tar archive.
//!
//! ```text
//!  debian ───────── mmdebstrap ──────────────────────────────┐
//!  containerfile ── buildah ── layers ─┐                     │
//!  oci ──────────── skopeo ─── layers ─┼─ layers::flatten ───┴─> cache/trees/DIGEST.tar.zst
//!  tree ─────────── tar ───────────────┘
//! ```

mod base;
mod cache;
mod contained;
mod container_image;
mod containerfile;
mod context;
mod folder;
mod oci;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fs_err::File;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::objects::{ImageSource, ImageSpec};

pub(crate) use self::cache::{Tree, lock};
use self::containerfile::Containerfile;
use self::folder::Folder;
use self::oci::Oci;
use crate::debian::{Debian, Place};
use crate::install::TREE_COMPRESSION;
use crate::layers::{self, Layer, LayerError, Limits};
use crate::process::{Space, version};
use crate::recipe::Privilege;
use crate::sbom::Described;
use crate::store::{Store, Workspace};
use crate::{BuildError, Tools};

/// Version of what layers become: part of what a cached tree is known by.
const LAYERS_VERSION: u32 = 1;

/// What is wrong with an image, an archive or a folder that a tree is to be made of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Its layers.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// What it says of itself.
    #[error("{0}")]
    Image(String),
    /// A file of it.
    #[error("{}", plain(.0))]
    File(#[from] io::Error),
}

/// The words of an error of the operating system, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// What sources are prepared with.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) store: &'a Store,
    pub(crate) tools: &'a Tools,
    pub(crate) privilege: Privilege,
    pub(crate) architecture: &'static str,
    /// The image that is built: `NAMESPACE/NAME`.
    pub(crate) name: &'a str,
    /// The images that a Containerfile may start from, by `NAMESPACE/NAME`.
    pub(crate) bases: &'a BTreeMap<String, ImageSpec>,
}

/// What a tree is made with.
pub(crate) struct Making<'a> {
    pub(crate) bench: Bench<'a>,
    pub(crate) workspace: &'a Workspace,
    /// The compressed tree.
    pub(crate) output: &'a Path,
    /// The time of what an installation writes.
    pub(crate) epoch: u64,
    pub(crate) space: &'a mut Space,
    pub(crate) progress: &'a mut dyn FnMut(&str, u8),
}

impl Making<'_> {
    fn at(&mut self, stage: &str, percent: u8) {
        (self.progress)(stage, percent);
    }
}

/// A source that is known, and makes its tree when it is asked.
pub(crate) enum Source<'a> {
    Debian(Box<Debian<'a>>),
    Containerfile(Box<Containerfile<'a>>),
    Oci(Box<Oci<'a>>),
    Folder(Folder<'a>),
}

impl<'a> Source<'a> {
    /// Reads everything that the tree depends on.
    pub(crate) fn prepare(source: &'a ImageSource, bench: &Bench<'a>) -> Result<Self, BuildError> {
        if let Some(debian) = &source.debian {
            return Ok(Self::Debian(Box::new(Debian::prepare(debian, bench.architecture, bench.privilege)?)));
        }
        if let Some(containerfile) = &source.containerfile {
            return Ok(Self::Containerfile(Box::new(Containerfile::prepare(containerfile, bench)?)));
        }
        if let Some(oci) = &source.oci {
            return Ok(Self::Oci(Box::new(Oci::prepare(oci, bench)?)));
        }
        if let Some(tree) = &source.tree {
            return Ok(Self::Folder(Folder::prepare(tree, bench)?));
        }
        Err(BuildError::Recipe { field: "spec.source".to_owned(), message: "name a source".to_owned() })
    }

    /// Knows the tree.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Debian(debian) => debian.digest(),
            Self::Containerfile(containerfile) => containerfile.digest(),
            Self::Oci(oci) => oci.digest(),
            Self::Folder(folder) => folder.digest(),
        }
    }

    /// The time of what making the tree writes; layers come with that time taken out.
    pub(crate) fn epoch(&self) -> u64 {
        match self {
            Self::Debian(debian) => debian.epoch(),
            _ => layers::ANY_TIME,
        }
    }

    /// The version of the program that makes the tree, where another one makes another tree.
    pub(crate) fn tool_version(&self, tools: &Tools) -> Result<String, BuildError> {
        match self {
            Self::Debian(_) => version(&tools.mmdebstrap, "--version"),
            _ => Ok(String::new()),
        }
    }

    /// Paths that the source writes itself and that ship whatever they are.
    pub(crate) fn own_paths(&self) -> Vec<&str> {
        match self {
            Self::Debian(debian) => debian.own_paths().collect(),
            _ => Vec::new(),
        }
    }

    /// Makes the tree.
    pub(crate) fn make(&self, making: &mut Making<'_>) -> Result<(), BuildError> {
        match self {
            Self::Debian(debian) => {
                let Making { bench, workspace, output, epoch, ref mut space, ref mut progress } = *making;
                let place = Place { store: bench.store, workspace, output };
                debian.install(&bench.tools.mmdebstrap, &place, epoch, space, progress)
            }
            Self::Containerfile(containerfile) => containerfile.make(making),
            Self::Oci(oci) => oci.make(making),
            Self::Folder(folder) => folder.make(making),
        }
    }

    /// Whether what is in the tree is what it should be.
    pub(crate) fn check(&self, installed: &[Described]) -> Result<(), BuildError> {
        match self {
            Self::Debian(debian) => debian.check(installed),
            _ => Ok(()),
        }
    }

    /// The field to change when the tree cannot boot, and how a kernel gets into it.
    pub(crate) fn remedy(&self) -> (&'static str, &'static str) {
        match self {
            Self::Debian(_) => ("spec.source.debian.packages", "add linux-image-amd64"),
            Self::Containerfile(_) => {
                ("spec.source.containerfile.path", "install linux-image-amd64 or what it is there")
            }
            Self::Oci(_) => {
                ("spec.source.oci", "take an image for machines, such as a bootc one, or build on this one")
            }
            Self::Folder(_) => ("spec.source.tree.path", "install one in the tree"),
        }
    }
}

/// Writes what the layers come to as the tree.
fn write_tree(
    layers: &[Layer],
    making: &mut Making<'_>,
    stage: &str,
    field: &str,
    name: &str,
) -> Result<(), BuildError> {
    let stored: u64 = layers.iter().map(|layer| layer.size).sum();
    making.space.needed = making.space.needed.max(stored.saturating_mul(4));
    making.space.check()?;
    let mut encoder = zstd::Encoder::new(File::create(making.output)?, TREE_COMPRESSION)?;
    let (mut read, progress) = (0, &mut *making.progress);
    let flattened = layers::flatten(layers, &Limits::default(), &mut encoder, &mut |bytes| {
        read += bytes;
        let percent = (read * 50).checked_div(stored).unwrap_or_default().min(99);
        progress(stage, u8::try_from(percent).unwrap_or(99));
    });
    match flattened {
        Ok(()) => {}
        Err(LayerError::Write(error)) => return Err(making.space.explain(error)),
        Err(error) => return Err(about(field, name, &error.into())),
    }
    let written = encoder.finish().and_then(|file| file.sync_all());
    written.map_err(|error| making.space.explain(error))
}

fn about(field: &str, name: &str, error: &SourceError) -> BuildError {
    BuildError::Source { field: field.to_owned(), name: name.to_owned(), why: error.to_string() }
}

fn digest_of(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

/// What layers are known by: their content, and what this module makes of them.
fn layers_digest(kind: &str, content: &Digest) -> Digest {
    digest_of(format!("{LAYERS_VERSION} {kind} {content}").as_bytes())
}
