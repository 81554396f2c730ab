//! What of an installation is in no object and cannot be made again: keys and leases. As files of an export, and back.
//!
//! | in the export | in the state folder |
//! |---|---|
//! | `keys/farms/…`: certificates, SSH host keys of nodes, keys for Secure Boot | `farms/…` |
//! | `keys/…`: the farms' authority, the SSH key that enters nodes, keys that sign images | `keys/…` |
//! | `leases/….journal` | `leases/….journal` |
//!
//! What is there already stays: a restored installation that has gone on knows better than its export. Only an authority or a
//! key of another installation is refused. What this module never does: touch objects or image versions.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use crate::files::write_atomically;
use crate::paths::Folders;

/// Paths in the export, and what is there.
pub type Files = BTreeMap<String, Vec<u8>>;

const KEYS: &str = "keys";
const FARMS: &str = "keys/farms";
const LEASES: &str = "leases";
/// Of a farm, or of one of its replicas: what shows who it is.
const CERTIFICATES: [&str; 3] = ["certificate.pem", "certificate.json", "key.pem"];

/// Why an export cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The installation has keys of its own.
    #[error("{} is another one than in the export: this installation has keys of its own", .0.display())]
    Foreign(PathBuf),
    /// A path that leads out of the export.
    #[error("{0:?} is no file of an export")]
    Path(String),
    /// The disk refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Keys of an installation: all of them secret, or as good as.
///
/// # Errors
/// If one cannot be read.
pub fn keys(folders: &Folders) -> io::Result<Files> {
    let mut files = Files::new();
    gather(&folders.keys(), KEYS, &|_| true, &mut files)?;
    gather(&folders.state.join("farms"), FARMS, &is_farm_key, &mut files)?;
    Ok(files)
}

/// The journals of its routers. One that is being written is whole up to its last record, which is all that a router needs.
///
/// # Errors
/// If one cannot be read.
pub fn leases(folders: &Folders) -> io::Result<Files> {
    let mut files = Files::new();
    let is_journal = |path: &str| path.ends_with(".journal");
    gather(&folders.state.join(LEASES), LEASES, &is_journal, &mut files)?;
    Ok(files)
}

/// The keys and leases of an export.
///
/// # Errors
/// If one cannot be read.
pub fn read(export: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for part in [KEYS, LEASES] {
        gather(&export.join(part), part, &|path| !path.ends_with("/README"), &mut files)?;
    }
    Ok(files)
}

/// Writes files below a folder, for their owner alone.
///
/// # Errors
/// If the disk refuses.
pub fn write(folder: &Path, files: &Files) -> io::Result<()> {
    files.iter().try_for_each(|(path, content)| write_one(&folder.join(path), content))
}

/// Whether an installation can take these files over.
///
/// # Errors
/// If it has keys of its own.
pub fn check(folders: &Folders, files: &Files) -> Result<(), RestoreError> {
    for (path, content) in files.iter().filter(|(path, _)| path.starts_with("keys/") && !path.starts_with(FARMS)) {
        let here = place(folders, path)?;
        match fs_err::read(&here) {
            Ok(found) if found != *content => return Err(RestoreError::Foreign(here)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Brings files back that the installation lacks, and says which.
///
/// # Errors
/// If it has keys of its own, or the disk refuses. Nothing is written in the first case.
pub fn restore(folders: &Folders, files: &Files) -> Result<Vec<PathBuf>, RestoreError> {
    check(folders, files)?;
    let mut written = Vec::new();
    // By name: a private key is there before what says that it is.
    for (path, content) in files {
        let here = place(folders, path)?;
        if !here.exists() {
            write_one(&here, content)?;
            written.push(here);
        }
    }
    Ok(written)
}

/// Brings files back whatever there is.
///
/// # Errors
/// If the disk refuses.
pub fn replace(folders: &Folders, files: &Files) -> Result<(), RestoreError> {
    for (path, content) in files {
        write_one(&place(folders, path)?, content)?;
    }
    Ok(())
}

fn place(folders: &Folders, path: &str) -> Result<PathBuf, RestoreError> {
    let mut parts = Path::new(path).components();
    // Two slashes would make the rest an absolute path.
    let is_plain = parts.all(|part| matches!(part, Component::Normal(_))) && !path.contains("//");
    let inside = path
        .strip_prefix("keys/")
        .filter(|_| is_plain)
        .map(|rest| if rest.starts_with("farms/") { folders.state.join(rest) } else { folders.keys().join(rest) });
    let lease = path.strip_prefix("leases/").filter(|_| is_plain).map(|rest| folders.state.join(LEASES).join(rest));
    inside.or(lease).ok_or_else(|| RestoreError::Path(path.to_owned()))
}

fn write_one(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    write_atomically(path, content)
}

/// Whether a file of a farm's folder is a key: of its own folder, or of a replica's.
fn is_farm_key(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').skip(3).collect();
    match parts.as_slice() {
        ["host-keys" | "secureboot", _, ..] => Path::new(path).extension().is_none_or(|extension| extension != "new"),
        [file] | ["replicas", _, file] => CERTIFICATES.contains(file),
        _ => false,
    }
}

/// Plain files below a folder, by their paths in the export. A folder that is not there has none.
fn gather(folder: &Path, at: &str, wanted: &dyn Fn(&str) -> bool, files: &mut Files) -> io::Result<()> {
    let entries = match fs_err::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for entry in entries {
        let entry = entry?;
        let path = format!("{at}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            gather(&entry.path(), &path, wanted, files)?;
        } else if kind.is_file() && wanted(&path) {
            files.insert(path, fs_err::read(entry.path())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn folders(root: &Path) -> Folders {
        Folders { state: root.to_owned(), run: root.join("run") }
    }

    fn put(root: &Path, path: &str) {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, path.to_string_lossy().as_bytes()).unwrap();
    }

    #[test]
    fn keys_and_leases_go_out_and_come_back_for_their_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let (old, new, out) = (root.path().join("old"), root.path().join("new"), root.path().join("out"));
        let kept = [
            "farms/default.lab/certificate.pem",
            "farms/default.lab/host-keys/machine.default.a",
            "farms/default.lab/secureboot/db.key",
            "keys/ca.key",
            "keys/ca.pem",
            "keys/images/main.pub",
            "leases/default.lab.journal",
        ];
        let left = ["farms/default.lab/sessions", "leases/default.lab.lock", "farms/default.lab/rehearsal/disk"];
        kept.iter().chain(&left).for_each(|path| put(&old, path));
        let mut files = keys(&folders(&old)).unwrap();
        files.extend(leases(&folders(&old)).unwrap());
        write(&out, &files).unwrap();
        assert_eq!(read(&out).unwrap(), files);
        let restored = restore(&folders(&new), &files).unwrap();
        let expected: Vec<_> = kept.iter().map(|path| new.join(path)).collect();
        assert_eq!(restored.iter().collect::<std::collections::BTreeSet<_>>(), expected.iter().collect());
        for path in kept {
            assert_eq!(fs_err::read(new.join(path)).unwrap(), fs_err::read(old.join(path)).unwrap());
            assert_eq!(fs_err::metadata(new.join(path)).unwrap().permissions().mode() & 0o077, 0, "{path}");
        }
        assert_eq!(restore(&folders(&new), &files).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_installation_with_an_authority_of_its_own_takes_none_over() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "keys/ca.pem");
        let files = Files::from([("keys/ca.key".into(), b"k".into()), ("keys/ca.pem".into(), b"c".into())]);
        let refused = restore(&folders(root.path()), &files).unwrap_err();
        assert!(matches!(refused, RestoreError::Foreign(_)), "{refused}");
        assert!(!root.path().join("keys/ca.key").exists());
    }

    #[test]
    fn nothing_is_written_outside_of_the_installation() {
        let root = tempfile::tempdir().unwrap();
        for path in ["keys/../../x", "leases/../x", "/etc/x", "x", "keys//etc/x", "keys/farms//etc/x"] {
            let files = Files::from([(path.to_owned(), Vec::new())]);
            assert!(restore(&folders(root.path()), &files).is_err(), "{path}");
        }
    }
}
