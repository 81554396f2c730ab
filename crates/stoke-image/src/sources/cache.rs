//! Trees in the cache: `trees/DIGEST-EPOCH.tar.zst`, the epoch being what the installation gave its own files. Several builds
//! that need one tree make it once.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use fs_err::File;
use stoke_api::Digest;

use super::{Bench, Making, Source};
use crate::BuildError;
use crate::process::Space;
use crate::store::{Store, Workspace};

/// How many trees the cache keeps.
const CACHED_TREES: usize = 6;

/// A tree in the cache.
pub(crate) struct Tree {
    pub(crate) path: PathBuf,
    pub(crate) epoch: u64,
}

impl Tree {
    /// Finds the tree of a source, or makes it. Whoever calls this holds the tree's [`lock`].
    pub(crate) fn of(
        source: &Source<'_>,
        bench: &Bench<'_>,
        workspace: &Workspace,
        space: &mut Space,
        progress: &mut dyn FnMut(&str, u8),
    ) -> Result<Self, BuildError> {
        let (folder, digest) = (bench.store.cache().join("trees"), source.digest());
        fs::create_dir_all(&folder)?;
        if let Some(tree) = Self::find(&folder, &digest)? {
            return Ok(tree);
        }
        let output = workspace.path().join(format!("{}.tar.zst", digest.short()));
        let epoch = source.epoch();
        source.make(&mut Making { bench: *bench, workspace, output: &output, epoch, space, progress })?;
        Self::keep(&folder, &digest, epoch, &output)
    }

    fn find(folder: &Path, digest: &Digest) -> Result<Option<Self>, BuildError> {
        let prefix = format!("{}-", digest.hex());
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let epoch = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tar.zst")?.parse().ok());
            if let Some(epoch) = epoch {
                // The newest are kept: used is as good as new.
                File::options().append(true).open(&path)?.into_file().set_modified(SystemTime::now())?;
                return Ok(Some(Self { path, epoch }));
            }
        }
        Ok(None)
    }

    fn keep(folder: &Path, digest: &Digest, epoch: u64, file: &Path) -> Result<Self, BuildError> {
        let path = folder.join(format!("{}-{epoch}.tar.zst", digest.hex()));
        fs::rename(file, &path)?;
        let mut trees = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            trees.push((entry.metadata()?.modified()?, entry.path()));
        }
        trees.sort();
        for (_, old) in trees.iter().rev().skip(CACHED_TREES) {
            fs::remove_file(old)?;
        }
        Ok(Self { path, epoch })
    }
}

/// Held while a tree is made and made into something; the kernel takes it back however the build ends. By tree: whoever needs
/// the same tree in another form finds it in the cache afterwards.
pub(crate) fn lock(store: &Store, tree: &Digest) -> Result<std::fs::File, BuildError> {
    let folder = store.cache().join("locks");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join(tree.hex()))?.into_file();
    lock.lock()?;
    Ok(lock)
}
