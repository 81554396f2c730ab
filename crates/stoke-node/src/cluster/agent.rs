//! What all parts of the agent share: the operator's last word, the thread of the LANs, the pods' folders.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use stoke_api::agent::{AgentConfig, AgentReport};
use stoke_api::report::LanReport;
use stoke_net::kernel::{HostNamespace, KernelLinks};
use tokio::sync::watch;

use crate::apply::Ports;
use crate::cluster::devices::{Devices, Found};
use crate::cluster::host::Host;
use crate::cluster::pin::{self, Pin};
use crate::cluster::pods::Folders;
use crate::config::Goal;
use crate::lans::{Handle, Request};
use crate::metrics::Metrics;

/// The operator's last word, for an agent that starts while there is no operator.
const LAST_CONFIG: &str = "agent.json";

/// The agent.
pub(super) struct Agent {
    /// Name of the node.
    pub(super) node: String,
    /// Its address, as other nodes reach it.
    address: Option<IpAddr>,
    run: PathBuf,
    pub(super) host: Host,
    pub(super) metrics: Arc<Metrics>,
    pub(super) devices: Arc<Devices>,
    /// What was wanted last; empty before.
    pub(super) config: watch::Sender<AgentConfig>,
    configured: AtomicBool,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    laid: Mutex<Option<Laid>>,
    pub(super) folders: Folders,
}

/// What there is once the installation's name is known.
#[derive(Clone)]
struct Laid {
    lans: Handle,
    pin: Pin,
    installation: String,
    namespace: Arc<File>,
}

impl Agent {
    /// An agent without a configuration.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(super) fn open(node: String, address: Option<IpAddr>, run: PathBuf, host: Host) -> anyhow::Result<Arc<Self>> {
        fs_err::create_dir_all(run.join("pods"))?;
        Ok(Arc::new(Self {
            node,
            address,
            run,
            host,
            metrics: Arc::default(),
            devices: Arc::new(Devices::new(Found::default())),
            config: watch::Sender::new(AgentConfig::default()),
            configured: AtomicBool::new(false),
            changing: tokio::sync::Mutex::default(),
            laid: Mutex::default(),
            folders: Folders::default(),
        }))
    }

    /// Where the pods' folders are.
    pub(super) fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// A folder on the same file system that no pod sees.
    pub(super) fn staging(&self) -> &Path {
        &self.run
    }

    /// Goes on with the configuration that a predecessor had, if any.
    pub(super) async fn resume(self: Arc<Self>) {
        let Ok(text) = fs_err::read(self.run.join(LAST_CONFIG)) else { return };
        let resumed = match serde_json::from_slice(&text) {
            Ok(config) => self.go_over(config).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = resumed {
            tracing::warn!("waiting for the operator: the last configuration is of no use: {error:#}");
        }
    }

    /// Goes over to another configuration; it is laid when this returns.
    ///
    /// # Errors
    /// If it is none, or the system refuses. A LAN that cannot be laid is said in the report.
    pub(super) async fn configure(&self, config: AgentConfig) -> anyhow::Result<()> {
        self.go_over(config).await?;
        self.configured.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn go_over(&self, config: AgentConfig) -> anyhow::Result<()> {
        let _one = self.changing.lock().await;
        let goal = Goal::on_node(&config, &self.node)?;
        match self.laid() {
            Some(laid) if laid.installation != config.installation => anyhow::bail!(
                "this node belongs to installation {}; tear that down before {} can have it",
                laid.installation,
                config.installation
            ),
            Some(laid) => laid.lans.ask(|answer| Request::Reload(Box::new(goal), answer)).await??,
            None => {
                let laid = self.lay(goal, &config).await?;
                *self.laid.lock().unwrap_or_else(PoisonError::into_inner) = Some(laid);
            }
        }
        self.remember(&config)?;
        self.config.send_replace(config);
        Ok(())
    }

    fn remember(&self, config: &AgentConfig) -> anyhow::Result<()> {
        let (path, staged) = (self.run.join(LAST_CONFIG), self.run.join(format!("{LAST_CONFIG}.new")));
        fs_err::write(&staged, serde_json::to_vec(config)?)?;
        Ok(fs_err::rename(staged, path)?)
    }

    async fn lay(&self, goal: Goal, config: &AgentConfig) -> anyhow::Result<Laid> {
        let pin = Pin::new(&goal.wanted.installation, &self.node, self.host.clone());
        let (metrics, installation) = (self.metrics.clone(), config.installation.clone());
        // A thread of its own, which never comes back from the LANs' namespace; those that it starts are born there.
        let inside = move || -> anyhow::Result<Laid> {
            let host = HostNamespace::of_this_thread().context("cannot hold on to the host's namespace")?;
            let namespace = pin.hold().context("cannot make the namespace of the lans")?;
            pin::enter(&namespace).context("cannot enter the namespace of the lans")?;
            let mut links = KernelLinks::open(Some(host)).context("cannot talk to the kernel")?;
            links.loopback_up()?;
            let lans = Handle::start(links, goal, metrics)?;
            Ok(Laid { lans, pin, installation, namespace: Arc::new(namespace) })
        };
        let started = tokio::task::spawn_blocking(|| std::thread::spawn(inside).join());
        started.await?.unwrap_or_else(|_| Err(anyhow::anyhow!("the thread that lays the lans has crashed")))
    }

    fn laid(&self) -> Option<Laid> {
        self.laid.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The thread of the LANs, if there is one.
    pub(super) fn thread(&self) -> Option<Handle> {
        self.laid().map(|laid| laid.lans)
    }

    /// The namespace of the LANs.
    pub(super) fn namespace(&self) -> Option<Arc<File>> {
        self.laid().map(|laid| laid.namespace)
    }

    /// LANs that are laid, and those that could not be.
    pub(super) fn lans(&self) -> Vec<LanReport> {
        self.thread().map(|lans| lans.report().lans).unwrap_or_default()
    }

    /// Ports that are there.
    pub(super) fn ports(&self) -> Ports {
        self.thread().map(|lans| lans.ports()).unwrap_or_default()
    }

    /// What there is on this node.
    pub(super) fn report(&self) -> AgentReport {
        let found = self.devices.borrow().clone();
        AgentReport {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            configured: self.configured.load(Ordering::Relaxed),
            kvm: found.kvm,
            tun: found.tun,
            vhost_net: found.vhost_net,
            vhost_vsock: found.vhost_vsock,
            overlay_mtu: self.address.and_then(|address| stoke_net::kernel::overlay_mtu(address).ok().flatten()),
            lans: self.lans(),
            pods: self.folders.reports(&self.ports()),
        }
    }

    /// Removes all that is ours from this node; what could not be.
    pub(super) async fn teardown(&self) -> Vec<String> {
        let _one = self.changing.lock().await;
        let mut errors = Vec::new();
        if let Some(laid) = self.laid() {
            match laid.lans.ask(Request::Teardown).await {
                Ok(left) => errors.extend(left),
                Err(error) => errors.push(format!("{error:#}")),
            }
            errors.extend(laid.pin.remove().err().map(|error| format!("cannot forget the namespace: {error}")));
        }
        *self.laid.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.config.send_replace(AgentConfig::default());
        self.configured.store(false, Ordering::Relaxed);
        errors.extend(self.folders.remove_all(&self.pods()));
        let forgotten = std::fs::remove_file(self.run.join(LAST_CONFIG));
        errors.extend(
            forgotten.err().filter(|error| error.kind() != std::io::ErrorKind::NotFound).map(|e| e.to_string()),
        );
        errors
    }
}
