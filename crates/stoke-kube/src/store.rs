//! The store over the API server.
//!
//! ```text
//!  API server ──list and watch, for each kind──> cache ──> get, list, watch (never wait)
//!      ^                                          ^
//!      └── write, write_status, events ── answer ─┘      who has written reads what was written
//! ```
//!
//! - An object is written by server-side apply, and only if it differs from what is known; a status by its subresource, over
//!   the version that it was derived from.
//! - When the API server does not answer, what was known last is still read, writes fail with
//!   [`StoreError::Unreachable`], and the watches come back by themselves; what happened meanwhile is found by listing again.
//! - An object that cannot be read is in [`KubeStore::unreadable`] and nowhere else.
//!
//! What it never does: decide anything about an object. It is held to the suite that the local store is held to.

mod cache;
mod events;
mod follow;
mod request;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use stoke_api::control::{Change, ObjectEvent, WatchEvent};
use stoke_api::meta::Truth;
use stoke_api::{AnyObject, Condition, Kind, ObjectRef};
use stoke_host::store::{Store, StoreError, Write, date_conditions};
use stoke_reconcile::{Occurrence, Status};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;

use self::cache::Cache;
use self::events::Events;
use self::request::{refused, refused_unnamed};
use crate::object::{self, Unreadable};

/// Objects whose events are written at a time.
const EVENTS_AT_ONCE: usize = 16;
/// Changes that a slow watcher may be behind before it has to begin again.
const WATCH_BACKLOG: usize = 4096;

/// Objects of all kinds and namespaces of a cluster.
pub struct KubeStore {
    client: Client,
    manager: String,
    known: Arc<Known>,
    events: Events,
    _watches: Mutex<JoinSet<()>>,
}

/// What is known of the cluster, shared with the watches.
struct Known {
    cache: Mutex<Cache>,
    changes: broadcast::Sender<WatchEvent>,
    /// Told of each change, for a loop that looks at everything anyway.
    wake: Arc<Notify>,
    /// Told when a kind was listed.
    listed: Notify,
}

impl Known {
    /// Changes the cache and tells everybody of what that changed.
    fn change(&self, change: impl FnOnce(&mut Cache) -> Vec<WatchEvent>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let events = change(&mut cache);
        let any = !events.is_empty();
        // Still locked, so that watchers hear of changes in their order. Nobody watching is no failure.
        for event in events {
            drop(self.changes.send(event));
        }
        drop(cache);
        if any {
            self.wake.notify_one();
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Cache) -> T) -> T {
        read(&self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KubeStore {
    /// Begins to watch the objects of all kinds. `manager` is who owns the fields that are written; `wake` is told of
    /// changes. The watches end with the store.
    pub fn open(client: Client, manager: &str, wake: Arc<Notify>) -> Self {
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let known = Arc::new(Known { cache: Mutex::default(), changes, wake, listed: Notify::new() });
        let mut watches = JoinSet::new();
        for kind in Kind::ALL {
            watches.spawn(follow::follow(kind, object::all(&client, kind), known.clone()));
        }
        let events = Events::new(client.clone(), manager);
        Self { client, manager: manager.to_owned(), known, events, _watches: Mutex::new(watches) }
    }

    /// Returns when the objects of all kinds are known.
    pub async fn synced(&self) {
        loop {
            let told = self.known.listed.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.known.read(Cache::is_complete) {
                return;
            }
            told.await;
        }
    }

    /// Why objects are not known as they are now; `None` if they are.
    pub fn trouble(&self) -> Option<String> {
        self.known.read(Cache::trouble)
    }

    /// Objects that are there and cannot be read. Nobody knows what they want: what runs for them is left alone.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.known.read(|cache| cache.unreadable().cloned().collect())
    }

    /// Writes into the status of each unreadable object that it is one, unless it is there.
    ///
    /// # Errors
    /// If the API server does not answer or refuses; the others are written all the same.
    pub async fn tell_unreadable(&self) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for object in self.unreadable() {
            let Some(status) = object.status() else { continue };
            let version = &object.resource_version;
            let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "status": status }));
            let api = match &object.namespace {
                Some(namespace) => {
                    kube::Api::namespaced_with(self.client.clone(), namespace, &object::resource(object.kind))
                }
                None => object::all(&self.client, object.kind),
            };
            let written = api.patch_status(&object.name, &PatchParams::default(), &patch).await;
            match written.map_err(|error| refused_unnamed(error, &object)) {
                // Somebody wrote in between: the watch says what it is now.
                Ok(_) | Err(None) => {}
                Err(Some(error)) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Says on all objects that nobody looks after them, and why.
    pub async fn tell_forsaken(&self, why: &str) {
        let message = format!("the operator cannot work, and what runs is left alone: {why}");
        for object in self.list().unwrap_or_default() {
            let condition = Condition::new("Ready", Truth::Unknown, "OperatorFailed", message.clone());
            let Some(conditions) = object::says(object.conditions(), condition) else { continue };
            let (reference, version) = (object.reference(), object.metadata().resource_version.clone());
            let status = json!({ "metadata": { "resourceVersion": version }, "status": { "conditions": conditions } });
            let (api, patch) = (object::place(&self.client, &reference), Patch::Merge(status));
            if let Err(error) = api.patch_status(reference.name.as_str(), &PatchParams::default(), &patch).await {
                tracing::debug!(object = %reference, "cannot say that nobody looks after it: {error}");
            }
        }
    }

    /// Adds a finalizer to an object, or takes it off. Whether that changed anything; an object that is gone has none.
    ///
    /// # Errors
    /// If somebody wrote in between, or the API server does not answer or refuses.
    pub async fn set_finalizer(&self, object: &ObjectRef, name: &str, present: bool) -> Result<bool, StoreError> {
        let Some(known) = self.get(object)? else { return Ok(false) };
        let mut finalizers = known.metadata().finalizers.clone();
        if finalizers.iter().any(|finalizer| finalizer == name) == present {
            return Ok(false);
        }
        if present {
            finalizers.push(name.to_owned());
        } else {
            finalizers.retain(|finalizer| finalizer != name);
        }
        let metadata = json!({ "resourceVersion": known.metadata().resource_version, "finalizers": finalizers });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let api = object::place(&self.client, object);
        let written = api.patch(object.name.as_str(), &PatchParams::default(), &patch).await;
        match written.map_err(|error| refused(error, object)) {
            Ok(written) => {
                let gone = written.metadata.deletion_timestamp.is_some() && finalizers.is_empty();
                let uid = written.metadata.uid.clone().unwrap_or_default();
                let read = object::read(object.kind, &written);
                self.known
                    .change(|cache| if gone { cache.forget(object, &uid) } else { cache.seen(object.kind, read) });
                Ok(true)
            }
            Err(StoreError::NotFound(_)) if !present => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(&self, write: Write, dry_run: bool) -> Result<(ObjectRef, Change), StoreError> {
        match write {
            Write::Put { object, origin: _ } => self.put(&object, dry_run).await,
            Write::Delete(object) => self.delete(object, dry_run).await,
        }
    }

    async fn put(&self, wanted: &AnyObject, dry_run: bool) -> Result<(ObjectRef, Change), StoreError> {
        let reference = wanted.reference();
        let known = self.get(&reference)?;
        if known.as_ref().is_some_and(|known| is_as_wanted(known, wanted)) {
            return Ok((reference, Change::Unchanged));
        }
        let parameters = PatchParams { dry_run, ..PatchParams::apply(&self.manager).force() };
        let api = object::place(&self.client, &reference);
        let written = api.patch(reference.name.as_str(), &parameters, &Patch::Apply(object::wish(wanted))).await;
        let written = written.map_err(|error| refused(error, &reference))?;
        let before = known.as_ref().map(AnyObject::metadata);
        let change = match before {
            None => Change::Created,
            Some(before) if before.resource_version == written.metadata.resource_version => Change::Unchanged,
            Some(_) => Change::Updated,
        };
        if !dry_run {
            let read = object::read(reference.kind, &written);
            self.known.change(|cache| cache.seen(reference.kind, read));
        }
        Ok((reference, change))
    }

    async fn delete(&self, object: ObjectRef, dry_run: bool) -> Result<(ObjectRef, Change), StoreError> {
        let uid = self.get(&object)?.and_then(|known| known.metadata().uid.clone());
        let parameters = DeleteParams { dry_run, ..DeleteParams::background() };
        let answer = object::place(&self.client, &object).delete(object.name.as_str(), &parameters).await;
        let answer = answer.map_err(|error| refused(error, &object))?;
        if !dry_run {
            // An object that comes back waits for its finalizers.
            let waiting = answer.left().filter(|left| !left.metadata.finalizers.clone().unwrap_or_default().is_empty());
            self.known.change(|cache| match (waiting, uid) {
                (Some(waiting), _) => cache.seen(object.kind, object::read(object.kind, &waiting)),
                (None, Some(uid)) => cache.forget(&object, &uid),
                (None, None) => Vec::new(),
            });
        }
        Ok((object, Change::Deleted))
    }
}

impl Store for KubeStore {
    fn get(&self, object: &ObjectRef) -> Result<Option<AnyObject>, StoreError> {
        Ok(self.known.read(|cache| cache.get(object).cloned()))
    }

    fn list(&self) -> Result<Vec<AnyObject>, StoreError> {
        Ok(self.known.read(|cache| cache.objects().cloned().collect()))
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<(ObjectRef, Change)>, StoreError> {
        if writes.len() > 1 {
            for write in &writes {
                self.carry_out(write.clone(), true).await?;
            }
        }
        let mut changes = Vec::new();
        for write in writes {
            changes.push(self.carry_out(write, false).await?);
        }
        Ok(changes)
    }

    async fn write_status(&self, object: &ObjectRef, expected: &str, mut status: Status) -> Result<bool, StoreError> {
        let known = self.get(object)?.ok_or_else(|| StoreError::NotFound(object.clone()))?;
        if known.metadata().resource_version.as_deref() != Some(expected) {
            return Err(StoreError::Conflict(object.clone()));
        }
        date_conditions(&mut status);
        let Some(new) = object::with_status(&known, status) else { return Ok(false) };
        let api = object::place(&self.client, object);
        let parameters = PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() };
        let written = api.replace_status(object.name.as_str(), &parameters, &new).await;
        let written = written.map_err(|error| refused(error, object))?;
        let read = object::read(object.kind, &written);
        self.known.change(|cache| cache.seen(object.kind, read));
        Ok(written.metadata.resource_version.as_deref() != Some(expected))
    }

    async fn record_events(&self, occurrences: Vec<Occurrence>) -> Result<(), StoreError> {
        // In order for each object; a thousand machines do not wait for one another.
        let mut by_object = BTreeMap::<ObjectRef, Vec<Occurrence>>::new();
        for occurrence in occurrences {
            by_object.entry(occurrence.object.clone()).or_default().push(occurrence);
        }
        let record = |(object, said): (ObjectRef, Vec<Occurrence>)| async move {
            let uid = self.get(&object)?.and_then(|object| object.metadata().uid.clone());
            for occurrence in said {
                self.events.record(occurrence, uid.clone()).await?;
            }
            Ok::<_, StoreError>(())
        };
        let recorded = futures::stream::iter(by_object.into_iter().map(record)).buffer_unordered(EVENTS_AT_ONCE);
        recorded.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn events(&self, object: &ObjectRef) -> Result<Vec<ObjectEvent>, StoreError> {
        self.events.of(object).await
    }

    fn watch(&self) -> broadcast::Receiver<WatchEvent> {
        self.known.changes.subscribe()
    }
}

/// Whether nothing of what is wanted differs from what is there, so that there is nothing to ask the API server. Labels and
/// notes of others may be there, too; ours that are no longer wanted are a difference, and only the API server knows whose
/// they are: so any label that is not wanted is asked about.
fn is_as_wanted(known: &AnyObject, wanted: &AnyObject) -> bool {
    let (have, want) = (known.metadata(), wanted.metadata());
    let version = want.resource_version.is_none() || want.resource_version == have.resource_version;
    let notes = have.labels == want.labels && have.annotations == want.annotations;
    let owners = want.owner_references.iter().all(|owner| have.owner_references.contains(owner));
    version && notes && owners && object::wish(known).get("spec") == object::wish(wanted).get("spec")
}

/// Pause before a watch that broke is begun again: doubled each time.
pub(crate) const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
