//! What each role says of itself on its admin socket, `GET /status`: the observed state that reconcilers read.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::meta::ObjectRef;
use crate::names::{Digest, LinkName, MacAddr};
use crate::objects::{NodeState, Power};
use crate::workload::{Architecture, BlobRef, FarmImage};

/// What a role reports, whichever it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", content = "report")]
#[expect(missing_docs, reason = "each is documented where its type is")]
#[expect(clippy::large_enum_variant, reason = "one is made a second; a box would be noise")]
pub enum Report {
    Node(NodeAgentReport),
    Router(RouterReport),
    Farm(FarmReport),
    Vm(VmReport),
    ImageBuild(ImageBuildReport),
}

/// Of `stoke serve node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAgentReport {
    /// LANs that are laid, and those that could not be.
    pub lans: Vec<LanReport>,
    /// DNS servers that can be asked from inside of the namespace.
    pub upstreams: Vec<IpAddr>,
    /// Why there is no way out, if one is wanted.
    pub egress_failure: Option<String>,
}

/// One LAN on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LanReport {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Its bridge.
    pub bridge: LinkName,
    /// Why it is not as wanted, with the next step.
    pub failure: Option<String>,
}

/// Of `stoke serve router`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterReport {
    /// Whether all sockets are open and the journal was read.
    pub ready: bool,
    /// Why not.
    pub failure: Option<String>,
    /// Leases that have not expired.
    pub leases: Vec<LeaseReport>,
    /// Addresses that could be given out.
    pub capacity: u32,
    /// Machines that asked for a boot and that no object names: the newest, at most 256.
    pub strangers: Vec<Stranger>,
    /// By machine, when its firmware last asked for a boot, in milliseconds since 1970.
    pub boot_requests: BTreeMap<String, u64>,
    /// When a client last got no address because none was left, in seconds since 1970; `None` after an hour without.
    #[serde(default)]
    pub exhausted_at: Option<u64>,
    /// Addresses that somebody uses who did not get them from us: the newest, at most 64.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// Other DHCP servers that were heard where ours should be the only one: at most 16.
    #[serde(default)]
    pub rogue_servers: Vec<RogueServer>,
    /// Machines that a farm would feed and that it has nothing for: at most 16.
    #[serde(default)]
    pub unbootable: Vec<Unbootable>,
}

/// A machine that asked for a boot and that its farm has nothing for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unbootable {
    /// Its address.
    pub mac: MacAddr,
    /// Why: `no boot program for architecture 6, UEFI ia32`.
    pub reason: String,
    /// When it was heard last, in seconds since 1970.
    pub last_seen: u64,
}

/// An address that somebody uses who did not get it from us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// The address.
    pub address: Ipv4Addr,
    /// Who uses it, if that was seen.
    pub mac: Option<MacAddr>,
    /// How it was noticed: `declined`, `answers ARP`.
    pub noticed: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// A DHCP server that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RogueServer {
    /// Its server identifier (option 54).
    pub address: Ipv4Addr,
    /// Where its frames come from, if that was seen.
    pub mac: Option<MacAddr>,
    /// When it was heard last, in seconds since 1970.
    pub last_seen: u64,
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseReport {
    /// The client.
    pub mac: MacAddr,
    /// Its address.
    pub address: Ipv4Addr,
    /// The name that it has in DNS.
    pub hostname: Option<String>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// A machine that asked for a boot and that no object names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stranger {
    /// Its address.
    pub mac: MacAddr,
    /// SMBIOS UUID, if it said so.
    pub uuid: Option<String>,
    /// What it is: `BIOS`, `UEFI x86-64`.
    pub client: String,
    /// When it was heard last, in seconds since 1970.
    pub last_seen: u64,
}

/// Of `stoke serve farm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmReport {
    /// Whether all sockets are open.
    pub ready: bool,
    /// Why not.
    pub failure: Option<String>,
    /// By object, what its node reported.
    pub nodes: Vec<FarmNodeReport>,
    /// How many boot at once, and what that costs.
    #[serde(default)]
    pub storm: StormReport,
    /// Which secrets it was given: [`crate::trust::FarmSecrets::id`]; empty if none.
    #[serde(default)]
    pub secrets: String,
}

/// How many nodes boot at once, and what that costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StormReport {
    /// Nodes that load now.
    pub loading: u32,
    /// Nodes that were told to wait and have not begun yet.
    pub waiting: u32,
    /// The most that loaded at once since the farm started.
    pub most_loading: u32,
    /// Boots begun since the farm started.
    pub boots: u64,
    /// Nodes that give the root to others now.
    pub peers: u32,
    /// Bytes sent since the farm started, by way: `tftp`, `http`, `nbd`.
    pub bytes: BTreeMap<String, u64>,
}

/// What one node of a farm reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmNodeReport {
    /// The `Server` or `Machine`; `None` for a node that no object names.
    pub owner: Option<ObjectRef>,
    /// The interface that booted.
    pub mac: MacAddr,
    /// Its state.
    pub state: NodeState,
}

/// Of `stoke-vm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmReport {
    /// Whether the guest is on.
    pub power: Power,
    /// The hypervisor's word for its state: `running`, `paused`, `shutdown`.
    pub state: String,
    /// Process id of the hypervisor.
    pub pid: Option<u32>,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Why this one.
    pub accelerator_reason: String,
    /// Reboots done.
    pub reboots: u64,
    /// When the guest was started or, if that was later, reset: milliseconds since 1970. Its present boot began then.
    pub started_ms: Option<u64>,
    /// Whether it ended by itself since it was last asked to be on.
    #[serde(default)]
    pub ended: bool,
    /// Links of the host that its interfaces are, in order.
    pub links: Vec<LinkName>,
    /// Why it is not as wanted, with the next step.
    pub failure: Option<String>,
}

/// Of an image build; it stays after the build's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildReport {
    /// What it does now, for people: `install packages`.
    pub stage: String,
    /// How far, in percent.
    pub percent: u8,
    /// Milliseconds that each finished stage took.
    pub stages: Vec<(String, u64)>,
    /// The result.
    pub image: Option<BuiltImage>,
    /// Why it failed, with the next step.
    pub failure: Option<String>,
}

/// A built image version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuiltImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// What it runs on.
    #[serde(default)]
    pub architecture: Architecture,
    /// Bytes of all parts.
    pub size: u64,
    /// Version of its kernel.
    pub kernel_version: String,
    /// Digest of what it was built from: the recipe and the versions of the tools. Equal inputs are not built again.
    pub inputs: Digest,
    /// The kernel.
    pub kernel: BlobRef,
    /// The initramfs.
    pub initramfs: BlobRef,
    /// The unified kernel image, without any farm's part.
    pub uki: Option<BlobRef>,
    /// The root.
    pub root: crate::node::RootInfo,
    /// Kernel arguments.
    pub kernel_arguments: Vec<String>,
    /// When the newest of what is in it was made, in seconds since 1970; 0 if that was not recorded.
    #[serde(default)]
    pub built_at: u64,
}

impl BuiltImage {
    /// The version as a farm serves it, with the farm's own parts.
    pub fn for_farm(&self, farm_initramfs: BlobRef, uki: Option<BlobRef>) -> FarmImage {
        FarmImage {
            digest: self.digest,
            architecture: self.architecture,
            kernel: self.kernel,
            initramfs: self.initramfs,
            farm_initramfs,
            uki,
            root: self.root.clone(),
            kernel_arguments: self.kernel_arguments.clone(),
            built_at: self.built_at,
        }
    }
}
