//! `start`: tells the container's first process to become its program.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::SocketType;
use rustix::process::Signal;

use super::{Runtime, wrong_status};
use crate::error::{Context as _, Error, Result};
use crate::hooks;
use crate::spec::{Seccomp, Spec};
use crate::state::{Process, Record, Status};
use crate::wire::{self, Link, Message};

/// Starts a container that waits. What it gives are warnings.
///
/// # Errors
/// If it does not wait, or cannot become its program; it has stopped then.
pub fn start(runtime: &Runtime, id: &str) -> Result<Vec<Error>> {
    let (folder, record, status) = runtime.open(id)?;
    if status != Status::Created {
        return Err(wrong_status(id, status, "start"));
    }
    let spec = folder.spec()?;
    if spec.process.is_none() {
        return Err(Error::field("process", "is missing: there is nothing to start"));
    }
    let socket = wire::connect(&folder.start_socket(), SocketType::SEQPACKET)?;
    let link = Link::new(socket);
    let pid = record.init.map_or(0, |init| init.pid);
    link.send(&Message::Go { pid }, None).context(|| "the container's process died".to_owned())?;
    let became = follow(&link, &record, &spec);
    if became.is_err() {
        // It has nothing left to do but to end; whoever asks next shall see that it has.
        record.init.map_or(Ok(()), end)?;
    }
    became?;
    std::fs::remove_file(folder.start_socket()).context(|| "cannot remove the socket of the start".to_owned())?;
    poststart(&record, &spec)
}

/// Waits until the process has become its program, and does for it what it cannot.
fn follow(link: &Link, record: &Record, spec: &Spec) -> Result<()> {
    let state = record.state(Status::Created);
    let seccomp = spec.linux().seccomp.clone().unwrap_or_default();
    until_executed(link, &seccomp, &serde_json::to_value(&state).unwrap_or_default(), record.init)
}

/// Waits until the other side has executed its program, which closes its end.
pub(super) fn until_executed(
    link: &Link,
    seccomp: &Seccomp,
    state: &serde_json::Value,
    process: Option<Process>,
) -> Result<()> {
    while let Some(received) = link.receive().context(|| "cannot hear of the process".to_owned())? {
        match (received.message, received.descriptor) {
            (Message::Listener, Some(listener)) => {
                hand_over(&listener, seccomp, state, process)?;
                link.send(&Message::Ready, None).context(|| "the process died".to_owned())?;
            }
            (Message::Failed { message, code }, _) => return Err(Error::Init { message, code }),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a seccomp listener to its agent, with what the specification says beside it (`ContainerProcessState`).
fn hand_over(listener: &OwnedFd, seccomp: &Seccomp, state: &serde_json::Value, process: Option<Process>) -> Result<()> {
    use std::os::fd::AsFd as _;
    let what = || format!("linux.seccomp.listenerPath: {}", seccomp.listener_path);
    let agent = wire::connect(Path::new(&seccomp.listener_path), SocketType::STREAM)?;
    let message = serde_json::json!({
        "ociVersion": state.get("ociVersion"),
        "fds": ["seccompFd"],
        "pid": process.map_or(0, |process| process.pid),
        "metadata": seccomp.listener_metadata,
        "state": state,
    });
    wire::send_descriptor(agent, message.to_string().as_bytes(), listener.as_fd()).context(what)
}

/// Hooks after the start. Since 1.3 of the specification one that fails stops the container; before it is a warning.
fn poststart(record: &Record, spec: &Spec) -> Result<Vec<Error>> {
    let state = record.state(Status::Running);
    let list = &spec.hooks().poststart;
    let is_strict = spec.oci_version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()) >= Some(3);
    if !is_strict {
        return Ok(hooks::run_all("poststart", list, &state, &record.bundle));
    }
    let ran = hooks::run("poststart", list, &state, &record.bundle);
    if ran.is_err() {
        record.init.map_or(Ok(()), end)?;
    }
    ran.map(|()| Vec::new())
}

/// Kills a process and waits until it has ended.
pub(super) fn end(process: Process) -> Result<()> {
    let Some(descriptor) = process.open() else { return Ok(()) };
    process.signal(Signal::KILL)?;
    if hooks::wait_readable(&descriptor, Duration::from_secs(10)) {
        return Ok(());
    }
    Err(Error::State(format!("process {} does not die", process.pid)))
}
