//! The packages of locks, kept by their hash: fetched once, and there without a network from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use fs_err::File;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;

use super::resolve::field;
use super::{Lock, LockedPackage};
use crate::BuildError;
use crate::process::{self, mortal};
use crate::recipe::APT_OPTIONS;
use crate::store::{Store, Workspace, measure};

/// apt's own downloader: it knows proxies, mirrors in folders, and what else people name as a mirror.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// How long a package stays that no build has used.
const KEPT: Duration = Duration::from_hours(90 * 24);

/// The cache of packages in a store.
pub(crate) struct Pantry<'a> {
    folder: PathBuf,
    workspace: &'a Workspace,
}

impl<'a> Pantry<'a> {
    pub(crate) fn open(store: &Store, workspace: &'a Workspace) -> Result<Self, BuildError> {
        let folder = store.cache().join("packages");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, workspace })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.deb", digest.hex()))
    }

    /// Fetches the packages that are not here: from where they were when they were locked, then from `mirrors`.
    pub(crate) fn fetch(
        &self,
        lock: &Lock,
        mirrors: &[String],
        progress: &mut dyn FnMut(u8),
    ) -> Result<(), BuildError> {
        let missing = || lock.packages.iter().filter(|package| !self.path(&package.digest).exists());
        if missing().next().is_none() {
            return Ok(());
        }
        progress(0);
        let folder = self.workspace.path().join("fetched");
        fs::create_dir(&folder)?;
        let mut told = BTreeMap::new();
        for place in std::iter::once(None).chain(mirrors.iter().map(Some)) {
            let wanted: Vec<_> = missing().filter_map(|package| Some((package, address(package, place)?))).collect();
            if wanted.is_empty() {
                continue;
            }
            let said = download(&wanted, &folder, progress)?;
            for (package, uri) in wanted {
                if let Err(message) = self.take(package, &uri, &folder, &said)? {
                    told.entry(&package.digest).or_insert((package, message));
                }
            }
        }
        fs::remove_dir_all(&folder)?;
        match missing().find_map(|package| told.remove(&package.digest)) {
            None => Ok(()),
            Some((package, message)) => Err(BuildError::PackageGone { package: package.title(), message }),
        }
    }

    /// Takes in a package that was fetched, if it is the one; else says why it is not.
    fn take(
        &self,
        package: &LockedPackage,
        uri: &str,
        folder: &Path,
        said: &BTreeMap<String, String>,
    ) -> Result<Result<(), String>, BuildError> {
        let file = folder.join(package.digest.hex());
        if !file.exists() {
            return Ok(Err(said.get(uri).cloned().unwrap_or_else(|| format!("{uri} was not fetched"))));
        }
        let found = measure(&file)?.digest;
        if found != package.digest {
            return Ok(Err(format!("{uri} has the digest {found}, and {} is locked", package.digest)));
        }
        Ok(Ok(fs::rename(&file, self.path(&package.digest))?))
    }

    /// Makes an archive of exactly the locked packages (`apt-secure(8)` calls it a flat one): files, index and release.
    pub(crate) fn lay_out(&self, lock: &Lock, folder: &Path) -> Result<(), BuildError> {
        fs::create_dir(folder)?;
        let mut index = String::new();
        for package in &lock.packages {
            let (from, name) = (self.path(&package.digest), file_name(package));
            // Used is as good as new: whoever clears old packages away leaves this one.
            let file = File::options().append(true).open(&from)?.into_file();
            file.set_modified(SystemTime::now())?;
            if fs::hard_link(&from, folder.join(&name)).is_err() {
                fs::copy(&from, folder.join(&name))?;
            }
            let stanza = stanza(&self.control(package, &from)?, package.required);
            let (size, hash) = (package.size, package.digest.hex());
            index.extend([stanza, format!("Filename: ./{name}\nSize: {size}\nSHA256: {hash}\n\n")]);
        }
        let hash = Digest(Sha256::digest(&index).into()).hex();
        let (suite, architecture) = (&lock.suite, &lock.architecture);
        let release = format!(
            "Suite: {suite}\nCodename: {suite}\nArchitectures: {architecture}\nSHA256:\n {hash} {} Packages\n",
            index.len()
        );
        fs::write(folder.join("Packages"), index)?;
        fs::write(folder.join("Release"), release)?;
        Ok(forget_unused(&self.folder)?)
    }

    /// What a package says of itself. Reading it out takes a program each, so it is kept.
    fn control(&self, package: &LockedPackage, deb: &Path) -> Result<String, BuildError> {
        let kept = self.folder.join(format!("{}.control", package.digest.hex()));
        if let Ok(text) = fs::read_to_string(&kept) {
            return Ok(text);
        }
        let tool = OsStr::new("dpkg-deb");
        let output = mortal(process::find(tool)?.as_os_str()).arg("--field").arg(deb).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let status = output.status.to_string();
            return Err(BuildError::Tool { tool: "dpkg-deb".to_owned(), status, output: process::last_lines(&said) });
        }
        let fresh = self.workspace.path().join("control");
        fs::write(&fresh, &output.stdout)?;
        fs::rename(&fresh, &kept)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Removes packages that no build has used for long.
fn forget_unused(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
        if path.extension() == Some(OsStr::new("deb")) && age > KEPT {
            fs::remove_file(&path)?;
            // What it says of itself is read again if it comes back.
            let _ = fs::remove_file(path.with_extension("control"));
        }
    }
    Ok(())
}

/// Where a package may be: where it was, or below the same folders of a mirror.
fn address(package: &LockedPackage, mirror: Option<&String>) -> Option<String> {
    let Some(mirror) = mirror else { return Some(package.uri.clone()) };
    let (_, path) = package.uri.split_once("/pool/")?;
    let address = format!("{}/pool/{path}", mirror.trim_end_matches('/'));
    (address != package.uri).then_some(address)
}

/// A file's name that apt does not judge and no archive repeats.
fn file_name(package: &LockedPackage) -> String {
    format!("{}_{}.deb", package.name, package.digest.hex())
}

/// The index's stanza of a package: what it says of itself, but for the priority, which archives override
/// (`deb-override(5)`) and mmdebstrap goes by.
fn stanza(control: &str, required: bool) -> String {
    let kept: Vec<_> = control.lines().filter(|line| !line.starts_with("Priority:")).collect();
    let of_old = field(control, "Priority").filter(|priority| *priority != "required");
    let priority = if required { "required" } else { of_old.unwrap_or("optional") };
    format!("{}\nPriority: {priority}\n", kept.join("\n"))
}

/// Downloads files under the names of their hashes. What failed is told by its address; the others are there.
fn download(
    packages: &[(&LockedPackage, String)],
    folder: &Path,
    progress: &mut dyn FnMut(u8),
) -> Result<BTreeMap<String, String>, BuildError> {
    let mut command = mortal(process::find(OsStr::new(APT_HELPER))?.as_os_str());
    command.args(["-o", "APT::Sandbox::User=root", "download-file"]);
    for option in APT_OPTIONS.iter().filter_map(|option| option.split_once(' ')) {
        command.arg("-o").arg(format!("{}={}", option.0, option.1.trim_matches('"')));
    }
    for (package, uri) in packages {
        command.arg(uri).arg(folder.join(package.digest.hex()));
        command.arg(format!("SHA256:{}", package.digest.hex()));
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = std::thread::spawn(move || {
        let lines = stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines());
        lines.map_while(Result::ok).collect::<Vec<_>>()
    });
    let mut seen = BTreeSet::new();
    for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok) {
        if line.starts_with("Get:") && seen.insert(line) {
            progress(u8::try_from(seen.len() * 99 / packages.len()).unwrap_or(99).min(99));
        }
    }
    // What counts is which files are there.
    child.wait()?;
    Ok(failures(&errors.join().unwrap_or_default()))
}

/// `E: Failed to fetch URI  404  Not Found [IP: …]`
fn failures(lines: &[String]) -> BTreeMap<String, String> {
    let failure = |line: &String| {
        let (uri, why) = line.get(3..)?.strip_prefix("Failed to fetch ")?.split_once(' ')?;
        Some((uri.to_owned(), format!("{uri}: {}", why.split_whitespace().collect::<Vec<_>>().join(" "))))
    };
    lines.iter().filter_map(failure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_decides_what_is_required() {
        let control = "Package: a\nPriority: required\nDescription: x\n y";
        assert_eq!(stanza(control, false), "Package: a\nDescription: x\n y\nPriority: optional\n");
        assert_eq!(stanza("Package: a\nPriority: important", true), "Package: a\nPriority: required\n");
    }

    #[test]
    fn a_failed_download_is_told_by_its_address() {
        let lines =
            ["E: Failed to fetch http://m/a.deb  404  Not Found [IP: ::1 80]".to_owned(), "E: Download Failed".into()];
        let failures = failures(&lines);
        assert_eq!(failures.get("http://m/a.deb").unwrap(), "http://m/a.deb: 404 Not Found [IP: ::1 80]");
        assert_eq!(failures.len(), 1);
    }

    #[test]
    fn a_mirror_has_a_package_below_the_same_folders() {
        let package = LockedPackage {
            name: "a".to_owned(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            digest: Digest([1; 32]),
            size: 1,
            uri: "http://m/debian/pool/main/a/a_1_all.deb".to_owned(),
            required: false,
        };
        let at = |mirror: &str| address(&package, Some(&mirror.to_owned()));
        assert_eq!(at("file:/srv/old/").unwrap(), "file:/srv/old/pool/main/a/a_1_all.deb");
        assert_eq!(at("http://m/debian"), None);
        assert_eq!(address(&package, None), Some(package.uri.clone()));
    }

    #[test]
    fn what_no_build_has_used_for_long_goes() {
        let dir = tempfile::TempDir::new().unwrap();
        for name in ["new.deb", "new.control", "old.deb", "old.control"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let old = File::options().append(true).open(dir.path().join("old.deb")).unwrap().into_file();
        old.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        forget_unused(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["new.control", "new.deb"]);
    }
}
