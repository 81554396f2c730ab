//! What node agents of a cluster are told: the LANs of their node, and what its pods may have on them.
//!
//! Every LAN is on every node, so that it is there before the first pod that needs it. A machine gets its TAPs, a role an
//! interface in its own network namespace; a build gets nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use stoke_api::agent::{AgentConfig, AgentLan, LAN_INTERFACE, Overlay, PodGrant, PortGrant, PortKind};
use stoke_api::objects::{AnyObject, Uplink};
use stoke_api::workload::{FarmConfig, LanPlan, Role, RouterConfig, VmConfig, VmNic, Workload};

use crate::names::{node_bridge_mac, port_mac};
use crate::observed::Observed;
use crate::vni;

/// UDP port of overlays. Not VXLAN's own 4789: pod networks use that one, and a port has one set of devices only.
pub const OVERLAY_PORT: u16 = 14_789;

/// A LAN of the cluster, before it is known which node it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanOnNodes {
    /// Its bridge, without interfaces of any node.
    pub plan: LanPlan,
    /// Network identifier of its overlay.
    pub vni: u32,
    /// Interfaces that join, each on some nodes.
    pub uplinks: Vec<Uplink>,
}

/// A node with an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentNode {
    /// Its name.
    pub name: String,
    /// Its address, as the others reach it.
    pub address: IpAddr,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A pod of a workload that is on a node.
#[derive(Clone, Copy, Debug)]
pub struct PlacedPod<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// Its node.
    pub node: &'a str,
    /// What runs in it.
    pub workload: &'a Workload,
}

/// The LANs of the cluster: those that a round wants to be laid.
pub fn agent_lans(observed: &Observed, wanted: &[Workload]) -> Vec<LanOnNodes> {
    let plans = wanted.iter().filter_map(|workload| match &workload.role {
        Role::Node(config) => Some(&config.lans),
        _ => None,
    });
    let vnis = vni::assign(&observed.objects, &observed.environment);
    let uplinks: BTreeMap<_, _> = observed
        .objects
        .iter()
        .filter_map(|object| match object {
            AnyObject::Lan(lan) => Some((object.reference(), &lan.spec.uplinks)),
            _ => None,
        })
        .collect();
    let lan = |plan: &LanPlan| {
        let vni = *vnis.get(&plan.lan)?.as_ref().ok()?;
        let uplinks = uplinks.get(&plan.lan).copied().cloned().unwrap_or_default();
        Some(LanOnNodes { plan: LanPlan { uplinks: Vec::new(), ..plan.clone() }, vni, uplinks })
    };
    plans.flatten().filter_map(lan).collect()
}

/// What each node's agent is told, by the node's name.
pub fn agent_configs(
    observed: &Observed,
    wanted: &[Workload],
    nodes: &[AgentNode],
    pods: &[PlacedPod<'_>],
    overlay_port: u16,
) -> BTreeMap<String, AgentConfig> {
    let installation = &observed.environment.installation;
    let mut configs = node_configs(installation, &agent_lans(observed, wanted), nodes, overlay_port);
    for pod in pods {
        let Some(config) = configs.get_mut(pod.node) else { continue };
        let ports = port_grants(installation, pod.workload);
        config.pods.push(PodGrant { pod: pod.uid.to_owned(), owner: pod.workload.owner.clone(), ports });
    }
    for config in configs.values_mut() {
        config.pods.sort_by(|one, other| one.pod.cmp(&other.pod));
    }
    configs
}

/// What each node's agent is told of LANs, by the node's name.
pub fn node_configs(
    installation: &str,
    lans: &[LanOnNodes],
    nodes: &[AgentNode],
    overlay_port: u16,
) -> BTreeMap<String, AgentConfig> {
    let config = |node: &AgentNode| {
        let lans = lans.iter().map(|lan| on_node(installation, lan, node, nodes, overlay_port)).collect();
        AgentConfig { installation: installation.to_owned(), lans, pods: Vec::new() }
    };
    nodes.iter().map(|node| (node.name.clone(), config(node))).collect()
}

fn on_node(installation: &str, lan: &LanOnNodes, node: &AgentNode, nodes: &[AgentNode], port: u16) -> AgentLan {
    let here = |uplink: &&Uplink| uplink.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let mut peers: Vec<_> = nodes.iter().filter(|other| other.name != node.name).map(|other| other.address).collect();
    peers.sort_unstable();
    let overlay = Overlay { vni: lan.vni, port, local: node.address, peers };
    AgentLan {
        plan: LanPlan {
            mac: node_bridge_mac(installation, &lan.plan.lan, &node.name),
            uplinks: lan.uplinks.iter().filter(here).map(|uplink| uplink.interface.clone()).collect(),
            ..lan.plan.clone()
        },
        overlay: (!overlay.peers.is_empty()).then_some(overlay),
    }
}

/// What a workload's pod may have on LANs.
pub fn port_grants(installation: &str, workload: &Workload) -> Vec<PortGrant> {
    match &workload.role {
        Role::Router(config) => of_router(installation, &workload.name(), config).into_iter().collect(),
        Role::Farm(config) => of_farm(installation, &workload.name(), config).into_iter().collect(),
        Role::Vm(config) => of_machine(config),
        Role::Node(_) | Role::ImageBuild(_) => Vec::new(),
    }
}

/// The router's own addresses; relayed subnets have routers of their own.
fn of_router(installation: &str, workload: &str, config: &RouterConfig) -> Option<PortGrant> {
    let own = config.subnets.iter().filter(|subnet| !subnet.relayed);
    let kind = PortKind::Interface {
        name: LAN_INTERFACE.parse().ok()?,
        mac: port_mac(installation, workload),
        addresses: own.filter_map(|subnet| Ipv4Net::new(subnet.gateway, subnet.cidr.prefix_len()).ok()).collect(),
        address6: config.ipv6.as_ref().and_then(|ipv6| Ipv6Net::new(ipv6.address, ipv6.prefix.prefix_len()).ok()),
        gateway: None,
        forwards: true,
        masquerade: config.subnets.iter().any(|subnet| subnet.default_route),
    };
    Some(PortGrant { lan: config.lan.clone(), kind })
}

fn of_farm(installation: &str, workload: &str, config: &FarmConfig) -> Option<PortGrant> {
    let port = config.port.as_ref()?;
    let kind = PortKind::Interface {
        name: LAN_INTERFACE.parse().ok()?,
        mac: port_mac(installation, workload),
        addresses: vec![port.address],
        address6: port.address6,
        gateway: port.gateway,
        forwards: false,
        masquerade: false,
    };
    Some(PortGrant { lan: port.lan.clone(), kind })
}

fn of_machine(config: &VmConfig) -> Vec<PortGrant> {
    let tap = |nic: &VmNic| PortGrant { lan: nic.lan.clone(), kind: PortKind::Tap { mac: nic.mac } };
    config.nics.iter().map(tap).collect()
}
