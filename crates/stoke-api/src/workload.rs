//! What the reconcilers ask a backend to run: a [`Workload`] is a role and its configuration, neutral of where it runs.
//!
//! Every role is started the same way, `stoke serve ROLE --config FILE --socket SOCKET` (or `stoke-vm` with the same two
//! flags), reads its configuration again when it is told `POST /reload` on the socket, and says what it observes in
//! `GET /status` there: one of the types in [`crate::report`]. So a role needs no store, and goes on without anybody.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::meta::ObjectRef;
use crate::names::{Bytes, Digest, LinkName, MacAddr};
use crate::node::RootInfo;
use crate::objects::{
    DhcpMode, ImageSpec, LoaderSpec, NfsRoot, NodeConfig, Pool, Power, Reservation, RootMode, RunStrategy, TftpMode,
    UnknownClients,
};

/// Something to run, for one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The object that it serves; with the role, its identity.
    pub owner: ObjectRef,
    /// What to run, and how it is configured.
    pub role: Role,
}

/// What to run, and how it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", content = "config")]
pub enum Role {
    /// The LANs of this host: bridges, addresses, egress, ports. One for all objects.
    Node(NodeAgentConfig),
    /// DHCP, DNS, router advertisements of one LAN.
    Router(RouterConfig),
    /// TFTP, HTTP, NBD and node sessions of one farm.
    Farm(FarmConfig),
    /// One virtual machine.
    Vm(VmConfig),
    /// One image build: runs until it is done.
    ImageBuild(ImageBuildConfig),
}

impl Role {
    /// One word, as in `stoke serve WORD` and in the workload's name.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Router(_) => "router",
            Self::Farm(_) => "farm",
            Self::Vm(_) => "vm",
            Self::ImageBuild(_) => "build",
        }
    }
}

impl Workload {
    /// Unique among the workloads of an installation: `router-default-lab`. A file name.
    pub fn name(&self) -> String {
        let namespace = self.owner.namespace.as_ref().map_or("cluster", |namespace| namespace.as_str());
        match &self.role {
            Role::Node(_) => "node".to_owned(),
            // No object's name has a full stop.
            Role::Farm(farm) if farm.replica > 0 => format!("farm-{namespace}-{}.{}", self.owner.name, farm.replica),
            role => format!("{}-{namespace}-{}", role.word(), self.owner.name),
        }
    }
}

/// Configuration of `stoke serve node`: the LANs that this host should have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAgentConfig {
    /// Ties links and tables to this installation: eight hexadecimal digits, a hash of the state folder.
    pub installation: String,
    /// The LANs.
    pub lans: Vec<LanPlan>,
    /// Whether the namespace has a way out (some LAN masquerades).
    pub egress: bool,
    /// Socket on which workloads ask for LAN ports; see `stoke-node`.
    pub ports_socket: PathBuf,
}

/// One LAN on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LanPlan {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Its bridge.
    pub bridge: LinkName,
    /// Link-layer address of the bridge: made from the LAN's name, so that it is the same after a restart.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u16,
    /// The router's addresses, with the prefix lengths of their subnets.
    pub addresses: Vec<Ipv4Net>,
    /// The router's IPv6 address, with the length of its prefix.
    #[serde(default)]
    pub address6: Option<Ipv6Net>,
    /// Whether what goes out is masqueraded.
    pub masquerade: bool,
    /// Interfaces of the host that join.
    pub uplinks: Vec<LinkName>,
}

/// Configuration of `stoke serve router`: one LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterConfig {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Interface that it serves on.
    pub interface: LinkName,
    /// MTU in bytes.
    pub mtu: u16,
    /// Subnets.
    pub subnets: Vec<RouterSubnet>,
    /// How it answers DHCP.
    pub dhcp: DhcpMode,
    /// Clients with addresses of their own that are no machines of ours.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
    /// IPv6 on the LAN.
    #[serde(default)]
    pub ipv6: Option<RouterIpv6>,
    /// Domain of the machines' names.
    pub domain: String,
    /// Servers that know all other names; empty if there are none.
    pub upstreams: Vec<IpAddr>,
    /// Machines that objects name.
    pub hosts: Vec<RouterHost>,
    /// Farms on this LAN, by `NAMESPACE/NAME`.
    pub farms: BTreeMap<String, FarmBoot>,
    /// Journal of leases.
    pub leases: PathBuf,
}

/// IPv6 as the router needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterIpv6 {
    /// The prefix that it advertises.
    pub prefix: Ipv6Net,
    /// Its own address.
    pub address: Ipv6Addr,
}

/// One subnet as the router needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterSubnet {
    /// The subnet.
    pub cidr: Ipv4Net,
    /// The router's own address in it.
    pub gateway: Ipv4Addr,
    /// Whether machines may use the router as their way out (option 3).
    pub default_route: bool,
    /// Ranges for machines without an address of their own.
    pub pools: Vec<Pool>,
    /// Whether it lies behind a relay agent: `gateway` is then not the router's own address.
    #[serde(default)]
    pub relayed: bool,
}

/// A machine that an object names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterHost {
    /// The object.
    pub owner: ObjectRef,
    /// Its name in DNS, without domain.
    pub hostname: String,
    /// Its interfaces on this LAN.
    pub macs: Vec<MacAddr>,
    /// Its SMBIOS UUID, for clients that change their MAC.
    pub uuid: Option<String>,
    /// Its DHCP client identifier, if it is known by that too: text, or bytes as `0x…`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Its address, if it has one of its own.
    pub address: Option<Ipv4Addr>,
    /// The farm that feeds it: key of [`RouterConfig::farms`].
    pub farm: Option<String>,
}

/// What booting clients are told of a farm; the input of the boot policy in `stoke-boot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmBoot {
    /// Addresses of TFTP, HTTP and the node API, one of each replica; at least one. Which one a machine gets is
    /// [`Self::address_for`].
    pub addresses: Vec<Ipv4Addr>,
    /// The same of IPv6; empty without it.
    #[serde(default)]
    pub addresses6: Vec<Ipv6Addr>,
    /// Port of HTTP.
    pub http_port: u16,
    /// Port of the node API: [`crate::node::DHCP_OPTION_FARM`].
    pub node_port: u16,
    /// By architecture, path on the HTTP server of the unified kernel image; empty until the image is built.
    #[serde(default)]
    pub kernels: BTreeMap<Architecture, String>,
    /// What firmware loads first.
    #[serde(default)]
    pub loader: LoaderSpec,
    /// What machines get that no object names.
    pub unknown_clients: UnknownClients,
}

impl FarmBoot {
    /// The replica that a machine is sent to: always the same one, and each gets its share of the machines.
    pub fn address_for(&self, mac: MacAddr) -> Ipv4Addr {
        turned(&self.addresses, mac).next().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// URLs of the node API, the machine's own replica first, separated by spaces.
    pub fn node_urls(&self, mac: MacAddr) -> String {
        let url = |address: Ipv4Addr| format!("https://{address}:{}", self.node_port);
        turned(&self.addresses, mac).map(url).collect::<Vec<_>>().join(" ")
    }
}

/// The replicas in the order in which a machine asks them: from its own one, chosen by its address, round to the one
/// before.
pub fn turned<T: Copy>(replicas: &[T], mac: MacAddr) -> impl Iterator<Item = T> {
    // Addresses of one maker differ in their last bytes; FNV-1a spreads those.
    let hash = mac.0.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let first = usize::try_from(hash).unwrap_or_default().checked_rem(replicas.len()).unwrap_or_default();
    replicas.iter().cycle().skip(first).take(replicas.len()).copied()
}

/// Configuration of `stoke serve farm`: one farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmConfig {
    /// The `Farm`.
    pub farm: ObjectRef,
    /// Which of its replicas this is, from 0.
    #[serde(default)]
    pub replica: u32,
    /// Address that everything is served on.
    pub address: Ipv4Addr,
    /// Addresses of all replicas, this one's among them.
    #[serde(default)]
    pub replicas: Vec<Ipv4Addr>,
    /// Address that boot programs and kernels are served on over IPv6.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// MTU of its LAN in bytes: no TFTP block is larger. Read when the farm starts.
    #[serde(default = "ethernet")]
    pub mtu: u16,
    /// UDP port of TFTP.
    pub tftp_port: u16,
    /// How TFTP answers.
    #[serde(default)]
    pub tftp: TftpMode,
    /// What firmware loads first.
    #[serde(default)]
    pub loader: LoaderSpec,
    /// The root of nodes with [`RootMode::Nfs`].
    #[serde(default)]
    pub nfs: Option<NfsRoot>,
    /// Whether nodes that hold the root in memory give it to others.
    #[serde(default)]
    pub peers: bool,
    /// Nodes that may load at once.
    #[serde(default)]
    pub max_loading: Option<u32>,
    /// TCP port of HTTP.
    pub http_port: u16,
    /// TCP port of the node API, HTTPS.
    pub node_port: u16,
    /// TCP port of NBD.
    pub nbd_port: u16,
    /// Folder of blobs by digest: `ROOT/sha256/HEX`, as in an OCI layout's `blobs`.
    pub blobs: PathBuf,
    /// Image versions that nodes may boot; the first is what new boots get.
    pub images: Vec<FarmImage>,
    /// Nodes that objects name.
    pub nodes: Vec<FarmNode>,
    /// What machines get that no object names.
    pub unknown_clients: UnknownClients,
    /// Root mode of nodes.
    pub root: RootMode,
    /// Configuration of unknown nodes, if they may boot.
    pub config: NodeConfig,
    /// Domain of the LAN.
    pub domain: String,
    /// Certificate chain of the node API in PEM.
    pub certificate: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
    /// Boot programs served by TFTP and HTTP: name to file. `undionly.kpxe`, `snponly.efi`.
    pub boot_programs: BTreeMap<String, PathBuf>,
    /// Where the farm remembers its nodes' sessions.
    pub state: PathBuf,
}

fn ethernet() -> u16 {
    1500
}

/// One image version in a farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmImage {
    /// The version.
    pub digest: Digest,
    /// What it runs on.
    #[serde(default)]
    pub architecture: Architecture,
    /// The kernel.
    pub kernel: BlobRef,
    /// The image's initramfs.
    pub initramfs: BlobRef,
    /// The farm's own initramfs, loaded as a second one: its CA.
    pub farm_initramfs: BlobRef,
    /// The unified kernel image with the farm's initramfs inside.
    pub uki: Option<BlobRef>,
    /// The root.
    pub root: RootInfo,
    /// Kernel arguments.
    pub kernel_arguments: Vec<String>,
}

/// A processor architecture, in Debian's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// A blob by digest and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobRef {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

impl BlobRef {
    /// Its path on a farm's HTTP server.
    pub fn http_path(&self) -> String {
        format!("/v1/blob/sha256/{}", self.digest.hex())
    }
}

/// A node that an object names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmNode {
    /// The `Server` or `Machine`.
    pub owner: ObjectRef,
    /// Its interfaces.
    pub macs: Vec<MacAddr>,
    /// Its SMBIOS UUID.
    pub uuid: Option<String>,
    /// Its configuration, all scopes merged; `hostname` is set.
    pub config: NodeConfig,
    /// Follows the object's status: a resident agent that has seen less reboots.
    pub reboots_requested: u64,
}

/// Configuration of `stoke-vm`: one virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmConfig {
    /// The `Machine`.
    pub machine: ObjectRef,
    /// SMBIOS UUID, made from the object's uid.
    pub uuid: String,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// What starts first.
    pub firmware: FirmwareKind,
    /// Network interfaces; the first boots.
    pub nics: Vec<VmNic>,
    /// Whether it should be on.
    pub power: Power,
    /// Whether it is started again when it ends by itself.
    pub run_strategy: RunStrategy,
    /// A running machine that has seen less reboots is rebooted.
    pub reboots_requested: u64,
    /// Seconds that the guest has to shut down before it is cut off.
    pub grace_seconds: u32,
    /// Folder of what must outlast a restart: firmware variables, console history.
    pub state: PathBuf,
    /// Folder of sockets.
    pub run: PathBuf,
    /// Where LAN ports are asked for.
    pub ports_socket: PathBuf,
}

/// What starts first in a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FirmwareKind {
    Bios,
    Uefi,
}

/// A network interface of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmNic {
    /// Its name in the machine's description.
    pub name: String,
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Its link-layer address.
    pub mac: MacAddr,
}

/// Configuration of an image build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildConfig {
    /// Name in the store: `NAMESPACE/NAME`.
    pub name: String,
    /// What to build.
    pub spec: ImageSpec,
    /// The store: an OCI layout.
    pub store: PathBuf,
}
