//! `create`: from a bundle to a container that waits for `start`.
//!
//! What fails leaves nothing: [`Unfinished`] takes back what was made. What is killed leaves a folder whose record says what
//! was made, so that `delete` can.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::CWD;
use rustix::process::{Pid, Signal, WaitOptions};
use stoke_lxc_sys::container::{self, Definition};
use stoke_sys::attributes;
use stoke_sys::mounts::{Change, attribute, change};

use super::{Runtime, inherit, write_pid_file};
use crate::cgroup::{self, Group, devices, limits};
use crate::error::{Context as _, Error, Result};
use crate::init::{self, MountOptions};
use crate::spec::{Mount, Process as ProcessSpec, Spec};
use crate::state::{Folder, Process, Record, Status};
use crate::wire::{self, Link, Message, Options, Plan};
use crate::{check, hooks, lxc, namespaces};

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

/// Removes a container's cgroup and that of its monitor.
pub(super) fn remove_groups(cgroup: &str) -> Result<()> {
    let monitor = Group::open(&lxc::monitor_group(cgroup))?.remove();
    let group = Group::open(cgroup)?.remove();
    // The folder that is ours goes with the last one in it.
    if let Some((parent @ "stoke-lxc", _)) = cgroup.rsplit_once('/') {
        for hierarchy in &Group::open(cgroup)?.view().hierarchies {
            let _not_empty = std::fs::remove_dir(hierarchy.mountpoint.join(parent));
        }
    }
    group.and(monitor)
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
        let trees = Trees::open(self.spec, &self.bundle, &self.rootfs)?;
        let (link, init) = self.begin(parts, &trees, unfinished)?;
        unfinished.init = Some(init);
        record.init = Some(init);
        self.folder.write(&record)?;
        unfinished.end_monitor();
        Group::open(&lxc::monitor_group(&self.cgroup))?.remove()?;
        self.limit(init)?;
        trees.map_ids(self.spec, init)?;
        let state = record.state(Status::Creating);
        let hooks = self.spec.hooks();
        hooks::run("prestart", &hooks.prestart, &state, &self.bundle)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state, &self.bundle)?;
        link.send(&Message::Go { pid: init.pid }, None).context(|| "the container's process died".to_owned())?;
        link.expect("the container was prepared")?;
        if let (Some(process), Some(pid)) = (&self.spec.process, Pid::from_raw(init.pid)) {
            resource_limits(process, pid)?;
        }
        if let Some(path) = &self.creation.pid_file {
            write_pid_file(path, init.pid)?;
        }
        record.creator = None;
        self.folder.write(&record)
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
            cgroup: Some(self.cgroup.clone()),
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
        let lxc_parts = lxc::Parts { program: &path, arguments: &arguments, cgroup: Some(&self.cgroup) };
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
        let given = [&inside, &listener, &trees.root, &plan, &program].into_iter().chain(optional.flatten());
        let given: Vec<BorrowedFd<'_>> = given.map(|descriptor| descriptor.as_fd()).collect();
        unfinished.monitor =
            Some(container::start(&definition, &given).context(|| "cannot start a process".to_owned())?);
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

/// Trees of mounts that are opened with the rights of the host, before the container is there.
struct Trees {
    root: OwnedFd,
    mounts: Vec<Option<OwnedFd>>,
}

impl Trees {
    fn open(spec: &Spec, bundle: &Path, rootfs: &Path) -> Result<Self> {
        use crate::init::open_tree;
        let root = open_tree(CWD, rootfs, true).context(|| format!("root.path: {}", rootfs.display()))?;
        // What is mounted on it must not come back to the host, unless that is asked for later.
        let private = Change { propagation: PRIVATE, ..Change::default() };
        change(&root, true, &private).context(|| "root.path: propagation".to_owned())?;
        let one = |(index, mount): (usize, &Mount)| {
            let field = format!("mounts[{index}] ({})", mount.destination.display());
            let options = MountOptions::parse(&mount.options);
            let Some(recursive) = options.bind.or_else(|| (mount.kind == "bind").then_some(false)) else {
                return Ok(None);
            };
            let source = bundle.join(&mount.source);
            let tree =
                open_tree(CWD, &source, recursive).context(|| format!("{field}: source {}", source.display()))?;
            // One that is shared stays the host's peer only if the options want that.
            if options.propagation.is_empty() {
                change(&tree, true, &private).context(|| format!("{field}: propagation"))?;
            }
            Ok(Some(tree))
        };
        let mounts = spec.mounts.iter().enumerate().map(one).collect::<Result<_>>()?;
        Ok(Self { root, mounts })
    }

    /// Gives mounts the ids of the container's user namespace, which is there only now.
    fn map_ids(&self, spec: &Spec, init: Process) -> Result<()> {
        let linux = spec.linux();
        for (index, mount) in spec.mounts.iter().enumerate() {
            let field = || format!("mounts[{index}] ({}).uidMappings", mount.destination.display());
            let options = MountOptions::parse(&mount.options);
            let has_own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
            if !has_own && options.mapped.is_none() {
                continue;
            }
            let is_same = mount.uid_mappings == linux.uid_mappings && mount.gid_mappings == linux.gid_mappings;
            if has_own && !is_same {
                return Err(Error::field(field(), "other maps than those of the container are not supported"));
            }
            let tree = self.mounts.get(index).and_then(Option::as_ref);
            let tree = tree.ok_or_else(|| Error::field(field(), "only bind mounts can have mapped ids"))?;
            let namespace = std::fs::File::open(format!("/proc/{}/ns/user", init.pid)).context(field)?;
            let mapped = Change { set: attribute::IDMAP, mapping: Some(namespace.as_fd()), ..Change::default() };
            change(tree, options.mapped == Some(true), &mapped).context(field)?;
        }
        Ok(())
    }
}

/// `MS_PRIVATE`.
const PRIVATE: u64 = 1 << 18;

/// Scheduling and the kernel's choice of victims when memory ends.
pub(super) fn priorities(process: &ProcessSpec, pid: Pid) -> Result<()> {
    if let Some(score) = process.oom_score_adj {
        let file = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(file, score.to_string()).context(|| format!("process.oomScoreAdj: cannot set {score}"))?;
    }
    if let Some(scheduler) = &process.scheduler {
        let scheduling = scheduling(scheduler)?;
        attributes::set_scheduling(pid, &scheduling).context(|| "process.scheduler".to_owned())?;
    }
    if let Some(priority) = &process.io_priority {
        let class = ["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];
        let class = class.iter().position(|class| *class == priority.class).and_then(|at| u32::try_from(at + 1).ok());
        let class =
            class.ok_or_else(|| Error::field("process.ioPriority.class", format!("{:?} is none", priority.class)))?;
        let level = u32::try_from(priority.priority).ok().filter(|level| *level < 8);
        let level = level.ok_or_else(|| Error::field("process.ioPriority.priority", "must be from 0 to 7"))?;
        attributes::set_io_priority(pid, class, level).context(|| "process.ioPriority".to_owned())?;
    }
    Ok(())
}

fn scheduling(scheduler: &crate::spec::Scheduler) -> Result<attributes::Scheduling> {
    // `SCHED_*` of Linux' `include/uapi/linux/sched.h`; 4 was never given away.
    let policies =
        ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
    let flags = [
        ("SCHED_FLAG_RESET_ON_FORK", 1),
        ("SCHED_FLAG_RECLAIM", 2),
        ("SCHED_FLAG_DL_OVERRUN", 4),
        ("SCHED_FLAG_KEEP_POLICY", 8),
        ("SCHED_FLAG_KEEP_PARAMS", 16),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
    ];
    let policy = policies.iter().position(|policy| *policy == scheduler.policy).and_then(|at| u32::try_from(at).ok());
    let policy =
        policy.ok_or_else(|| Error::field("process.scheduler.policy", format!("{:?} is none", scheduler.policy)))?;
    let mut all = 0;
    for name in &scheduler.flags {
        let flag = flags.iter().find(|(flag, _)| flag == name).map(|(_, bit)| *bit);
        all |= flag.ok_or_else(|| Error::field("process.scheduler.flags", format!("{name:?} is none")))?;
    }
    let mut scheduling = attributes::Scheduling::default();
    scheduling.policy = policy;
    scheduling.flags = all;
    scheduling.nice = scheduler.nice;
    scheduling.priority = u32::try_from(scheduler.priority).unwrap_or_default();
    (scheduling.runtime, scheduling.deadline, scheduling.period) =
        (scheduler.runtime, scheduler.deadline, scheduler.period);
    Ok(scheduling)
}

/// Resource limits: set from outside, where the right to raise them is.
pub(super) fn resource_limits(process: &ProcessSpec, pid: Pid) -> Result<()> {
    use rustix::process::{Resource, Rlimit, prlimit};
    const KINDS: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    for limit in &process.rlimits {
        let at = check::RLIMITS.iter().position(|name| *name == limit.kind);
        let Some(resource) = at.and_then(|at| KINDS.get(at)) else { continue };
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
        let field = || format!("process.rlimits: cannot set {} to {}:{}", limit.kind, limit.soft, limit.hard);
        prlimit(Some(pid), *resource, new).context(field)?;
    }
    Ok(())
}
