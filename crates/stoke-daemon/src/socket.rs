//! Binding a Unix socket by path: one that a dead process left is replaced, a living one is not.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A path longer than this does not fit `sun_path` (`struct sockaddr_un` in Linux' `un.h`: 108 bytes with the final zero).
const PATH_LIMIT: usize = 107;

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("{0} is served by another process that runs")]
    InUse(PathBuf),
    /// The kernel takes no such path.
    #[error("{path} has {length} bytes, a socket's path at most {PATH_LIMIT}; choose a shorter folder with --state")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Anything else.
    #[error("cannot bind {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

/// Binds `path` for its owner alone (mode 0600), making its folder if need be.
///
/// # Errors
/// If another process serves it, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let length = path.as_os_str().len();
    if length > PATH_LIMIT {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse(path.to_owned()));
    }
    replace(path).map_err(|source| SocketError::Io { path: path.to_owned(), source })
}

/// Binds under another name and renames: who connects meets the old socket or the new one, with its final mode.
fn replace(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let staged = path.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::remove_file(&staged);
    let listener = UnixListener::bind(&staged)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&staged, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role.sock");
        let first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        drop(first);
        bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_path_that_the_kernel_would_cut_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert!(matches!(bind(&path), Err(SocketError::TooLong { length: 125, .. })));
    }
}
