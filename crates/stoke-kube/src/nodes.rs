//! Nodes: where their agents are, which are out of touch, what each should have. Pure, but for two small files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::ResourceExt as _;
use stoke_api::agent::{AgentConfig, PodGrant};
use stoke_api::workload::{Role, TrustedKeys, VmConfig};
use stoke_api::{Kind, ObjectRef};
use stoke_host::paths::Folders;
use stoke_reconcile::agents::{AgentNode, agent_lans, node_configs, port_grants};
use stoke_reconcile::names::farm_folder;
use stoke_reconcile::{Desired, Observed};

use crate::leading::NodeBasis;
use crate::observe::AgentSeen;
use crate::plan::Seen;
use crate::render;
use crate::settings::Settings;

/// Where the node agents are, by their nodes.
pub fn agents(pods: &[Arc<Pod>], port: u16) -> BTreeMap<String, SocketAddr> {
    let one = |pod: &Arc<Pod>| {
        let status = pod.status.as_ref()?;
        let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
        let address: IpAddr = status.host_ip.as_deref().or(status.pod_ip.as_deref())?.parse().ok()?;
        running.then_some((pod.spec.as_ref()?.node_name.clone()?, SocketAddr::new(address, port)))
    };
    pods.iter().filter_map(one).collect()
}

/// The nodes that nobody has heard of for a while, or that are gone: `Ready` is neither true nor false.
pub fn lost(nodes: &[Arc<Node>]) -> BTreeSet<String> {
    let silent = |node: &&Arc<Node>| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
    };
    nodes.iter().filter(silent).map(|node| node.name_any()).collect()
}

/// The object that a workload serves, by its labels.
pub fn owner(seen: &Seen) -> Option<ObjectRef> {
    let labels = seen.map.as_ref().map(|map| map.labels());
    let labels = labels.or_else(|| seen.pod.as_ref().map(|pod| pod.labels()));
    let labels = labels.or_else(|| seen.claim.as_ref().map(|claim| claim.labels()))?;
    render::owner_by_labels(labels)
}

/// Labels of namespaces, by their names.
pub fn labels(namespaces: &[Arc<Namespace>]) -> BTreeMap<String, BTreeMap<String, String>> {
    namespaces.iter().map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect()
}

/// The DNS servers that this pod asks (resolv.conf(5)): routers of LANs ask the same.
pub fn resolvers(file: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    // A stub on the loopback is reached from nowhere else.
    servers.filter(|server: &IpAddr| !server.is_loopback()).collect()
}

/// The certificates of its farm that a machine's firmware trusts.
pub fn certificates(folders: &Folders, vm: &VmConfig) -> BTreeMap<String, String> {
    let Some(TrustedKeys::Farm { .. }) = &vm.secure_boot else { return BTreeMap::new() };
    let farm = ObjectRef { kind: Kind::Farm, ..vm.machine.clone() };
    let folder = farm_folder(&folders.state, &farm).join("secureboot");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    // Certificates alone: keys stay where they are.
    let certificates = entries.filter(|path| path.extension().is_some_and(|end| end == "pem" || end == "crt"));
    let named = |path: std::path::PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        let text = std::fs::read_to_string(path).ok().filter(|text| !text.contains("PRIVATE KEY"))?;
        Some((name, text))
    };
    certificates.filter_map(named).collect()
}

/// What a node should have that has nothing of ours.
pub fn empty(installation: &str) -> AgentConfig {
    AgentConfig { installation: installation.to_owned(), ..AgentConfig::default() }
}

/// Of which the configurations of nodes are made.
///
/// A node that is out of touch is no peer of the others: what still runs there is on a LAN of its own, so that a router that
/// was started elsewhere is the only one that anybody hears.
pub(crate) fn basis(
    observed: &Observed,
    desired: &Desired,
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    agents: &BTreeMap<String, AgentSeen>,
    begun: u64,
) -> NodeBasis {
    let lost = lost(nodes);
    let node = |node: &Arc<Node>| {
        let name = node.name_any();
        let agent = agents.contains_key(&name) && !lost.contains(&name);
        agent.then(|| Some(AgentNode { address: address(node)?, labels: node.labels().clone(), name })).flatten()
    };
    let mut nodes: Vec<_> = nodes.iter().filter_map(node).collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let workloads: BTreeMap<_, _> = desired.workloads.iter().map(|workload| (workload.name(), workload)).collect();
    let installation = &observed.environment.installation;
    let placed = |pod: &Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let node = pod.spec.as_ref()?.node_name.clone().filter(|_| !matches!(phase, "Failed" | "Succeeded"))?;
        let workload = *workloads.get(&crate::plan::workload_name(&**pod))?;
        let runs = !matches!(workload.role, Role::ImageBuild(_));
        let ports = || port_grants(installation, workload);
        let uid = pod.metadata.uid.clone()?;
        runs.then(|| PodGrant { pod: uid, owner: workload.owner.clone(), ports: ports() }).map(|grant| (node, grant))
    };
    let mut pods: Vec<_> = pods.iter().filter_map(placed).collect();
    // Caches are in no order.
    pods.sort_by(|(_, one), (_, other)| one.pod.cmp(&other.pod));
    let lans = agent_lans(observed, &desired.workloads);
    NodeBasis { lans, nodes, pods, agents: agents.keys().cloned().collect(), begun }
}

/// What each node with an agent should have.
pub(crate) fn configs(settings: &Settings, installation: &str, basis: &NodeBasis) -> BTreeMap<String, AgentConfig> {
    let mut configs = node_configs(installation, &basis.lans, &basis.nodes, settings.overlay.port);
    for (node, grant) in &basis.pods {
        if let Some(config) = configs.get_mut(node) {
            config.pods.push(grant.clone());
        }
    }
    configs
}

/// The address by which other nodes reach a node.
fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_deref()?;
    let mut internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.find_map(|address| address.address.parse().ok())
}
