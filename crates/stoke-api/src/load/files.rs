//! Which files are meant, and their text.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::finding::Finding;

/// How large a file may be.
const MAX_SIZE: u64 = 4 << 20;

/// The files that the paths stand for: files as they are named, folders' YAML and JSON files by name. No file twice.
pub(super) fn find(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Finding>) {
    let (mut files, mut findings) = (Vec::<PathBuf>::new(), Vec::new());
    for path in paths {
        match list(path) {
            Ok(found) => found.into_iter().for_each(|file| {
                if !files.contains(&file) {
                    files.push(file);
                }
            }),
            Err(finding) => findings.push(finding),
        }
    }
    (files, findings)
}

fn list(path: &Path) -> Result<Vec<PathBuf>, Finding> {
    let failed = |error: std::io::Error| about(path, format!("cannot be read: {}", plain(&error)), None);
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => about(path, "there is no such file or folder".to_owned(), None),
        _ => failed(error),
    })?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !hidden && ["yaml", "yml", "json"].contains(&extension) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let hint = Some("files of objects end in .yaml, .yml or .json".to_owned());
        return Err(about(path, "this folder has no file of objects".to_owned(), hint));
    }
    Ok(files)
}

/// The text of a file, if it is one and not too large.
pub(super) fn read(path: &Path) -> Result<String, Finding> {
    let failed = |error: std::io::Error| about(path, format!("cannot be read: {}", plain(&error)), None);
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(about(path, format!("is larger than {} MiB", MAX_SIZE >> 20), None));
    }
    String::from_utf8(bytes).map_err(|_| about(path, "is not UTF-8 text".to_owned(), None))
}

fn about(path: &Path, message: String, hint: Option<String>) -> Finding {
    Finding { path: path.to_owned(), at: None, field: String::new(), message, hint }
}

/// The error without the number that the operating system gives it.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
