//! The file systems that the kernel offers, mounted at the start and moved along at the end.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};

/// Where they are: type, place, flags, data. In the order in which they are mounted.
const KERNEL_FS: [(&str, &str, MountFlags, Option<&std::ffi::CStr>); 4] = [
    ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755")),
    ("proc", "/proc", BARE, None),
    ("sysfs", "/sys", BARE, None),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), Some(c"mode=0755")),
];

const BARE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Their places.
pub(crate) fn places() -> impl Iterator<Item = &'static str> {
    KERNEL_FS.iter().map(|(_, place, ..)| *place)
}

/// Mounts them all.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, place, flags, data) in KERNEL_FS {
        std::fs::create_dir_all(place).with_context(|| format!("could not make {place}"))?;
        match mount(kind, place, kind, flags, data) {
            // The kernel mounts /dev itself if it was built so.
            Ok(()) | Err(rustix::io::Errno::BUSY) => (),
            Err(error) => return Err(error).with_context(|| format!("could not mount {kind} on {place}")),
        }
    }
    Ok(())
}

/// Reads a small file of these and trims it; empty if it is not there.
pub(crate) fn attribute(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
