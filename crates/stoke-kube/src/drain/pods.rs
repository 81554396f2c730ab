//! Pods of a node that is drained: which go, and how they are asked to.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::core::response::Status;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::apply::explain;

/// Pods that the kubelet makes out of files.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How long an answer may take: a client that asks again by itself when a budget says no would do so for minutes.
const LIMIT: Duration = Duration::from_secs(5);

/// What becomes of a pod when its node is drained, as with `kubectl drain --ignore-daemonsets --delete-emptydir-data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has ended, or belongs to the node.
    Stays,
    /// It is on its way.
    Ends,
    /// It is asked to go.
    Evicted,
    /// It does not go, for a reason that people have to deal with.
    Stuck(&'static str),
}

pub(super) fn fate(pod: &Pod, standalone_pods: bool) -> Fate {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let of_node = pod.annotations().contains_key(MIRROR) || controller.is_some_and(|owner| owner.kind == "DaemonSet");
    if of_node || matches!(phase, "Succeeded" | "Failed") {
        Fate::Stays
    } else if pod.metadata.deletion_timestamp.is_some() {
        Fate::Ends
    } else if controller.is_none() && !standalone_pods {
        Fate::Stuck("it has no controller that makes it again elsewhere: delete it, or say `standalonePods: true`")
    } else {
        Fate::Evicted
    }
}

/// `NAMESPACE/NAME`.
pub(super) fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Asks a pod to go: this one, not one that has its name by then.
///
/// # Errors
/// Why it does not go; `None` if it is gone already.
pub(super) async fn evict(client: &Client, pod: &Pod) -> Result<(), Option<String>> {
    match tokio::time::timeout(LIMIT, create(client, pod)).await {
        Ok(Ok(_)) => {
            tracing::info!(pod = name(pod), "asked to go elsewhere");
            Ok(())
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(None),
        Ok(Err(kube::Error::Api(status))) if status.code == 429 => {
            Err(Some(format!("{}: {}", name(pod), budget(&status))))
        }
        Ok(Err(error)) => Err(Some(format!("{}: {}", name(pod), explain(&error)))),
        Err(_) => Err(Some(format!("{}: a disruption budget forbids it, or the API server is busy", name(pod)))),
    }
}

/// kube's own `Api::evict` says `delete_options`, which the API server does not know.
async fn create(client: &Client, pod: &Pod) -> Result<Value, kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name_any(), "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid()}},
    });
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    pods.create_subresource("eviction", &pod.name_any(), &PostParams::default(), &eviction).await
}

/// Which budget forbids it, in the API server's words.
fn budget(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut causes = causes.filter(|cause| cause.reason == "DisruptionBudget" && !cause.message.is_empty());
    let said = causes.next().map_or(status.message.as_str(), |cause| cause.message.as_str());
    let mut letters = said.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}
