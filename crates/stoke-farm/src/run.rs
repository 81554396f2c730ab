//! The role: sockets, reloads, the report.
//!
//! Each service has a task of its own that binds its socket and serves until it is closed. A socket that cannot be bound (the
//! LAN is laid a moment later, another program has the port) is tried again and again, and the report says so meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use stoke_api::objects::TftpMode;
use stoke_api::report::{FarmReport, Report};
use stoke_api::workload::FarmConfig;
use stoke_daemon::{Launch, Role};
use stoke_tftp::Limits;
use stoke_tftp::server::{Ports, Settings};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::config::Serving;
use crate::connections::{self, Tls};
use crate::conversation::Site;
use crate::farm::Farm;
use crate::plan::{self, Endpoints, Service, Step};
use crate::roots::Roots;
use crate::sessions::Sessions;
use crate::{http, node_api, trust};

/// Pause between two attempts to bind a socket.
const BIND_AGAIN: Duration = Duration::from_millis(300);

/// Runs the role until it is told to stop.
///
/// # Errors
/// If the configuration cannot be read, its certificate or key cannot be used, or its state folder cannot be read.
pub async fn run(launch: Launch) -> anyhow::Result<()> {
    open_more_files();
    stoke_daemon::run::<Running, _>(launch, Running::start).await
}

/// Each connection is a descriptor, and a farm has thousands of them: as many as may be had, not as a shell is given.
fn open_more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "not more than {:?} connections at once", limit.current);
    }
}

struct Running {
    farm: Arc<Farm>,
    open: Mutex<BTreeMap<Service, (SocketAddr, CancellationToken)>>,
    shutdown: CancellationToken,
}

impl Role for Running {
    type Config = FarmConfig;
    const NAME: &'static str = "farm";

    fn report(&self) -> Report {
        let failure = self.farm.failure();
        let nodes = self.farm.with_sessions(|sessions| sessions.reports(now_ms()));
        let giving = |sessions: &mut Sessions| sessions.nodes().filter(|node| node.gives_any(now_ms())).count();
        let peers = u32::try_from(self.farm.with_sessions(giving)).unwrap_or(u32::MAX);
        let storm = self.farm.storm(peers);
        Report::Farm(FarmReport {
            ready: failure.is_none(),
            failure,
            nodes,
            storm,
            secrets: self.farm.trust.secrets_id(),
        })
    }

    fn ready(&self) -> bool {
        self.farm.failure().is_none()
    }

    async fn reload(&self, config: FarmConfig) -> anyhow::Result<()> {
        let serving = tokio::task::spawn_blocking(move || Serving::load(config)).await??;
        let state = self.farm.serving().config.state.clone();
        anyhow::ensure!(
            serving.config.state == state,
            "the state folder cannot change while the farm runs ({} to {}); start it anew",
            state.display(),
            serving.config.state.display()
        );
        self.farm.go_over(serving).await?;
        self.apply();
        Ok(())
    }

    fn metrics(&self) -> Option<&Registry> {
        Some(&self.farm.metrics.registry)
    }

    fn routes(self: Arc<Self>) -> axum::Router {
        self.farm.trace.ring.clone().routes().merge(trust::admin(self.farm.clone()))
    }
}

impl Running {
    async fn start(config: FarmConfig, shutdown: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let serving = tokio::task::spawn_blocking(move || Serving::load(config)).await??;
        let (farm, begun) = Farm::new(serving)?;
        let farm = Arc::new(farm);
        tokio::spawn(farm.clone().write_boots_down(begun));
        let running = Arc::new(Self { farm, open: Mutex::default(), shutdown });
        running.apply();
        Ok(running)
    }

    /// Opens and closes sockets as the configuration wants.
    fn apply(&self) {
        let desired = plan::endpoints(&self.farm.serving().config);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let observed: Endpoints = open.iter().map(|(service, (address, _))| (*service, *address)).collect();
        for step in plan::plan(&desired, &observed) {
            tracing::info!("{step}");
            match step {
                Step::Close { service, .. } => {
                    if let Some((_, stop)) = open.remove(&service) {
                        stop.cancel();
                    }
                    self.farm.failures().remove(&service);
                }
                Step::Open { service, address } => {
                    let stop = self.shutdown.child_token();
                    open.insert(service, (address, stop.clone()));
                    // Until the socket is there, the farm is not ready.
                    self.farm.failures().insert(service, format!("{address} is not open yet for {service}"));
                    tokio::spawn(serve(self.farm.clone(), service, address, stop));
                }
            }
        }
    }
}

/// Serves until the token is cancelled, whatever happens to the socket.
async fn serve(farm: Arc<Farm>, service: Service, address: SocketAddr, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = serve_once(&farm, service, address, &stop).await {
            let text = explain(service, address, &error);
            let mut failures = farm.failures();
            // A service that was moved meanwhile is no longer ours to speak of.
            if !stop.is_cancelled() && failures.insert(service, text.clone()).as_ref() != Some(&text) {
                tracing::error!("{text}");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(BIND_AGAIN) => {}
        }
    }
}

async fn serve_once(farm: &Arc<Farm>, service: Service, at: SocketAddr, stop: &CancellationToken) -> io::Result<()> {
    if service.is_tftp() {
        let socket = UdpSocket::bind(at).await?;
        farm.opened(service, at, stop);
        let counters = farm.metrics.tftp.clone();
        let settings = tftp_settings(&farm.serving().config);
        return stoke_tftp::server::serve(socket, farm.clone(), settings, counters, stop.clone()).await;
    }
    let listener = TcpListener::bind(at).await?;
    farm.opened(service, at, stop);
    match service {
        Service::Nbd => {
            let exports = Arc::new(Roots(farm.clone()));
            let server = stoke_nbd::server::Server::new(exports, farm.metrics.nbd.clone());
            let watching = farm.clone();
            let watcher: stoke_nbd::server::Watcher = Arc::new(move |attachment| watching.nbd(&attachment));
            let farm = farm.clone();
            let tls: stoke_nbd::server::TlsSource = Arc::new(move || Some(farm.serving().nbd_tls.clone()));
            server.with_tls(tls).with_watcher(watcher).serve(listener, stop.clone()).await;
        }
        Service::NodeApi => {
            let farm = farm.clone();
            let routes = node_api::router(farm.clone()).merge(http::programs(farm.clone()));
            let routes = routes.merge(trust::router(farm.clone()));
            let site = Arc::new(Site { farm: farm.clone(), routes });
            let tls: Tls = Arc::new(move || farm.serving().tls.clone());
            connections::serve(listener, site, Some(tls), stop.clone()).await;
        }
        Service::Http | Service::Http6 | Service::Tftp | Service::Tftp6 => {
            let site = Arc::new(Site { farm: farm.clone(), routes: http::router(farm.clone()) });
            connections::serve(listener, site, None, stop.clone()).await;
        }
    }
    Ok(())
}

fn tftp_settings(config: &FarmConfig) -> Settings {
    let ports = match config.tftp {
        TftpMode::SinglePort => Ports::Single,
        TftpMode::Classic => Ports::Classic,
    };
    Settings { limits: Limits::for_mtu(config.mtu), ports }
}

/// What is wrong, and the next step.
fn explain(service: Service, address: SocketAddr, error: &io::Error) -> String {
    let (protocol, port) = (if service.is_tftp() { "u" } else { "t" }, address.port());
    let hint = match error.kind() {
        // Only those of this process' network namespace count, which is seldom the one of who reads this.
        io::ErrorKind::AddrInUse => {
            let look = format!("`ss -l{protocol}np sport = :{port}`");
            let here = format!("in the network namespace of process {}", std::process::id());
            return format!(
                "cannot listen on {address} for {service}: another program has the port; {look} {here} shows which"
            );
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address; is the LAN laid?".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need the right to bind them".to_owned(),
        _ => "it is tried again".to_owned(),
    };
    format!("cannot listen on {address} for {service}: {error}; {hint}")
}
