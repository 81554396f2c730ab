//! `stoke serve operator`: several may run, one leads.
//!
//! ```text
//!   watches ---> caches ---+
//!   node agents' reports --+--> reconcile --> statuses, events ------------------> API server
//!   builds' reports -------+        |    +--> render, plan --> pods, claims, … --> API server
//!                                   +-------> node agents: LANs, ports; roles: their configurations
//!        ^                                                                          |
//!        +---------------- a change, an answer, or the next tick <------------------+
//! ```
//!
//! Level-triggered: each round ([`Leader::round`]) derives everything from what is there. When it does not lead any more, it
//! stops in the middle of what it does: whoever leads next goes on from what is there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::StatusCode;
use axum::routing::get;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::apply::FIELD_MANAGER;
use crate::certificates::Certificates;
use crate::claims::Claims;
use crate::leader::{Candidate, Leadership};
use crate::leading::Leader;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::store::KubeStore;
use crate::webhook;

/// The `ValidatingWebhookConfiguration`.
const WEBHOOK: &str = "stokehold";
/// Pause between two looks at certificates.
const RENEWAL: Duration = Duration::from_hours(24);
/// How long requests in flight may take when it ends.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after a leader could not begin.
const AGAIN: Duration = Duration::from_secs(5);

/// An operator: what it was told, and how it reaches the cluster.
pub struct Operator {
    /// What it was told.
    pub settings: Settings,
    /// The API server.
    pub client: Client,
    /// Its name among operators.
    pub identity: String,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Whether its caches are filled.
    pub ready: Arc<AtomicBool>,
    /// The objects.
    pub store: Arc<KubeStore>,
    /// Who has what only one may have.
    pub claims: Arc<Claims>,
    /// Notified when there is something new to look at.
    pub wake: Arc<Notify>,
}

/// Runs an operator until SIGTERM or SIGINT.
///
/// # Errors
/// If its configuration or the cluster's cannot be read.
pub async fn run(config: &Path) -> anyhow::Result<()> {
    let settings = Settings::read(config)?;
    // The process has one provider; another part of it may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = kube::Config::infer().await.context("cannot find the cluster's API server")?;
    // A round tries again by itself. The client would do so for minutes, also when a budget forbids an eviction (429).
    config.default_retry = false;
    let client = Client::try_from(config).context("cannot use the cluster's API server")?;
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let operator = Arc::new(Operator::new(settings, client));
    let page = tokio::spawn(operator.clone().serve_pages(operator.settings.listen, shutdown.clone()));
    let work = async {
        operator.prepare().await?;
        let webhook = tokio::spawn(operator.clone().serve_webhook(shutdown.clone()));
        operator.clone().stand(shutdown.clone()).await;
        shutdown.cancel();
        webhook.await?
    };
    tokio::select! {
        done = work => done?,
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
    }
    page.await?
}

impl Operator {
    /// One that does nothing yet. Its name is the pod's.
    pub fn new(settings: Settings, client: Client) -> Self {
        let identity = identity(std::env::var("POD_NAME").ok(), std::env::var("POD_UID").ok());
        let wake = Arc::<Notify>::default();
        let store = Arc::new(KubeStore::open(client.clone(), FIELD_MANAGER, wake.clone()));
        let claims = Arc::new(Claims::open(client.clone(), wake.clone()));
        Self { settings, client, identity, metrics: Arc::default(), ready: Arc::default(), store, claims, wake }
    }

    /// Makes the kinds known to the cluster, and waits until all objects were read. While the API server is out of reach it
    /// waits for that, too.
    ///
    /// # Errors
    /// If the cluster does not allow it.
    pub async fn prepare(&self) -> anyhow::Result<()> {
        crate::crd::install(&self.client, FIELD_MANAGER).await.context("cannot make our kinds known to the cluster")?;
        self.store.synced().await;
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Certificates of ours, made where there are none.
    async fn certificates(&self) -> anyhow::Result<Certificates> {
        let service = self.settings.webhook.as_ref().map_or("stokehold-webhook", |webhook| &webhook.service);
        Certificates::ensure(&self.client, &self.settings.namespace, service).await.context("cannot make certificates")
    }

    /// Serves the webhook that checks objects, on every replica, if it is wanted.
    async fn serve_webhook(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Some(settings) = self.settings.webhook.clone() else { return Ok(()) };
        let certificates = self.certificates().await?;
        let listener = tokio::net::TcpListener::bind(settings.listen).await;
        let listener = listener.with_context(|| format!("cannot bind {}", settings.listen))?;
        webhook::inject(&self.client, WEBHOOK, &certificates.ca_pem).await?;
        let (renewed, tls) = watch::channel(certificates.webhook);
        tokio::spawn(self.clone().renew(renewed));
        let pages = webhook::router(self.store.clone(), self.claims.clone());
        webhook::serve(listener, tls, pages, shutdown).await.context("the webhook failed")
    }

    /// Renews certificates long before they end.
    async fn renew(self: Arc<Self>, renewed: watch::Sender<Arc<rustls::ServerConfig>>) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            let certificates = match self.certificates().await {
                Ok(certificates) => certificates,
                Err(error) => {
                    tracing::warn!("{error:#}");
                    continue;
                }
            };
            if let Err(error) = webhook::inject(&self.client, WEBHOOK, &certificates.ca_pem).await {
                tracing::warn!("cannot tell the API server of the webhook's authority: {error}");
            }
            if renewed.send(certificates.webhook).is_err() {
                return;
            }
        }
    }

    /// Leads whenever it can, until `shutdown`.
    pub async fn stand(self: Arc<Self>, shutdown: CancellationToken) {
        let settings = &self.settings;
        let (namespace, lease) = (&settings.namespace, &settings.lease);
        let identity = self.identity.clone();
        let mut candidate = Candidate::new(self.client.clone(), namespace, lease, identity, settings.lease_seconds);
        loop {
            let mut leadership = tokio::select! {
                leadership = candidate.lead() => leadership,
                () = shutdown.cancelled() => return,
            };
            self.metrics.leads.set(1);
            let asked = Arc::<Uninstall>::default();
            let work = self.lead(asked.clone());
            let seen = {
                let asked = asked.clone();
                move |annotations: &std::collections::BTreeMap<String, String>| asked.look(annotations)
            };
            // In a task of its own: a long round must not keep the lease from being renewed.
            let stop = CancellationToken::new();
            let held = stop.clone();
            let mut holding = tokio::spawn(async move {
                tokio::select! {
                    lost = leadership.hold(seen) => (leadership, Some(lost)),
                    () = held.cancelled() => (leadership, None),
                }
            });
            let ended = tokio::select! {
                held = &mut holding => Ended::Lost(held),
                done = work => Ended::Done(done),
                () = shutdown.cancelled() => Ended::Stopped,
            };
            let (ended, leadership) = match ended {
                Ended::Lost(Ok((leadership, lost))) => (Ended::Lost(lost), leadership),
                Ended::Lost(Err(_)) => return,
                Ended::Done(done) => {
                    stop.cancel();
                    let Ok((leadership, _)) = holding.await else { return };
                    (Ended::Done(done), leadership)
                }
                Ended::Stopped => {
                    stop.cancel();
                    let Ok((leadership, _)) = holding.await else { return };
                    (Ended::Stopped, leadership)
                }
            };
            self.metrics.leads.set(0);
            candidate = match ended {
                Ended::Lost(lost) => {
                    let lost = lost.map(|lost| format!(": {:#}", anyhow::Error::new(lost))).unwrap_or_default();
                    tracing::warn!("leads no more{lost}");
                    leadership.stand_again()
                }
                Ended::Done(done) => {
                    if let Err(error) = done {
                        tracing::error!("cannot lead: {error:#}");
                        self.store.tell_forsaken(&format!("{error:#}")).await;
                    } else if let Err(error) = leadership.annotate(&asked.answer()).await {
                        tracing::error!("cannot say that all is removed: {error}");
                    } else {
                        tracing::info!("all is removed");
                        return stay(leadership, &asked, &shutdown).await;
                    }
                    let candidate = leadership.give_up().await;
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = shutdown.cancelled() => return,
                    }
                    candidate
                }
                Ended::Stopped => {
                    leadership.give_up().await;
                    return;
                }
            };
        }
    }

    /// Rounds without end, but for an uninstallation's.
    async fn lead(&self, uninstall: Arc<Uninstall>) -> anyhow::Result<()> {
        let certificates = self.certificates().await?;
        let mut leader = Leader::begin(self, certificates.agents).await?;
        leader.rounds(&uninstall).await
    }

    /// Serves `/live`, `/ready` and `/metrics`.
    async fn serve_pages(self: Arc<Self>, address: SocketAddr, shutdown: CancellationToken) -> anyhow::Result<()> {
        let listener =
            tokio::net::TcpListener::bind(address).await.with_context(|| format!("cannot bind {address}"))?;
        let (ready, metrics) = (self.ready.clone(), self.metrics.clone());
        let is_ready = move || async move {
            if ready.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
        };
        let pages = axum::Router::new()
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(is_ready))
            .route("/metrics", get(|| async move { metrics.text() }));
        axum::serve(listener, pages).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
        Ok(())
    }
}

/// Keeps the lease after an uninstallation until the process is ended: whoever led now would set it all up again. Who asks
/// again is answered again.
async fn stay(mut leadership: Leadership, done: &Uninstall, shutdown: &CancellationToken) {
    let again = Notify::new();
    loop {
        let asked = Uninstall::default();
        let seen = |annotations: &std::collections::BTreeMap<String, String>| {
            asked.look(annotations);
            if asked.is_asked() {
                again.notify_one();
            }
        };
        tokio::select! {
            lost = leadership.hold(seen) => {
                tracing::warn!("the lease is not held any more: {:#}", anyhow::Error::new(lost));
                return shutdown.cancelled().await;
            }
            () = again.notified() => {}
            () = shutdown.cancelled() => return drop(leadership.give_up().await),
        }
        if let Err(error) = leadership.annotate(&done.answer()).await {
            tracing::error!("cannot say that all is removed: {error}");
        }
    }
}

/// Its name among operators. A container that was started anew in its pod is the one before it, whose lease is its own: it
/// does not wait for that to end. The kubelet starts it when the one before has ended.
fn identity(pod: Option<String>, uid: Option<String>) -> String {
    let host = || fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let name = pod.unwrap_or_else(host);
    // Two processes of one host, too, are two operators.
    let uid = uid.filter(|uid| !uid.is_empty()).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    format!("{name}_{uid}")
}

enum Ended<L> {
    Lost(L),
    Done(anyhow::Result<()>),
    Stopped,
}

/// What people ask for by an annotation of the lease: the end of everything.
#[derive(Default)]
pub struct Uninstall {
    asked: AtomicBool,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Uninstall {
    /// The annotation: `requested`, then `done`.
    pub const ANNOTATION: &str = "stokehold.dev/uninstall";
    /// The annotation that says what is left.
    pub const FAILURES: &str = "stokehold.dev/uninstall-failures";

    fn look(&self, annotations: &std::collections::BTreeMap<String, String>) {
        let asked = annotations.get(Self::ANNOTATION).is_some_and(|word| word == "requested");
        self.asked.store(asked, Ordering::Relaxed);
    }

    /// Whether it is asked for.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Says what could not be removed.
    pub fn failed(&self, lines: Vec<String>) {
        self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(lines);
    }

    fn answer(&self) -> std::collections::BTreeMap<String, String> {
        let failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut answer = std::collections::BTreeMap::from([(Self::ANNOTATION.to_owned(), "done".to_owned())]);
        if !failures.is_empty() {
            answer.insert(Self::FAILURES.to_owned(), failures.join("\n"));
        }
        answer
    }
}

fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
