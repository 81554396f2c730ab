//! Starts the services of a LAN's router, and goes over to another configuration while they run.
//!
//! ```text
//!           UDP 67, 4011      newest first           records               frames, UDP
//!  clients ----> dhcp ----> intake ----> answering ----> journal's thread ----> clients
//!                                            |  offers, refusals                  ^
//!                                            +------------------------------------+
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use prometheus_client::registry::Registry;
use stoke_api::objects::DhcpMode;
use stoke_api::report::Report;
use stoke_api::workload::{Forward, RouterConfig};
use stoke_api::{LinkName, MacAddr};
use stoke_daemon::trace::Traces;
use stoke_daemon::{Launch, Role};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::advert::Advertiser;
use crate::dhcp::{Committed, Listener, Outlet};
use crate::intake::Intake;
use crate::journal::{Commit, Journal, Writer};
use crate::metrics::Metrics;
use crate::proxy::Port;
use crate::state::{State, now_ms};
use crate::watch::{Prober, Watch};
use crate::{answering, config, dhcp6, dns, forward};

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
    /// What happened to machines that boot.
    pub(crate) traces: Arc<Traces>,
    /// DHCP requests that wait for an answer.
    pub(crate) intake: Intake,
    /// Where replies go out; open while DHCP is served.
    outlet: RwLock<Option<Arc<Outlet>>>,
    /// What asks who has an address; absent if the interface does not let us.
    prober: Option<Arc<Prober>>,
    /// Tells the advertiser that the prefix may have changed.
    pub(crate) ipv6_changed: Notify,
}

impl Shared {
    /// The state. A panic of another holder leaves it whole: each change is one call.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where replies go out, while DHCP is served.
    pub(crate) fn outlet(&self) -> Option<Arc<Outlet>> {
        self.outlet.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it.
    pub(crate) fn set_outlet(&self, outlet: Option<Outlet>) {
        *self.outlet.write().unwrap_or_else(PoisonError::into_inner) = outlet.map(Arc::new);
    }

    /// Whether the station is the interface itself.
    pub(crate) fn is_own(&self, mac: MacAddr) -> bool {
        self.prober.as_ref().is_some_and(|prober| prober.station() == mac)
    }

    /// Asks whether somebody uses an address that was offered.
    pub(crate) fn prove(&self, address: Ipv4Addr) {
        if let Some(prober) = &self.prober {
            prober.offered(address, now_ms() / 1000);
        }
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
    dhcp: BTreeMap<Port, Listener>,
    dhcp6: Option<CancellationToken>,
    names: BTreeMap<IpAddr, CancellationToken>,
    forwards: BTreeMap<u16, (Forward, CancellationToken)>,
}

impl Router {
    async fn start(config: RouterConfig, shutdown: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let (journal, records) = Journal::open(&config.leases, config.seed.as_deref())?;
        let metrics = Metrics::default();
        let registry = metrics.registry();
        let interface = config.interface.clone();
        let state = Mutex::new(State::new(config, records)?);
        let (watch, prober) = match Watch::open(&interface) {
            Ok((watch, prober)) => (Some(watch), Some(prober)),
            Err(error) => {
                tracing::warn!(%interface, "the LAN is not watched for conflicts: {error}");
                (None, None)
            }
        };
        let shared = Arc::new(Shared {
            state,
            metrics,
            traces: Arc::default(),
            intake: Intake::default(),
            outlet: RwLock::default(),
            prober,
            ipv6_changed: Notify::new(),
        });
        let writer = Writer::start(journal, Committed(shared.clone()))?;
        start_threads(watch, &shared, &writer, &shutdown)?;
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
        self.serve_dhcp(&mut running, &interface, mode).await?;
        self.serve_forwards(&mut running).await?;
        self.serve_dhcp6(&mut running, &interface)
    }

    /// Ports of machines. Connections go on whose port nobody wants any more.
    async fn serve_forwards(&self, running: &mut Running) -> anyhow::Result<()> {
        let wanted = self.shared.state().config.forwards.clone();
        running.forwards.retain(|_, (forward, stop)| {
            let stays = wanted.contains(forward);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for forward in wanted {
            if let Entry::Vacant(entry) = running.forwards.entry(forward.listen) {
                let stop = self.shutdown.child_token();
                let listener = forward::bind(forward.listen).await?;
                tokio::spawn(forward::serve(listener, forward.clone(), self.shared.clone(), stop.clone()));
                entry.insert((forward, stop));
            }
        }
        Ok(())
    }

    /// DHCPv6, if the LAN has IPv6; and tells the advertiser.
    fn serve_dhcp6(&self, running: &mut Running, interface: &LinkName) -> anyhow::Result<()> {
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

    /// The DHCP ports that the mode has.
    async fn serve_dhcp(&self, running: &mut Running, interface: &LinkName, mode: DhcpMode) -> anyhow::Result<()> {
        let wanted: &[Port] = match mode {
            DhcpMode::Off => &[],
            DhcpMode::Proxy => &[Port::Dhcp, Port::Boot],
            DhcpMode::Authoritative | DhcpMode::Reservations | DhcpMode::Relayed => &[Port::Dhcp],
        };
        if wanted.is_empty() {
            self.shared.set_outlet(None);
        }
        for port in [Port::Dhcp, Port::Boot].into_iter().filter(|port| !wanted.contains(port)) {
            if let Some(listener) = running.dhcp.remove(&port) {
                listener.end().await;
            }
        }
        for port in wanted {
            if let Entry::Vacant(entry) = running.dhcp.entry(*port) {
                entry.insert(Listener::start(interface, *port, &self.shared, self.shutdown.child_token())?);
            }
        }
        Ok(())
    }
}

/// The thread that answers DHCP, and the one that watches the LAN.
fn start_threads(
    watch: Option<Watch>,
    shared: &Arc<Shared>,
    writer: &Writer,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let (answers, written, stop) = (shared.clone(), writer.clone(), shutdown.clone());
    let answer = move || answering::run(&answers, &written, &stop);
    std::thread::Builder::new().name("dhcp".to_owned()).spawn(answer)?;
    if let Some(watch) = watch {
        let (shared, writer, stop) = (shared.clone(), writer.clone(), shutdown.clone());
        let run = move || watch.run(&shared, &writer, &stop);
        std::thread::Builder::new().name("watch".to_owned()).spawn(run)?;
    }
    Ok(())
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
        let report = self.shared.state().report(now_ms() / 1000);
        self.shared.metrics.observe(&report);
        Some(&self.registry)
    }

    fn routes(self: Arc<Self>) -> axum::Router {
        self.shared.traces.clone().routes()
    }
}
