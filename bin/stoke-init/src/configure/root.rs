//! The new root: files are written as if it were `/` already, whatever links the image has.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

/// Links that are followed on the way to one file (Linux: `MAXSYMLINKS`).
const LINKS: u32 = 40;

/// The new root. Names are relative to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root<'a>(pub(crate) &'a Path);

impl Root<'_> {
    /// Where the file of this name is. Links in its folders lead where they will lead when this root is `/`; a link of
    /// that name itself is not followed.
    pub(crate) fn path(self, name: &str) -> PathBuf {
        let name = Path::new(name.trim_start_matches('/'));
        let folder = name.parent().unwrap_or(Path::new(""));
        let file = name.file_name().map(OsString::from).unwrap_or_default();
        self.inside(folder).join(file)
    }

    /// The file that a name leads to at last.
    fn target(self, name: &str) -> PathBuf {
        self.inside(Path::new(name.trim_start_matches('/')))
    }

    fn inside(self, name: &Path) -> PathBuf {
        let (mut place, mut links) = (PathBuf::new(), 0);
        let mut rest: Vec<OsString> = parts(name);
        while let Some(part) = rest.pop() {
            if part == ".." {
                place.pop();
                continue;
            }
            let next = place.join(&part);
            match fs::read_link(self.0.join(&next)) {
                Ok(target) if links < LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        place = PathBuf::new();
                    }
                    rest.extend(parts(&target));
                }
                _ => place = next,
            }
        }
        self.0.join(place)
    }

    pub(crate) fn has(self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// The first of these that is there.
    pub(crate) fn first<'n>(self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// What is in a file; nothing if it is not there or is no text.
    pub(crate) fn read(self, name: &str) -> String {
        fs::read_to_string(self.target(name)).unwrap_or_default()
    }

    /// Names in a folder, in order.
    pub(crate) fn list(self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.target(name)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Where a link leads, as it is written.
    pub(crate) fn link_target(self, name: &str) -> Option<String> {
        fs::read_link(self.path(name)).ok()?.into_os_string().into_string().ok()
    }

    /// Writes a file. A link of that name is replaced, not followed.
    pub(crate) fn write(self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = self.path(name);
        let write = || -> io::Result<()> {
            remove(&path)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, "")?;
            // Before the content: it may be secret.
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
            fs::write(&path, content)
        };
        write().with_context(|| format!("could not write /{}", name.trim_start_matches('/')))
    }

    /// Writes a file that keeps its owner and group.
    pub(crate) fn replace(self, name: &str, text: &str, mode: u32) -> Result<()> {
        if self.has(name) {
            return fs::write(self.target(name), text).with_context(|| format!("could not write /{name}"));
        }
        self.write(name, text, mode)
    }

    /// Rights of the file that is there.
    pub(crate) fn mode(self, name: &str) -> Option<u32> {
        Some(fs::metadata(self.target(name)).ok()?.mode() & 0o7777)
    }

    /// Sets the rights of a file that is there.
    pub(crate) fn set_mode(self, name: &str, mode: u32) -> Result<()> {
        let result = fs::set_permissions(self.target(name), Permissions::from_mode(mode));
        result.with_context(|| format!("could not set the rights of /{name}"))
    }

    /// Makes a link, in place of what has that name.
    pub(crate) fn link(self, name: &str, target: &str) -> Result<()> {
        let path = self.path(name);
        let link = || -> io::Result<()> {
            remove(&path)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            symlink(target, &path)
        };
        link().with_context(|| format!("could not link /{name} to {target}"))
    }

    /// Removes a file or link. One that is not there is not missed.
    pub(crate) fn remove(self, name: &str) -> Result<()> {
        remove(&self.path(name)).with_context(|| format!("could not remove /{name}"))
    }

    /// A folder of this owner; one that is there keeps its rights.
    pub(crate) fn folder(self, name: &str, mode: u32, owner: (u32, u32)) -> Result<()> {
        let path = self.target(name);
        if path.is_dir() {
            return Ok(());
        }
        let parents = fs::DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(&path));
        let result = parents.and_then(|()| fs::DirBuilder::new().mode(mode).create(&path));
        result.with_context(|| format!("could not make /{name}"))?;
        self.own(name, owner)
    }

    /// Gives a file away.
    pub(crate) fn own(self, name: &str, (uid, gid): (u32, u32)) -> Result<()> {
        chown(self.target(name), Some(uid), Some(gid)).with_context(|| format!("could not give /{name} away"))
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_image_never_lead_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let root = Root(folder.path());
        fs::create_dir_all(folder.path().join("run/lock")).unwrap();
        symlink("/run", folder.path().join("absolute")).unwrap();
        symlink("../../../../run", folder.path().join("up")).unwrap();
        symlink(outside.path(), folder.path().join("out")).unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        for name in ["absolute/a", "up/b", "absolute/lock/c", "out/d", "loop/e"] {
            let written = root.write(name, "x", 0o644);
            assert!(name == "loop/e" || written.is_ok(), "{name}: {written:?}");
        }
        for name in ["run/a", "run/b", "run/lock/c"] {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(root.read("absolute/a"), "x");
    }
}
