//! Objects as people apply them, and events, out of what the API server has.

use k8s_openapi::api::core::v1::Event;
use kube::api::DynamicObject;
use serde_json::Value;
use stoke_api::control::ObjectEvent;
use stoke_api::{AnyObject, Kind};

use super::{ClusterError, Result};
use crate::object;

/// An object of the API server as one of ours.
pub(super) fn read(kind: Kind, object: &DynamicObject) -> Result<AnyObject> {
    let unreadable = |why: Box<object::Unreadable>| ClusterError::Unreadable {
        object: why.to_string(),
        message: why.message.clone(),
    };
    object::read(kind, object).map_err(unreadable)
}

/// An object of ours as people apply it: what they wrote, and nothing that a store or a reconciler adds.
pub fn written(object: &AnyObject, namespace: &str) -> Value {
    let mut wish = object::wish(object);
    if let Some(metadata) = wish.get_mut("metadata").and_then(Value::as_object_mut) {
        // Over whatever version is there, and whoever owns it.
        metadata.retain(|field, _| !["ownerReferences", "resourceVersion"].contains(&field.as_str()));
        if object.reference().kind.is_namespaced() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
    }
    wish
}

/// An event, by the newer of the two ways in which events say when and how often.
pub(super) fn event(event: Event) -> ObjectEvent {
    let series = event.series.as_ref();
    let at = series.and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let at = at.or_else(|| event.last_timestamp.as_ref().map(|time| time.0));
    let at = at.or_else(|| event.event_time.as_ref().map(|time| time.0));
    let count = series.and_then(|series| series.count).or(event.count).unwrap_or(1);
    ObjectEvent {
        at: at.map(|at| at.to_string()).unwrap_or_default(),
        count: u32::try_from(count).unwrap_or(1),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoke_api::API_VERSION;

    use super::*;

    fn object() -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": API_VERSION,
            "kind": "Image",
            "metadata": {
                "name": "node", "namespace": "lab", "uid": "u", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "x", "operation": "Apply"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
            },
            "spec": {"source": {"oci": {"reference": "example.org/a:1"}}},
        }))
        .unwrap()
    }

    #[test]
    fn what_kubernetes_adds_is_no_unknown_field() {
        let read = read(Kind::Image, &object()).unwrap();
        assert_eq!(read.reference().to_string(), "image/lab/node");
        assert_eq!(read.metadata().annotations.keys().collect::<Vec<_>>(), ["note"]);
    }

    #[test]
    fn what_is_applied_is_what_was_written() {
        let read = read(Kind::Image, &object()).unwrap();
        let written = written(&read, "lab");
        let metadata = written.get("metadata").unwrap().as_object().unwrap();
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["annotations", "name", "namespace"]);
        assert!(written.get("status").is_none());
    }

    #[test]
    fn an_object_of_a_newer_version_is_told_by_its_name() {
        let mut object = object();
        object.data["spec"]["inventedLater"] = 1.into();
        let error = read(Kind::Image, &object).unwrap_err().to_string();
        assert!(error.starts_with("image/lab/node cannot be read") && error.contains("inventedLater"), "{error}");
    }
}
