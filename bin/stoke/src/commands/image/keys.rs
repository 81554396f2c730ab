//! `stoke image keys …`: keys that sign versions. Those of the installation are in its `keys/images`; any other file does
//! as well.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_signing::{PublicKey, SigningKey, public_path};

use crate::cli::ImageKeys;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output::{self, Table};

pub(super) fn run(folders: &Folders, keys: &ImageKeys) -> anyhow::Result<ExitCode> {
    let text = match keys {
        ImageKeys::Create { key } => create(folders, key)?,
        ImageKeys::List => list(folders),
        ImageKeys::Show { key } => public(folders, key)?.to_pem(),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn create(folders: &Folders, key: &Path) -> anyhow::Result<String> {
    let path = path(folders, key);
    if let Some(folder) = path.parent().filter(|folder| **folder == folders.image_keys()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let made = SigningKey::create(&path)?;
    eprintln!("{} is yours alone; {} is for everybody", path.display(), public_path(&path).display());
    Ok(made.public().to_pem())
}

fn list(folders: &Folders) -> String {
    let mut table = Table::new(&["NAME", "FINGERPRINT"]);
    for (fingerprint, name) in names(folders) {
        table.row(vec![name, fingerprint]);
    }
    table.render("")
}

/// The names of this installation's keys by their fingerprints.
pub(super) fn names(folders: &Folders) -> BTreeMap<String, String> {
    let entries = fs_err::read_dir(folders.image_keys()).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "pub"));
    let named = files.filter_map(|path| {
        let key = PublicKey::parse(&fs_err::read_to_string(&path).ok()?).ok()?;
        Some((key.fingerprint().to_string(), path.file_stem()?.to_string_lossy().into_owned()))
    });
    named.collect()
}

/// Where a key is made: a bare word names one of the installation's.
fn path(folders: &Folders, key: &Path) -> PathBuf {
    let is_word = key.components().count() == 1 && !key.is_absolute();
    if is_word { folders.image_keys().join(key) } else { key.to_owned() }
}

/// Where a key is: the installation's of that name, else the file.
fn found(folders: &Folders, key: &Path) -> PathBuf {
    let path = path(folders, key);
    if path.exists() || !key.exists() { path } else { key.to_owned() }
}

/// The private key that was named.
pub(super) fn private(folders: &Folders, key: &Path) -> anyhow::Result<SigningKey> {
    let path = found(folders, key);
    if !path.exists() {
        return Err(missing(&path));
    }
    SigningKey::read(&path).with_context(|| format!("cannot sign with {}", path.display()))
}

/// The public key that was named: a file with it, or with the private one beside which it is.
pub(super) fn public(folders: &Folders, key: &Path) -> anyhow::Result<PublicKey> {
    let path = found(folders, key);
    let beside = public_path(&path);
    let file = if beside.exists() { beside } else { path };
    if !file.exists() {
        return Err(missing(&file));
    }
    let text = fs_err::read_to_string(&file)?;
    PublicKey::parse(&text).with_context(|| format!("cannot read {}", file.display()))
}

fn missing(path: &Path) -> anyhow::Error {
    Failure::hinted(format!("there is no key at {}", path.display()), "make one: stoke image keys create")
}
