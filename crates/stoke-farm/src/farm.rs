//! What all services of a farm share: its configuration as it is now, sessions, counters, and what is wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::Context as _;
use stoke_api::{Digest, MacAddr, ObjectRef};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::chunks::Tables;
use crate::clock::now_ms;
use crate::config::Serving;
use crate::gate::Gate;
use crate::journal::{Entry, Journal};
use crate::kept::{self, Keys};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::plan::Service;
use crate::roots::Images;
use crate::sessions::{Node, NodeKey, SessionOver, Sessions};
use crate::trace::Trace;
use crate::trust::Trust;

/// Why something was not recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// There is nobody to record it of.
    #[error(transparent)]
    Over(#[from] SessionOver),
    /// The disk refuses.
    #[error("{0:#}")]
    Journal(anyhow::Error),
}

/// What all services share.
#[derive(Debug)]
pub(crate) struct Farm {
    serving: RwLock<Arc<Serving>>,
    sessions: Mutex<Sessions>,
    journal: Journal,
    peers: Mutex<Peers>,
    pub(crate) gate: Gate,
    /// Nodes of which another boot has begun.
    begun: mpsc::UnboundedSender<NodeKey>,
    changes: watch::Sender<()>,
    pub(crate) metrics: Metrics,
    pub(crate) images: Images,
    pub(crate) trace: Trace,
    pub(crate) tables: Tables,
    pub(crate) keys: Keys,
    pub(crate) trust: Trust,
    /// What keeps a service from being served.
    failures: Mutex<BTreeMap<Service, String>>,
}

impl Farm {
    /// A farm that nobody serves yet, going on from what was written down.
    pub(crate) fn new(serving: Serving) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<NodeKey>)> {
        let state = &serving.config.state;
        let opened = Journal::open(state).with_context(|| format!("cannot use the state folder {}", state.display()));
        let (journal, nodes) = opened?;
        let (begun, boots) = mpsc::unbounded_channel();
        let farm = Self {
            sessions: Mutex::new(Sessions::restore(nodes, now_ms())),
            journal,
            peers: Mutex::default(),
            gate: Gate::default(),
            begun,
            changes: watch::Sender::new(()),
            metrics: Metrics::new(),
            images: Images::new(state),
            trace: Trace::default(),
            tables: Tables::new(state),
            keys: Keys::new(),
            trust: Trust::default(),
            failures: Mutex::default(),
            serving: RwLock::new(Arc::new(serving)),
        };
        Ok((farm, boots))
    }

    /// The configuration as it is now.
    pub(crate) fn serving(&self) -> Arc<Serving> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells when the configuration has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(crate) fn with_sessions<T>(&self, ask: impl FnOnce(&mut Sessions) -> T) -> T {
        ask(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes a session; when this returns, the change is on disk. Changes are written in the order in which they are made:
    /// the place in the queue is taken while nobody else can change anything.
    pub(crate) async fn record(
        &self,
        change: impl FnOnce(&mut Sessions) -> Result<Node, SessionOver>,
    ) -> Result<Node, RecordError> {
        let place = self.journal.place().await.map_err(RecordError::Journal)?;
        let (node, written) = self.with_sessions(|sessions| {
            let node = change(sessions)?;
            let forgotten = sessions.take_forgotten().into_iter().map(Entry::Forget);
            let entries = std::iter::once(Entry::Save(Box::new(node.clone()))).chain(forgotten).collect();
            Ok::<_, SessionOver>((node, place.put(entries)))
        })?;
        written.done().await.map_err(RecordError::Journal)?;
        Ok(node)
    }

    pub(crate) fn with_peers<T>(&self, ask: impl FnOnce(&mut Peers) -> T) -> T {
        ask(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of a machine that fetches its boot script, or the kernel, of a version.
    pub(crate) fn loading(&self, owner: Option<ObjectRef>, mac: MacAddr, image: Option<Digest>) {
        let key = NodeKey::new(owner.clone(), mac);
        if self.with_sessions(|sessions| sessions.loading(owner, mac, image, now_ms())) {
            // Nobody listens if the farm is about to end.
            let _ = self.begun.send(key);
        }
    }

    /// Writes down that boots have begun, of which nothing may be heard any more, for as long as the farm is there.
    pub(crate) async fn write_boots_down(self: Arc<Self>, mut begun: mpsc::UnboundedReceiver<NodeKey>) {
        while let Some(key) = begun.recv().await {
            let node = |sessions: &mut Sessions| sessions.of_key(&key).cloned().ok_or(SessionOver);
            if let Err(RecordError::Journal(error)) = self.record(node).await {
                tracing::error!("cannot write down that a node boots: {error:#}");
            }
        }
    }

    /// What keeps services from being served; by service.
    pub(crate) fn failures(&self) -> MutexGuard<'_, BTreeMap<Service, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same in one sentence, with what is wrong in the configuration.
    pub(crate) fn failure(&self) -> Option<String> {
        let mut all: Vec<String> = self.failures().values().cloned().collect();
        all.extend(self.serving().problems.iter().cloned());
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Goes over to another configuration. Sessions follow their machines to the objects that name them now.
    pub(crate) async fn go_over(&self, serving: Serving) -> anyhow::Result<()> {
        let serving = Arc::new(serving);
        kept::forget_others(&serving);
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = serving.clone();
        let place = self.journal.place().await?;
        let owner = |mac| serving.identify(mac, &[], None).and_then(|identity| identity.owner());
        let written = self.with_sessions(|sessions| {
            let gone = sessions.reassign(owner, |owner| serving.node(owner).is_some());
            let gone = gone.into_iter().map(Entry::Forget);
            let kept = sessions.nodes().filter(|node| !node.session.is_empty());
            place.put(kept.map(|node| Entry::Save(Box::new(node.clone()))).chain(gone).collect())
        });
        written.done().await?;
        self.changes.send_replace(());
        Ok(())
    }

    /// Takes note of a socket that is open.
    pub(crate) fn opened(&self, service: Service, address: SocketAddr, stop: &CancellationToken) {
        if !stop.is_cancelled() {
            self.failures().remove(&service);
            tracing::info!(%address, "serving {service}");
        }
    }
}
