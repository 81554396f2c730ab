//! The root as the system sees it: the verified file system below, a bounded layer in memory above.

use std::ffi::CString;
use std::fs::create_dir_all;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use stoke_api::Bytes;
use stoke_api::objects::RootFormat;

/// The root as it was built.
pub(crate) const LOWER: &str = "/lower";
/// The layer in memory.
pub(crate) const WRITABLE: &str = "/writable";
/// Both together: what will be the root.
pub(crate) const NEW_ROOT: &str = "/newroot";

/// Mounts a device with the verified file system.
pub(crate) fn mount_lower(device: &Path, format: RootFormat) -> Result<()> {
    create_dir_all(LOWER).with_context(|| format!("could not make {LOWER}"))?;
    let kind = file_system(format);
    let read_only = MountFlags::RDONLY | MountFlags::NODEV;
    mount(device, LOWER, kind, read_only, None).with_context(|| format!("could not mount the root as {kind}"))
}

/// Puts the writable layer over what is mounted at [`LOWER`]. Without a size it may take half of the memory.
pub(crate) fn assemble(size: Option<Bytes>) -> Result<()> {
    for folder in [WRITABLE, NEW_ROOT] {
        create_dir_all(folder).with_context(|| format!("could not make {folder}"))?;
    }
    let bound = size.map_or_else(|| "50%".to_owned(), |bytes| bytes.0.to_string());
    let options = CString::new(format!("size={bound},mode=0755"))?;
    mount("overlay", WRITABLE, "tmpfs", MountFlags::NODEV, Some(options.as_c_str()))
        .context("could not mount the writable layer")?;
    let (upper, work) = (format!("{WRITABLE}/upper"), format!("{WRITABLE}/work"));
    for folder in [&upper, &work] {
        create_dir_all(folder).with_context(|| format!("could not make {folder}"))?;
    }
    let options = CString::new(format!("lowerdir={LOWER},upperdir={upper},workdir={work}"))?;
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .context("could not lay the writable layer over the root")
}

/// Lets go of the parts: the root keeps what it needs, and when that is unmounted, nothing is left of them.
pub(crate) fn let_go() {
    for folder in [WRITABLE, LOWER] {
        // What is not mounted is not missed.
        let _ = unmount(folder, UnmountFlags::DETACH);
    }
}

/// Takes them apart, for another attempt. What is not mounted is not missed.
pub(crate) fn take_apart() {
    crate::ltsp::take_apart();
    for folder in [NEW_ROOT, WRITABLE, LOWER] {
        let _ = unmount(folder, UnmountFlags::DETACH);
    }
}

/// The kernel's name of the file system, which is also its module's.
pub(crate) fn file_system(format: RootFormat) -> &'static str {
    match format {
        RootFormat::Squashfs => "squashfs",
        RootFormat::Erofs => "erofs",
    }
}
