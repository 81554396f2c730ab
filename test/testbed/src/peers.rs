//! The servers that ours are measured against. They are unpacked into a tree of their own in the cache, never installed: some
//! conflict with each other, and most would start as services of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::world::{World, check};

/// Debian packages of all peers.
const PACKAGES: &str = "dnsmasq-base,nginx-light,nbdkit,nbd-server,nbd-client";
const LIBRARIES: [&str; 2] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];

/// A tree of unpacked packages.
pub struct Peers {
    tree: PathBuf,
}

impl Peers {
    /// The tree in `cache`, made if it is not there.
    ///
    /// # Errors
    /// If the packages cannot be had.
    pub fn in_cache(cache: &Path) -> Result<Self> {
        let tree = cache.join("peers-1");
        if !tree.exists() {
            fs_err::create_dir_all(cache)?;
            let staged = cache.join(format!("peers-1.{}", std::process::id()));
            let mut unpack = Command::new("mmdebstrap");
            unpack.args(["--variant=extract", &format!("--include={PACKAGES}"), "bookworm"]).arg(&staged);
            check(&mut unpack).context("cannot unpack the peers")?;
            fs_err::rename(&staged, &tree)?;
        }
        Ok(Self { tree })
    }

    /// A file of the tree, by its absolute path in its package.
    pub fn file(&self, path: &str) -> PathBuf {
        self.tree.join(path.trim_start_matches('/'))
    }

    /// A peer's program, to run in a world by the tree's own loader and libraries: they need not be the host's.
    pub fn command(&self, world: &World, program: &str) -> Command {
        let mut command = world.command(self.file("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        let folders = LIBRARIES.map(|folder| self.file(folder).display().to_string());
        command.arg("--library-path").arg(folders.join(":")).arg(self.file(program));
        command
    }
}
