//! Nodes: what is seen of one, and what is changed of it. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde::Serialize;
use stoke_reconcile::{ClusterNode, ClusterNodeWanted, NodeUse};

use super::{CORDONED_BY, IMAGE};

/// A change, as a merge patch. It holds only for the node as it was seen: who cordons it in the same moment is not overlooked.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spec: Option<Spec>,
}

/// An entry without a value is taken off.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    resource_version: Option<String>,
    pub(super) annotations: BTreeMap<&'static str, Option<String>>,
    pub(super) labels: BTreeMap<&'static str, Option<String>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Spec {
    pub(super) unschedulable: Option<bool>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.spec {
            Some(Spec { unschedulable: Some(_) }) => "cordoned, for its machine is to be updated",
            Some(_) => "used again",
            None => "its version is written on it",
        })
    }
}

pub(super) fn seen(node: &Node, installation: &str) -> ClusterNode {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    ClusterNode {
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        boot: status.and_then(|status| status.node_info.as_ref()).map(|info| info.boot_id.clone()).unwrap_or_default(),
        addresses: addresses.iter().filter_map(|address| address.address.parse().ok()).collect(),
        unschedulable: is_unschedulable(node),
        cordoned: is_ours(node, installation),
        pods_left: None,
        blocked: None,
    }
}

pub(super) fn is_unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

fn is_ours(node: &Node, installation: &str) -> bool {
    node.annotations().get(CORDONED_BY).is_some_and(|by| by == installation)
}

/// What is to be changed of a node of which this is wanted, or nothing any more.
pub(super) fn change(node: &Node, want: Option<&ClusterNodeWanted>, installation: &str) -> Option<Change> {
    let mut change = unchanged(node);
    let free = want.is_none_or(|want| want.usage == NodeUse::Free);
    if free && is_ours(node, installation) {
        change.spec = Some(Spec { unschedulable: None });
        change.metadata.annotations.insert(CORDONED_BY, None);
    } else if !free && !is_unschedulable(node) {
        change.spec = Some(Spec { unschedulable: Some(true) });
        change.metadata.annotations.insert(CORDONED_BY, Some(installation.to_owned()));
    }
    if let Some(image) = want.and_then(|want| want.image) {
        let (whole, short) = (image.to_string(), image.short());
        if node.annotations().get(IMAGE) != Some(&whole) || node.labels().get(IMAGE) != Some(&short) {
            change.metadata.annotations.insert(IMAGE, Some(whole));
            change.metadata.labels.insert(IMAGE, Some(short));
        }
    }
    (!change.metadata.annotations.is_empty()).then_some(change)
}

/// What takes all off that is ours.
pub(super) fn release(node: &Node, installation: &str) -> Option<Change> {
    let mut change = change(node, None, installation).unwrap_or_else(|| unchanged(node));
    if node.labels().contains_key(IMAGE) || node.annotations().contains_key(IMAGE) {
        change.metadata.annotations.insert(IMAGE, None);
        change.metadata.labels.insert(IMAGE, None);
    }
    (!change.metadata.annotations.is_empty()).then_some(change)
}

fn unchanged(node: &Node) -> Change {
    let metadata = Metadata { resource_version: node.resource_version(), ..Metadata::default() };
    Change { metadata, spec: None }
}
