//! The container's file system: its root, the mounts of the configuration, devices, and what is hidden of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};
use stoke_sys::mounts::{Change, attribute, change};

use super::mounts::{Making, attach, open_tree, resolve};
use super::{console, devices, inherited, options};
use crate::error::{Context as _, Error, Result};
use crate::spec::{Root, Spec};
use crate::wire::{Options, Plan};

/// What was built and is not entered yet.
pub(super) struct Built {
    /// The root.
    root: OwnedFd,
    /// The host's `/dev/null`: what hides files.
    null: OwnedFd,
}

/// A mount of `/proc` of our own, which the container cannot replace by something that looks like it.
pub(super) fn own_proc() -> Result<OwnedFd> {
    let mount = || -> Result<OwnedFd, Errno> {
        let file_system = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&file_system)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    // In a nested container the kernel may not allow another one: then the one that is there has to do.
    let there = |_| rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    mount().or_else(there).context(|| "cannot open /proc".to_owned())
}

/// Builds the file system beside the host's.
pub(super) fn build(plan: &Plan) -> Result<Built> {
    let null = open_tree(CWD, Path::new("/dev/null"), false).context(|| "cannot open /dev/null".to_owned())?;
    let root = inherited(plan.root_tree)?;
    attach_root(&root, &plan.rootfs)?;
    let spec = &plan.spec;
    let mut cgroups = Vec::new();
    for tree in &plan.cgroups {
        cgroups.push((tree, inherited(tree.tree)?));
    }
    let linux = spec.linux();
    let has_labels = Path::new("/sys/fs/selinux/enforce").exists();
    let label = Some(linux.mount_label.as_str()).filter(|label| !label.is_empty() && has_labels);
    for (index, mount) in spec.mounts.iter().enumerate() {
        let tree = plan.trees.get(index).copied().flatten().map(inherited).transpose()?;
        Making { index, mount, root: root.as_fd(), tree, cgroups: &cgroups, label }.make()?;
    }
    let own_devices = |mount: &crate::spec::Mount| mount.destination == Path::new("/dev") && options_bind(mount);
    if !spec.mounts.iter().any(own_devices) {
        devices::make(&root, spec)?;
    }
    if let (Some(number), Some(process)) = (plan.console, spec.process.as_ref().filter(|process| process.terminal)) {
        let socket = inherited(number)?;
        let terminal = console::open(root.as_fd(), process)?;
        terminal.bind(&root)?;
        terminal.send(&socket)?;
        terminal.take()?;
    }
    Ok(Built { root, null })
}

fn options_bind(mount: &crate::spec::Mount) -> bool {
    super::MountOptions::parse(&mount.options).bind.is_some()
}

/// Attaches the root at its own place, so that hooks find it there. In a user namespace the folders above may be closed to
/// us: then anywhere will do, since it is entered by its descriptor.
fn attach_root(root: &OwnedFd, path: &Path) -> Result<()> {
    let places = [path, Path::new("/mnt"), Path::new("/sys"), Path::new("/dev")];
    let mut refused = Errno::NOENT;
    for place in places {
        let opened = rustix::fs::open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        match opened.and_then(|place| attach(root, place)) {
            Ok(()) => return Ok(()),
            Err(error) => refused = error,
        }
    }
    Err(Error::system(format!("cannot attach the root {}", path.display()), refused))
}

/// Makes what was built the root of the process, and lets go of the host's.
pub(super) fn enter(built: &Built, options: &Options) -> Result<()> {
    let what = || "cannot enter the root".to_owned();
    rustix::process::fchdir(&built.root).context(what)?;
    if options.no_pivot {
        let host = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
        let from = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&built.root, "", &host, "/", from).context(what)?;
        rustix::process::chroot(".").context(what)?;
    } else {
        // The host's root ends up above ours, and is taken off (pivot_root(2), "pivot_root(".", ".")").
        rustix::process::pivot_root(".", ".").context(what)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).context(what)?;
    }
    rustix::process::chdir("/").context(what)
}

/// What can be done from inside only, and what takes rights away from those before it.
pub(super) fn finish(spec: &Spec, proc: &OwnedFd, built: &Built) -> Result<()> {
    let linux = spec.linux();
    for (key, value) in &linux.sysctl {
        let file = Path::new("sys").join(key.replace('.', "/"));
        write_at(proc, &file, value).context(|| format!("linux.sysctl: cannot set {key}"))?;
    }
    for path in &linux.readonly_paths {
        read_only(path).context(|| format!("linux.readonlyPaths: {}", path.display()))?;
    }
    for path in &linux.masked_paths {
        mask(path, &built.null).context(|| format!("linux.maskedPaths: {}", path.display()))?;
    }
    let root = resolve(CWD, Path::new("/"), OFlags::PATH).context(|| "cannot open the root".to_owned())?;
    if spec.root.as_ref().is_some_and(|Root { readonly, .. }| *readonly) {
        let wanted = Change { set: attribute::RDONLY, ..Change::default() };
        change(&root, false, &wanted).context(|| "root.readonly".to_owned())?;
    }
    if let Some((flag, recursive)) = options::propagation(&linux.rootfs_propagation) {
        let wanted = Change { propagation: flag, ..Change::default() };
        change(&root, recursive, &wanted).context(|| "linux.rootfsPropagation".to_owned())?;
    }
    Ok(())
}

/// Writes a file below a folder that the container has no say in.
pub(super) fn write_at(folder: impl AsFd, path: &Path, value: &str) -> Result<(), Errno> {
    let file = rustix::fs::openat(folder, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, value.as_bytes()).map(drop)
}

/// Mounts a path over itself, so that it can only be read. One that is not there needs no protection.
fn read_only(path: &Path) -> Result<(), io::Error> {
    let place = match resolve(CWD, path, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let tree = open_tree(&place, Path::new(""), true)?;
    change(&tree, true, &Change { set: attribute::RDONLY, ..Change::default() })?;
    Ok(attach(tree, place)?)
}

/// Hides a file behind `/dev/null`, a folder behind an empty one.
fn mask(path: &Path, null: &OwnedFd) -> Result<(), io::Error> {
    let place = match resolve(CWD, path, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
    if kind != FileType::Directory {
        return Ok(attach(open_tree(null, Path::new(""), false)?, place)?);
    }
    let file_system = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&file_system)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let empty = rustix::mount::fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(attach(empty, place)?)
}

/// Copies what is in a folder into the root of another mount, with modes, owners and links (`tmpcopyup`).
pub(super) fn copy_up(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let folder = rustix::fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(&folder, name, OFlags::RDONLY | flags, Mode::empty())?;
                let copy = rustix::fs::openat(to, name, OFlags::RDONLY | flags, Mode::empty())?;
                copy_up(&inner, &copy)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&folder, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
            }
            FileType::RegularFile => copy_file(&folder, to, name, mode)?,
            kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        let (user, group) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // Neither the umask nor the new owner may have taken bits away.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, mode: Mode) -> io::Result<()> {
    let read = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let write = rustix::fs::openat(to, name, flags, mode)?;
    io::copy(&mut std::fs::File::from(read), &mut std::fs::File::from(write)).map(drop)
}
