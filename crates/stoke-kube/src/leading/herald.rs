//! Tells people what happens: events, written by a task of its own, so that no round waits for them.

use std::sync::Arc;

use stoke_host::store::Store as _;
use stoke_reconcile::Occurrence;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::store::KubeStore;

/// Events that wait at most. Who is so far behind tells no more: statuses say what is.
const WAITING: usize = 16 << 10;
/// Events that are written together.
const TOGETHER: usize = 256;

/// Where events are left. They are written until it is dropped.
pub(super) struct Herald {
    queue: mpsc::Sender<Occurrence>,
    _task: JoinSet<()>,
}

impl Herald {
    pub(super) fn begin(store: Arc<KubeStore>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        task.spawn(tell(store, waiting));
        Self { queue, _task: task }
    }

    /// Leaves an event to be written.
    pub(super) fn say(&self, occurrence: Occurrence) {
        if let Err(error) = self.queue.try_send(occurrence) {
            tracing::debug!("an event is not told: {error}");
        }
    }
}

async fn tell(store: Arc<KubeStore>, mut waiting: mpsc::Receiver<Occurrence>) {
    let mut together = Vec::new();
    while waiting.recv_many(&mut together, TOGETHER).await > 0 {
        if let Err(error) = store.record_events(std::mem::take(&mut together)).await {
            tracing::debug!("events were not recorded: {error}");
        }
    }
}
