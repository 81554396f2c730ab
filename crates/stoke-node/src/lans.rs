//! The one thread that owns the namespace's network; all others send it requests.
//!
//! ```text
//!            reload, teardown, port wanted
//!   Handle ------------------------------->  +------+   plan, apply    +--------+
//!            kernel reports a change         | lans | ---------------> | kernel |
//!   monitor ------------------------------>  +------+                  +--------+
//!            30 s without either                |
//!   clock ------------------------------------->|  each ends in: observe, plan, apply, report
//! ```

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context as _;
use stoke_api::report::{LanReport, NodeAgentReport};
use stoke_net::interface::{self, Ensured, Interface, InterfaceError};
use stoke_net::kernel::KernelLinks;
use stoke_net::netlink::Monitor;
use stoke_net::ports::{self, PortReply, PortRequest};
use stoke_net::{LanKey, Links as _};
use tokio::sync::oneshot;

use crate::apply::{Laid, Ports, lay};
use crate::config::Goal;
use crate::metrics::Metrics;
use crate::{egress, plan, teardown};

/// How often is looked without a reason: the packet filter reports nothing.
const INTERVAL: Duration = Duration::from_secs(30);
/// Changes come in bursts; this long after one, those behind it are there too.
const BURST: Duration = Duration::from_millis(20);
/// How long the monitor waits before it looks whether anybody still listens.
const MONITOR_WAIT: Duration = Duration::from_secs(1);

/// A request to the thread.
pub(crate) enum Request {
    /// Go over to another configuration.
    Reload(Box<Goal>, oneshot::Sender<anyhow::Result<()>>),
    /// Make a port.
    Port(PortRequest, oneshot::Sender<anyhow::Result<(OwnedFd, PortReply)>>),
    /// See to it that a pod has its interfaces.
    Interfaces(Vec<Interface>, OwnedFd, oneshot::Sender<anyhow::Result<Vec<Ensured>>>),
    /// What would this configuration change?
    Plan(Box<Goal>, oneshot::Sender<anyhow::Result<Vec<String>>>),
    /// Remove all that is ours; answers with what could not be.
    Teardown(oneshot::Sender<Vec<String>>),
    /// Something changed.
    Look,
}

/// The way to the thread, and what it reports.
#[derive(Clone)]
pub(crate) struct Handle {
    requests: Sender<Request>,
    report: Arc<Mutex<NodeAgentReport>>,
    ports: Arc<Mutex<Ports>>,
}

impl Handle {
    /// Starts the thread, and one that listens to the kernel. The LANs are laid when this returns.
    ///
    /// # Errors
    /// If the configuration is none, or the system refuses.
    pub(crate) fn start(links: KernelLinks, goal: Goal, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        // Before the first look: what changes after it is heard.
        let monitor = Monitor::open().context("cannot listen to the kernel's changes")?;
        let (requests, inbox) = channel();
        let report = Arc::new(Mutex::new(NodeAgentReport::default()));
        let ports = Arc::new(Mutex::new(Ports::new()));
        let mut lans = Lans { links, goal, metrics, report: report.clone(), ports: ports.clone() };
        lans.look();
        let wanted = Arc::downgrade(&report);
        std::thread::Builder::new().name("lans".to_owned()).spawn(move || lans.serve(&inbox))?;
        let looks = requests.clone();
        std::thread::Builder::new().name("monitor".to_owned()).spawn(move || listen(&monitor, &looks, &wanted))?;
        Ok(Self { requests, report, ports })
    }

    /// Sends a request that is answered.
    ///
    /// # Errors
    /// If the thread is gone.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> anyhow::Result<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).ok().context("the thread of the lans has ended")?;
        answered.await.context("the thread of the lans has ended")
    }

    /// The ports that were there last.
    pub(crate) fn ports(&self) -> Ports {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was observed last.
    pub(crate) fn report(&self) -> NodeAgentReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Listens as long as there is more than one who shares the report: the thread of the LANs, and somebody with a handle.
fn listen(monitor: &Monitor, looks: &Sender<Request>, wanted: &Weak<Mutex<NodeAgentReport>>) {
    loop {
        match monitor.wait(MONITOR_WAIT) {
            _ if wanted.strong_count() < 2 => return,
            Ok(false) => {}
            Ok(true) if looks.send(Request::Look).is_ok() => {}
            Ok(true) => return,
            Err(error) => {
                tracing::error!("cannot hear the kernel's changes any more, looking every 30 s: {error}");
                return;
            }
        }
    }
}

struct Lans {
    links: KernelLinks,
    goal: Goal,
    metrics: Arc<Metrics>,
    report: Arc<Mutex<NodeAgentReport>>,
    ports: Arc<Mutex<Ports>>,
}

impl Lans {
    fn serve(mut self, inbox: &Receiver<Request>) {
        loop {
            match inbox.recv_timeout(INTERVAL) {
                Ok(Request::Look) => self.look_at_burst(inbox),
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks once for all changes of a burst, then answers what ended it.
    fn look_at_burst(&mut self, inbox: &Receiver<Request>) {
        let other = loop {
            match inbox.recv_timeout(BURST) {
                Ok(Request::Look) => {}
                other => break other.ok(),
            }
        };
        self.look();
        if let Some(request) = other {
            self.answer(request);
        }
    }

    fn answer(&mut self, request: Request) {
        // Who asked may be gone: the answer then interests nobody.
        match request {
            Request::Look => self.look(),
            Request::Reload(goal, answer) => {
                self.goal = *goal;
                self.look();
                drop(answer.send(Ok(())));
            }
            Request::Plan(goal, answer) => drop(answer.send(self.plan(&goal))),
            Request::Interfaces(interfaces, pod, answer) => drop(answer.send(self.interfaces(&interfaces, &pod))),
            Request::Port(request, answer) => drop(answer.send(self.port(&request))),
            Request::Teardown(answer) => {
                let errors = teardown::remove_all(&mut self.links, &self.goal.wanted.installation);
                self.goal.wanted.lans.clear();
                self.goal.plans.clear();
                self.goal.egress = false;
                self.look();
                drop(answer.send(errors));
            }
        }
    }

    fn plan(&mut self, Goal { wanted, .. }: &Goal) -> anyhow::Result<Vec<String>> {
        Ok(plan::lines(wanted, &self.links.observe(&wanted.installation)?))
    }

    fn interfaces(&mut self, interfaces: &[Interface], pod: &OwnedFd) -> anyhow::Result<Vec<Ensured>> {
        let installation = self.goal.wanted.installation.clone();
        let mut ensure = |interface: &Interface| {
            let ensured = interface::ensure(&mut self.links, &installation, interface, pod.as_fd())?;
            for step in &ensured.steps {
                tracing::info!(%step, pod = ?interface.label.role, "applied in a pod");
            }
            Ok::<_, InterfaceError>(ensured)
        };
        let ensured: Result<Vec<_>, _> = interfaces.iter().map(&mut ensure).collect();
        // The next look finds ports of LANs that are not attached.
        self.look();
        Ok(ensured?)
    }

    fn port(&mut self, request: &PortRequest) -> anyhow::Result<(OwnedFd, PortReply)> {
        let key = LanKey::of(&request.lan);
        let lan = self.goal.wanted.lans.iter().find(|lan| lan.key == key);
        let mtu = lan.with_context(|| format!("there is no lan {key} on this host"))?.mtu;
        let (device, link) = ports::create(&mut self.links, &self.goal.wanted.installation, request)?;
        // The next look finds a port of the LAN that is not attached.
        self.look();
        if let Some(failure) = self.failure_of(&request.lan) {
            anyhow::bail!("lan {key} is not laid: {failure}");
        }
        tracing::info!(%link, lan = %key, label = request.label, "port handed out");
        Ok((device, PortReply { link, mtu }))
    }

    fn failure_of(&self, lan: &stoke_api::meta::ObjectRef) -> Option<String> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.lans.iter().find(|report| report.lan == *lan)?.failure.clone()
    }

    /// Observes, plans, applies, reports.
    fn look(&mut self) {
        let laid = lay(&mut self.links, &self.goal.wanted);
        let laid = laid.unwrap_or_else(|error| self.unreadable(&format!("{:#}", anyhow::Error::new(error))));
        self.metrics.steps.inc_by(laid.steps);
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&laid.ports);
        let report = self.describe(&laid);
        let failed = report.lans.iter().filter(|lan| lan.failure.is_some()).count();
        self.metrics.lans_failed.set(i64::try_from(failed).unwrap_or(i64::MAX));
        self.metrics.lans_laid.set(i64::try_from(report.lans.len() - failed).unwrap_or(i64::MAX));
        let mut shown = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        log_changes(&shown, &report);
        *shown = report;
    }

    fn unreadable(&self, reason: &str) -> Laid {
        let failures = self.goal.wanted.lans.iter().map(|lan| (lan.key.clone(), reason.to_owned())).collect();
        Laid { failures, ..Laid::default() }
    }

    fn describe(&mut self, laid: &Laid) -> NodeAgentReport {
        let filter = laid.filter_failure.as_ref().map(|reason| format!("lans are not kept apart: {reason}"));
        let lan = |plan: &stoke_api::workload::LanPlan| {
            let failure = laid.failures.get(&LanKey::of(&plan.lan)).or(filter.as_ref()).cloned();
            LanReport { lan: plan.lan.clone(), bridge: plan.bridge.clone(), failure }
        };
        let lans = self.goal.plans.iter().map(lan).collect();
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let upstreams = if self.goal.egress { egress::upstreams(&resolv_conf) } else { Vec::new() };
        NodeAgentReport { lans, upstreams, egress_failure: self.egress_failure() }
    }

    fn egress_failure(&mut self) -> Option<String> {
        if !self.goal.egress {
            return None;
        }
        match self.links.leads_out(&self.goal.wanted.way_out) {
            Ok(leads_out) => egress::failure(leads_out),
            Err(error) => Some(format!("{:#}", anyhow::Error::new(error))),
        }
    }
}

/// Says what an operator wants to see: what became wrong or right.
fn log_changes(before: &NodeAgentReport, after: &NodeAgentReport) {
    for report in &after.lans {
        let earlier = before.lans.iter().find(|earlier| earlier.lan == report.lan);
        match &report.failure {
            _ if earlier.is_some_and(|earlier| earlier.failure == report.failure) => {}
            Some(failure) => tracing::error!(lan = %report.lan, "{failure}"),
            None => tracing::info!(lan = %report.lan, bridge = %report.bridge, "laid"),
        }
    }
    match &after.egress_failure {
        Some(failure) if before.egress_failure != after.egress_failure => tracing::warn!("{failure}"),
        None if before.egress_failure.is_some() => tracing::info!("the way out is there"),
        _ => {}
    }
}
