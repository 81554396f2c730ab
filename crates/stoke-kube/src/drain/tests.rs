//! What is changed of nodes, and which pods go.

use serde_json::{Value, json};
use stoke_api::{Digest, Kind, ObjectRef};

use super::*;

const OURS: &str = "0a1b2c3d";

fn node(spec: &Value, by: Option<&str>) -> Node {
    let annotations: BTreeMap<_, _> = by.map(|by| (CORDONED_BY, by)).into_iter().collect();
    let metadata = json!({"name": "n1", "resourceVersion": "7", "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn want(usage: NodeUse, image: Option<Digest>) -> ClusterNodeWanted {
    let node = ObjectRef { kind: Kind::Server, namespace: None, name: "n1".parse().unwrap() };
    ClusterNodeWanted { node, name: "n1".to_owned(), usage, image }
}

fn patch(node: &Node, usage: NodeUse, image: Option<Digest>) -> Option<Value> {
    let change = change(node, Some(&want(usage, image)), OURS)?;
    Some(serde_json::to_value(change).unwrap())
}

fn spec_after(node: &Node, usage: NodeUse) -> Option<Value> {
    patch(node, usage, None).map(|patch| patch["spec"]["unschedulable"].clone())
}

#[test]
fn only_what_we_have_cordoned_is_used_again() {
    let cordoned = json!({"unschedulable": true});
    let drained = NodeUse::Drained { standalone_pods: false };
    assert_eq!(spec_after(&node(&json!({}), None), drained), Some(json!(true)));
    assert_eq!(spec_after(&node(&json!({}), None), NodeUse::Free), None);
    assert_eq!(spec_after(&node(&cordoned, Some(OURS)), NodeUse::Cordoned), None);
    assert_eq!(spec_after(&node(&cordoned, Some(OURS)), NodeUse::Free), Some(Value::Null));
    // By people, or by another installation.
    for by in [None, Some("another")] {
        assert_eq!(spec_after(&node(&cordoned, by), drained), None);
        assert_eq!(spec_after(&node(&cordoned, by), NodeUse::Free), None);
    }
    assert!(change(&node(&cordoned, Some(OURS)), None, OURS).is_some(), "one that nobody speaks of");
    assert!(change(&node(&cordoned, None), None, OURS).is_none());
}

#[test]
fn the_version_is_written_once_and_nothing_of_ours_stays() {
    let image = Digest([0xab; 32]);
    let mut node = node(&json!({}), None);
    let written = patch(&node, NodeUse::Free, Some(image)).unwrap();
    assert_eq!(written["metadata"]["annotations"][IMAGE], image.to_string());
    assert_eq!((&written["metadata"]["labels"][IMAGE], written.get("spec")), (&json!("abababababab"), None));
    assert_eq!(written["metadata"]["resourceVersion"], "7");
    node.annotations_mut().insert(IMAGE.to_owned(), image.to_string());
    node.labels_mut().insert(IMAGE.to_owned(), image.short());
    assert_eq!(patch(&node, NodeUse::Free, Some(image)), None);
    assert_eq!(patch(&node, NodeUse::Cordoned, None).unwrap()["metadata"]["labels"], json!({}));
    let released = serde_json::to_value(release(&node, OURS).unwrap()).unwrap();
    assert_eq!(released["metadata"]["labels"], json!({IMAGE: null}));
    assert_eq!(release(&self::node(&json!({}), None), OURS), None);
}

#[test]
fn pods_of_the_node_stay_and_those_of_nobody_are_in_the_way() {
    let pod = |metadata: Value, phase: &str| -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
    };
    let owned = |kind: &str| {
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": "a", "uid": "1", "controller": true});
        pod(json!({"name": "a", "ownerReferences": [owner]}), "Running")
    };
    let alone = pod(json!({"name": "a"}), "Running");
    assert_eq!(pods::fate(&owned("ReplicaSet"), false), Fate::Evicted);
    assert_eq!(pods::fate(&owned("Machine"), false), Fate::Evicted);
    assert_eq!(pods::fate(&owned("DaemonSet"), true), Fate::Stays);
    assert!(matches!(pods::fate(&alone, false), Fate::Stuck(_)));
    assert_eq!(pods::fate(&alone, true), Fate::Evicted);
    assert_eq!(pods::fate(&pod(json!({"name": "a"}), "Succeeded"), false), Fate::Stays);
    let mirror = pod(json!({"name": "a", "annotations": {"kubernetes.io/config.mirror": "x"}}), "Running");
    assert_eq!(pods::fate(&mirror, true), Fate::Stays);
    let ends = pod(json!({"name": "a", "deletionTimestamp": "2026-11-21T10:00:00Z"}), "Running");
    assert_eq!(pods::fate(&ends, false), Fate::Ends);
}
