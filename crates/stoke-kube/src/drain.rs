//! Nodes of this cluster while their machines are updated: cordoned, freed of their pods, used again; and what they run,
//! written on them for those who ask the cluster.
//!
//! What is done follows from what the reconcilers want of each node ([`ClusterNodeWanted`]) and from the node itself, so it goes
//! on wherever an operator before this one was. A node that people have cordoned never gets our annotation, and so is never
//! used again by us. Pods are asked to go by the eviction API alone, which knows budgets and gives each its time to end (a
//! machine's guest too); none is ever deleted.

mod node;
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use stoke_api::AnyObject;
use stoke_reconcile::{ClusterNode, ClusterNodeWanted, NodeUse};

use crate::apply::explain;
use node::{Change, change, is_unschedulable, release, seen};
use pods::Fate;

/// Annotation of a node: the installation that has cordoned it.
pub const CORDONED_BY: &str = "stokehold.dev/cordoned-by";
/// Annotation of a node: the version of the image that it runs. As a label: the first digits of it.
pub const IMAGE: &str = "stokehold.dev/image";
/// Pause between two looks at a node's pods.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause after a change that was refused.
const REFUSED: Duration = Duration::from_secs(10);
/// Evictions at a time.
const AT_ONCE: usize = 16;
/// Looks that must find no pod: the scheduler may have placed one while the node was being cordoned.
const LOOKS: u32 = 2;

/// Nodes that are held, or were.
pub struct Drains {
    client: Client,
    installation: String,
    progress: BTreeMap<String, Progress>,
    /// Why a node could not be changed, and when that was.
    refused: BTreeMap<String, (Instant, String)>,
}

/// How far a node is whose pods are to go.
#[derive(Clone, Debug)]
struct Progress {
    looked: Instant,
    left: u32,
    /// Looks in a row that found none.
    empty: u32,
    blocked: Option<String>,
}

impl Drains {
    /// Without knowing of any.
    pub fn new(client: Client, installation: &str) -> Self {
        let installation = installation.to_owned();
        Self { client, installation, progress: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// What the reconcilers are to know of the cluster's nodes: of none, unless some of them are netbooted.
    pub fn seen(&self, objects: &[AnyObject], nodes: &[Arc<Node>]) -> BTreeMap<String, ClusterNode> {
        let concerns = |object: &AnyObject| match object {
            AnyObject::Farm(farm) => farm.spec.join.is_some() || holds(farm.status.rollout.as_ref()),
            _ => false,
        };
        if !objects.iter().any(concerns) {
            return BTreeMap::new();
        }
        nodes.iter().map(|node| (node.name_any(), self.one(node))).collect()
    }

    fn one(&self, node: &Node) -> ClusterNode {
        let name = node.name_any();
        let progress = self.progress.get(&name);
        let refused = self.refused.get(&name).map(|(_, why)| why.clone());
        ClusterNode {
            pods_left: progress.filter(|progress| progress.left > 0 || progress.empty >= LOOKS).map(|it| it.left),
            blocked: refused.or_else(|| progress?.blocked.clone()),
            ..seen(node, &self.installation)
        }
    }

    /// Makes nodes be as they are wanted. Of those that nothing is said of, ours are used again, if all objects are `known`.
    /// Whether anything was changed.
    pub async fn round(&mut self, wanted: &[ClusterNodeWanted], nodes: &[Arc<Node>], known: bool) -> bool {
        let wanted: BTreeMap<_, _> = wanted.iter().map(|want| (want.name.as_str(), want)).collect();
        let drained = |name: &str| matches!(wanted.get(name).map(|want| want.usage), Some(NodeUse::Drained { .. }));
        self.progress.retain(|name, _| drained(name));
        let mut changed = false;
        for node in nodes {
            let name = node.name_any();
            let want = wanted.get(name.as_str()).copied();
            if want.is_none() && !known {
                continue;
            }
            match change(node, want, &self.installation) {
                Some(change) => changed |= self.write(&name, &change).await,
                None => drop(self.refused.remove(&name)),
            }
            if let Some(NodeUse::Drained { standalone_pods }) = want.map(|want| want.usage)
                && is_unschedulable(node)
            {
                self.look(&name, standalone_pods).await;
            }
        }
        changed
    }

    async fn write(&mut self, name: &str, change: &Change) -> bool {
        if self.refused.get(name).is_some_and(|(at, _)| at.elapsed() < REFUSED) {
            return false;
        }
        let nodes = Api::<Node>::all(self.client.clone());
        match nodes.patch(name, &PatchParams::default(), &Patch::Merge(change)).await {
            Ok(_) => {
                tracing::info!(node = name, "{change}");
                self.refused.remove(name);
                return true;
            }
            // Somebody has changed it meanwhile, or it is gone: the next round sees.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                let why = refusal(&error);
                tracing::warn!(node = name, "{why}");
                self.refused.insert(name.to_owned(), (Instant::now(), why));
            }
        }
        false
    }

    /// Looks at the pods of a cordoned node, and asks those to go that shall.
    async fn look(&mut self, name: &str, standalone_pods: bool) {
        if self.progress.get(name).is_some_and(|progress| progress.looked.elapsed() < PAUSE) {
            return;
        }
        let on_it = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let found = Api::<Pod>::all(self.client.clone()).list(&on_it).await;
        let empty = self.progress.get(name).map_or(0, |progress| progress.empty);
        let looked = Instant::now();
        let progress = match found {
            Ok(found) => {
                let (left, blocked) = self.evict(&found.items, standalone_pods).await;
                let empty = if left == 0 { empty.saturating_add(1) } else { 0 };
                Progress { looked, left, empty, blocked }
            }
            Err(error) => {
                let blocked = Some(format!("its pods cannot be listed: {}", explain(&error)));
                Progress { looked, left: 1, empty: 0, blocked }
            }
        };
        self.progress.insert(name.to_owned(), progress);
    }

    /// Pods that have yet to go, and what is in the way of the first that does not.
    async fn evict(&self, pods: &[Pod], standalone_pods: bool) -> (u32, Option<String>) {
        let (mut left, mut blocked, mut evicted) = (0_u32, Vec::new(), Vec::new());
        for pod in pods {
            let fate = pods::fate(pod, standalone_pods);
            left = left.saturating_add(u32::from(fate != Fate::Stays));
            match fate {
                Fate::Stays | Fate::Ends => {}
                Fate::Evicted => evicted.push(pod),
                Fate::Stuck(why) => blocked.push(format!("{}: {why}", pods::name(pod))),
            }
        }
        let refused = |pod| async move { pods::evict(&self.client, pod).await.err().flatten() };
        let refused: Vec<_> = futures::stream::iter(evicted).map(refused).buffered(AT_ONCE).collect().await;
        blocked.extend(refused.into_iter().flatten());
        blocked.sort();
        let others = blocked.len().saturating_sub(1);
        let first = blocked.into_iter().next();
        (left, first.map(|first| if others == 0 { first } else { format!("{first} (and {others} more)") }))
    }

    /// Uses every node again that we have cordoned, and takes off what we have written on nodes.
    ///
    /// # Errors
    /// As the API server says of the first that was not changed; the others are.
    pub async fn release_all(&self, nodes: &[Arc<Node>]) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.client.clone());
        let mut result = Ok(());
        for node in nodes {
            let Some(change) = release(node, &self.installation) else { continue };
            if let Err(error) = api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(change)).await {
                result = result.and(Err(error));
            }
        }
        result
    }
}

fn holds(rollout: Option<&stoke_api::objects::RolloutStatus>) -> bool {
    rollout.is_some_and(|rollout| rollout.nodes.iter().any(|noted| noted.drain.is_some()))
}

fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the operator may not cordon nodes: `helm upgrade --set join.enabled=true` lets it ({})",
            status.message
        ),
        error => format!("the node cannot be changed: {}", explain(error)),
    }
}

#[cfg(test)]
mod tests;
