//! What a farm is told, and what the router tells booting clients of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::meta::ObjectRef;
use crate::names::{Digest, MacAddr};
use crate::node::RootInfo;
use crate::objects::{
    DiskRoot, Enrolment, InventorySelector, LoaderSpec, LtspFile, NbdTls, NfsRoot, NodeConfig, RootMode, TftpMode,
    Trust, UnknownClients,
};

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
    /// Where it listens, if not on that address itself: it is behind a load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<Ipv4Addr>,
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
    /// The disk of nodes with [`RootMode::Disk`].
    #[serde(default)]
    pub disk: Option<DiskRoot>,
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
    /// TLS of NBD. Offered to whoever asks for it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_tls: Option<NbdTls>,
    /// Folder of blobs by digest: `ROOT/sha256/HEX`, as in an OCI layout's `blobs`.
    pub blobs: PathBuf,
    /// Image versions that nodes may boot; the first is what new boots get.
    pub images: Vec<FarmImage>,
    /// Nodes that objects name.
    pub nodes: Vec<FarmNode>,
    /// What machines get that no object names.
    pub unknown_clients: UnknownClients,
    /// Versions that are older than this, in seconds since 1970, are not booted any more.
    #[serde(default)]
    pub minimum_built_at: u64,
    /// What nodes must prove before they get their secrets.
    #[serde(default)]
    pub trust: Trust,
    /// Root mode of nodes.
    pub root: RootMode,
    /// Configuration of unknown nodes, if they may boot.
    pub config: NodeConfig,
    /// The scopes that this is of, as in [`FarmNode::scopes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<ConfigScope>,
    /// Its configuration of LTSP, for unknown nodes: of the others it is in their own.
    #[serde(default)]
    pub ltsp: LtspFiles,
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
    /// Where all replicas keep the SSH host keys of nodes; nowhere if empty.
    #[serde(default)]
    pub host_keys: PathBuf,
    /// Its own port on the LAN, if it has a network namespace of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<FarmPort>,
}

/// A farm's own port on its LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmPort {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Its address, with the prefix length of its subnet.
    pub address: Ipv4Net,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Net>,
    /// The LAN's router, if nodes of other subnets are behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

fn ethernet() -> u16 {
    1500
}

/// A farm's configuration of LTSP: none or one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LtspFiles {
    /// Of LTSP 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lts_conf: Option<LtspFile>,
    /// Of a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ltsp_conf: Option<LtspFile>,
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
    /// When the newest of what is in it was made, in seconds since 1970; 0 if that is not known.
    #[serde(default)]
    pub built_at: u64,
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

/// One scope of a node's configuration, and the machines for which it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigScope {
    /// What it says.
    pub config: NodeConfig,
    /// What a machine must be; all if empty.
    #[serde(default, skip_serializing_if = "InventorySelector::is_empty")]
    pub inventory: InventorySelector,
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
    /// The scopes that this is of, widest first, if what the machine says of itself when it boots decides which hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<ConfigScope>,
    /// Where its root is, if not where the farm says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootMode>,
    /// The TPM that it must have where trust is by TPM; none is accepted if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
    /// Follows the object's status: a resident agent that has seen less reboots.
    pub reboots_requested: u64,
    /// The version that it gets when it boots; the farm's first if absent, or if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Whether its agent may let the running kernel start the new one when it is told to reboot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kexec: bool,
}
