//! `create`: from a bundle to a container that waits for `start`.
//!
//! What fails leaves nothing: `Unfinished` takes back what was made. What is killed leaves a folder whose record says what
//! was made, so that `delete` can.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, Signal, WaitOptions};
use stoke_lxc_sys::container::{self, Definition, Entrance};

use super::process::{priorities, resource_limits};
use super::trees::Trees;
use super::{Runtime, inherit, write_pid_file};
use crate::cgroup::{self, Group, devices, limits};
use crate::error::{Context as _, Error, Result};
use crate::spec::Spec;
use crate::state::{Folder, Process, Record, Status};
use crate::wire::{self, Link, Message, Options, Plan};
use crate::{check, hooks, init, lxc, namespaces};

/// How `create` is called.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the command line's words")]
pub struct Creation {
    pub id: String,
    pub bundle: PathBuf,
    /// Another configuration than the bundle's `config.json`.
    pub config: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    /// One that is connected already.
    pub console: Option<Arc<OwnedFd>>,
    pub pid_file: Option<PathBuf>,
    pub options: Options,
}

/// Creates a container.
///
/// # Errors
/// Whatever is refused; nothing is left then.
pub fn create(runtime: &Runtime, creation: &Creation) -> Result<()> {
    let what = || format!("bundle {}", creation.bundle.display());
    let bundle = std::fs::canonicalize(&creation.bundle).context(what)?;
    let config = creation.config.clone().unwrap_or_else(|| bundle.join("config.json"));
    let spec = Spec::load(&config)?;
    check::check(&spec)?;
    let rootfs = spec.root_path(&bundle).unwrap_or_default();
    let rootfs = std::fs::canonicalize(&rootfs).context(|| format!("root.path: {}", rootfs.display()))?;
    if !rootfs.is_dir() {
        return Err(Error::field("root.path", format!("{} is no folder", rootfs.display())));
    }
    let parts = Parts::prepare(&spec, creation)?;
    let cgroup = cgroup::path(&spec.linux().cgroups_path, &creation.id)?;
    let writes = limits::plan(&spec.linux().resources.clone().unwrap_or_default(), Group::open(&cgroup)?.view())?;
    let folder = runtime.root.create(&creation.id)?;
    let mut unfinished = Unfinished { folder: &folder, monitor: None, init: None, cgroup: None };
    let made = Making { runtime, creation, spec: &spec, bundle, rootfs, cgroup, writes, folder: &folder }
        .make(&parts, &mut unfinished);
    if made.is_ok() {
        unfinished.keep();
    }
    made
}

/// What is opened before anything is made.
struct Parts {
    seccomp: Option<OwnedFd>,
    console: Option<OwnedFd>,
}

impl Parts {
    fn prepare(spec: &Spec, creation: &Creation) -> Result<Self> {
        let seccomp = inherit::filter(spec.linux().seccomp.as_ref())?;
        let console = match &creation.console {
            Some(socket) => Some(socket.try_clone().context(|| "cannot copy a descriptor".to_owned())?),
            None => inherit::console(spec.process.as_ref(), creation.console_socket.as_deref())?,
        };
        for namespace in &spec.linux().namespaces {
            if let (Some(path), Some(kind)) = (namespace.path(), namespaces::named(&namespace.kind)) {
                namespaces::open(kind, path)?;
            }
        }
        Ok(Self { seccomp, console })
    }
}

/// What exists already, and goes when `create` fails.
struct Unfinished<'a> {
    folder: &'a Folder,
    monitor: Option<Pid>,
    init: Option<Process>,
    cgroup: Option<String>,
}

impl Unfinished<'_> {
    fn keep(mut self) {
        self.cgroup = None;
        std::mem::forget(self);
    }

    /// Ends liblxc's monitor. The container's first process is our own child from then on, and then our caller's.
    fn end_monitor(&mut self) {
        let Some(monitor) = self.monitor.take() else { return };
        let _gone = rustix::process::kill_process(monitor, Signal::KILL);
        let _reaped = rustix::process::waitpid(Some(monitor), WaitOptions::empty());
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(init) = self.init {
            let _gone = init.signal(Signal::KILL);
            let _reaped = Pid::from_raw(init.pid).map(|pid| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
        }
        self.end_monitor();
        if let Some(cgroup) = &self.cgroup {
            // What cannot be removed is not what failed.
            let _left = remove_groups(cgroup);
        }
        let _left = self.folder.remove();
    }
}

/// Removes a container's cgroup.
pub(super) fn remove_groups(cgroup: &str) -> Result<()> {
    Group::open(cgroup)?.remove()?;
    // The folder that is ours goes with the last one in it.
    if let Some((parent @ "stoke-lxc", _)) = cgroup.rsplit_once('/') {
        for hierarchy in &Group::open(cgroup)?.view().hierarchies {
            let _not_empty = std::fs::remove_dir(hierarchy.mountpoint.join(parent));
        }
    }
    Ok(())
}

struct Making<'a> {
    runtime: &'a Runtime,
    creation: &'a Creation,
    spec: &'a Spec,
    bundle: PathBuf,
    rootfs: PathBuf,
    cgroup: String,
    writes: Vec<limits::Write>,
    folder: &'a Folder,
}

impl Making<'_> {
    fn make(&self, parts: &Parts, unfinished: &mut Unfinished<'_>) -> Result<()> {
        let mut record = self.record();
        self.folder.write_spec(self.spec)?;
        self.folder.write(&record)?;
        // What is written down as ours is killed and removed when this fails: so not before it is known to be nobody's.
        self.make_way()?;
        unfinished.cgroup = Some(self.cgroup.clone());
        record.cgroup = Some(self.cgroup.clone());
        self.folder.write(&record)?;
        // Whoever the first process is orphaned to: us, as long as we are there.
        let reaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        reaper.context(|| "cannot become a subreaper".to_owned())?;
        let group = Group::open(&self.cgroup)?;
        group.make()?;
        if let Some((user, group_id)) = owner(self.spec) {
            group.delegate(user, group_id)?;
        }
        let trees = Trees::open(self.spec, &self.bundle, &self.rootfs, &group)?;
        let (link, init) = self.begin(parts, &trees, unfinished)?;
        unfinished.init = Some(init);
        record.init = Some(init);
        self.folder.write(&record)?;
        unfinished.end_monitor();
        self.limit(init)?;
        trees.map_ids(self.spec, init)?;
        let state = record.state(Status::Creating);
        let hooks = self.spec.hooks();
        // Of old these ran after `create`, and expect to be told so.
        let created = record.state(Status::Created);
        hooks::run("prestart", &hooks.prestart, &created, &self.bundle)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state, &self.bundle)?;
        link.send(&Message::Go { pid: init.pid }, None).context(|| "the container's process died".to_owned())?;
        link.expect("the container was prepared")?;
        if let (Some(process), Some(pid)) = (&self.spec.process, Pid::from_raw(init.pid)) {
            resource_limits(process, pid)?;
        }
        record.creator = None;
        self.folder.write(&record)?;
        link.send(&Message::Ready, None).context(|| "the container's process died".to_owned())?;
        // Last: whoever waits for the file may start the container at once.
        self.creation.pid_file.as_ref().map_or(Ok(()), |path| write_pid_file(path, init.pid))
    }

    fn record(&self) -> Record {
        Record {
            version: 1,
            id: self.creation.id.clone(),
            oci_version: self.spec.oci_version.clone(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: jiff::Timestamp::now().to_string(),
            creator: Process::find(rustix::process::getpid()),
            init: None,
            cgroup: None,
            annotations: self.spec.annotations.clone(),
            owner: rustix::process::getuid().as_raw(),
        }
    }

    /// A cgroup of this path that is empty may be left of somebody who died; one with processes is somebody's.
    fn make_way(&self) -> Result<()> {
        let group = Group::open(&self.cgroup)?;
        if !group.exists() {
            return Ok(());
        }
        match group.processes().len() {
            0 => remove_groups(&self.cgroup),
            count => Err(Error::field("linux.cgroupsPath", format!("{} has {count} processes already", self.cgroup))),
        }
    }

    /// Has liblxc start the first process, and waits for its hello.
    fn begin(&self, parts: &Parts, trees: &Trees, unfinished: &mut Unfinished<'_>) -> Result<(Link, Process)> {
        let (link, inside) = Link::pair()?;
        link.identify()?;
        let listener = wire::listen(&self.folder.start_socket())?;
        let inside = inside.into_socket();
        // liblxc prints what goes wrong, whatever it is told: it gets no standard error.
        let stderr = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).ok();
        let plan = inherit::plan(&Plan {
            id: self.creation.id.clone(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            spec: self.spec.clone(),
            cgroups: trees.cgroups(),
            link: inherit::number(&inside),
            listener: inherit::number(&listener),
            root_tree: inherit::number(&trees.root),
            trees: trees.mounts.iter().map(|tree| tree.as_ref().map(inherit::number)).collect(),
            console: parts.console.as_ref().map(inherit::number),
            seccomp: parts.seccomp.as_ref().map(inherit::number),
            stderr: stderr.as_ref().map(inherit::number),
            options: self.creation.options.clone(),
        })?;
        let program = inherit::program()?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", inherit::number(&program)));
        let arguments = [init::CONTAINER.to_owned(), inherit::number(&plan).to_string()];
        let lxc_parts = lxc::Parts { program: &path, arguments: &arguments };
        let definition = Definition {
            // Both make the address of a socket, unique on this host. liblxc has the container's user look into the folder,
            // so it must not be ours.
            name: self.folder.path().display().to_string().trim_start_matches('/').replace('/', "-"),
            folder: PathBuf::from("/usr"),
            items: lxc::items(self.spec, &lxc_parts),
            log: self.folder.lxc_log(),
            log_level: self.runtime.lxc_log_level.clone(),
        };
        let optional = [&parts.console, &parts.seccomp, &stderr].into_iter().chain(&trees.mounts);
        let cgroups = trees.cgroups.iter().map(|(_, tree)| tree);
        let given =
            [&inside, &listener, &trees.root, &plan, &program].into_iter().chain(optional.flatten()).chain(cgroups);
        let given: Vec<BorrowedFd<'_>> = given.map(|descriptor| descriptor.as_fd()).collect();
        let (tasks, unified) = Group::open(&self.cgroup)?.entrances()?;
        let entrance = Entrance {
            tasks: tasks.iter().map(|file| file.as_fd()).collect(),
            unified: unified.as_ref().map(|folder| folder.as_fd()),
        };
        let monitor = container::start(&definition, &given, &entrance);
        unfinished.monitor = Some(monitor.context(|| "cannot start a process".to_owned())?);
        drop(inside);
        let received = link.receive().context(|| "cannot hear of the container's process".to_owned())?;
        let hello = received.filter(|received| matches!(received.message, Message::Hello));
        let sender = hello.and_then(|hello| hello.sender);
        let init = sender.and_then(Process::find).ok_or_else(|| Error::Lxc(said(&self.folder.lxc_log())))?;
        Ok((link, init))
    }

    fn limit(&self, init: Process) -> Result<()> {
        let group = Group::open(&self.cgroup)?;
        group.enable(&self.writes)?;
        group.apply(&self.writes)?;
        let linux = self.spec.linux();
        let rules = linux.resources.as_ref().map(|resources| resources.devices.as_slice()).unwrap_or_default();
        devices::apply(&group, rules)?;
        match (&self.spec.process, Pid::from_raw(init.pid)) {
            (Some(process), Some(pid)) => priorities(process, pid),
            _ => Ok(()),
        }
    }
}

/// What liblxc's log says of a start that failed: its first error is the cause of the others.
fn said(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let errors = text.lines().filter(|line| line.contains("ERROR"));
    let message = |line: &str| line.rsplit_once(" - ").map_or(line, |(_, message)| message).to_owned();
    let errors: Vec<_> = errors.map(message).take(3).collect();
    if errors.is_empty() { "it ended without a word".to_owned() } else { errors.join("; ") }
}

/// Who is root in the container's own user namespace, if it has one.
fn owner(spec: &Spec) -> Option<(u32, u32)> {
    let linux = spec.linux();
    let is_new = |namespace: &crate::spec::Namespace| namespace.kind == "user" && namespace.path().is_none();
    let root =
        |mappings: &[crate::spec::IdMapping]| mappings.iter().find(|one| one.container_id == 0).map(|one| one.host_id);
    linux.namespaces.iter().find(|namespace| is_new(namespace))?;
    root(&linux.uid_mappings).zip(root(&linux.gid_mappings))
}
