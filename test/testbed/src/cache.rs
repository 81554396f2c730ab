//! Where what is made once and outlives checkouts is kept.

use std::path::PathBuf;

/// The folder of test servers, peers' packages, tools and images: `STOKEHOLD_CACHE`, else the user's cache folder.
pub fn cache() -> PathBuf {
    let named = std::env::var_os("STOKEHOLD_CACHE").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|folder| PathBuf::from(folder).join("stokehold"));
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/stokehold"));
    named.or_else(xdg).or_else(home).unwrap_or_else(|| std::env::temp_dir().join("stokehold-cache"))
}
