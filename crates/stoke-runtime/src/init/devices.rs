//! Device nodes and links in `/dev`.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use super::mounts::{attach, is_device, open_tree, place, resolve};
use crate::error::{Context as _, Error, Result};
use crate::spec::{Device, Spec};

/// What every container has (runtime-spec, "Default Devices"): path, major and minor number.
const DEFAULT: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
/// Links that every container has (runtime-spec, "Dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Mode of a node that the configuration gives none.
const MODE: u32 = 0o666;

/// Makes the nodes and links below a root.
pub(super) fn make(root: &OwnedFd, spec: &Spec) -> Result<()> {
    let umask = rustix::process::umask(Mode::empty());
    let linux = spec.linux();
    let made = all(&linux.devices).iter().try_for_each(|device| node(root, device)).and_then(|()| links(root));
    rustix::process::umask(umask);
    made
}

/// The configuration's devices, and the default ones that it does not have.
fn all(devices: &[Device]) -> Vec<Device> {
    let is_own = |path: &str| devices.iter().any(|device| device.path == Path::new(path));
    let default = DEFAULT.iter().filter(|(path, ..)| !is_own(path)).map(|(path, major, minor)| Device {
        path: path.into(),
        kind: "c".to_owned(),
        major: *major,
        minor: *minor,
        ..Device::default()
    });
    default.chain(devices.iter().cloned()).collect()
}

fn node(root: &OwnedFd, device: &Device) -> Result<()> {
    let field = format!("linux.devices: {}", device.path.display());
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::field(field, format!("{other:?} is no type"))),
    };
    let number = |number: i64| u32::try_from(number).map_err(|_| Error::field(&field, "wrong device number"));
    let number = if kind == FileType::Fifo { 0 } else { makedev(number(device.major)?, number(device.minor)?) };
    let parent = device.path.parent().unwrap_or(Path::new("/"));
    let name = device.path.file_name().ok_or_else(|| Error::field(&field, "is no path"))?;
    let folder = place(root, parent, true)?;
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(MODE) & 0o7777);
    match rustix::fs::mknodat(&folder, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let node =
                rustix::fs::openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            if !node.is_ok_and(|node| is_device(node, kind, number)) {
                return Err(Error::field(field, "something else is there already"));
            }
        }
        // In a user namespace nobody makes nodes: the host's own is bound.
        Err(Errno::PERM) => return bind(root, device, kind, number),
        Err(error) => return Err(Error::system(field, error)),
    }
    // Never by a path that could be something else by now: the folder is ours, the name no link.
    rustix::fs::chmodat(&folder, name, mode, AtFlags::empty()).context(|| field.clone())?;
    let (user, group) = (device.uid.unwrap_or_default(), device.gid.unwrap_or_default());
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    rustix::fs::chownat(&folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).context(|| field)
}

fn bind(root: &OwnedFd, device: &Device, kind: FileType, number: u64) -> Result<()> {
    let what = || format!("linux.devices: {}: cannot bind the host's", device.path.display());
    let tree = open_tree(CWD, &device.path, false).context(what)?;
    if kind != FileType::Fifo && !is_device(&tree, kind, number) {
        return Err(Error::field(what(), "it has another number"));
    }
    let place = place(root, &device.path, false)?;
    attach(tree, place).context(what)
}

fn links(root: &OwnedFd) -> Result<()> {
    let folder = place(root, Path::new("/dev"), true)?;
    for (name, target) in LINKS {
        if name == "ptmx" && resolve(root, Path::new("/dev/pts/ptmx"), OFlags::PATH).is_err() {
            continue;
        }
        match rustix::fs::symlinkat(target, &folder, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::system(format!("cannot link /dev/{name}"), error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_the_configuration_takes_the_place_of_the_default_one() {
        let own =
            Device { path: "/dev/null".into(), kind: "c".to_owned(), file_mode: Some(0o600), ..Device::default() };
        let devices = all(&[own]);
        assert_eq!(devices.len(), DEFAULT.len());
        let null: Vec<_> = devices.iter().filter(|device| device.path == Path::new("/dev/null")).collect();
        assert_eq!(null.len(), 1);
        assert_eq!(null[0].file_mode, Some(0o600));
    }
}
