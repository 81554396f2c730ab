//! Reboots by SSH from the operator's pod, which is on no LAN: through the router of the node's LAN, by pods/portforward, as
//! people log in. The program ssh speaks to a port of the pod's own loopback that carries one connection.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use stoke_api::objects::NodeState;
use stoke_api::{AnyObject, ObjectRef};
use stoke_host::export;
use stoke_host::ssh_reboots::log_in;
use stoke_reconcile::names::file_name;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::client::{Cluster, Duplex};

const PORT: u16 = 22;
const REBOOT: [&str; 2] = ["systemctl", "reboot"];

/// What logging in needs.
#[derive(Clone)]
pub(crate) struct Login {
    cluster: Option<Cluster>,
    /// The installation's key: on the store's volume, where groups may read what only its owner should.
    key: PathBuf,
    /// A folder for this pod alone.
    folder: PathBuf,
}

impl Login {
    /// With the operator's rights.
    pub(crate) fn new(client: kube::Client, system: &str, key: PathBuf, run: &Path) -> Self {
        Self { cluster: Cluster::of_operator(client, system), key, folder: run.join("ssh") }
    }

    /// Logs in to a node and reboots it. What came of it, for people.
    pub(crate) async fn reboot(self, node: ObjectRef) -> String {
        match self.connected(&node).await {
            Ok((command, carries)) => {
                let said = log_in(command).await;
                carries.abort();
                said
            }
            Err(error) => format!("the reboot by SSH came to nothing: {error:#}"),
        }
    }

    async fn connected(&self, node: &ObjectRef) -> anyhow::Result<(Command, tokio::task::JoinHandle<()>)> {
        let cluster = self.cluster.as_ref().ok_or_else(|| anyhow::anyhow!("there is no cluster"))?;
        let object = cluster.object(node).await?;
        let keys = known(&object)?;
        let command_for = self.prepared(node, keys)?;
        let stream = cluster.dial(&object, PORT).await?;
        let (port, carries) = carry(stream).await?;
        Ok((command_for(port), carries))
    }

    /// The files that ssh reads, and its command for a port.
    fn prepared(&self, node: &ObjectRef, keys: &[String]) -> anyhow::Result<impl FnOnce(u16) -> Command + use<>> {
        let alias = format!("{}.{}", file_name(node), node.kind.singular());
        let lines: Vec<_> = keys.iter().map(|key| format!("{alias} {}\n", key.trim())).collect();
        let (known, key) = (self.folder.join(&alias), self.folder.join("key"));
        let content = fs_err::read(&self.key)?;
        let files = [(alias.clone(), lines.concat().into_bytes()), ("key".to_owned(), content)];
        export::write(&self.folder, &export::Files::from(files))?;
        fs_err::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        Ok(move |port: u16| ssh(&alias, &known, &key, port))
    }
}

/// The host keys that a node reported itself.
fn known(object: &AnyObject) -> anyhow::Result<&[String]> {
    let node: Option<&NodeState> = match object {
        AnyObject::Machine(machine) => machine.status.node.as_ref(),
        AnyObject::Server(server) => server.status.node.as_ref(),
        _ => None,
    };
    let keys = node.map(|node| node.ssh_host_keys.as_slice()).unwrap_or_default();
    anyhow::ensure!(!keys.is_empty(), "it has not reported its host keys");
    Ok(keys)
}

fn ssh(alias: &str, known_hosts: &Path, key: &Path, port: u16) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-p", &port.to_string(), "-i"]).arg(key);
    for option in [
        "BatchMode=yes",
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
    command.arg(format!("root@{}", Ipv4Addr::LOCALHOST)).arg("--").args(REBOOT);
    command
}

/// A port of the loopback whose first connection is the stream; there is no second one.
async fn carry(mut stream: Box<dyn Duplex>) -> std::io::Result<(u16, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let carries = tokio::spawn(async move {
        let Ok((mut near, _)) = listener.accept().await else { return };
        drop(listener);
        // Either end may go away: that is the end of the login.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut stream).await;
    });
    Ok((port, carries))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn server() -> ObjectRef {
        ObjectRef { kind: stoke_api::Kind::Server, namespace: None, name: "rack1-07".parse().unwrap() }
    }

    #[tokio::test]
    async fn ssh_speaks_to_the_node_through_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let folders = stoke_host::Folders { state: folder.path().to_owned(), run: folder.path().join("run") };
        stoke_host::keys::ssh_public_key(&folders).unwrap();
        let login = Login { cluster: None, key: folders.ssh_key(), folder: folders.run.join("ssh") };
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ3b3JsZGlzbm90YXJlYWxrZXlidXRpdGlzZmluZQAA".to_owned();
        let command = login.prepared(&server(), std::slice::from_ref(&key)).unwrap();
        let known = fs_err::read_to_string(folders.run.join("ssh/rack1-07.server")).unwrap();
        assert_eq!(known, format!("rack1-07.server {key}\n"));

        let (near, mut far) = tokio::io::duplex(4096);
        let (port, carries) = carry(Box::new(near)).await.unwrap();
        let said = tokio::spawn(log_in(command(port)));
        let mut banner = vec![0; 8];
        tokio::time::timeout(Duration::from_secs(20), far.read_exact(&mut banner)).await.unwrap().unwrap();
        assert_eq!(banner, b"SSH-2.0-");
        far.write_all(b"SSH-2.0-node\r\n").await.unwrap();
        drop(far);
        let said = said.await.unwrap();
        assert!(said.starts_with("the reboot by SSH ended so"), "{said}");
        carries.await.unwrap();
        assert!(tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
    }
}
