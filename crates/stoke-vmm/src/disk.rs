//! The files behind a machine's disks: sparse, raw, in its own folder.

use std::io;
use std::path::PathBuf;

use fs_err::OpenOptions;
use stoke_api::objects::VmDisk;

use crate::spec::VmFiles;

/// Why a machine's disk cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the disk {path}")]
pub struct DiskError {
    /// Its file.
    path: PathBuf,
    /// The system's reason.
    source: io::Error,
}

/// Makes the files of disks that are new, and grows those that became larger. What is on a disk is never touched: one that
/// should be smaller stays as it is.
///
/// # Errors
/// If a file cannot be made or grown.
pub fn prepare(disks: &[VmDisk], files: &VmFiles) -> Result<(), DiskError> {
    disks.iter().try_for_each(|disk| {
        let path = files.disk(disk.name.as_str());
        grow(&path, disk.size.0).map_err(|source| DiskError { path, source })
    })
}

fn grow(path: &PathBuf, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let present = file.metadata()?.len();
    if present < size { file.set_len(size) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::names::Bytes;

    #[test]
    fn a_disk_is_made_grown_and_never_cut() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), folder.path());
        let made = |size| {
            prepare(&[VmDisk { name: "data".parse().unwrap(), size: Bytes(size) }], &files).unwrap();
            std::fs::metadata(files.disk("data")).unwrap().len()
        };
        assert_eq!((made(1 << 20), made(2 << 20), made(1 << 20)), (1 << 20, 2 << 20, 2 << 20));
    }
}
