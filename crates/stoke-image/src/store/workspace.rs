//! Folders for half-done work: each has an owner, and goes when the owner is gone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;
use fs_err::File;

use super::{Store, StoreError};

/// The file in a workspace that its owner keeps locked. The kernel takes the lock back however the owner ends.
const OWNER: &str = "owner";

/// A folder for half-done work, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    _owner: std::fs::File,
}

impl Workspace {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Mostly there is nothing left but the owner. What cannot be removed now is left to the next sweep.
        let _ = fs::remove_file(self.path.join(OWNER));
        if fs::remove_dir(&self.path).is_err() {
            let _ = remove_tree(&self.path);
        }
    }
}

impl Store {
    /// Makes a folder for work, on the same file system as the blobs.
    pub(crate) fn workspace(&self) -> Result<Workspace, StoreError> {
        // A shared lock against the sweep, which must not see the folder before its owner's lock.
        let guard = File::create(self.root.join("tmp.lock"))?.into_file();
        guard.lock_shared()?;
        let path = self.fresh_folder()?;
        let owner = File::create(path.join(OWNER))?.into_file();
        owner.lock()?;
        Ok(Workspace { path, _owner: owner })
    }

    /// Makes a folder that nobody has: process ids alone repeat, over time and between containers.
    fn fresh_folder(&self) -> std::io::Result<PathBuf> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.tmp().join(format!("{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the workspaces of owners that are gone.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let guard = File::create(self.root.join("tmp.lock"))?.into_file();
        if guard.try_lock().is_err() {
            return Ok(());
        }
        for entry in fs::read_dir(self.tmp())? {
            let path = entry?.path();
            let owner = File::open(path.join(OWNER)).map(File::into_file);
            if owner.is_ok_and(|owner| owner.try_lock().is_err()) {
                continue;
            }
            remove_tree(&path)?;
        }
        Ok(())
    }
}

/// Removes a tree of any owner: an ordinary user's build leaves files of subordinate ids, which only the user's own
/// user namespace may remove. Never crosses into what is mounted inside.
///
/// # Errors
/// If something is left.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    let quiet = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let remove = ["rm", "-rf", "--one-file-system", "--"];
    let [program, arguments @ ..] = remove;
    if quiet(Command::new(program).args(arguments).arg(path)) {
        return Ok(());
    }
    quiet(Command::new("unshare").args(["--map-auto", "--map-root-user"]).args(remove).arg(path));
    if path.exists() { fs::remove_dir_all(path) } else { Ok(()) }
}
