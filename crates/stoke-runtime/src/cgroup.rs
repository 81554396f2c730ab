//! The cgroup of a container, in whichever hierarchies the host has: version 1, version 2, or both (hybrid).
//!
//! [`limits`] is the pure plan of what is written where. liblxc has no part in it: it would make folders for its monitor too,
//! and each process that it moves waits for a grace period of RCU.

pub mod devices;
pub mod limits;
pub mod stats;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use crate::error::{Context as _, Error, Result};
use limits::Write;

/// How long processes may take to die, and folders to become empty.
const PATIENCE: Duration = Duration::from_secs(10);

/// Version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its version.
    pub version: Version,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The controllers that it has; `name=systemd` is one of version 1.
    pub controllers: Vec<String>,
}

/// The hierarchies of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// In the order in which they are mounted.
    pub hierarchies: Vec<Hierarchy>,
}

impl View {
    /// Looks at the calling process's mounts.
    pub fn detect() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context(|| "cannot read the mounts".to_owned())?;
        Ok(Self::parse(&mounts, |mountpoint| {
            let controllers = std::fs::read_to_string(mountpoint.join("cgroup.controllers")).unwrap_or_default();
            controllers.split_ascii_whitespace().map(str::to_owned).collect()
        }))
    }

    /// Reads `/proc/self/mountinfo` (proc(5)); of a version 2 mount the controllers are asked for.
    fn parse(mounts: &str, controllers_of: impl Fn(&Path) -> Vec<String>) -> Self {
        let mut view = Self::default();
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let after: Vec<_> = after.split(' ').collect();
            let (Some(&kind), Some(&options)) = (after.first(), after.get(2)) else { continue };
            let Some(mountpoint) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
            let version = match kind {
                "cgroup" => Version::V1,
                "cgroup2" => Version::V2,
                _ => continue,
            };
            let controllers = match version {
                Version::V1 => options.split(',').filter(|option| is_controller(option)).map(str::to_owned).collect(),
                Version::V2 => controllers_of(&mountpoint),
            };
            // Something may be mounted over or twice: the first is what others use too.
            let is_known = |other: &Hierarchy| other.version == version && other.controllers == controllers;
            if !view.hierarchies.iter().any(is_known) {
                view.hierarchies.push(Hierarchy { version, mountpoint, controllers });
            }
        }
        view
    }

    /// The hierarchy that has a controller.
    pub fn find(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|other| other == controller))
    }

    /// The hierarchy of version 2.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }
}

fn is_controller(option: &str) -> bool {
    let others = ["rw", "ro", "relatime", "seclabel", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"];
    !others.contains(&option) && !option.starts_with("release_agent=")
}

/// A cgroup in every hierarchy.
#[derive(Clone, Debug)]
pub struct Group {
    view: View,
    path: String,
}

impl Group {
    /// The cgroup at a path from the root of each hierarchy.
    ///
    /// # Errors
    /// If the path is empty or leads upwards: what is done to a group must never be done to the root.
    pub fn open(path: &str) -> Result<Self> {
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if path.is_empty() || !path.split('/').all(is_plain) {
            return Err(Error::field("linux.cgroupsPath", format!("{path:?} is no path of a cgroup")));
        }
        Ok(Self { view: View::detect()?, path: path.to_owned() })
    }

    /// The hierarchies.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Its folder in a hierarchy.
    pub fn folder(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mountpoint.join(&self.path)
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.view.hierarchies.iter().map(|hierarchy| self.folder(hierarchy))
    }

    /// A folder that lists the group's processes: with version 1 that of a controller which everybody has.
    fn processes_folder(&self) -> Option<PathBuf> {
        let names = ["freezer", "pids", "devices", "name=systemd"];
        let found = names.into_iter().find_map(|name| self.view.find(name)).or_else(|| self.view.unified());
        found.or(self.view.hierarchies.first()).map(|hierarchy| self.folder(hierarchy))
    }

    /// All processes in it and below it.
    pub fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        if let Some(folder) = self.processes_folder() {
            walk(&folder, &mut |folder| {
                let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
            });
        }
        found.sort_by_key(|process| process.as_raw_nonzero());
        found.dedup();
        found
    }

    /// Makes its folders, and those above them.
    pub fn make(&self) -> Result<()> {
        for hierarchy in &self.view.hierarchies {
            let folder = self.folder(hierarchy);
            fs::create_dir_all(&folder).context(|| format!("cannot make cgroup {}", folder.display()))?;
            if hierarchy.version == Version::V1 && hierarchy.controllers.iter().any(|name| name == "cpuset") {
                self.inherit_processors(hierarchy)?;
            }
        }
        Ok(())
    }

    /// A new cpuset of version 1 has no processors and no memory, and nobody can enter it: it gets what the one above has.
    fn inherit_processors(&self, hierarchy: &Hierarchy) -> Result<()> {
        let mut above = hierarchy.mountpoint.clone();
        for part in self.path.split('/') {
            let folder = above.join(part);
            for name in ["cpuset.cpus", "cpuset.mems"] {
                let (from, to) = (above.join(name), folder.join(name));
                let what = || format!("cannot set {}", to.display());
                if fs::read_to_string(&to).context(what)?.trim().is_empty() {
                    fs::write(&to, fs::read_to_string(&from).context(what)?.trim()).context(what)?;
                }
            }
            above = folder;
        }
        Ok(())
    }

    /// Lets the root of a user namespace divide it further: what the kernel says may be given away
    /// (`/sys/kernel/cgroup/delegate`), and the folders that systemd looks for in version 1.
    pub fn delegate(&self, user: u32, group: u32) -> Result<()> {
        for hierarchy in &self.view.hierarchies {
            let files: &[&str] = match hierarchy.version {
                Version::V2 => &["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"],
                Version::V1 if hierarchy.controllers.iter().any(|name| name == "name=systemd") => {
                    &["", "cgroup.procs", "tasks"]
                }
                Version::V1 => continue,
            };
            for file in files {
                let path = self.folder(hierarchy).join(file);
                let what = || format!("cannot give {} away", path.display());
                std::os::unix::fs::chown(&path, Some(user), Some(group)).context(what)?;
            }
        }
        Ok(())
    }

    /// Files by which a process with one thread enters those of version 1 itself, and the folder of version 2.
    pub fn entrances(&self) -> Result<(Vec<OwnedFd>, Option<OwnedFd>)> {
        let (mut tasks, mut unified) = (Vec::new(), None);
        for hierarchy in &self.view.hierarchies {
            let folder = self.folder(hierarchy);
            let what = || format!("cannot open cgroup {}", folder.display());
            if hierarchy.version == Version::V2 {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                unified = Some(rustix::fs::open(&folder, flags, Mode::empty()).context(what)?);
            } else {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                tasks.push(rustix::fs::open(folder.join("tasks"), flags, Mode::empty()).context(what)?);
            }
        }
        Ok((tasks, unified))
    }

    /// Puts a process into it, in the hierarchy of version 2.
    pub fn add_unified(&self, process: Pid) -> Result<()> {
        let Some(unified) = self.view.unified() else { return Ok(()) };
        let folder = self.folder(unified);
        let what = || format!("cannot put process {process} into {}", folder.display());
        fs::write(folder.join("cgroup.procs"), process.as_raw_nonzero().to_string()).context(what)
    }

    /// Has the hierarchy of version 2 give the controllers of these limits to the group, from the root downwards.
    pub fn enable(&self, writes: &[Write]) -> Result<()> {
        let Some(unified) = self.view.unified() else { return Ok(()) };
        let is_unified = |write: &&Write| unified.controllers.contains(&write.controller);
        for write in writes.iter().filter(is_unified) {
            let mut folder = unified.mountpoint.clone();
            for part in self.path.split('/') {
                let file = folder.join("cgroup.subtree_control");
                let enabled = std::fs::read_to_string(&file).unwrap_or_default();
                if !enabled.split_ascii_whitespace().any(|controller| controller == write.controller) {
                    let what =
                        || format!("{}: cannot enable {} in {}", write.field, write.controller, folder.display());
                    std::fs::write(&file, format!("+{}", write.controller)).context(what)?;
                }
                folder.push(part);
            }
        }
        Ok(())
    }

    /// Writes limits. One that the kernel refuses is tried again after the others: some are only valid in one order, which
    /// depends on whether they grow or shrink.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        let mut again = Vec::new();
        for write in writes {
            if self.write(write).is_err() {
                again.push(write);
            }
        }
        again.into_iter().try_for_each(|write| self.write(write))
    }

    fn write(&self, write: &Write) -> Result<()> {
        let missing = || Error::field(&write.field, format!("this host has no cgroup controller {}", write.controller));
        let hierarchy = self.view.find(&write.controller);
        let hierarchy = hierarchy.or_else(|| self.view.unified().filter(|_| write.controller == "cgroup"));
        let folder = self.folder(hierarchy.ok_or_else(missing)?);
        let file = write.files.iter().map(|file| folder.join(file)).find(|file| file.exists());
        let Some(file) = file else {
            let names = write.files.join(" or ");
            return Err(Error::field(&write.field, format!("this kernel has no {names} in {}", folder.display())));
        };
        let what = || format!("{}: cannot write {:?} to {}", write.field, write.value, file.display());
        std::fs::write(&file, &write.value).context(what)
    }

    /// Where the freezer is, and what it is told.
    fn freezer(&self) -> Option<(PathBuf, &'static str, &'static str)> {
        if let Some(hierarchy) = self.view.find("freezer") {
            return Some((self.folder(hierarchy).join("freezer.state"), "THAWED", "FROZEN"));
        }
        self.view.unified().map(|hierarchy| (self.folder(hierarchy).join("cgroup.freeze"), "0", "1"))
    }

    /// Whether its processes are frozen.
    pub fn is_frozen(&self) -> bool {
        let Some((file, _, frozen)) = self.freezer() else { return false };
        let state = std::fs::read_to_string(file).unwrap_or_default();
        state.trim() == frozen || state.trim() == "FREEZING"
    }

    /// Freezes or thaws its processes, and waits until they are.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, thaw, freeze) = self.freezer().ok_or_else(|| Error::State("this host has no freezer".to_owned()))?;
        let (word, back) = if frozen { (freeze, thaw) } else { (thaw, freeze) };
        let what = || format!("cannot write {word} to {}", file.display());
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Version 1 may need to be told again while processes are being born.
            std::fs::write(&file, word).context(what)?;
            if is_settled(&file, word) {
                return Ok(());
            }
            if Instant::now() > deadline {
                std::fs::write(&file, back).context(what)?;
                return Err(Error::State(format!("{} did not become {word} in {PATIENCE:?}", file.display())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal to all its processes.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let kill = self.view.unified().map(|hierarchy| self.folder(hierarchy).join("cgroup.kill"));
        let only_unified = self.view.hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2);
        if signal == Signal::KILL && only_unified && kill.is_some_and(|file| std::fs::write(file, "1").is_ok()) {
            return Ok(());
        }
        for process in self.processes() {
            match rustix::process::kill_process(process, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(Error::system(format!("cannot signal process {process}"), error)),
            }
        }
        Ok(())
    }

    /// Kills what is in it and removes it. Goes on past what cannot be removed, and says it at the end.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: Vec<_> = self.folders().filter_map(|folder| remove_folder(&folder).err()).collect();
            let Some(error) = left.into_iter().next() else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(Error::system(format!("cannot remove cgroup {}", self.path), error));
            }
            if self.is_frozen() {
                self.freeze(false)?;
            }
            self.signal(Signal::KILL)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether any of its folders is there.
    pub fn exists(&self) -> bool {
        self.folders().any(|folder| folder.is_dir())
    }
}

/// Whether the freezer is where it was told to go.
fn is_settled(file: &Path, word: &str) -> bool {
    let events = std::fs::read_to_string(file.with_file_name("cgroup.events"));
    match events.ok().filter(|_| file.ends_with("cgroup.freeze")) {
        Some(events) => events.lines().any(|line| line == format!("frozen {word}")),
        None => std::fs::read_to_string(file).is_ok_and(|state| state.trim() == word),
    }
}

/// Calls for a folder of cgroups and all below it, the deepest first.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(folder);
}

fn remove_folder(folder: &Path) -> std::io::Result<()> {
    // Nearly always nothing is below it.
    match std::fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    let mut result = Ok(());
    walk(folder, &mut |folder| result = std::fs::remove_dir(folder));
    result
}

/// The cgroup's path from the root, without the leading slash: what the configuration says, or one of our own.
pub fn path(configured: &str, id: &str) -> Result<String> {
    if configured.contains(':') {
        let reason = format!("{configured:?} is for the systemd cgroup manager, which is not supported: use cgroupfs");
        return Err(Error::field("linux.cgroupsPath", reason));
    }
    let path: Vec<_> = configured.split('/').filter(|part| !part.is_empty()).collect();
    let path = if path.is_empty() { format!("stoke-lxc/{id}") } else { path.join("/") };
    Group::open(&path).map(|_| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw
25 24 0:21 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 24 0:22 / /sys/fs/cgroup/systemd rw,relatime shared:5 - cgroup cgroup rw,xattr,name=systemd
27 24 0:23 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
28 24 0:21 / /other rw,relatime - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn a_hybrid_host_has_both() {
        let view = View::parse(HYBRID, |_| vec!["hugetlb".to_owned()]);
        let mountpoint = |name| view.find(name).map(|hierarchy| hierarchy.mountpoint.display().to_string());
        assert_eq!(mountpoint("cpuacct").unwrap(), "/sys/fs/cgroup/cpu");
        assert_eq!(mountpoint("name=systemd").unwrap(), "/sys/fs/cgroup/systemd");
        assert_eq!(mountpoint("hugetlb").unwrap(), "/sys/fs/cgroup/unified");
        assert_eq!(mountpoint("memory"), None);
        assert_eq!(view.hierarchies.len(), 3);
    }

    #[test]
    fn a_path_is_never_the_root() {
        assert_eq!(path("", "a").unwrap(), "stoke-lxc/a");
        assert_eq!(path("/", "a").unwrap(), "stoke-lxc/a");
        assert_eq!(path("//x//y/", "a").unwrap(), "x/y");
        assert!(path("../x", "a").is_err());
        assert!(path("system.slice:runc:x", "a").is_err());
        for wrong in ["", "/", "a//b", "a/../b", "."] {
            assert!(Group::open(wrong).is_err(), "{wrong}");
        }
    }
}
