//! The namespace of a node's LANs, kept by a name in the file system.
//!
//! A bind mount of the namespace's file in the host's mount namespace (`/run/netns/stokehold-INSTALLATION-HASH`, where
//! `ip netns` has its own) keeps it alive without any process: whatever becomes of the agent, machines and routers stay on
//! their bridges. The host's mount namespace is that of process 1, or of the kubelet where process 1 may not be looked at;
//! only a thread of our own enters it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use rustix::fs::fstatfs;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoke_net::Installation;

use crate::cluster::host::Host;

/// Where `ip netns` has its names.
const FOLDER: &str = "/run/netns";
/// `NSFS_MAGIC` of Linux' `magic.h`.
const NSFS: u64 = 0x6e73_6673;

/// A name for a namespace.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    path: PathBuf,
    host: Host,
}

impl Pin {
    /// The name of an installation's namespace on a node.
    pub(super) fn new(installation: &Installation, node: &str, host: Host) -> Self {
        let hash = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { path: Path::new(FOLDER).join(format!("stokehold-{installation}-{hash:08x}")), host }
    }

    /// The namespace, found or made.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn hold(&self) -> io::Result<File> {
        if let Some(found) = self.find()? {
            return Ok(found);
        }
        let namespace = on_a_thread(|| {
            stoke_sys::namespace::unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        })?;
        let (path, held) = (self.path.clone(), namespace.try_clone()?);
        self.in_host_mounts(move || {
            fs_err::create_dir_all(FOLDER)?;
            File::options().create(true).append(true).open(&path)?;
            Ok(mount_bind(format!("/proc/thread-self/fd/{}", held.as_raw_fd()), &path)?)
        })?;
        tracing::info!(name = %self.path.display(), "made the namespace of the lans");
        Ok(namespace)
    }

    fn find(&self) -> io::Result<Option<File>> {
        let path = self.path.clone();
        self.in_host_mounts(move || match File::open(&path) {
            // The name may have outlived what it named: the host was started again.
            Ok(file) => Ok(is_namespace(&file)?.then_some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Does something in the host's mount namespace.
    fn in_host_mounts<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let mounts = self.host.mounts();
        on_a_thread(move || {
            if let Some(mounts) = mounts {
                stoke_sys::namespace::unshare_file_system()?;
                move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
            }
            action()
        })
    }

    /// Takes the name away. The namespace goes with its last user.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn remove(&self) -> io::Result<()> {
        let path = self.path.clone();
        self.in_host_mounts(move || {
            match unmount(&path, UnmountFlags::DETACH) {
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
    }
}

/// Takes the calling thread into a namespace.
///
/// # Errors
/// If the system refuses.
pub(super) fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(u64::try_from(fstatfs(file)?.f_type).is_ok_and(|kind| kind == NSFS))
}

/// A thread of its own: what it enters, it never leaves.
fn on_a_thread<T: Send + 'static>(action: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::spawn(action).join().unwrap_or_else(|_| Err(io::Error::other("a thread has crashed")))
}
