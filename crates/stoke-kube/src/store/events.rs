//! Events of objects, as `kubectl describe` shows them. One that is repeated within some minutes is counted, not written anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stoke_api::control::ObjectEvent;
use stoke_api::meta::DEFAULT_NAMESPACE;
use stoke_api::{API_VERSION, ObjectRef};
use stoke_host::store::StoreError;
use stoke_reconcile::Occurrence;

use super::request::refused;

/// How long a repetition is counted to the event before it (as Kubernetes' own recorders have it).
const REPEATS_WITHIN: Duration = Duration::from_mins(6);
/// Events that repetitions are looked up in.
const REMEMBERED: usize = 4096;
/// Bytes that an API server takes as the text of an event.
const NOTE: usize = 1024;

/// Writes events, and remembers the last ones.
pub(super) struct Events {
    client: Client,
    reporter: String,
    recent: Mutex<HashMap<Said, Recent>>,
}

/// Who said what: the same again is a repetition.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Said {
    object: ObjectRef,
    uid: Option<String>,
    reason: String,
    message: String,
}

#[derive(Clone)]
struct Recent {
    name: String,
    count: i32,
    at: Instant,
}

impl Events {
    pub(super) fn new(client: Client, reporter: &str) -> Self {
        Self { client, reporter: reporter.to_owned(), recent: Mutex::default() }
    }

    /// Writes an event, or counts it to the one that it repeats.
    pub(super) async fn record(&self, occurrence: Occurrence, uid: Option<String>) -> Result<(), StoreError> {
        let Occurrence { object, reason, message, .. } = occurrence;
        let said = Said { object, uid, reason, message };
        let api = Api::<Event>::namespaced(self.client.clone(), namespace(&said.object));
        if let Some(before) = self.repeated(&said) {
            let series = EventSeries { count: before.count, last_observed_time: now() };
            let patch = Patch::Merge(json!({ "series": series }));
            match api.patch(&before.name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                // It has expired: events live for an hour.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(refused(error, &said.object)),
            }
        }
        let name = format!("{}.{:x}", said.object.name, jiff::Timestamp::now().as_nanosecond());
        let event = self.event(&said, &name);
        api.create(&PostParams::default(), &event).await.map_err(|error| refused(error, &said.object))?;
        self.remember(said, Recent { name, count: 1, at: Instant::now() });
        Ok(())
    }

    /// The event that this one repeats, with both counted.
    fn repeated(&self, said: &Said) -> Option<Recent> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let before = recent.get_mut(said).filter(|before| before.at.elapsed() < REPEATS_WITHIN)?;
        before.count += 1;
        before.at = Instant::now();
        Some(before.clone())
    }

    fn remember(&self, said: Said, event: Recent) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= REMEMBERED {
            recent.retain(|_, before| before.at.elapsed() < REPEATS_WITHIN);
        }
        if recent.len() < REMEMBERED {
            recent.insert(said, event);
        }
    }

    fn event(&self, said: &Said, name: &str) -> Event {
        let object = &said.object;
        let regarding = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(object.kind.to_string()),
            name: Some(object.name.to_string()),
            namespace: object.namespace.as_ref().map(ToString::to_string),
            uid: said.uid.clone(),
            ..ObjectReference::default()
        };
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace(object).to_owned()),
            ..ObjectMeta::default()
        };
        Event {
            metadata,
            action: Some("Reconcile".to_owned()),
            event_time: Some(now()),
            note: Some(shortened(&said.message)),
            reason: Some(said.reason.clone()),
            regarding: Some(regarding),
            reporting_controller: Some(format!("{}/operator", crate::crd::GROUP)),
            reporting_instance: Some(self.reporter.clone()),
            type_: Some("Normal".to_owned()),
            ..Event::default()
        }
    }

    /// The events of an object, oldest first.
    pub(super) async fn of(&self, object: &ObjectRef) -> Result<Vec<ObjectEvent>, StoreError> {
        let api = Api::<CoreEvent>::namespaced(self.client.clone(), namespace(object));
        let fields = format!("involvedObject.kind={},involvedObject.name={}", object.kind, object.name);
        let found = api.list(&ListParams::default().fields(&fields)).await.map_err(|error| refused(error, object))?;
        let mut events = found.items;
        events.sort_by_key(|event| (at(event), event.metadata.name.clone()));
        Ok(events.into_iter().map(object_event).collect())
    }
}

/// Where the events of an object are; those of cluster-scoped ones are in the default namespace, as Kubernetes has it.
fn namespace(object: &ObjectRef) -> &str {
    object.namespace.as_ref().map_or(DEFAULT_NAMESPACE, |namespace| namespace.as_str())
}

fn now() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}

fn shortened(text: &str) -> String {
    if text.len() <= NOTE {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(NOTE - "…".len());
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// When it happened last, by the newer of the two ways in which events say so.
fn at(event: &CoreEvent) -> Option<jiff::Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let old = event.last_timestamp.as_ref().map(|time| time.0);
    series.or(old).or_else(|| event.event_time.as_ref().map(|time| time.0))
}

fn object_event(event: CoreEvent) -> ObjectEvent {
    let at = at(&event);
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
    ObjectEvent {
        at: at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default(),
        count: u32::try_from(count).unwrap_or(1),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    }
}
