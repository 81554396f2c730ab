//! Files that are there whole or not at all.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

/// Writes a file for its owner alone, by another name and a rename.
///
/// # Errors
/// Naming the path.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let staged = path.with_extension(format!("tmp{}", std::process::id()));
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&staged)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs_err::rename(&staged, path)
}

/// [`write_atomically`] of a value as JSON, for people's eyes.
///
/// # Errors
/// Naming the path.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    write_atomically(path, &serde_json::to_vec_pretty(value)?)
}
