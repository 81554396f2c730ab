//! `stoke image lock FILE…`: writes down every package that the recipes of these files stand for today.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stoke_api::AnyObject;
use stoke_api::control::ObjectProblem;
use stoke_api::load::{self, Loaded};
use stoke_api::objects::DebianSource;
use stoke_image::{Lock, Store};

use crate::cli::Files;
use crate::commands::outside;
use crate::failure::{BadFiles, Failure};
use crate::folders::Folders;
use crate::output;

pub(super) fn run(folders: &Folders, files: &Files) -> anyhow::Result<ExitCode> {
    let loaded = super::super::load(&files.paths)?;
    let recipes: Vec<_> = loaded.iter().flat_map(recipes).collect();
    if recipes.is_empty() {
        let hint = "a lock is of an Image with spec.source.debian; other sources are pinned by their digests";
        return Err(Failure::hinted("there is no recipe in these files", hint));
    }
    let store = Store::open(folders.images())?;
    for recipe in recipes {
        eprintln!("{}: asking the archive of {}", recipe.name, recipe.source.suite);
        let lock = Lock::resolve(recipe.source, "amd64", &store).map_err(|error| recipe.told(error, &loaded))?;
        output::print(&recipe.keep(&lock)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An image that can be locked.
struct Recipe<'a> {
    name: String,
    object: &'a AnyObject,
    source: &'a DebianSource,
    /// Its lock file, named or not.
    path: PathBuf,
}

fn recipes(loaded: &Loaded) -> impl Iterator<Item = Recipe<'_>> {
    let folder = loaded.path.parent().unwrap_or(Path::new("."));
    loaded.objects.iter().filter_map(move |(object, _)| {
        let AnyObject::Image(image) = object else { return None };
        let (source, name) = (image.spec.source.debian.as_ref()?, image.metadata.name.to_string());
        let path = source.lock.as_deref().map(outside::plain_path);
        let path = path.unwrap_or_else(|| folder.join(format!("{name}.lock.json")));
        Some(Recipe { name, object, source, path })
    })
}

impl Recipe<'_> {
    /// The error at the field that is to blame, if one is.
    fn told(&self, error: stoke_image::BuildError, loaded: &[Loaded]) -> anyhow::Error {
        let problem = error.field().map(|field| ObjectProblem {
            object: self.object.reference(),
            field: field.to_owned(),
            message: error.to_string(),
        });
        match problem.and_then(|problem| load::locate(loaded, &problem)) {
            Some(finding) => BadFiles(vec![finding]).into(),
            None => error.into(),
        }
    }

    /// Writes the lock if it says anything new, and says what.
    fn keep(&self, lock: &Lock) -> anyhow::Result<String> {
        let (path, old) = (&self.path, Lock::find(&self.path));
        let mut said = match &old {
            Some(old) if lock.says_the_same_as(old) => format!("{}: {} is up to date\n", self.name, path.display()),
            _ => {
                // Whole or not at all: a reader beside us must not see half of it.
                let fresh = path.with_extension("json.new");
                fs_err::write(&fresh, lock.text())?;
                fs_err::rename(&fresh, path)?;
                let count = lock.packages.len();
                format!("{}: {} has {count} packages\n{}", self.name, path.display(), changes(old.as_ref(), lock))
            }
        };
        if self.source.lock.is_none() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hint = format!("{}: write lock: {name} into spec.source.debian to build from it\n", self.name);
            said.push_str(&hint);
        }
        Ok(said)
    }
}

/// What changed since the last lock, a package on a line.
fn changes(old: Option<&Lock>, new: &Lock) -> String {
    let Some(old) = old else { return String::new() };
    let versions = |lock: &Lock| -> BTreeMap<String, String> {
        lock.packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect()
    };
    let (old, new) = (versions(old), versions(new));
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let line = |name: &&String| match (old.get(*name), new.get(*name)) {
        (Some(before), Some(now)) if before == now => None,
        (Some(before), Some(now)) => Some(format!("  {name} {before} -> {now}\n")),
        (None, Some(now)) => Some(format!("  {name} {now} is new\n")),
        (Some(before), None) => Some(format!("  {name} {before} is gone\n")),
        (None, None) => None,
    };
    names.iter().filter_map(line).collect()
}
