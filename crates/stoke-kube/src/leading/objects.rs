//! Objects as a round changes them: statuses and events, objects that others want, finalizers.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, future};
use stoke_api::{AnyObject, Kind};
use stoke_host::store::{Store as _, Write};
use stoke_reconcile::{Desired, ObjectChange, Observed, Occurrence};

use super::Leader;
use crate::nodes;
use crate::plan::Seen;

/// Writes of statuses at a time.
const AT_ONCE: usize = 16;
/// What keeps an object until its workloads are gone.
pub const FINALIZER: &str = "stokehold.dev/workloads";

impl Leader<'_> {
    /// Writes what is new. Whether there was anything.
    pub(super) async fn write(&self, observed: &Observed, desired: &Desired) -> bool {
        let mut changed = false;
        let objects: BTreeMap<_, _> = observed.objects.iter().map(|object| (object.reference(), object)).collect();
        let mut new = Vec::new();
        for (reference, status) in &desired.statuses {
            let Some(object) = objects.get(reference) else { continue };
            if status.clone().write_into(&mut (*object).clone()) {
                new.push((reference, object.metadata().resource_version.clone().unwrap_or_default(), status.clone()));
            }
        }
        changed |= !new.is_empty();
        let writes = new.into_iter().map(|(reference, version, status)| async move {
            match self.store.write_status(reference, &version, status).await {
                Ok(_) => {
                    self.operator.metrics.writes.inc();
                    None
                }
                // It was changed in the meantime, or the cache lags behind: the next round looks again.
                Err(error) => {
                    tracing::debug!(object = %reference, "the status was not written: {error}");
                    Some(reference)
                }
            }
        });
        let unwritten: BTreeSet<_> =
            futures::stream::iter(writes).buffer_unordered(AT_ONCE).filter_map(future::ready).collect().await;
        // What a status does not say yet the next round finds again, and tells.
        let told = |event: &&Occurrence| objects.contains_key(&event.object) && !unwritten.contains(&event.object);
        desired.events.iter().filter(told).for_each(|event| self.herald.say(event.clone()));
        changed |= self.change_objects(desired).await;
        if let Err(error) = self.store.tell_unreadable().await {
            tracing::debug!("cannot say which objects are unreadable: {error}");
        }
        changed
    }

    /// Makes, changes and deletes objects that others want. Whether there was anything.
    pub(super) async fn change_objects(&self, desired: &Desired) -> bool {
        for change in &desired.objects {
            let write = match change.clone() {
                ObjectChange::Create(object) | ObjectChange::Update(object) => Write::Put { object, origin: None },
                ObjectChange::Delete { object, .. } => Write::Delete(object),
            };
            match self.store.write(vec![write]).await {
                Ok(_) => drop(self.operator.metrics.writes.inc()),
                Err(error) => tracing::warn!("an object was not changed: {error}"),
            }
        }
        !desired.objects.is_empty()
    }

    /// Has objects stay until their workloads are gone, where these are in another namespace and no owner takes them along.
    pub(super) async fn hold_on(&self, objects: &[AnyObject], seen: &BTreeMap<String, Seen>) {
        let served: BTreeSet<_> = seen.values().filter_map(nodes::owner).collect();
        for object in objects {
            let reference = object.reference();
            let holds = object.metadata().finalizers.iter().any(|finalizer| finalizer == FINALIZER);
            if holds || reference.kind == Kind::Machine || !served.contains(&reference) {
                continue;
            }
            match self.store.set_finalizer(&reference, FINALIZER, true).await {
                Ok(_) => drop(self.operator.metrics.writes.inc()),
                Err(error) => tracing::debug!(object = %reference, "cannot hold on to it: {error}"),
            }
        }
    }

    /// Lets objects go whose workloads are gone. Whether some have to wait.
    pub(super) async fn let_go(&self, leaving: &[AnyObject], seen: &BTreeMap<String, Seen>) -> bool {
        if leaving.is_empty() {
            return false;
        }
        let served: BTreeSet<_> = seen.values().filter(|seen| seen.pod.is_some()).filter_map(nodes::owner).collect();
        let mut waits = false;
        for object in leaving {
            let reference = object.reference();
            if object.metadata().finalizers.iter().all(|finalizer| finalizer != FINALIZER) {
                continue;
            }
            waits = true;
            if !served.contains(&reference)
                && let Err(error) = self.store.set_finalizer(&reference, FINALIZER, false).await
            {
                tracing::warn!(object = %reference, "cannot let it go: {error}");
            }
        }
        waits
    }
}
