//! The node agent of a cluster: one per node, told by the operator what its node should have.
//!
//! ```text
//!  operator --HTTPS, certificates of both--> server --AgentConfig--> agent --> thread of the LANs (in their own namespace,
//!                                              |                      ^           pinned in the host's mount namespace)
//!                                              | admin sockets        | grants
//!  kubelet --gRPC--> plugin --folder for a pod--> pods <--ports.sock-- roles and machines in pods
//! ```
//!
//! What it never does: ask the API server, believe what a pod says of itself, end what it has laid when it ends. What a
//! pod says is untrusted: lines, bodies, times and connections are limited. Read [`run()`] first.

mod admin;
mod agent;
pub mod cgroup;
mod devices;
mod grants;
mod host;
mod kvm;
mod pin;
mod plugin;
mod pods;
mod server;
mod tls;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use stoke_api::report::{NodeAgentReport, Report};
use stoke_daemon::{Launch, Role};
use tokio_util::sync::CancellationToken;

use crate::cluster::agent::Agent;

/// The environment variable that says which node this is, where the configuration is the same for all.
const NODE_NAME: &str = "NODE_NAME";
/// The same for its address.
const NODE_ADDRESS: &str = "NODE_ADDRESS";

/// Configuration of a node agent of a cluster: what does not come from the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// Where the operator comes to: `0.0.0.0:9444`.
    pub listen: String,
    /// Folder of `tls.crt`, `tls.key` and `ca.crt`.
    pub tls: PathBuf,
    /// Folder of what is shared with pods, the same path here as on the host.
    pub run: PathBuf,
    /// The kubelet's folder of device plugins; none are offered if absent.
    #[serde(default)]
    pub device_plugins: Option<PathBuf>,
    /// The node's name in the cluster; `NODE_NAME` of the environment if absent.
    #[serde(default)]
    pub node: Option<String>,
    /// Its address, as other nodes reach it; `NODE_ADDRESS` of the environment if absent.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// Runs the node agent of a cluster until it is told to stop. What was laid stays when it ends.
///
/// # Errors
/// If the configuration is none, or a socket cannot be bound.
pub async fn run(launch: Launch) -> anyhow::Result<()> {
    if tokio::task::spawn_blocking(kvm::was_probe).await?? {
        return Ok(());
    }
    stoke_daemon::run::<ClusterAgent, _>(launch, ClusterAgent::start).await
}

/// The role.
struct ClusterAgent {
    agent: Arc<Agent>,
    registry: Registry,
    config: ClusterConfig,
}

impl ClusterAgent {
    async fn start(config: ClusterConfig, shutdown: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let node = config.node.clone().or_else(|| std::env::var(NODE_NAME).ok());
        let node =
            node.with_context(|| format!("which node is this? set {NODE_NAME}, or node in the configuration"))?;
        let told = || std::env::var(NODE_ADDRESS).ok().and_then(|address| address.parse().ok());
        let address = config.address.or_else(told);
        let kubelet = config.device_plugins.as_ref().map(|folder| folder.join(plugin::KUBELET));
        let agent = Agent::open(node, address, config.run.clone(), host::Host { kubelet })?;
        let registry = agent.metrics.registry();
        Arc::clone(&agent).resume().await;
        tokio::spawn(devices::watch(Arc::clone(&agent), shutdown.clone()));
        tokio::spawn(pods::watch(Arc::clone(&agent), shutdown.clone()));
        if let Some(folder) = &config.device_plugins {
            plugin::offer(folder, &agent, &shutdown);
        }
        server::serve(&config, Arc::clone(&agent), shutdown).await?;
        Ok(Arc::new(Self { agent, registry, config }))
    }
}

impl Role for ClusterAgent {
    type Config = ClusterConfig;
    const NAME: &'static str = "node";

    fn report(&self) -> Report {
        Report::Node(NodeAgentReport { lans: self.agent.lans(), ..NodeAgentReport::default() })
    }

    /// A LAN that cannot be laid is its object's trouble; the agent does its work.
    fn ready(&self) -> bool {
        true
    }

    async fn reload(&self, config: ClusterConfig) -> anyhow::Result<()> {
        anyhow::ensure!(config == self.config, "another configuration needs another process, not a reload");
        Ok(())
    }

    fn metrics(&self) -> Option<&Registry> {
        Some(&self.registry)
    }
}
