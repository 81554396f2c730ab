//! Lock files: every package of a recipe with its hash, so that the same recipe makes the same image on any day and host.
//!
//! ```text
//!  recipe + archive ─ Lock::resolve (apt, nothing installed) ─> lock file, kept with the recipe
//!  lock file ─ Pantry::fetch ─> cache/packages/HASH.deb ─ Pantry::lay_out ─> the only archive that the installation sees
//! ```
//!
//! The file is JSON with one package on a line: a change of a package is a change of a line.

mod pantry;
mod resolve;

use std::collections::BTreeSet;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::objects::DebianSource;

pub(crate) use pantry::Pantry;

use crate::BuildError;
use crate::debian::now;
use crate::sbom::Described;

/// The version of the format that this program writes.
const FORMAT: u32 = 1;
/// How many packages a message names.
const NAMED: usize = 5;

/// What a recipe stood for when it was locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lock {
    /// Version of this format.
    pub format: u32,
    /// The recipe's suite.
    pub suite: String,
    /// Debian's name of the architecture.
    pub architecture: String,
    /// When it was made, in seconds since 1970: the time of everything that an installation writes.
    pub created: u64,
    /// The `deb` lines of the archives. They are the image's own, too.
    pub sources: Vec<String>,
    /// The packages that the recipe names.
    pub wanted: Vec<String>,
    /// All packages that are installed, by name.
    pub packages: Vec<LockedPackage>,
}

/// One package of a lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// Digest of its file.
    pub digest: Digest,
    /// Bytes of its file.
    pub size: u64,
    /// Where it was.
    pub uri: String,
    /// Whether the archive gives it the priority `required`: such a package is installed without being named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

impl LockedPackage {
    /// Name, version and architecture, for people.
    fn title(&self) -> String {
        format!("{} {} ({})", self.name, self.version, self.architecture)
    }
}

impl Lock {
    /// Reads the lock file of a recipe, and sees that it was made for it.
    ///
    /// `reference` is the file's path, with `@sha256:HEX` behind it if a certain content is meant.
    pub(crate) fn of_recipe(
        reference: &str,
        source: &DebianSource,
        architecture: &str,
    ) -> Result<(Self, Digest), BuildError> {
        let (path, pinned) = split(reference);
        let text = fs::read(path).map_err(|error| wrong(path, error.kind().to_string() + AGAIN))?;
        let digest = Digest(Sha256::digest(&text).into());
        if pinned.is_some_and(|pinned| pinned != digest) {
            return Err(wrong(path, "changed while the build was about to begin; build again".to_owned()));
        }
        let lock: Self = serde_json::from_slice(&text).map_err(|error| wrong(path, format!("{error}{AGAIN}")))?;
        lock.fits(source, architecture).map_err(|message| wrong(path, message + AGAIN))?;
        if now() < lock.created {
            return Err(wrong(path, "was made later than what this host's clock says; set the clock".to_owned()));
        }
        Ok((lock, digest))
    }

    /// Why this lock is not of a recipe, if it is not.
    fn fits(&self, source: &DebianSource, architecture: &str) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("has format {}, and this program reads {FORMAT}", self.format));
        }
        for (what, is, wanted) in
            [("suite", &*self.suite, &*source.suite), ("architecture", &*self.architecture, architecture)]
        {
            if is != wanted {
                return Err(format!("was made for the {what} {is}, and the recipe wants {wanted}"));
            }
        }
        let (is, wanted) = (set(&self.wanted), set(&source.packages));
        let missing: Vec<_> = wanted.difference(&is).map(|name| format!("has no {name}")).collect();
        let superfluous = is.difference(&wanted).map(|name| format!("has {name}, which the recipe does not name"));
        let differences: Vec<_> = missing.into_iter().chain(superfluous).take(NAMED).collect();
        if differences.is_empty() { Ok(()) } else { Err(differences.join(", ")) }
    }

    /// The same lock but for the time at which it was made: there is nothing new.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        *self == Self { created: self.created, ..other.clone() }
    }

    /// Reads a lock file; `None` if there is none that this program understands.
    pub fn find(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let lines = |values: Vec<String>| {
            let inner: Vec<_> = values.into_iter().map(|value| format!("    {value}")).collect();
            if inner.is_empty() { "[]".to_owned() } else { format!("[\n{}\n  ]", inner.join(",\n")) }
        };
        let fields = [
            ("format", json(&self.format)),
            ("suite", json(&self.suite)),
            ("architecture", json(&self.architecture)),
            ("created", json(&self.created)),
            ("sources", lines(self.sources.iter().map(json).collect())),
            ("wanted", lines(self.wanted.iter().map(json).collect())),
            ("packages", lines(self.packages.iter().map(json).collect())),
        ];
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }

    /// Sees that exactly the locked packages are installed.
    pub(crate) fn check_installed(&self, reference: &str, installed: &[Described]) -> Result<(), BuildError> {
        let locked: BTreeSet<_> = self.packages.iter().map(|p| (&*p.name, &*p.version, &*p.architecture)).collect();
        let installed = installed.iter().map(|described| &described.package);
        let there: BTreeSet<_> = installed.map(|p| (&*p.name, &*p.version, &*p.architecture)).collect();
        let missing = locked.difference(&there).map(|(name, version, _)| format!("{name} {version} is not installed"));
        let other =
            there.difference(&locked).map(|(name, version, _)| format!("{name} {version} is, and is not locked"));
        let differences: Vec<_> = missing.chain(other).take(NAMED).collect();
        if differences.is_empty() {
            return Ok(());
        }
        let hint = "; hooks of a locked recipe cannot install packages: name them in the recipe";
        Err(wrong(split(reference).0, format!("{}{AGAIN}{hint}", differences.join(", "))))
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What to do about a lock that cannot be used.
const AGAIN: &str = "; lock again: stoke image lock FILE";

fn wrong(path: &Path, message: String) -> BuildError {
    BuildError::Lock { path: path.to_owned(), message }
}

fn set(words: &[String]) -> BTreeSet<&str> {
    words.iter().map(String::as_str).collect()
}

/// A path, and the content that is meant.
fn split(reference: &str) -> (&Path, Option<Digest>) {
    let parts = reference.rsplit_once('@').and_then(|(path, digest)| Some((path, digest.parse().ok()?)));
    match parts {
        Some((path, digest)) => (Path::new(path), Some(digest)),
        None => (Path::new(reference), None),
    }
}

/// Names a lock file together with its content, so that another content is another recipe.
///
/// # Errors
/// If the file cannot be read.
pub fn pin(path: &Path) -> std::io::Result<String> {
    let digest = Digest(Sha256::digest(fs::read(path)?).into());
    Ok(format!("{}@{digest}", path.display()))
}

#[cfg(test)]
mod tests;
