//! What the operator and the node agents of a cluster say to each other, over HTTPS with certificates of both.
//!
//! A node agent never asks the API server: the operator tells it what its node should have ([`AgentConfig`]) and asks it
//! what there is ([`AgentReport`]). The roles in pods have no network listeners for this: each has its admin socket in a
//! folder that the agent shares with the pod, so the agent passes on what the operator asks of them.
//!
//! ```text
//! GET  /v1/report                 AgentReport
//! PUT  /v1/config                 AgentConfig; 422 with the reason if it is refused
//! POST /v1/teardown               removes all that is ours on this node; a list of what could not be, as lines
//! ANY  /v1/pods/UID/admin/PATH    the same request on the admin socket of that pod
//! ```

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::meta::ObjectRef;
use crate::names::{LinkName, MacAddr};
use crate::report::{LanReport, Report};
use crate::workload::LanPlan;

/// TCP port of a node agent.
pub const AGENT_PORT: u16 = 9444;
/// Where a pod finds what its node agent shares with it: [`PORTS_SOCKET`], and its own [`ADMIN_SOCKET`].
pub const POD_FOLDER: &str = "/run/stokehold";
/// In that folder, the socket on which LAN ports are asked for.
pub const PORTS_SOCKET: &str = "ports.sock";
/// In that folder, the admin socket of the pod's role.
pub const ADMIN_SOCKET: &str = "admin.sock";
/// The interface of a role in a pod on its LAN.
pub const LAN_INTERFACE: &str = "lan0";
/// The extended resource of which a pod asks one to be given its folder, and TUN.
pub const LAN_RESOURCE: &str = "stokehold.dev/lan";
/// The extended resource of a usable `/dev/kvm`.
pub const KVM_RESOURCE: &str = "stokehold.dev/kvm";
/// The extended resource of `/dev/net/tun`, for pods that are not ours: those on a LAN need none.
pub const TUN_RESOURCE: &str = "stokehold.dev/tun";
/// The extended resource of `/dev/vhost-net`, for pods that are not ours.
pub const VHOST_NET_RESOURCE: &str = "stokehold.dev/vhost-net";
/// The extended resource of `/dev/vhost-vsock`, for pods that are not ours.
pub const VHOST_VSOCK_RESOURCE: &str = "stokehold.dev/vhost-vsock";

/// What a node should have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// Ties links and tables to this installation: eight hexadecimal digits, made from the cluster.
    pub installation: String,
    /// The LANs that are wanted on this node.
    pub lans: Vec<AgentLan>,
    /// What the pods of this node may have.
    pub pods: Vec<PodGrant>,
}

/// A LAN on one of several nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentLan {
    /// Its bridge. Without addresses: the routers have those.
    pub plan: LanPlan,
    /// The VXLAN network identifier that joins its bridges; no overlay if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
}

/// A VXLAN without learning of its peers: they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlay {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's own address.
    pub local: IpAddr,
    /// The other nodes on which the LAN is.
    pub peers: Vec<IpAddr>,
}

/// What one pod may have. The pod is known by its cgroup, never by what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodGrant {
    /// The pod's uid.
    pub pod: String,
    /// Whose pod it is, for people: `machine/node-1`.
    pub owner: ObjectRef,
    /// The ports that it may ask for.
    pub ports: Vec<PortGrant>,
}

/// One port on a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortGrant {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// What is given.
    pub kind: PortKind,
}

/// What is given on a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PortKind {
    /// A TAP device as an open descriptor, for the machine with this address.
    Tap {
        /// The machine's link-layer address.
        mac: MacAddr,
    },
    /// An interface moved into the pod's network namespace, of which the pod hands over a descriptor.
    Interface {
        /// Its name there.
        name: LinkName,
        /// Its link-layer address.
        mac: MacAddr,
        /// Its addresses.
        addresses: Vec<Ipv4Net>,
        /// Its IPv6 address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address6: Option<Ipv6Net>,
        /// Where all else goes, by IPv4, if not by the pod's own way out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv4Addr>,
        /// Whether the pod forwards between the subnets of the LAN.
        #[serde(default)]
        forwards: bool,
        /// Whether the pod is this LAN's way out: it forwards, and what leaves by its other interfaces is masqueraded.
        #[serde(default)]
        masquerade: bool,
    },
}

/// What there is on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentReport {
    /// The node's name in the cluster.
    pub node: String,
    /// Version of the agent's program.
    pub version: String,
    /// Whether it has had a configuration since it started.
    pub configured: bool,
    /// What the probe of `/dev/kvm` came to.
    pub kvm: DeviceVerdict,
    /// Whether TUN devices can be made.
    pub tun: DeviceVerdict,
    /// Whether `/dev/vhost-net` opens.
    #[serde(default)]
    pub vhost_net: DeviceVerdict,
    /// Whether `/dev/vhost-vsock` opens.
    #[serde(default)]
    pub vhost_vsock: DeviceVerdict,
    /// What a frame of a LAN may hold for it to reach other nodes whole: the MTU of this node's own address, less what an
    /// overlay puts around a frame. Absent if that is not known.
    #[serde(default)]
    pub overlay_mtu: Option<u16>,
    /// LANs that are laid, and those that could not be.
    pub lans: Vec<LanReport>,
    /// The pods of ours on this node that have asked for something.
    pub pods: Vec<PodReport>,
}

/// Whether a device can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceVerdict {
    /// Whether it can.
    pub usable: bool,
    /// Why not, or how it was found out: one word for a label's value, `no-device`, `emulated`.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
    /// The group that may open it, if it is neither root's nor everybody's: who is not root must be in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// What the role in a pod says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The pod's uid.
    pub pod: String,
    /// Its last report, as on its admin socket.
    pub report: Option<Report>,
    /// Why there is none, or why a port was refused.
    pub failure: Option<String>,
    /// Links of its ports on the node.
    pub links: Vec<LinkName>,
}
