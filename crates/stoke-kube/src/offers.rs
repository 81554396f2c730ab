//! What nodes offer, by what their agents say: to pods of ours, and as labels to everybody else.
//!
//! What an agent said last counts while it is out of reach: pods are made of this, and would be others for no reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use stoke_api::agent::{AgentReport, KVM_RESOURCE, TUN_RESOURCE, VHOST_NET_RESOURCE, VHOST_VSOCK_RESOURCE};

use crate::apply::FIELD_MANAGER;
use crate::observe::AgentSeen;

/// Writes at a time.
const AT_ONCE: usize = 16;
/// Labels of nodes that are ours; each has the name of the resource that the node offers if its value is `usable`.
const LABELS: [&str; 4] = [KVM_RESOURCE, TUN_RESOURCE, VHOST_NET_RESOURCE, VHOST_VSOCK_RESOURCE];

fn reports(agents: &BTreeMap<String, AgentSeen>) -> impl Iterator<Item = &AgentReport> {
    agents.values().filter_map(|agent| agent.report.as_deref())
}

/// Whether some node has a usable `/dev/kvm`.
pub fn kvm(agents: &BTreeMap<String, AgentSeen>) -> bool {
    reports(agents).any(|report| report.kvm.usable)
}

/// The groups of which one may open `/dev/kvm`, on whatever node: which one that is is known only once the pod is there.
pub fn kvm_groups(agents: &BTreeMap<String, AgentSeen>) -> BTreeSet<u32> {
    reports(agents).filter(|report| report.kvm.usable).filter_map(|report| report.kvm.group).collect()
}

/// What goes whole from any node to any other.
pub fn overlay_mtu(agents: &BTreeMap<String, AgentSeen>) -> Option<u16> {
    reports(agents).filter_map(|report| report.overlay_mtu).min()
}

/// The labels of a node with this agent.
fn labels(report: &AgentReport) -> BTreeMap<&'static str, &str> {
    let verdicts = [&report.kvm, &report.tun, &report.vhost_net, &report.vhost_vsock];
    LABELS.into_iter().zip(verdicts).map(|(label, verdict)| (label, verdict.reason.as_str())).collect()
}

/// What is to be written to a node; nothing if it is as it should be. `None` for a report: its agent is gone.
fn change(node: &Node, report: Option<&AgentReport>) -> Option<Value> {
    let wanted = report.map(labels).unwrap_or_default();
    let wanted = |label: &str| wanted.get(label).copied().filter(|value| !value.is_empty());
    let there = |label: &str| node.labels().get(label).map(String::as_str);
    let differs = LABELS.into_iter().filter(|label| wanted(label) != there(label));
    let labels: serde_json::Map<_, _> = differs.map(|label| (label.to_owned(), json!(wanted(label)))).collect();
    (!labels.is_empty()).then(|| json!({"metadata": {"labels": labels}}))
}

/// Says on the nodes what their agents found out. How many were written to.
pub async fn label_nodes(client: &Client, nodes: &[Arc<Node>], agents: &BTreeMap<String, AgentSeen>) -> u64 {
    let api = Api::<Node>::all(client.clone());
    let due = nodes.iter().filter_map(|node| {
        let agent = agents.get(&node.name_any());
        // An agent that has said nothing yet says it soon.
        let said = agent.is_none_or(|agent| agent.report.is_some());
        let change = change(node, agent.and_then(|agent| agent.report.as_deref())).filter(|_| said)?;
        Some((node.name_any(), change))
    });
    let write = |(name, change): (String, Value)| {
        let api = &api;
        async move {
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let written = api.patch_metadata(&name, &parameters, &Patch::Merge(&change)).await;
            if let Err(error) = &written {
                tracing::debug!(node = name, "cannot label the node: {error}");
            }
            u64::from(written.is_ok())
        }
    };
    let written: Vec<_> = futures::stream::iter(due).map(write).buffer_unordered(AT_ONCE).collect().await;
    written.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use stoke_api::agent::DeviceVerdict;

    use super::*;

    fn verdict(usable: bool, reason: &str, group: Option<u32>) -> DeviceVerdict {
        DeviceVerdict { usable, reason: reason.to_owned(), message: String::new(), group }
    }

    fn agents(reports: Vec<AgentReport>) -> BTreeMap<String, AgentSeen> {
        let seen = |report| AgentSeen { report: Some(Arc::new(report)), failure: Some("it went silent".to_owned()) };
        reports.into_iter().enumerate().map(|(index, report)| (index.to_string(), seen(report))).collect()
    }

    fn report(group: Option<u32>, usable: bool, overlay_mtu: Option<u16>) -> AgentReport {
        let kvm = verdict(usable, if usable { "usable" } else { "emulated" }, group);
        AgentReport { kvm, tun: verdict(true, "usable", None), overlay_mtu, ..AgentReport::default() }
    }

    #[test]
    fn what_holds_on_all_nodes_is_what_pods_are_made_of() {
        let agents = agents(vec![
            report(Some(104), true, Some(1450)),
            report(Some(36), true, Some(8950)),
            report(Some(993), false, None),
        ]);
        assert!(kvm(&agents));
        assert_eq!(kvm_groups(&agents), BTreeSet::from([36, 104]), "none of a device that nobody uses");
        assert_eq!(overlay_mtu(&agents), Some(1450));
    }

    #[test]
    fn labels_are_written_when_they_differ_and_taken_off_when_the_agent_is_gone() {
        let node = |labels: Value| serde_json::from_value::<Node>(json!({"metadata": {"labels": labels}})).unwrap();
        let report = report(None, false, None);
        let bare = node(json!({"a": "b"}));
        let written = json!({"metadata": {"labels": {"stokehold.dev/kvm": "emulated", "stokehold.dev/tun": "usable"}}});
        assert_eq!(change(&bare, Some(&report)), Some(written));
        let labelled = node(json!({"a": "b", "stokehold.dev/kvm": "emulated", "stokehold.dev/tun": "usable"}));
        assert_eq!(change(&labelled, Some(&report)), None);
        let taken = json!({"metadata": {"labels": {"stokehold.dev/kvm": null, "stokehold.dev/tun": null}}});
        assert_eq!(change(&labelled, None), Some(taken));
        assert_eq!(change(&bare, None), None);
    }
}
