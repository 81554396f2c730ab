//! Objects between the API server's form and ours.
//!
//! Ours refuses unknown fields, so that nobody's spelling mistakes are lost: what Kubernetes adds to metadata is taken away
//! first. An object that still cannot be read (of another version of its definition) is [`Unreadable`] and harms itself only.

use std::fmt;

use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use stoke_api::meta::Truth;
use stoke_api::{API_VERSION, AnyObject, Condition, Kind, ObjectRef};
use stoke_reconcile::Status;

use crate::crd;

/// What our metadata knows. Who wrote which field is the API server's.
const METADATA: [&str; 11] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "ownerReferences",
];
/// A copy of the whole object that `kubectl apply` keeps: nobody's note.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind as the client asks for it.
pub fn resource(kind: Kind) -> ApiResource {
    ApiResource {
        group: crd::GROUP.to_owned(),
        version: crd::version().to_owned(),
        api_version: API_VERSION.to_owned(),
        kind: kind.to_string(),
        plural: kind.plural().to_owned(),
    }
}

/// All objects of a kind.
pub fn all(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}

/// The place of one object.
pub fn place(client: &Client, object: &ObjectRef) -> Api<DynamicObject> {
    match &object.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace.as_str(), &resource(object.kind)),
        None => all(client, object.kind),
    }
}

/// An object that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, if its kind has them.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version when it was read.
    pub resource_version: String,
    /// Why it cannot be read.
    pub message: String,
    /// Its generation.
    pub generation: u64,
    /// Its conditions as they are.
    pub conditions: Vec<Condition>,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind.singular())?;
        self.namespace.iter().try_for_each(|namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

impl Unreadable {
    /// Its name as an object's of ours, if it is one.
    pub fn reference(&self) -> Option<ObjectRef> {
        let namespace = match &self.namespace {
            Some(namespace) => Some(namespace.parse().ok()?),
            None => None,
        };
        Some(ObjectRef { kind: self.kind, namespace, name: self.name.parse().ok()? })
    }

    /// The status that says so, over the conditions that there are; `None` if it says so already.
    pub fn status(&self) -> Option<Value> {
        let message = format!(
            "this version of Stokehold cannot read it, and leaves what runs for it alone: {}; write it again as this \
             version has it",
            self.message
        );
        let conditions = says(&self.conditions, Condition::new("Ready", Truth::False, "Unreadable", message))?;
        Some(json!({ "conditions": conditions, "observedGeneration": self.generation }))
    }
}

/// The conditions with this one in the place of its kind; `None` if they say so already.
pub fn says(conditions: &[Condition], says: Condition) -> Option<Vec<Condition>> {
    let same = |condition: &Condition| Condition { last_transition_time: String::new(), ..condition.clone() } == says;
    if conditions.iter().any(same) {
        return None;
    }
    let mut all: Vec<_> = conditions.iter().filter(|condition| condition.kind != says.kind).cloned().collect();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let since = conditions.iter().find(|before| before.kind == says.kind && before.status == says.status);
    let since = since.map_or(now, |before| before.last_transition_time.clone());
    all.push(Condition { last_transition_time: since, ..says });
    Some(all)
}

/// An object of the API server as one of ours.
///
/// A status that cannot be read is no reason to refuse the object: it is derived anew.
///
/// # Errors
/// If it is of another version than this program knows.
pub fn read(kind: Kind, object: &DynamicObject) -> Result<AnyObject, Box<Unreadable>> {
    let value = |with_status: bool| {
        let mut value = json!({ "kind": kind.to_string(), "metadata": metadata(object) });
        for part in if with_status { &["spec", "status"][..] } else { &["spec"] } {
            if let (Some(content), Some(fields)) = (object.data.get(part), value.as_object_mut()) {
                fields.insert((*part).to_owned(), content.clone());
            }
        }
        value
    };
    serde_json::from_value(value(true)).or_else(|error| {
        let without = serde_json::from_value(value(false)).map_err(|_| Box::new(unreadable(kind, object, &error)))?;
        let name = object.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!("the status of {}/{name} cannot be read and is derived anew: {error}", kind.singular());
        Ok(without)
    })
}

fn metadata(object: &DynamicObject) -> Value {
    let mut metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|field, _| METADATA.contains(&field.as_str()));
        if let Some(notes) = fields.get_mut("annotations").and_then(Value::as_object_mut) {
            notes.remove(LAST_APPLIED);
        }
    }
    metadata
}

fn unreadable(kind: Kind, object: &DynamicObject, error: &serde_json::Error) -> Unreadable {
    let metadata = object.metadata.clone();
    let conditions = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    Unreadable {
        kind,
        namespace: metadata.namespace,
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        message: error.to_string(),
        generation: metadata.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default(),
        conditions: serde_json::from_value(conditions).unwrap_or_default(),
    }
}

/// An object of ours as it is applied: what is wanted, and nothing that a store or a reconciler adds. With its
/// `resourceVersion`, if it has one, it is applied only over that.
pub fn wish(object: &AnyObject) -> Value {
    let reference = object.reference();
    let whole = serde_json::to_value(object).unwrap_or_default();
    let mut metadata = Map::new();
    for field in ["name", "labels", "annotations", "ownerReferences", "resourceVersion"] {
        if let Some(value) = whole.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(namespace) = &reference.namespace {
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
    }
    let spec = whole.get("spec").cloned().unwrap_or_default();
    json!({ "apiVersion": API_VERSION, "kind": reference.kind.to_string(), "metadata": metadata, "spec": spec })
}

/// An object with another status, as it is written over the version that it was read as; `None` if it has that status.
pub fn with_status(object: &AnyObject, status: Status) -> Option<DynamicObject> {
    let mut object = object.clone();
    if !status.write_into(&mut object) {
        return None;
    }
    let mut value = serde_json::to_value(&object).ok()?;
    value.as_object_mut()?.insert("apiVersion".to_owned(), API_VERSION.into());
    serde_json::from_value(value).ok()
}

/// Whether all of what is wanted is there; there may be more.
pub(crate) fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| there.get(key).is_some_and(|there| contains(there, wanted)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| contains(there, wanted))
        }
        _ => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(spec: &Value, status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "Lan",
            "metadata": {
                "name": "lab", "namespace": "default", "uid": "u", "resourceVersion": "7", "generation": 2,
                "managedFields": [{ "manager": "kubectl" }],
                "annotations": { LAST_APPLIED: "{}", "a": "b" },
            },
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_kubernetes_adds_to_metadata_is_left_out() {
        let spec = json!({ "subnets": [{ "name": "v4", "cidr": "10.0.0.0/24" }] });
        let object = read(Kind::Lan, &stored(&spec, &json!({}))).unwrap();
        assert_eq!(object.metadata().annotations.len(), 1);
        assert_eq!(object.metadata().resource_version.as_deref(), Some("7"));
        let again = wish(&object);
        assert_eq!(again.pointer("/metadata/namespace"), Some(&json!("default")));
        assert_eq!((again.get("status"), again.pointer("/metadata/uid")), (None, None));
    }

    #[test]
    fn an_object_of_another_version_says_so_once() {
        let spec = json!({ "subnets": [], "fromTheFuture": 1 });
        let others = json!([{ "type": "Other", "status": "True", "reason": "R", "lastTransitionTime": "t" }]);
        let found = *read(Kind::Lan, &stored(&spec, &json!({ "conditions": others }))).unwrap_err();
        assert_eq!(found.to_string(), "lan/default/lab");
        assert!(found.message.contains("fromTheFuture"), "{}", found.message);
        let status = found.status().unwrap();
        let conditions: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap();
        assert_eq!(conditions.iter().map(|c| c.kind.as_str()).collect::<Vec<_>>(), ["Other", "Ready"]);
        assert_eq!(Unreadable { conditions, ..found }.status(), None);
    }

    #[test]
    fn a_status_of_another_version_is_derived_anew() {
        let spec = json!({ "subnets": [{ "name": "v4", "cidr": "10.0.0.0/24" }] });
        let object = read(Kind::Lan, &stored(&spec, &json!({ "leases": "many" }))).unwrap();
        assert_eq!(object.conditions(), []);
    }
}
