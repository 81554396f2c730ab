//! What is kept of objects that others write: no more than is read here. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, NodeSpec, NodeStatus, NodeSystemInfo, PersistentVolumeClaim, Pod, PodSpec, PodStatus,
    Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

/// Annotations of ours.
const OURS: &str = "stokehold.dev/";

/// Something that is cached.
pub(super) trait Slim {
    /// Takes away what nobody here reads.
    fn slim(&mut self) {}

    /// What of it matters to a round, as one number; without one all of it does.
    fn mark(&self) -> Option<u64> {
        None
    }
}

impl Slim for ConfigMap {}
impl Slim for PersistentVolumeClaim {}
impl Slim for PodDisruptionBudget {}
impl Slim for Namespace {}
impl Slim for CertificateSigningRequest {}
impl Slim for Service {}
impl Slim for EndpointSlice {}

impl Slim for Pod {
    /// What was asked for is in its annotation, as a hash; here are its node, and what the kubelet says of it.
    fn slim(&mut self) {
        let node_name = self.spec.take().and_then(|spec| spec.node_name);
        self.spec = Some(PodSpec { node_name, ..PodSpec::default() });
        if let Some(status) = self.status.take() {
            self.status = Some(PodStatus {
                phase: status.phase,
                reason: status.reason,
                message: status.message,
                conditions: status.conditions,
                container_statuses: status.container_statuses,
                host_ip: status.host_ip,
                pod_ip: status.pod_ip,
                ..PodStatus::default()
            });
        }
    }
}

impl Slim for Job {
    fn slim(&mut self) {
        self.spec = Some(JobSpec::default());
    }
}

impl Slim for Node {
    fn slim(&mut self) {
        let (unschedulable, taints) =
            self.spec.take().map(|spec| (spec.unschedulable, spec.taints)).unwrap_or_default();
        self.spec = Some(NodeSpec { unschedulable, taints, ..NodeSpec::default() });
        if let Some(status) = self.status.take() {
            let (conditions, addresses) = (status.conditions, status.addresses);
            // Which boot of the node this is.
            let info = |info: NodeSystemInfo| NodeSystemInfo { boot_id: info.boot_id, ..NodeSystemInfo::default() };
            let node_info = status.node_info.map(info);
            self.status = Some(NodeStatus { conditions, addresses, node_info, ..NodeStatus::default() });
        }
        self.metadata.annotations.iter_mut().for_each(|notes| notes.retain(|name, _| name.starts_with(OURS)));
    }

    /// A node says every few seconds that it is there: when it said so last is for the next round that there is anyway.
    fn mark(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (&self.metadata.labels, &self.metadata.annotations).hash(&mut hasher);
        self.metadata.deletion_timestamp.is_some().hash(&mut hasher);
        for taint in self.spec.iter().flat_map(|spec| spec.taints.iter().flatten()) {
            (&taint.key, &taint.value, &taint.effect).hash(&mut hasher);
        }
        self.spec.as_ref().and_then(|spec| spec.unschedulable).hash(&mut hasher);
        let status = self.status.as_ref();
        status.and_then(|status| status.node_info.as_ref()).map(|info| &info.boot_id).hash(&mut hasher);
        for condition in status.iter().flat_map(|status| status.conditions.iter().flatten()) {
            (&condition.type_, &condition.status).hash(&mut hasher);
        }
        for address in status.iter().flat_map(|status| status.addresses.iter().flatten()) {
            (&address.type_, &address.address).hash(&mut hasher);
        }
        Some(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(heard: &str, ready: &str) -> Node {
        let condition = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": heard});
        let status = json!({"conditions": [condition], "images": [{"names": ["a"]}]});
        let mut node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "resourceVersion": heard}, "status": status}))
                .unwrap();
        node.slim();
        node
    }

    #[test]
    fn a_heartbeat_is_no_news_of_a_node() {
        let mark = |heard, ready| node(heard, ready).mark();
        let (one, other) = ("2026-11-21T10:00:00Z", "2026-11-21T10:00:10Z");
        assert_eq!(mark(one, "True"), mark(other, "True"));
        assert_ne!(mark(one, "True"), mark(one, "Unknown"));
        assert_eq!(node(one, "True").status.unwrap().images, None);
    }

    #[test]
    fn of_a_pod_its_node_and_what_the_kubelet_says_are_kept() {
        let container = json!({"name": "stoke", "image": "a"});
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "annotations": {"stokehold.dev/template": "1"}},
            "spec": {"nodeName": "worker", "containers": [container]}, "status": {"phase": "Running", "qosClass": "Burstable"},
        }))
        .unwrap();
        pod.slim();
        let spec = pod.spec.unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.containers.len()), (Some("worker"), 0));
        assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
        assert_eq!(pod.metadata.annotations.unwrap().len(), 1);
    }
}
