//! Where what is made once and outlives checkouts is kept.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// The folder of test servers, peers' packages, tools and images: `STOKEHOLD_CACHE`, else the user's cache folder.
pub fn cache() -> PathBuf {
    let named = std::env::var_os("STOKEHOLD_CACHE").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|folder| PathBuf::from(folder).join("stokehold"));
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/stokehold"));
    named.or_else(xdg).or_else(home).unwrap_or_else(|| std::env::temp_dir().join("stokehold-cache"))
}

/// Who has this is the only one that makes something in the cache, of all threads and processes.
///
/// # Errors
/// If the cache cannot be made.
pub fn lock_cache() -> Result<File> {
    fs_err::create_dir_all(cache())?;
    let lock = fs_err::File::create(cache().join("lock"))?.into_file();
    lock.lock().context("cannot wait for whoever makes something in the cache")?;
    Ok(lock)
}
