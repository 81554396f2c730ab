//! `stoke ssh`: into a machine, from inside the namespace that its LAN is in.
//!
//! The machine is known by the host keys that it reported itself, the installation by its own key; nothing of the user's
//! ssh configuration has a part in it.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use stoke_api::control::HostInfo;
use stoke_api::objects::NodeState;
use stoke_api::{AnyObject, Kind, ObjectRef};

use super::blocking;
use super::get::ready_condition;
use crate::cli::{Ssh, references};
use crate::client::Client;
use crate::cluster::default_namespace;
use crate::failure::Failure;
use crate::folders::Folders;

pub(crate) fn run(folders: &Folders, ssh: &Ssh) -> anyhow::Result<ExitCode> {
    let words = [ssh.name.clone()];
    let found = references(&words, Some(Kind::Machine), &default_namespace(ssh.namespace.as_ref())?)?;
    let reference = found.first().ok_or_else(|| Failure::plain("no machine is named"))?;
    let (host, object) = blocking(ask(folders, reference))?;
    let (_, address, known_hosts) = known_to_ssh(&folders.run, &object)?;
    if let Some(namespaces) = &host.namespaces {
        // The runtime above is gone: this process has one thread again, as joining a user namespace needs.
        stoke_node::namespaces::enter(namespaces).context("cannot enter the installation's namespaces")?;
    }
    let mut command = command(ssh, reference, address, &known_hosts, &host.ssh_key);
    let error = command.exec();
    let hint = "install it: apt-get install openssh-client";
    match error.kind() {
        std::io::ErrorKind::NotFound => Err(Failure::hinted("there is no ssh program here", hint)),
        _ => Err(error).context("cannot start ssh"),
    }
}

/// A machine as ssh knows it: a name for its keys, its address, and the file with its keys, written into a folder now.
pub(crate) fn known_to_ssh(run: &Path, object: &AnyObject) -> anyhow::Result<(String, Ipv4Addr, PathBuf)> {
    let reference = object.reference();
    let why = ready_condition(object).map(|condition| condition.message.as_str()).unwrap_or_default();
    let (address, keys) = way_in(&reference, node_of(object), why)?;
    let known_hosts = write_known_hosts(run, &reference, &keys)?;
    Ok((alias(&reference), address, known_hosts))
}

async fn ask(folders: &Folders, reference: &ObjectRef) -> anyhow::Result<(HostInfo, AnyObject)> {
    let client = Client::connect(folders).await?;
    let object = client.object(reference).await?;
    Ok((client.host().await?, object))
}

fn node_of(object: &AnyObject) -> Option<&NodeState> {
    match object {
        AnyObject::Machine(machine) => machine.status.node.as_ref(),
        AnyObject::Server(server) => server.status.node.as_ref(),
        _ => None,
    }
}

/// Where the machine is and how it is known, or why nobody can log in yet; `why` is what it says of itself.
fn way_in(reference: &ObjectRef, node: Option<&NodeState>, why: &str) -> anyhow::Result<(Ipv4Addr, Vec<String>)> {
    let Some(node) = node else {
        let why = if why.is_empty() { "yet" } else { &format!("yet: {why}") };
        let hint = format!("stoke describe {reference} says more");
        return Err(Failure::hinted(format!("{reference} has not booted {why}"), hint));
    };
    match (node.address, node.ssh_host_keys.is_empty()) {
        (Some(address), false) => Ok((address, node.ssh_host_keys.clone())),
        (None, _) => {
            let message = format!("{reference} has no address yet (phase {})", node.phase);
            Err(Failure::hinted(message, "follow it: stoke get machines --watch"))
        }
        (Some(_), true) => {
            let message = format!("{reference} has not reported its host keys yet (phase {})", node.phase);
            Err(Failure::hinted(message, "its image needs openssh-server; follow it: stoke get machines --watch"))
        }
    }
}

/// The name under which ssh looks up the machine's keys.
fn alias(reference: &ObjectRef) -> String {
    let namespace = reference.namespace.as_ref().map_or("cluster", |namespace| namespace.as_str());
    format!("{}.{namespace}.{}", reference.name, reference.kind.singular())
}

fn write_known_hosts(run: &Path, reference: &ObjectRef, keys: &[String]) -> anyhow::Result<PathBuf> {
    let alias = alias(reference);
    let folder = run.join("known_hosts");
    fs_err::create_dir_all(&folder)?;
    let lines: Vec<_> = keys.iter().map(|key| format!("{alias} {}\n", key.trim())).collect();
    let (path, new) = (folder.join(&alias), folder.join(format!(".{alias}.{}", std::process::id())));
    fs_err::write(&new, lines.concat())?;
    fs_err::rename(&new, &path)?;
    Ok(path)
}

fn command(ssh: &Ssh, reference: &ObjectRef, address: Ipv4Addr, known_hosts: &Path, key: &Path) -> Command {
    let mut command = Command::new("ssh");
    let alias = alias(reference);
    // `-F none`: in a user namespace the user's own configuration belongs to nobody, and ssh refuses such a file.
    command.args(["-F", "none", "-i"]).arg(key);
    for option in [
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=none",
        "UpdateHostKeys=no",
        "ConnectTimeout=10",
        "LogLevel=ERROR",
    ] {
        command.args(["-o", option]);
    }
    command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", known_hosts.display()));
    command.arg("-o").arg(format!("HostKeyAlias={alias}"));
    command.arg(format!("{}@{address}", ssh.user)).arg("--").args(&ssh.command);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::node::Phase;

    fn said(node: Option<&NodeState>) -> String {
        let reference = ObjectRef { kind: Kind::Machine, namespace: None, name: "a".parse().unwrap() };
        way_in(&reference, node, "").unwrap_err().to_string()
    }

    #[test]
    fn a_machine_that_is_not_up_says_how_far_it_is() {
        assert_eq!(said(None), "machine/a has not booted yet");
        let mut node = NodeState { phase: Phase::Init, ..NodeState::default() };
        assert_eq!(said(Some(&node)), "machine/a has no address yet (phase Init)");
        node.address = Some(Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(said(Some(&node)), "machine/a has not reported its host keys yet (phase Init)");
    }
}
