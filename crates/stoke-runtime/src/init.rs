//! What happens in a process of the container, before it becomes the program that was asked for.
//!
//! - [`container`] is the first process: it builds the file system, then waits for `start`.
//! - [`joined`] is one that `exec` adds: it joins what is there.
//!
//! Both are this program again, executed from sealed memory, so that nothing in the container can write into the host's
//! program (CVE-2019-5736). Every path in the container is resolved below its root by the kernel (`openat2`, `RESOLVE_IN_ROOT`),
//! and `/proc` is a mount of our own that the container cannot replace.

mod console;
mod devices;
mod identity;
mod mounts;
mod options;
mod root;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::thread::LinkNameSpaceType;

use crate::error::{Context as _, Error, Result};
use crate::hooks;
use crate::spec::TimeOffset;
use crate::state::{State, Status};
use crate::wire::{Joining, Link, Message, Plan};

pub(crate) use identity::CAPABILITIES;
pub(crate) use mounts::open_tree;
pub(crate) use options::MountOptions;
pub use options::names as mount_option_names;

/// The first argument by which this program knows that it is the first process of a container.
pub const CONTAINER: &str = "init";
/// The same, for a process that `exec` adds.
pub const JOINED: &str = "join";

/// The first process of a container. Returns only if it fails; the message has been sent then.
///
/// # Errors
/// Whatever is refused.
pub fn container(plan: &str) -> Result<()> {
    // liblxc has this process die with the monitor, which the runtime kills at the hello.
    let lives = rustix::process::set_parent_process_death_signal(None);
    lives.context(|| "cannot outlive the monitor".to_owned())?;
    let plan: Plan = read(plan)?;
    let link = Link::new(inherited(plan.link)?);
    if let Some(stderr) = plan.stderr {
        rustix::stdio::dup2_stderr(inherited(stderr)?).context(|| "cannot take the standard error".to_owned())?;
    }
    let lookup = prepare(&plan, &link);
    let (proc, program) = match lookup {
        Ok(prepared) => prepared,
        Err(error) => return report(&link, error),
    };
    link.send(&Message::Ready, None).context(|| "cannot say that all is prepared".to_owned())?;
    // Nobody could start what `create` did not come to write down.
    if !matches!(link.receive(), Ok(Some(_))) {
        return Err(Error::State("create ended before the container was written down".to_owned()));
    }
    drop(link);
    let link = wait_for_start(&inherited(plan.listener)?)?;
    match start(&plan, &link, &proc, program) {
        Ok(never) => match never {},
        Err(error) => report(&link, error),
    }
}

/// What cannot happen: that a process goes on after it has become another program.
enum Never {}

fn report(link: &Link, error: Error) -> Result<()> {
    let message = Message::Failed { message: error.line(), code: error.exit_code() };
    // If nobody listens any more, nobody wants to know.
    let _unheard = link.send(&message, None);
    Err(error)
}

fn read<T: serde::de::DeserializeOwned>(descriptor: &str) -> Result<T> {
    use std::io::{Read as _, Seek as _};
    let number = descriptor.parse().map_err(|_| Error::Input("this is for the runtime alone".to_owned()))?;
    let mut file = std::fs::File::from(inherited(number)?);
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).context(|| "cannot read the plan".to_owned())?;
    serde_json::from_slice(&text).map_err(|error| Error::Input(format!("the plan: {error}")))
}

/// Takes a descriptor that was inherited, and lets nobody else inherit it.
fn inherited(number: i32) -> Result<OwnedFd> {
    let what = || format!("descriptor {number} is missing");
    let descriptor = stoke_sys::fd::inherited(number).context(what)?;
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC).context(what)?;
    Ok(descriptor)
}

/// All up to the status "created". Gives our `/proc` and the program, so that one that is missing fails `create`.
fn prepare(plan: &Plan, link: &Link) -> Result<(OwnedFd, identity::Program)> {
    link.send(&Message::Hello, None).context(|| "cannot say hello".to_owned())?;
    let Message::Go { pid } = link.expect("the runtime went on")?.message else {
        return Err(Error::Input("the runtime said something else".to_owned()));
    };
    let spec = &plan.spec;
    let linux = spec.linux();
    if let Some(namespace) = linux.namespaces.iter().find(|namespace| namespace.kind == "time") {
        clocks(namespace, &linux.time_offsets)?;
    }
    names(plan)?;
    let is_new = |kind: &str| linux.namespaces.iter().any(|other| other.kind == kind && other.path().is_none());
    if is_new("network") {
        stoke_sys::loopback::bring_up().context(|| "cannot bring the loopback interface up".to_owned())?;
    }
    let proc = root::own_proc()?;
    let built = root::build(plan)?;
    let state = state(plan, pid, Status::Creating);
    hooks::run("createContainer", &spec.hooks().create_container, &state, &plan.bundle)?;
    root::enter(&built, &plan.options)?;
    root::finish(spec, &proc, &built)?;
    if !plan.options.no_new_keyring {
        // Kernels may have no keyrings.
        let _without = stoke_sys::attributes::new_session_keyring();
    }
    let process = spec.process.as_ref();
    let program = process.map(identity::find_program).transpose()?.unwrap_or_default();
    Ok((proc, program))
}

/// A time namespace, made or joined. A new one is first that of children only, so that its clocks can be set; then it is ours.
fn clocks(namespace: &crate::spec::Namespace, offsets: &BTreeMap<String, TimeOffset>) -> Result<()> {
    let what = || "linux.timeOffsets".to_owned();
    if let (Some(path), Some(kind)) = (namespace.path(), crate::namespaces::named("time")) {
        return join(&crate::namespaces::open(kind, path)?, LinkNameSpaceType::Time, "time");
    }
    stoke_sys::namespace::unshare_time_of_children().context(what)?;
    for (clock, offset) in offsets {
        let line = format!("{clock} {} {}", offset.secs, offset.nanosecs);
        std::fs::write("/proc/self/timens_offsets", line).context(what)?;
    }
    let own = std::fs::File::open("/proc/self/ns/time_for_children").context(what)?;
    join(&own.into(), LinkNameSpaceType::Time, "time")
}

fn names(plan: &Plan) -> Result<()> {
    let spec = &plan.spec;
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes()).context(|| "hostname".to_owned())?;
    }
    if !spec.domainname.is_empty() {
        rustix::system::setdomainname(spec.domainname.as_bytes()).context(|| "domainname".to_owned())?;
    }
    Ok(())
}

fn join(namespace: &OwnedFd, kind: LinkNameSpaceType, name: &str) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
        .context(|| format!("linux.namespaces: cannot join the {name} namespace"))
}

fn state(plan: &Plan, pid: i32, status: Status) -> State {
    State {
        oci_version: plan.spec.oci_version.clone(),
        id: plan.id.clone(),
        status,
        pid,
        bundle: plan.bundle.clone(),
        annotations: plan.spec.annotations.clone(),
    }
}

/// Waits until `start` connects and says so. One that dies before it has said anything does not count.
fn wait_for_start(listener: &OwnedFd) -> Result<Link> {
    loop {
        let accepted = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC);
        match accepted {
            Err(rustix::io::Errno::INTR) => {}
            other => {
                let link = Link::new(other.context(|| "cannot wait for the start".to_owned())?);
                let received = link.receive();
                if matches!(received, Ok(Some(received)) if matches!(received.message, Message::Go { .. })) {
                    return Ok(link);
                }
            }
        }
    }
}

fn start(plan: &Plan, link: &Link, proc: &OwnedFd, program: identity::Program) -> Result<Never> {
    let spec = &plan.spec;
    let process =
        spec.process.as_ref().ok_or_else(|| Error::field("process", "is missing: there is nothing to start"))?;
    let state = state(plan, 1, Status::Created);
    hooks::run("startContainer", &spec.hooks().start_container, &state, Path::new("/"))?;
    let linux = spec.linux();
    let seccomp = plan.seccomp.map(inherited).transpose()?;
    let seccomp = seccomp.map(|program| identity::filter(program, linux.seccomp.as_ref())).transpose()?;
    let personality = linux.personality.as_ref().map(|personality| personality.domain.as_str());
    let last = identity::Last { process, program, seccomp, personality, link, proc, options: &plan.options };
    Err(last.become_it())
}

/// A process that `exec` adds. Returns only if it fails; the message has been sent then.
///
/// # Errors
/// Whatever is refused.
pub fn joined(joining: &str) -> Result<()> {
    let joining: Joining = read(joining)?;
    let link = Link::new(inherited(joining.link)?);
    match enter(&joining, &link) {
        Ok(never) => match never {},
        Err(error) => report(&link, error),
    }
}

fn enter(joining: &Joining, link: &Link) -> Result<Never> {
    // The runtime puts this process into the container's cgroup of version 2 meanwhile.
    for tasks in &joining.tasks {
        let entered = rustix::io::write(inherited(*tasks)?, b"0");
        entered.context(|| "cannot enter the container's cgroups".to_owned())?;
    }
    link.expect("the runtime went on")?;
    let seccomp = joining.seccomp.map(inherited).transpose()?;
    let console = joining.console.map(inherited).transpose()?;
    for (name, descriptor) in &joining.namespaces {
        let namespace = inherited(*descriptor)?;
        if let Some(kind) = link_kind(name) {
            join(&namespace, kind, name)?;
        }
    }
    let proc = root::own_proc()?;
    rustix::process::setsid().context(|| "cannot begin a session".to_owned())?;
    if !joining.options.no_new_keyring {
        let _without = stoke_sys::attributes::new_session_keyring();
    }
    if let Some(socket) = console {
        let terminal = console::open(rustix::fs::CWD, &joining.process)?;
        terminal.send(&socket)?;
        terminal.take()?;
    }
    let process = &joining.process;
    let program = identity::find_program(process)?;
    let seccomp = seccomp.map(|program| identity::filter_with(program, joining.seccomp_flags)).transpose()?;
    let personality = joining.personality.as_deref();
    let last = identity::Last { process, program, seccomp, personality, link, proc: &proc, options: &joining.options };
    Err(last.become_it())
}

fn link_kind(name: &str) -> Option<LinkNameSpaceType> {
    Some(match name {
        "user" => LinkNameSpaceType::User,
        "cgroup" => LinkNameSpaceType::ControlGroup,
        "ipc" => LinkNameSpaceType::InterProcessCommunication,
        "uts" => LinkNameSpaceType::HostNameAndNISDomainName,
        "network" => LinkNameSpaceType::Network,
        "pid" => LinkNameSpaceType::ProcessID,
        "mount" => LinkNameSpaceType::Mount,
        "time" => LinkNameSpaceType::Time,
        _ => return None,
    })
}
