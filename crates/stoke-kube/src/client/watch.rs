//! Changes of objects as they happen, of several kinds in one stream.

use std::collections::{BTreeMap, VecDeque};

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use stoke_api::control::{Change, WatchEvent};
use stoke_api::{AnyObject, Kind, ObjectName, ObjectRef};

use super::{Cluster, objects};

/// What a watch tells of one kind.
type Told = (Kind, watcher::Result<Event<kube::api::DynamicObject>>);

/// Changes of objects. A connection that breaks is made again, and what changed meanwhile is told.
pub struct Watch {
    events: SelectAll<BoxStream<'static, Told>>,
    known: BTreeMap<ObjectRef, AnyObject>,
    /// What has been listed again since a watch began anew.
    listed: BTreeMap<Kind, Vec<ObjectRef>>,
    ready: VecDeque<WatchEvent>,
}

impl Cluster {
    /// Watches some kinds, in one namespace or in all: first all that is there, then each change.
    pub fn watch(&self, kinds: &[Kind], namespace: Option<&ObjectName>) -> Watch {
        let of_kind = |kind: &Kind| {
            let (kind, api) = (*kind, self.api(*kind, namespace));
            watcher(api, watcher::Config::default()).default_backoff().map(move |event| (kind, event)).boxed()
        };
        let events = futures::stream::select_all(kinds.iter().map(of_kind));
        Watch { events, known: BTreeMap::new(), listed: BTreeMap::new(), ready: VecDeque::new() }
    }
}

impl Watch {
    /// The next change. Errors are tried again, so this ends only with the watch; what cannot be read is left out.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (kind, event) = self.events.next().await?;
            match event {
                Ok(event) => self.hear(kind, event),
                Err(error) => tracing::debug!(%kind, "the watch broke: {error}"),
            }
        }
    }

    fn hear(&mut self, kind: Kind, event: Event<kube::api::DynamicObject>) {
        match event {
            Event::Init => drop(self.listed.insert(kind, Vec::new())),
            Event::InitApply(object) => {
                if let Ok(object) = objects::read(kind, &object) {
                    self.listed.entry(kind).or_default().push(object.reference());
                    self.put(object);
                }
            }
            Event::InitDone => {
                let listed = self.listed.remove(&kind).unwrap_or_default();
                let gone = |known: &&ObjectRef| known.kind == kind && !listed.contains(known);
                let gone: Vec<_> = self.known.keys().filter(gone).cloned().collect();
                for reference in &gone {
                    self.remove(reference);
                }
            }
            Event::Apply(object) => {
                if let Ok(object) = objects::read(kind, &object) {
                    self.put(object);
                }
            }
            Event::Delete(object) => {
                if let Ok(object) = objects::read(kind, &object) {
                    self.remove(&object.reference());
                }
            }
        }
    }

    fn put(&mut self, object: AnyObject) {
        let change = match self.known.insert(object.reference(), object.clone()) {
            None => Change::Created,
            Some(before) if before == object => return,
            Some(_) => Change::Updated,
        };
        self.ready.push_back(WatchEvent { change, object: Box::new(object) });
    }

    fn remove(&mut self, reference: &ObjectRef) {
        if let Some(object) = self.known.remove(reference) {
            self.ready.push_back(WatchEvent { change: Change::Deleted, object: Box::new(object) });
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("known", &self.known.len()).finish_non_exhaustive()
    }
}
