//! One mount of the configuration: made or bound without a place, changed, and only then attached below the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use stoke_sys::mounts::{Change, change};

use super::MountOptions;
use crate::error::{Context as _, Error, Result};
use crate::spec::Mount;
use crate::wire::CgroupTree;

/// How many symbolic links to what does not exist yet are followed.
const LINKS: u32 = 40;

/// Opens a path below the root as the container's processes would see it. Nothing leads out of the root.
pub(super) fn resolve(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(
            &root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The place of a mount: made, with the folders above it, if it is not there.
pub(super) fn place(root: impl AsFd, path: &Path, is_folder: bool) -> Result<OwnedFd> {
    place_at(root.as_fd(), path, is_folder, LINKS).context(|| format!("cannot make {}", path.display()))
}

fn place_at(root: BorrowedFd<'_>, path: &Path, is_folder: bool, links: u32) -> Result<OwnedFd, Errno> {
    match resolve(root, path, OFlags::PATH) {
        Err(Errno::NOENT) if links > 0 => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOENT) };
    let folder = place_at(root, parent, true, links - 1)?;
    let mode = Mode::from_raw_mode(0o755);
    let created = if is_folder {
        rustix::fs::mkdirat(&folder, name, mode)
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match created {
        Ok(()) => resolve(folder, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW),
        // A symbolic link to what does not exist: that is made, below the root.
        Err(Errno::EXIST) => {
            let target = rustix::fs::readlinkat(&folder, name, Vec::new())?;
            let target = PathBuf::from(std::ffi::OsString::from(target.to_string_lossy().into_owned()));
            place_at(root, &parent.join(target), is_folder, links - 1)
        }
        Err(error) => Err(error),
    }
}

/// Attaches a mount that has no place yet.
pub(super) fn attach(mount: impl AsFd, place: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}

/// A copy of a tree of mounts, without a place.
pub(crate) fn open_tree(at: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(at, path, flags)
}

/// What a mount of the configuration is made with.
pub(super) struct Making<'a> {
    pub index: usize,
    pub mount: &'a Mount,
    pub root: BorrowedFd<'a>,
    /// The source, if it was opened outside of the container.
    pub tree: Option<OwnedFd>,
    /// The container's folders in the hierarchies.
    pub cgroups: &'a [(&'a CgroupTree, OwnedFd)],
    pub label: Option<&'a str>,
}

impl Making<'_> {
    fn field(&self) -> String {
        format!("mounts[{}] ({})", self.index, self.mount.destination.display())
    }

    /// Makes it.
    pub(super) fn make(mut self) -> Result<()> {
        let options = MountOptions::parse(&self.mount.options);
        if self.mount.kind == "cgroup" && options.bind.is_none() {
            return self.cgroups(&options);
        }
        let mount = match self.tree.take() {
            Some(tree) => self.bound(tree, &options)?,
            None => self.new_file_system(&options)?,
        };
        self.put(&mount, &options)
    }

    fn put(&self, mount: &OwnedFd, options: &MountOptions) -> Result<()> {
        let kind = rustix::fs::fstat(mount).context(|| self.field())?.st_mode;
        let is_folder = FileType::from_raw_mode(kind) == FileType::Directory;
        let place = place(self.root, &self.mount.destination, is_folder)?;
        attach(mount, &place).context(|| format!("{}: cannot attach it", self.field()))?;
        for (flag, recursive) in &options.propagation {
            let wanted = Change { propagation: *flag, ..Change::default() };
            change(mount, *recursive, &wanted).context(|| format!("{}: propagation", self.field()))?;
        }
        Ok(())
    }

    /// A bind mount: the source's attributes stay, but for what the options say.
    fn bound(&self, tree: OwnedFd, options: &MountOptions) -> Result<OwnedFd> {
        // Options with a value are for a file system, which is mounted already: callers leave them there, and the kernel
        // ignores them. A word that nobody knows is a mistake.
        if let Some(unknown) = options.data.iter().find(|option| !option.contains('=')) {
            return Err(Error::field(self.field(), format!("{unknown:?} is no option of a bind mount")));
        }
        let clear = MountOptions::cleared(options.set, options.clear);
        let own = Change { set: options.set, clear, ..Change::default() };
        if own.set | own.clear != 0 {
            change(&tree, false, &own).context(|| format!("{}: options", self.field()))?;
        }
        self.recursive(&tree, options)?;
        Ok(tree)
    }

    fn recursive(&self, tree: &OwnedFd, options: &MountOptions) -> Result<()> {
        let clear = MountOptions::cleared(options.recursive_set, options.recursive_clear);
        let all = Change { set: options.recursive_set, clear, ..Change::default() };
        if all.set | all.clear == 0 {
            return Ok(());
        }
        change(tree, true, &all).context(|| format!("{}: recursive options", self.field()))
    }

    fn new_file_system(&self, options: &MountOptions) -> Result<OwnedFd> {
        let kind = self.mount.kind.as_str();
        let existing = resolve(self.root, &self.mount.destination, OFlags::PATH).ok();
        let mut data = options.data.clone();
        if kind == "tmpfs" && !data.iter().any(|option| option.starts_with("mode=")) {
            // Callers expect the permissions of what it covers.
            let mode = existing.as_ref().and_then(|folder| rustix::fs::fstat(folder).ok());
            data.extend(mode.map(|stat| format!("mode={:o}", stat.st_mode & 0o7777)));
        }
        if let (Some(label), "tmpfs" | "mqueue" | "devpts" | "ramfs") = (self.label, kind) {
            data.push(format!("context={label}"));
        }
        let mount = self.open_file_system(kind, options, &data)?;
        self.recursive(&mount, options)?;
        if let (true, Some(existing)) = (options.copy_up, existing) {
            super::root::copy_up(&existing, &mount).context(|| format!("{}: tmpcopyup", self.field()))?;
        }
        Ok(mount)
    }

    fn open_file_system(&self, kind: &str, options: &MountOptions, data: &[String]) -> Result<OwnedFd> {
        let refused = |what: &str| format!("{}: {kind}: {what}", self.field());
        let file_system =
            rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).context(|| refused("unknown type"))?;
        let said = |what: &str, error: Errno| {
            let reason = kernel_says(&file_system);
            Error::system(refused(&format!("{what}{reason}")), error)
        };
        let source = if self.mount.source.is_empty() { "none" } else { &self.mount.source };
        rustix::mount::fsconfig_set_string(&file_system, "source", source).map_err(|error| said("source", error))?;
        for flag in &options.flags {
            rustix::mount::fsconfig_set_flag(&file_system, *flag).map_err(|error| said(flag, error))?;
        }
        for option in data.iter().flat_map(|option| option.split(',')).filter(|option| !option.is_empty()) {
            let set = match option.split_once('=') {
                Some((key, value)) => rustix::mount::fsconfig_set_string(&file_system, key, value),
                None => rustix::mount::fsconfig_set_flag(&file_system, option),
            };
            set.map_err(|error| said(option, error))?;
        }
        rustix::mount::fsconfig_create(&file_system).map_err(|error| said("cannot be made", error))?;
        let attributes = u32::try_from(options.set).unwrap_or_default();
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        rustix::mount::fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|error| said("cannot be mounted", error))
    }

    /// The container's own part of the hierarchies: with version 2 its cgroup, with version 1 a folder with one for each.
    fn cgroups(&self, options: &MountOptions) -> Result<()> {
        // The kernel copies no mount that has no place yet: so each can be attached once.
        let prepare = |tree: &OwnedFd| {
            let own = Change { set: options.set, ..Change::default() };
            change(tree, false, &own).context(|| format!("{}: options", self.field()))
        };
        if let [(only, tree)] = self.cgroups
            && only.name.is_empty()
        {
            prepare(tree)?;
            return self.put(tree, options);
        }
        let writable =
            MountOptions { set: options.set & !stoke_sys::mounts::attribute::RDONLY, ..MountOptions::default() };
        let folder = self.open_file_system("tmpfs", &writable, &["mode=755".to_owned()])?;
        self.put(&folder, options)?;
        for (cgroup, tree) in self.cgroups {
            prepare(tree)?;
            self.cgroup_of(&folder, cgroup, tree)?;
        }
        let read_only = Change { set: options.set, ..Change::default() };
        change(&folder, false, &read_only).context(|| format!("{}: options", self.field()))
    }

    fn cgroup_of(&self, folder: &OwnedFd, cgroup: &CgroupTree, tree: &OwnedFd) -> Result<()> {
        let name = cgroup.name.as_str();
        let what = || format!("{}: {name}", self.field());
        rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)).context(what)?;
        let place = rustix::fs::openat(folder, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
        attach(tree, place).context(what)?;
        // Controllers that are mounted together are found by each name.
        for controller in cgroup.controllers.iter().filter(|_| name.contains(',')) {
            match rustix::fs::symlinkat(name, folder, controller.as_str()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::system(what(), error)),
            }
        }
        Ok(())
    }
}

/// What the kernel logged about a file system that it refuses (fsopen(2): messages are read from the descriptor).
fn kernel_says(file_system: &OwnedFd) -> String {
    let mut text = [0; 512];
    let length = rustix::io::read(file_system, &mut text).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    let text = text.trim().trim_start_matches("e ");
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// Whether a descriptor is this device node.
pub(super) fn is_device(descriptor: impl AsFd, kind: FileType, device: u64) -> bool {
    rustix::fs::statat(descriptor, "", AtFlags::EMPTY_PATH)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_out_leads_into_the_root() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/outside/of/it", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../above", folder.path().join("up")).unwrap();
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        place(&root, Path::new("/link/file"), false).unwrap();
        place(&root, Path::new("/up/folder"), true).unwrap();
        assert!(folder.path().join("outside/of/it/file").is_file());
        assert!(folder.path().join("above/folder").is_dir());
    }

    #[test]
    fn links_that_lead_to_each_other_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("b", folder.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("b")).unwrap();
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert!(place(&root, Path::new("/a/x"), true).is_err());
    }
}
