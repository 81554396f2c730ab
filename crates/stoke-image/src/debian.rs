//! A tree from Debian packages: what it is known by before it is there, its installation, and what must be in it then.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use stoke_api::Digest;
use stoke_api::objects::DebianSource;

use crate::BuildError;
use crate::install::{self, Site};
use crate::lock::{Lock, Pantry};
use crate::process::Space;
use crate::recipe::{self, Ingredients, PACKAGES_FOLDER, Privilege, Recipe};
use crate::sbom::Described;
use crate::store::{Store, Workspace};

/// A recipe, its archive and its lock.
pub(crate) struct Debian<'a> {
    source: &'a DebianSource,
    architecture: &'static str,
    privilege: Privilege,
    lines: Vec<String>,
    lock: Option<(Lock, Digest)>,
    digest: Digest,
}

/// Where a tree is installed.
pub(crate) struct Place<'a> {
    pub(crate) store: &'a Store,
    pub(crate) workspace: &'a Workspace,
    /// The compressed tree.
    pub(crate) output: &'a Path,
}

impl<'a> Debian<'a> {
    /// Reads what the tree depends on.
    pub(crate) fn prepare(
        source: &'a DebianSource,
        architecture: &'static str,
        privilege: Privilege,
    ) -> Result<Self, BuildError> {
        let lock = source.lock.as_deref().map(|path| Lock::of_recipe(path, source, architecture)).transpose()?;
        let lines = match &lock {
            // The image names the archives that it was locked with, wherever it is built.
            Some((lock, _)) => lock.sources.clone(),
            None => archive_lines(source),
        };
        let mut debian = Self { source, architecture, privilege, lines, lock, digest: Digest([0; 32]) };
        debian.digest = recipe::plan(&debian.recipe(), &Ingredients::default(), privilege).digest;
        Ok(debian)
    }

    fn recipe(&self) -> Recipe<'_> {
        let lock = self.lock.as_ref().map(|(_, digest)| *digest);
        Recipe { source: self.source, architecture: self.architecture, lines: &self.lines, lock }
    }

    /// Knows the tree.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// The time of what the installation itself writes: that of the lock, which every later build sees too, or now.
    pub(crate) fn epoch(&self) -> u64 {
        match &self.lock {
            Some((lock, _)) => lock.created,
            None => now(),
        }
    }

    /// Paths that the recipe writes itself.
    pub(crate) fn own_paths(&self) -> impl Iterator<Item = &str> {
        self.source.files.iter().map(|file| file.path.as_str())
    }

    /// Installs the tree.
    pub(crate) fn install(
        &self,
        mmdebstrap: &OsStr,
        place: &Place<'_>,
        epoch: u64,
        space: &mut Space,
        progress: &mut dyn FnMut(&str, u8),
    ) -> Result<(), BuildError> {
        let workspace = place.workspace.path();
        let files = workspace.join("files.tar");
        install::recipe_files(self.source, &files, epoch)?;
        let packages = workspace.join(PACKAGES_FOLDER);
        if let Some((lock, _)) = &self.lock {
            let pantry = Pantry::open(place.store, place.workspace)?;
            let mirrors = recipe::addresses(&archive_lines(self.source));
            pantry.fetch(lock, &mirrors, &mut |percent| progress("fetch packages", percent))?;
            pantry.lay_out(lock, &packages)?;
        }
        progress("install packages", 0);
        let (files, packages) = (files.to_string_lossy(), packages.to_string_lossy());
        let ingredients = Ingredients {
            files: (!self.source.files.is_empty()).then_some(files.as_ref()),
            packages: self.lock.is_some().then_some(packages.as_ref()),
        };
        let plan = recipe::plan(&self.recipe(), &ingredients, self.privilege);
        let Place { workspace, output, .. } = *place;
        let site = Site { mmdebstrap, workspace, output, epoch, privilege: self.privilege };
        install::install(&site, &plan, self.source, space, &mut |percent| progress("install packages", percent))
    }

    /// Whether what is installed is what was locked.
    pub(crate) fn check(&self, installed: &[Described]) -> Result<(), BuildError> {
        match (&self.lock, &self.source.lock) {
            (Some((lock, _)), Some(path)) => lock.check_installed(path, installed),
            _ => Ok(()),
        }
    }
}

/// The archives of a recipe without a lock.
pub(crate) fn archive_lines(source: &DebianSource) -> Vec<String> {
    let (lists, stanzas) = install::host_sources();
    recipe::archive_lines(source, &lists, &stanzas)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
