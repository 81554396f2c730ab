//! Attributes of mounts (mount_setattr(2)), which rustix does not have.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

/// `MOUNT_ATTR_*` of Linux' `include/uapi/linux/mount.h`.
#[expect(missing_docs, reason = "the kernel's names")]
pub mod attribute {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0x0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x0010_0000;
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// What changes about a mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Attributes that it gets.
    pub set: u64,
    /// Attributes that it loses.
    pub clear: u64,
    /// `MS_SHARED` and the like, or 0 to leave it.
    pub propagation: u64,
    /// The user namespace whose mapping it gets, with [`attribute::IDMAP`].
    pub mapping: Option<BorrowedFd<'a>>,
}

/// Changes a mount that a descriptor refers to, and those below it if asked to.
///
/// # Errors
/// What mount_setattr(2) says.
pub fn change(mount: impl AsFd, recursive: bool, change: &Change<'_>) -> io::Result<()> {
    let mapping = change.mapping.map_or(0, |namespace| namespace.as_raw_fd());
    let attributes = Attributes {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation,
        user_namespace: u64::try_from(mapping).unwrap_or_default(),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let mount = mount.as_fd().as_raw_fd();
    let (at, size) = (&raw const attributes, size_of::<Attributes>());
    // JUSTIFICATION: neither std nor rustix has mount_setattr(2).
    // SAFETY: the kernel reads an empty C string and as many bytes as `size` says, which is the structure's own size.
    let answer = unsafe { libc::syscall(libc::SYS_mount_setattr, mount, c"".as_ptr(), flags, at, size) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
