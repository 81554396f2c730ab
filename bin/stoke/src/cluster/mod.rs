//! Where commands go: to the Stokehold of this host, or to a cluster. Chosen once, by what was typed, else by what is there;
//! what was chosen is said on standard error when there was a choice.
//!
//! [`Target`] has what both can do. What only a cluster can is in the other files here: streams to pods.

mod apply;
mod console;
mod down;
mod forward;
mod logs;
mod ssh;

use std::path::Path;

use stoke_api::control::{EnrollRequest, ObjectEvent, PowerAction, RolloutAction, WatchEvent};
use stoke_api::meta::DEFAULT_NAMESPACE;
use stoke_api::{AnyObject, Kind, ObjectName, ObjectRef};
use stoke_kube::client::{self, Access, Cluster, ClusterError};

use crate::cli::Cli;
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;

pub(crate) use apply::run as apply;
pub(crate) use console::run as console;
pub(crate) use down::run as down;
pub(crate) use forward::run as forward;
pub(crate) use logs::run as logs;
pub(crate) use ssh::run as ssh;

/// What was typed about where to look.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    wanted: Wanted,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Standalone,
    Cluster,
    /// Nothing was said.
    Whatever,
}

/// Where commands go.
#[derive(Debug)]
pub(crate) enum Target {
    /// The Stokehold of this host.
    Standalone(Client),
    /// A cluster.
    Cluster(Cluster),
}

impl Choice {
    /// What was typed. A program that is called `kubectl-…` is a plugin: it means the cluster.
    pub(crate) fn of(cli: &Cli) -> Self {
        let program = std::env::args_os().next();
        let is_plugin = program.as_deref().map(Path::new).and_then(Path::file_name);
        let is_plugin = is_plugin.is_some_and(|name| name.to_string_lossy().starts_with("kubectl-"));
        let named = cli.target.as_deref().filter(|target| !["standalone", "cluster"].contains(target));
        let wanted = match cli.target.as_deref() {
            Some("standalone") => Wanted::Standalone,
            Some(_) => Wanted::Cluster,
            None if cli.context.is_some() || cli.kubeconfig.is_some() || is_plugin => Wanted::Cluster,
            // A folder is one of this host.
            None if cli.state.is_some() => Wanted::Standalone,
            None => Wanted::Whatever,
        };
        let access = Access {
            kubeconfig: cli.kubeconfig.clone(),
            context: cli.context.clone().or_else(|| named.map(str::to_owned)),
            namespace: None,
            system: cli.system_namespace.clone(),
        };
        Self { wanted, access }
    }

    /// Whether a cluster was asked for, in so many words: what changes a host does so unless it was.
    pub(crate) fn is_cluster(&self) -> bool {
        self.wanted == Wanted::Cluster
    }

    /// Fails if a cluster was asked for by a command that is about this host.
    pub(crate) fn only_here(&self, command: &str) -> anyhow::Result<()> {
        if self.is_cluster() {
            let hint = format!("leave out --target, --context and --kubeconfig: stoke {command}");
            return Err(Failure::usage(format!("stoke {command} is about one host, not about a cluster"), hint));
        }
        Ok(())
    }

    /// A client of the cluster.
    pub(crate) async fn cluster(&self, namespace: Option<&ObjectName>) -> anyhow::Result<Cluster> {
        let access = Access { namespace: namespace.cloned(), ..self.access.clone() };
        let cluster = Cluster::connect(&access).await.map_err(explained)?;
        eprintln!("using {}", cluster.describe());
        Ok(cluster)
    }

    /// Chooses. Fails plainly if there is nothing.
    pub(crate) async fn target(&self, folders: &Folders, namespace: Option<&ObjectName>) -> anyhow::Result<Target> {
        let has_cluster = client::is_available(&self.access);
        match self.wanted {
            Wanted::Cluster => self.cluster(namespace).await.map(Target::Cluster),
            Wanted::Standalone => Client::connect(folders).await.map(Target::Standalone),
            Wanted::Whatever if !has_cluster => Client::connect(folders).await.map(Target::Standalone),
            Wanted::Whatever => {
                let here = Client::new(&folders.control_socket())?;
                if here.is_alive().await? {
                    eprintln!("using the Stokehold of this host ({})", folders.state.display());
                    return Ok(Target::Standalone(here));
                }
                self.cluster(namespace).await.map(Target::Cluster)
            }
        }
    }

    /// Whether the cluster is what would be chosen now.
    pub(crate) async fn means_cluster(&self, folders: &Folders) -> anyhow::Result<bool> {
        Ok(match self.wanted {
            Wanted::Cluster => true,
            Wanted::Standalone => false,
            Wanted::Whatever if !client::is_available(&self.access) => false,
            Wanted::Whatever => {
                // Machines go on without `stoke up`, and are reached without it.
                !folders.workloads().exists() && !Client::new(&folders.control_socket())?.is_alive().await?
            }
        })
    }
}

/// The namespace of objects that name none, on one host.
pub(crate) fn default_namespace(given: Option<&ObjectName>) -> anyhow::Result<ObjectName> {
    given.map_or_else(|| DEFAULT_NAMESPACE.parse().map_err(anyhow::Error::from), |given| Ok(given.clone()))
}

impl Target {
    /// The namespace of objects that name none.
    pub(crate) fn namespace(&self, given: Option<&ObjectName>) -> anyhow::Result<ObjectName> {
        match self {
            Self::Standalone(_) => default_namespace(given),
            Self::Cluster(cluster) => Ok(given.unwrap_or(cluster.namespace()).clone()),
        }
    }

    pub(crate) async fn list(&self, kind: Kind, namespace: Option<&ObjectName>) -> anyhow::Result<Vec<AnyObject>> {
        match self {
            Self::Standalone(client) => client.list(kind, namespace).await,
            Self::Cluster(cluster) => {
                let mut tell = |error: ClusterError| eprintln!("warning: {error}");
                cluster.list(kind, namespace, &mut tell).await.map_err(explained)
            }
        }
    }

    pub(crate) async fn object(&self, reference: &ObjectRef) -> anyhow::Result<AnyObject> {
        match self {
            Self::Standalone(client) => client.object(reference).await,
            Self::Cluster(cluster) => cluster.object(reference).await.map_err(explained),
        }
    }

    pub(crate) async fn events(&self, reference: &ObjectRef) -> anyhow::Result<Vec<ObjectEvent>> {
        match self {
            Self::Standalone(client) => client.events(reference).await,
            Self::Cluster(cluster) => cluster.events(reference).await.map_err(explained),
        }
    }

    pub(crate) async fn delete(&self, reference: &ObjectRef) -> anyhow::Result<()> {
        match self {
            Self::Standalone(client) => client.delete(reference).await,
            Self::Cluster(cluster) => cluster.delete(reference).await.map_err(explained),
        }
    }

    pub(crate) async fn power(&self, reference: &ObjectRef, action: PowerAction) -> anyhow::Result<()> {
        match self {
            Self::Standalone(client) => client.power(reference, action).await,
            Self::Cluster(cluster) => cluster.power(reference, action).await.map_err(explained),
        }
    }

    pub(crate) async fn rollout(&self, farm: &ObjectRef, action: RolloutAction) -> anyhow::Result<()> {
        match self {
            Self::Standalone(client) => client.rollout(farm, action).await,
            Self::Cluster(cluster) => cluster.rollout(farm, action).await.map_err(explained),
        }
    }

    pub(crate) async fn enroll(&self, reference: &ObjectRef, request: EnrollRequest) -> anyhow::Result<()> {
        match self {
            Self::Standalone(client) => client.enroll(reference, request).await,
            Self::Cluster(cluster) => cluster.enroll(reference, request).await.map_err(explained),
        }
    }

    pub(crate) async fn watch(&self, kinds: &[Kind], namespace: Option<&ObjectName>) -> anyhow::Result<Watch> {
        Ok(match self {
            Self::Standalone(client) => Watch::Standalone(client.watch().await?),
            Self::Cluster(cluster) => Watch::Cluster(cluster.watch(kinds, namespace)),
        })
    }
}

/// Changes of objects as they happen.
#[derive(Debug)]
pub(crate) enum Watch {
    Standalone(crate::client::Watch),
    Cluster(client::Watch),
}

impl Watch {
    /// The next change; `None` when the installation ended.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<WatchEvent>> {
        match self {
            Self::Standalone(watch) => watch.next().await,
            Self::Cluster(watch) => Ok(watch.next().await),
        }
    }
}

/// An error of a cluster, with what to do about it.
pub(crate) fn explained(error: ClusterError) -> anyhow::Error {
    let hint = match &error {
        ClusterError::Config(_) => "kubectl config get-contexts shows what there is; name one with --context",
        ClusterError::Unreachable { .. } => "try kubectl get nodes with the same kubeconfig",
        ClusterError::NotInstalled(..) => {
            "install it: helm install stokehold charts/stokehold; or name another context"
        }
        ClusterError::Forbidden(_) => {
            "ask an administrator of the cluster; docs/src/guide/kubernetes.md says which rights what needs"
        }
        ClusterError::Unreadable { .. } => "use the stoke of the version that the cluster runs",
        _ => return error.into(),
    };
    // The whole story in one line: a `Failure` has no cause of its own.
    let message = format!("{:#}", anyhow::Error::from(error));
    Failure::hinted(message, hint)
}
