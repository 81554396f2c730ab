//! `stoke ssh` in a cluster: the user's own ssh and keys, over a connection through the LAN's router. The machine is known
//! by the host keys that it reported itself.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use stoke_api::Kind;
use stoke_kube::client::Cluster;

use super::explained;
use crate::cli::{Cli, Ssh, references};
use crate::commands::known_to_ssh;
use crate::failure::Failure;

/// Starts ssh in place of this program. `cli` says which cluster, for the connection's own process.
pub(crate) async fn run(cluster: &Cluster, cli: &Cli, ssh: &Ssh, run: &Path) -> anyhow::Result<ExitCode> {
    let namespace = ssh.namespace.as_ref().unwrap_or(cluster.namespace());
    let found = references(std::slice::from_ref(&ssh.name), Some(Kind::Machine), namespace)?;
    let reference = found.first().ok_or_else(|| Failure::plain("no machine is named"))?;
    let object = cluster.object(reference).await.map_err(explained)?;
    let (alias, address, known_hosts) = known_to_ssh(run, &object)?;
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut proxy = vec![program.display().to_string(), "--target=cluster".to_owned()];
    let target = cli.target.clone().filter(|target| target != "cluster");
    proxy.extend(cli.context.clone().or(target).map(|context| format!("--context={context}")));
    proxy.extend(cli.kubeconfig.as_ref().map(|path| format!("--kubeconfig={}", path.display())));
    proxy.push(format!("--system-namespace={}", cli.system_namespace));
    proxy.extend(["forward".to_owned(), reference_word(reference), format!("--namespace={namespace}")]);
    proxy.push("--stdio=22".to_owned());
    let proxy: Vec<_> = proxy.iter().map(|word| quoted(word)).collect();
    let mut command = Command::new("ssh");
    for option in ["StrictHostKeyChecking=yes", "GlobalKnownHostsFile=none", "UpdateHostKeys=no", "LogLevel=ERROR"] {
        command.args(["-o", option]);
    }
    command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", known_hosts.display()));
    command.arg("-o").arg(format!("HostKeyAlias={alias}"));
    command.arg("-o").arg(format!("ProxyCommand={}", proxy.join(" ")));
    command.arg(format!("{}@{address}", ssh.user)).arg("--").args(&ssh.command);
    let error = command.exec();
    match error.kind() {
        std::io::ErrorKind::NotFound => Err(Failure::hinted("there is no ssh program here", "install openssh-client")),
        _ => Err(error).context("cannot start ssh"),
    }
}

fn reference_word(reference: &stoke_api::ObjectRef) -> String {
    format!("{}/{}", reference.kind.singular(), reference.name)
}

/// For the shell that runs a `ProxyCommand`, in which ssh replaces what begins with `%`.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_reach_the_proxy_as_they_are() {
        assert_eq!(quoted("--context=it's 100%"), r"'--context=it'\''s 100%%'");
    }
}
