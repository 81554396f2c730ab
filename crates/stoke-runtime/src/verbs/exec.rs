//! `exec`: another process in a container that runs.
//!
//! The child begins in the container's pid namespace already, so that it is a process of the container from its first
//! moment; it joins the other namespaces itself, and becomes its program (module [`crate::init`]). liblxc has no part in it:
//! its way knows neither terminals, nor resource limits, nor capability sets.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use rustix::io::FdFlags;
use rustix::process::Pid;
use rustix::thread::LinkNameSpaceType;

use super::process::{priorities, resource_limits};
use super::terminal::Proxy;
use super::{Runtime, inherit, start, write_pid_file, wrong_status};
use crate::error::{Context as _, Error, Result};
use crate::namespaces::KINDS;
use crate::spec::{Process as ProcessSpec, Spec};
use crate::state::{Process, Record, Status};
use crate::wire::{Joining, Link, Message, Options};
use crate::{check, init};

/// How `exec` is called.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, clippy::struct_excessive_bools, reason = "the command line's words")]
pub struct Execution {
    pub id: String,
    /// A file with the process, or else what changes in the container's own.
    pub process: Option<PathBuf>,
    pub args: Vec<String>,
    pub cwd: Option<String>,
    pub env: Vec<String>,
    pub user: Option<(u32, Option<u32>)>,
    pub additional_gids: Vec<u32>,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub process_label: Option<String>,
    pub terminal: bool,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub detach: bool,
    pub ignore_paused: bool,
    pub options: Options,
}

/// Executes a process. Gives what it exited with; of a detached one nothing is known.
///
/// # Errors
/// If the container does not run, or the process cannot become its program.
pub fn exec(runtime: &Runtime, execution: &Execution) -> Result<u8> {
    let (folder, record, status) = runtime.open(&execution.id)?;
    let is_able =
        matches!(status, Status::Running | Status::Created) || (status == Status::Paused && execution.ignore_paused);
    let init = record.init.filter(|_| is_able).ok_or_else(|| wrong_status(&execution.id, status, "exec in"))?;
    let spec = folder.spec()?;
    let process = process(execution, &spec)?;
    check::check_process(&process)?;
    let mut proxy = None;
    let console = match (&execution.console_socket, process.terminal && !execution.detach) {
        // Our own terminal stands in for whoever would show it.
        (None, true) => {
            let (new, socket) = Proxy::new()?;
            proxy = Some(new);
            Some(socket)
        }
        (socket, _) => inherit::console(Some(&process), socket.as_deref())?,
    };
    let spawned = Spawning { execution, record: &record, spec: &spec, process: &process, console, init }.spawn()?;
    let mut child = spawned;
    if execution.detach {
        return Ok(0);
    }
    if let Some(proxy) = proxy {
        proxy.run()?;
    }
    let status = child.wait().context(|| "cannot wait for the process".to_owned())?;
    Ok(code(status))
}

/// What a shell would exit with.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn process(execution: &Execution, spec: &Spec) -> Result<ProcessSpec> {
    if let Some(path) = &execution.process {
        let what = || format!("cannot read {}", path.display());
        let text = std::fs::read(path).context(what)?;
        return serde_json::from_slice(&text).map_err(|error| Error::Input(format!("{}: {error}", path.display())));
    }
    if execution.args.is_empty() {
        return Err(Error::Input("exec needs a command, or --process FILE".to_owned()));
    }
    let mut process = spec.process.clone().unwrap_or_default();
    process.args.clone_from(&execution.args);
    process.env.extend(execution.env.iter().cloned());
    process.terminal = execution.terminal;
    process.console_size = None;
    if let Some(cwd) = &execution.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some((uid, gid)) = execution.user {
        process.user.uid = uid;
        process.user.gid = gid.unwrap_or(process.user.gid);
    }
    process.user.additional_gids.extend(&execution.additional_gids);
    if !execution.capabilities.is_empty() {
        let capabilities = process.capabilities.get_or_insert_default();
        for set in [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted] {
            set.extend(execution.capabilities.iter().cloned());
        }
    }
    process.no_new_privileges |= execution.no_new_privileges;
    if let Some(profile) = &execution.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &execution.process_label {
        process.selinux_label.clone_from(label);
    }
    Ok(process)
}

struct Spawning<'a> {
    execution: &'a Execution,
    record: &'a Record,
    spec: &'a Spec,
    process: &'a ProcessSpec,
    console: Option<OwnedFd>,
    init: Process,
}

impl Spawning<'_> {
    fn spawn(self) -> Result<Child> {
        let seccomp = self.spec.linux().seccomp.clone();
        let filter = inherit::filter(seccomp.as_ref())?;
        let namespaces = self.namespaces()?;
        let group = self.record.group()?;
        let tasks = group.map_or(Ok(Vec::new()), |group| group.entrances().map(|(tasks, _)| tasks))?;
        let (link, inside) = Link::pair()?;
        let inside = inside.into_socket();
        let to_join = namespaces.iter().filter(|(name, _)| *name != "pid");
        let plan = inherit::plan(&Joining {
            id: self.execution.id.clone(),
            process: self.process.clone(),
            seccomp_flags: seccomp.as_ref().map(crate::seccomp::flags).transpose()?.unwrap_or_default(),
            personality: self.spec.linux().personality.as_ref().map(|personality| personality.domain.clone()),
            link: inherit::number(&inside),
            tasks: tasks.iter().map(inherit::number).collect(),
            namespaces: to_join.map(|(name, namespace)| ((*name).to_owned(), inherit::number(namespace))).collect(),
            console: self.console.as_ref().map(inherit::number),
            seccomp: filter.as_ref().map(inherit::number),
            options: self.execution.options.clone(),
        })?;
        let program = inherit::program()?;
        let given = [Some(&inside), Some(&plan), self.console.as_ref(), filter.as_ref()];
        for descriptor in
            given.into_iter().flatten().chain(&tasks).chain(namespaces.iter().map(|(_, namespace)| namespace))
        {
            let cleared = rustix::io::fcntl_setfd(descriptor, FdFlags::empty());
            cleared.context(|| "cannot let a descriptor be inherited".to_owned())?;
        }
        if let Some((_, pids)) = namespaces.iter().find(|(name, _)| *name == "pid") {
            // From now on our children are born there; we stay where we are.
            rustix::thread::move_into_link_name_space(pids.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .context(|| "cannot join the pid namespace".to_owned())?;
        }
        let mut command = Command::new(format!("/proc/self/fd/{}", inherit::number(&program)));
        command.args([init::JOINED.to_owned(), inherit::number(&plan).to_string()]).env_clear();
        let mut child = command.spawn().context(|| "cannot start a process".to_owned())?;
        drop(inside);
        let ready = self.set_up(&link, &child, &seccomp.unwrap_or_default());
        if ready.is_err() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        ready.map(|()| child)
    }

    /// The namespaces that the container does not share with us, in the order in which they can be joined.
    fn namespaces(&self) -> Result<Vec<(&'static str, OwnedFd)>> {
        let mut found = Vec::new();
        for kind in KINDS {
            let path = format!("/proc/{}/ns/{}", self.init.pid, kind.short);
            let what = || format!("cannot open {path}");
            // Kernels may lack a kind.
            let Ok(own) = std::fs::metadata(format!("/proc/self/ns/{}", kind.short)) else { continue };
            let file = std::fs::File::open(&path).context(what)?;
            if file.metadata().context(what)?.ino() != own.ino() {
                found.push((kind.spec, OwnedFd::from(file)));
            }
        }
        // The number may have become another process's while we looked.
        if self.init.is_alive() { Ok(found) } else { Err(wrong_status(&self.execution.id, Status::Stopped, "exec in")) }
    }

    fn set_up(&self, link: &Link, child: &Child, seccomp: &crate::spec::Seccomp) -> Result<()> {
        let number = i32::try_from(child.id()).unwrap_or_default();
        let pid = Pid::from_raw(number).ok_or_else(|| Error::State("the process has no number".to_owned()))?;
        if let Some(group) = self.record.group()? {
            group.add_unified(pid)?;
        }
        resource_limits(self.process, pid)?;
        priorities(self.process, pid)?;
        if let Some(path) = &self.execution.pid_file {
            write_pid_file(path, number)?;
        }
        link.send(&Message::Go { pid: number }, None).context(|| "the process died".to_owned())?;
        let state = serde_json::to_value(self.record.state(Status::Running)).unwrap_or_default();
        start::until_executed(link, seccomp, &state, Process::find(pid))
    }
}
