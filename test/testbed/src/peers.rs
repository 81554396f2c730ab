//! The servers that ours are measured against. They are unpacked into a tree of their own in the cache, never installed: some
//! conflict with each other, and most would start as services of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::lock_cache;
use crate::world::{World, check};

/// Debian packages of all peers, in trees of those that may be unpacked together. The name of a tree changes with its content.
const TREES: [(&str, &str); 2] = [
    (
        "peers-2",
        "dnsmasq-base,nginx-light,nbdkit,nbd-server,nbd-client,kea-dhcp4-server,kea-admin,tftpd-hpa,qemu-utils,fio,nfs-ganesha,nfs-ganesha-vfs",
    ),
    ("peers-2-second", "atftpd,isc-dhcp-server"),
];
const LIBRARIES: [&str; 2] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];

/// Trees of unpacked packages.
pub struct Peers {
    trees: Vec<PathBuf>,
}

impl Peers {
    /// The trees in `cache`, made if they are not there.
    ///
    /// # Errors
    /// If the packages cannot be had.
    pub fn in_cache(cache: &Path) -> Result<Self> {
        let trees = TREES.iter().map(|(name, packages)| unpacked(cache, name, packages)).collect::<Result<_>>()?;
        Ok(Self { trees })
    }

    /// A file of a tree, by its absolute path in its package.
    pub fn file(&self, path: &str) -> PathBuf {
        let in_tree = |tree: &PathBuf| tree.join(path.trim_start_matches('/'));
        let found = self.trees.iter().map(in_tree).find(|file| file.symlink_metadata().is_ok());
        // What is nowhere is named where most is.
        found.or_else(|| self.trees.first().map(in_tree)).unwrap_or_default()
    }

    /// A peer's program, to run in a world by the tree's own loader and libraries: they need not be the host's.
    pub fn command(&self, world: &World, program: &str) -> Command {
        let [loader, arguments @ ..] = self.words(program);
        let mut command = world.command(loader);
        command.args(arguments);
        command
    }

    /// The words that run a peer's program, wherever they are run: see [`Self::command`].
    pub fn words(&self, program: &str) -> [String; 4] {
        let file = |path: &str| self.file(path).display().to_string();
        let loader = file("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
        [loader, "--library-path".to_owned(), LIBRARIES.map(file).join(":"), file(program)]
    }
}

fn unpacked(cache: &Path, name: &str, packages: &str) -> Result<PathBuf> {
    let tree = cache.join(name);
    let _one_at_a_time = lock_cache()?;
    if !tree.exists() {
        fs_err::create_dir_all(cache)?;
        let staged = cache.join(format!("{name}.{}", std::process::id()));
        let mut unpack = Command::new("mmdebstrap");
        unpack.args(["--variant=extract", &format!("--include={packages}"), "bookworm"]).arg(&staged);
        check(&mut unpack).context("cannot unpack the peers")?;
        fs_err::rename(&staged, &tree)?;
    }
    Ok(tree)
}
