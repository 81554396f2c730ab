//! What rounds remember of each other, so that what has not changed costs nothing: a thousand machines are looked at in each
//! round, and one of them is another than before. Every entry says what it was made of; nothing here is needed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource;
use stoke_api::agent::PodGrant;
use stoke_api::workload::Workload;
use stoke_reconcile::agents::{AgentNode, LanOnNodes};

use crate::plan::Seen;
use crate::render::{self, Facts};

/// Workloads as they were read in their `ConfigMap`s.
#[derive(Default)]
pub(super) struct Read {
    by_name: BTreeMap<String, (Option<String>, Option<Workload>)>,
}

impl Read {
    /// The workload in a map.
    pub(super) fn workload(&mut self, name: &str, map: &ConfigMap) -> Option<Workload> {
        let version = &map.metadata.resource_version;
        if let Some((_, workload)) = self.by_name.get(name).filter(|(known, _)| known == version && known.is_some()) {
            return workload.clone();
        }
        let workload = render::workload_in(map);
        self.by_name.insert(name.to_owned(), (version.clone(), workload.clone()));
        workload
    }

    /// Forgets those who are gone.
    pub(super) fn keep(&mut self, seen: &BTreeMap<String, Seen>) {
        self.by_name.retain(|name, _| seen.contains_key(name));
    }
}

/// All of which the steps of a machine are made, beside the workload that is in its `ConfigMap`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Basis {
    facts: Facts,
    versions: [Option<(String, String)>; 6],
    node_lost: bool,
    guest: bool,
    object: bool,
}

impl Basis {
    pub(super) fn new(facts: Facts, seen: &Seen) -> Self {
        let Seen { map, pod, claim, budget, service, job, node_lost, guest, object } = seen;
        let versions = [
            version(map.as_deref()),
            version(pod.as_deref()),
            version(claim.as_deref()),
            version(budget.as_deref()),
            version(service.as_deref()),
            version(job.as_deref()),
        ];
        Self { facts, versions, node_lost: *node_lost, guest: *guest, object: *object }
    }
}

fn version<K: Resource>(object: Option<&K>) -> Option<(String, String)> {
    let metadata = object?.meta();
    Some((metadata.uid.clone()?, metadata.resource_version.clone()?))
}

/// Of which the configurations of all nodes are made.
#[derive(Debug, PartialEq)]
pub(crate) struct NodeBasis {
    /// LANs.
    pub(crate) lans: Vec<LanOnNodes>,
    /// Nodes with agents.
    pub(crate) nodes: Vec<AgentNode>,
    /// Pods with their nodes.
    pub(crate) pods: Vec<(String, PodGrant)>,
    /// All whose agents are told.
    pub(crate) agents: Vec<String>,
    /// How many agents were met so far: one at another address was told nothing.
    pub(crate) begun: u64,
}
