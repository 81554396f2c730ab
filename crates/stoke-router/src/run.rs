//! Starts the services of a LAN's router, and goes over to another configuration while they run.
//!
//! ```text
//!              UDP 67            queue                      frames, UDP
//!  clients ------------> dhcp ------------> journal thread ------------> clients
//!                          |  offers, refusals                             ^
//!                          +-----------------------------------------------+
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus_client::registry::Registry;
use stoke_api::objects::DhcpMode;
use stoke_api::report::Report;
use stoke_api::workload::RouterConfig;
use stoke_daemon::{Launch, Role};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::advert::Advertiser;
use crate::dhcp::{self, Committed, Outlet};
use crate::journal::{Commit, Journal, Writer};
use crate::metrics::Metrics;
use crate::proxy::Port;
use crate::state::{State, now_ms};
use crate::{config, dhcp6, dns};

/// Runs the role `router` until it is told to stop.
///
/// # Errors
/// If the configuration cannot be served: a port in use, no such interface, a journal that is none.
pub async fn run(launch: Launch) -> anyhow::Result<()> {
    stoke_daemon::run::<Router, _>(launch, Router::start).await
}

/// What the services share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) metrics: Metrics,
    /// Where replies go out; open as soon as DHCP is served.
    pub(crate) outlet: OnceLock<Outlet>,
    /// Tells the advertiser that the prefix may have changed.
    pub(crate) ipv6_changed: Notify,
}

impl Shared {
    /// The state. A panic of another holder leaves it whole: each change is one call.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The router of one LAN.
#[derive(Debug)]
pub struct Router {
    shared: Arc<Shared>,
    writer: Writer,
    registry: Registry,
    running: tokio::sync::Mutex<Running>,
    shutdown: CancellationToken,
}

/// Services that run, each with what ends it.
#[derive(Debug, Default)]
struct Running {
    dhcp: Option<CancellationToken>,
    boot: Option<CancellationToken>,
    dhcp6: Option<CancellationToken>,
    names: BTreeMap<IpAddr, CancellationToken>,
}

impl Router {
    async fn start(config: RouterConfig, shutdown: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let (journal, records) = Journal::open(&config.leases)?;
        let metrics = Metrics::default();
        let registry = metrics.registry();
        let interface = config.interface.clone();
        let state = Mutex::new(State::new(config, records)?);
        let shared = Arc::new(Shared { state, metrics, outlet: OnceLock::new(), ipv6_changed: Notify::new() });
        let writer = Writer::start(journal, Committed(shared.clone()))?;
        let running = tokio::sync::Mutex::default();
        let router = Arc::new(Self { shared, writer, registry, running, shutdown });
        router.serve().await?;
        match Advertiser::open(&interface) {
            Ok(advertiser) => drop(tokio::spawn(advertiser.serve(router.shared.clone(), router.shutdown.clone()))),
            // Without it iPXE waits some seconds and boots all the same.
            Err(error) => tracing::warn!(%interface, "router solicitations are not answered: {error:#}"),
        }
        Ok(router)
    }

    /// Starts services that the configuration wants and do not run, and ends those that it does not want.
    async fn serve(&self) -> anyhow::Result<()> {
        let (mode, interface, addresses) = {
            let state = self.shared.state();
            (state.config.dhcp, state.config.interface.clone(), config::own_addresses(&state.config))
        };
        let mut running = self.running.lock().await;
        running.names.retain(|address, stop| {
            let wanted = addresses.contains(address);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        for address in addresses {
            if let Entry::Vacant(entry) = running.names.entry(address) {
                let stop = self.shutdown.child_token();
                let sockets = dns::Sockets::bind(address)?;
                tokio::spawn(sockets.serve(self.shared.clone(), stop.clone()));
                entry.insert(stop);
            }
        }
        if let Some(stop) = running.dhcp.take_if(|_| mode == DhcpMode::Off) {
            stop.cancel();
        }
        if let Some(stop) = running.boot.take_if(|_| mode != DhcpMode::Proxy) {
            stop.cancel();
        }
        if running.dhcp.is_none() && mode != DhcpMode::Off {
            running.dhcp = Some(self.serve_dhcp(&interface, Port::Dhcp)?);
        }
        if running.boot.is_none() && mode == DhcpMode::Proxy {
            running.boot = Some(self.serve_dhcp(&interface, Port::Boot)?);
        }
        self.serve_dhcp6(&mut running, &interface)
    }

    /// DHCPv6, if the LAN has IPv6; and tells the advertiser.
    fn serve_dhcp6(&self, running: &mut Running, interface: &stoke_api::LinkName) -> anyhow::Result<()> {
        let wanted = {
            let mut state = self.shared.state();
            state.configure6(dhcp6::station(interface)?);
            state.config.ipv6.is_some()
        };
        if let Some(stop) = running.dhcp6.take_if(|_| !wanted) {
            stop.cancel();
        }
        if wanted && running.dhcp6.is_none() {
            let socket = tokio::net::UdpSocket::from_std(dhcp6::bind(interface)?)?;
            let stop = self.shutdown.child_token();
            tokio::spawn(dhcp6::serve(socket, self.shared.clone(), stop.clone()));
            running.dhcp6 = Some(stop);
        }
        self.shared.ipv6_changed.notify_one();
        Ok(())
    }

    fn serve_dhcp(&self, interface: &stoke_api::LinkName, port: Port) -> anyhow::Result<CancellationToken> {
        let socket = dhcp::bind(interface, port)?;
        let receiver = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
        // If DHCP was off for a while, replies go on by the first outlet: the interface is the same.
        if port == Port::Dhcp && self.shared.outlet.get().is_none() {
            let _ = self.shared.outlet.set(Outlet::open(interface, socket)?);
        }
        let stop = self.shutdown.child_token();
        tokio::spawn(dhcp::serve(receiver, port, self.shared.clone(), self.writer.clone(), stop.clone()));
        Ok(stop)
    }
}

impl Role for Router {
    type Config = RouterConfig;
    const NAME: &'static str = "router";

    fn report(&self) -> Report {
        Report::Router(self.shared.state().report(now_ms() / 1000))
    }

    fn ready(&self) -> bool {
        self.shared.state().failure.is_none()
    }

    async fn reload(&self, config: RouterConfig) -> anyhow::Result<()> {
        let records = self.shared.state().reconfigure(config, now_ms() / 1000)?;
        if !records.is_empty() && !self.writer.commit(Commit { records, reply: None }) {
            tracing::warn!("the journal is busy; leases that an object took away are written with the next change");
        }
        self.serve().await
    }

    fn metrics(&self) -> Option<&Registry> {
        Some(&self.registry)
    }
}
