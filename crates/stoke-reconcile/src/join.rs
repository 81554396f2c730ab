//! Nodes that join a cluster by themselves: what they are told, and what is wanted of whoever has the cluster.

use std::net::{IpAddr, Ipv4Addr};

use stoke_api::node::Phase;
use stoke_api::objects::{FileEntry, JoinSpec, NodeConfig, NodeState, Power, SecretRef, join_secret};
use stoke_api::workload::FarmNode;
use stoke_api::{Condition, ObjectName, ObjectRef};

use crate::observed::{ClusterInfo, Desired, JoinWanted};
use crate::rollout::{self, InCluster};
use crate::status::condition;
use crate::view::{Farm, View};
use crate::{farm, machine, server};

/// Where the kubelet of Kubernetes' packages looks (kubeadm's `10-kubeadm.conf`).
const BOOTSTRAP: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const CA: &str = "/etc/kubernetes/pki/ca.crt";

/// The cluster that a farm's nodes join, if it is known.
fn cluster<'a>(view: &View<'a>, farm: &Farm, join: &JoinSpec) -> Option<&'a ClusterInfo> {
    match joined_cluster(farm.metadata.namespace.as_ref(), join) {
        None => view.environment().cluster.as_ref(),
        Some(secret) => view.environment().other_clusters.get(&secret.to_string()),
    }
}

/// The kubeconfig of the other cluster that nodes of a farm in this namespace join, with its namespace: two farms with
/// secrets of one name are of two clusters.
pub fn joined_cluster(farm: Option<&ObjectName>, join: &JoinSpec) -> Option<SecretRef> {
    let secret = join.cluster.clone()?;
    // A file is one place, whoever names it.
    let namespace = secret.namespace.clone().or_else(|| farm.cloned()).filter(|_| secret.file.is_none());
    Some(SecretRef { namespace, ..secret })
}

/// What a farm says of it.
pub(crate) fn of_farm(view: &View<'_>, farm: &Farm) -> Option<Condition> {
    let join = farm.spec.join.as_ref()?;
    Some(match (cluster(view, farm, join), joined_cluster(farm.metadata.namespace.as_ref(), join)) {
        (Some(cluster), _) => {
            condition("Joining", true, "ClusterKnown", format!("its nodes join {}", server(join, cluster)))
        }
        (None, Some(secret)) => {
            let why = view.environment().secret_failures.get(&secret.to_string());
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("its nodes do not join: the cluster of {secret} is not known{why}");
            condition("Joining", false, "ClusterUnknown", message)
        }
        (None, None) => {
            let message =
                "its nodes do not join: Stokehold does not run in a cluster here; boot them from a farm in one";
            condition("Joining", false, "NoCluster", message)
        }
    })
}

fn server(join: &JoinSpec, cluster: &ClusterInfo) -> String {
    join.server.clone().unwrap_or_else(|| cluster.server.clone())
}

/// A node's configuration with what it needs to join. What it says itself goes over that.
pub(crate) fn with_join(view: &View<'_>, farm: &Farm, owner: &ObjectRef, mut config: NodeConfig) -> NodeConfig {
    let Some(join) = &farm.spec.join else { return config };
    let Some(cluster) = cluster(view, farm, join) else { return config };
    let text = |path: &str, content: String| FileEntry {
        path: path.to_owned(),
        content: Some(content),
        ..FileEntry::default()
    };
    let token = FileEntry { path: BOOTSTRAP.to_owned(), secret: Some(join_secret(owner)), ..FileEntry::default() };
    let files = [text(CA, cluster.ca.clone()), text(CONFIG, kubelet_config(cluster)), token];
    let said: Vec<_> = config.files.iter().map(|file| file.path.clone()).collect();
    config.files.extend(files.into_iter().filter(|file| !said.contains(&file.path)));
    for (name, value) in &join.labels {
        config.kubelet.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if config.kubelet.taints.is_empty() {
        config.kubelet.taints.clone_from(&join.taints);
    }
    config
}

/// `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1): as kubeadm writes it, and with certificates by request for what it
/// serves, too.
fn kubelet_config(cluster: &ClusterInfo) -> String {
    let dns: Vec<_> = cluster.dns.iter().map(|address| format!("- {address}\n")).collect();
    let dns = if dns.is_empty() { "clusterDNS: []\n".to_owned() } else { format!("clusterDNS:\n{}", dns.concat()) };
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication:\n  anonymous:\n    enabled: false\n  \
         webhook:\n    enabled: true\n  x509:\n    clientCAFile: {CA}\nauthorization:\n  mode: Webhook\ncgroupDriver: systemd\n\
         {dns}clusterDomain: {}\nrotateCertificates: true\nserverTLSBootstrap: true\nstaticPodPath: /etc/kubernetes/manifests\n",
        cluster.domain
    )
}

/// The nodes of a farm that join.
pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, farm: &Farm, desired: &mut Desired) {
    let Some(join) = farm.spec.join.as_ref().filter(|_| view.valid(reference).is_ok()) else { return };
    let Some(cluster) = cluster(view, farm, join) else { return };
    for node in farm::nodes(view, reference, farm) {
        let (state, runs, address) = seen(view, reference, &node.owner);
        let addresses = addresses(state.as_ref(), address);
        desired.joins.push(JoinWanted {
            node: node.owner.clone(),
            farm: reference.clone(),
            node_name: node_name(&node),
            boots: runs && boots(state.as_ref()),
            handed_out: state.map(|state| state.secrets_given).unwrap_or_default(),
            addresses,
            labels: node.config.kubelet.labels.clone(),
            taints: node.config.kubelet.taints.clone(),
            token_seconds: join.token_seconds,
            secret: join_secret(&node.owner),
            server: server(join, cluster),
            cluster: joined_cluster(farm.metadata.namespace.as_ref(), join),
        });
    }
}

/// The name that a node has in the cluster: its host name.
fn node_name(node: &FarmNode) -> String {
    node.config.hostname.clone().unwrap_or_else(|| node.owner.name.to_string())
}

fn addresses(state: Option<&NodeState>, written: Option<Ipv4Addr>) -> Vec<IpAddr> {
    let addresses = state.and_then(|state| state.address).into_iter().chain(written).map(IpAddr::V4);
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The node of the cluster that Stokehold runs in, if this one has joined it. One that has none of its addresses is taken for
/// another machine: a host name is what anybody may write.
pub(crate) fn in_cluster(view: &View<'_>, reference: &ObjectRef, farm: &Farm, node: &FarmNode) -> Option<InCluster> {
    let all = &view.environment().cluster_nodes;
    let held = rollout::held(farm, &node.owner);
    if let Some(name) = held {
        return Some(InCluster { name: name.to_owned(), known: Ok(all.get(name)?.clone()) });
    }
    farm.spec.join.as_ref().filter(|join| join.cluster.is_none())?;
    let name = node_name(node);
    let known = all.get(&name)?;
    let (state, _, address) = seen(view, reference, &node.owner);
    let own = addresses(state.as_ref(), address);
    let known = if known.addresses.iter().any(|address| own.contains(address)) {
        Ok(known.clone())
    } else {
        let own: Vec<_> = own.iter().map(IpAddr::to_string).collect();
        let named = format!("node {name} of the cluster has none of its addresses ({})", own.join(", "));
        Err(format!("{named}, so it is not rebooted: let its kubelet have one by config.kubelet.extraArgs.node-ip"))
    };
    Some(InCluster { name, known })
}

/// Whether a machine that is on is between its firmware and a system that is up.
fn boots(state: Option<&NodeState>) -> bool {
    state.is_none_or(|state| !state.ready && !matches!(state.phase, Phase::Ready | Phase::Stopping))
}

/// What is known of a node, whether it may be booting at all, and the address that is written.
fn seen(view: &View<'_>, farm: &ObjectRef, node: &ObjectRef) -> (Option<NodeState>, bool, Option<Ipv4Addr>) {
    if let Some(machine) = view.machine(node) {
        let on = machine::is_on(view, node);
        let address = machine.spec.nics.iter().find_map(|nic| nic.address);
        return (machine::current_node(view, node, machine), on == Power::On, address);
    }
    let address = view.server(node).and_then(|server| server.spec.address);
    let asked = || view.server(node).and_then(|server| server::asked_for_boot(view, node, server));
    let state = farm::node_state(view, farm, node).cloned().or_else(asked);
    let runs = state.as_ref().is_some_and(|state| state.phase != Phase::Unknown);
    (state, runs, address)
}
