//! The digest of a folder that a Containerfile copies from: names, modes, contents; no times, no owners.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fs_err as fs;
use fs_err::File;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;

/// Reads all of a folder but what is below `except`, a store that may lie in it.
///
/// Files that an ignore file names are read too: the digest then changes more often than it must, and buildah finds its
/// layers unchanged.
pub(super) fn digest(folder: &Path, except: &Path) -> io::Result<Digest> {
    let folder = fs::canonicalize(folder)?;
    let mut hash = Sha256::new();
    let mut left = vec![folder.clone()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(&folder).unwrap_or(&path).as_os_str().as_bytes().to_vec();
        let (kind, content) = if metadata.is_dir() {
            left.extend(children(&path, except)?);
            ('d', Vec::new())
        } else if metadata.is_symlink() {
            ('l', fs::read_link(&path)?.as_os_str().as_bytes().to_vec())
        } else if metadata.is_file() {
            let mut content = Sha256::new();
            io::copy(&mut File::open(&path)?, &mut Sink(&mut content))?;
            ('f', content.finalize().to_vec())
        } else {
            ('o', Vec::new())
        };
        hash.update(format!("{kind} {:o} {} {} ", metadata.permissions().mode(), name.len(), content.len()));
        hash.update(name);
        hash.update(content);
    }
    Ok(Digest(hash.finalize().into()))
}

fn children(folder: &Path, except: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = entries.collect::<io::Result<_>>()?;
    paths.retain(|path| path != except);
    paths.sort();
    Ok(paths)
}

struct Sink<'a>(&'a mut Sha256);

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
