//! The protocol between a booting node (`stoke-init`) and its farm: JSON over HTTPS, the farm's CA being in the initramfs.
//!
//! ```text
//!  node                                   farm
//!   | POST /v1/node/hello   (Hello)         |   who I am                      -> Manifest, 403 unknown, 503 wait
//!   | POST /v1/node/report  (Report)        |   phases, address, keys, ready  -> 204, 410 session is over: hello again
//!   | GET  /v1/node/orders?session=…&seen=N |   held open up to 30 s          -> Orders
//!   | GET  /v1/node/kept?session=…          |   once, while it boots            -> Kept
//!   | POST /v1/node/keep   (Keep)           |   my host key, for the next boot  -> 204
//! ```
//!
//! Versioned by [`PROTOCOL`]: the farm answers nodes of this version and of two before. Fields are only ever added,
//! with a default, and unknown fields are ignored on both sides.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{Digest, MacAddr};
use crate::objects::{DiskRoot, NfsRoot, NodeConfig, RootFormat};
use crate::trust::Hex;
use crate::workload::BlobRef;

/// Version of this protocol.
pub const PROTOCOL: u16 = 1;

/// DHCP option in which a farm's nodes find it: the URL of the node API, for example `https://10.10.0.1:8443`. From the
/// range that is reserved for private use (RFC 3942, section 2.1).
pub const DHCP_OPTION_FARM: u8 = 224;

/// Vendor class (DHCP option 60) that `stoke-init` sends.
pub const VENDOR_CLASS: &str = "stokehold-init";

/// Path in the initramfs of what the image says of itself: [`Baked`], put there by the image build.
pub const BAKED_PATH: &str = "/etc/stokehold/image.json";

/// Path in the initramfs of the farm's CA certificate in PEM, put there by the farm.
pub const CA_PATH: &str = "/etc/stokehold/farm-ca.pem";

/// Path on the running node of [`BootRecord`].
pub const BOOT_RECORD_PATH: &str = "/run/stokehold/boot.json";

/// What an image's initramfs knows of its own image. The root's digest and hash are here, so that what is verified is
/// what was built together with this kernel, whoever serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baked {
    /// Name of the image.
    pub name: String,
    /// When it was built, in seconds since 1970. The clock of a node is never before this.
    pub built_at: u64,
    /// Version of the kernel whose modules are here.
    pub kernel: String,
    /// The root.
    pub root: RootInfo,
}

/// A root file system with the dm-verity tree that follows it in the same blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootInfo {
    /// File system.
    pub format: RootFormat,
    /// Digest of the whole blob: file system, then hash tree.
    pub blob: Digest,
    /// Size of the whole blob in bytes, a multiple of 4096.
    pub size: u64,
    /// The tree over it.
    pub verity: Verity,
}

/// Parameters of a dm-verity tree: version 1, SHA-256, blocks of 4096 bytes, no superblock in the table's sense (the
/// hash area starts right at `hash_offset`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verity {
    /// The root hash, 64 hexadecimal digits.
    pub root_hash: String,
    /// The salt in hexadecimal; empty for none.
    pub salt: String,
    /// Number of data blocks of 4096 bytes.
    pub data_blocks: u64,
    /// Where the tree begins in the blob, in bytes; a multiple of 4096.
    pub hash_offset: u64,
}

/// What a node says of itself first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Version of the protocol that the node speaks.
    pub protocol: u16,
    /// The interface that booted.
    pub boot_mac: MacAddr,
    /// All interfaces.
    pub macs: Vec<MacAddr>,
    /// SMBIOS UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The address that DHCP gave.
    pub address: Ipv4Addr,
    /// The root that belongs to the initramfs that runs.
    pub root: Digest,
    /// `MemTotal` in bytes.
    pub memory: u64,
    /// Number of processors.
    pub cpus: u32,
    /// Maker and model by SMBIOS.
    #[serde(default)]
    pub product: String,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// The orders that this boot has heard of, if it had a session before: a node that goes over to another replica, or
    /// whose session was lost, is not given its image again, and no order is lost. Absent while it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders_seen: Option<u64>,
    /// How much of a configuration the node can apply: [`NodeConfig::GENERATION`] of the program that it runs.
    #[serde(default)]
    pub config_generation: u32,
}

/// What the farm wants of a node for this boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of the protocol that the farm speaks.
    pub protocol: u16,
    /// Names this boot in every later request.
    pub session: String,
    /// The node's name.
    pub name: String,
    /// The farm's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// The image version that this root belongs to.
    pub image: Digest,
    /// The root; the one that the node asked for by [`Hello::root`].
    pub root: RootInfo,
    /// Where the root is while the node runs.
    pub mode: Mode,
    /// NBD servers that export [`RootInfo::blob`] under its digest (`sha256:…`), best first.
    pub nbd: Vec<SocketAddr>,
    /// URLs of the blob over HTTP, best first.
    pub http: Vec<String>,
    /// Configuration of the node, all scopes merged.
    pub config: NodeConfig,
    /// Domain of the node's LAN.
    #[serde(default)]
    pub domain: String,
    /// URLs of the node API of all replicas of the farm, this one's first. When one does not answer, the next is asked.
    #[serde(default)]
    pub farms: Vec<String>,
    /// The root with [`Mode::Nfs`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NfsRoot>,
    /// The disk with [`Mode::Disk`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskRoot>,
    /// URLs of the root's chunk table ([`crate::chunks`]), best first; with [`Mode::Disk`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<String>,
    /// Whether the farm keeps the node's SSH host key: [`Kept`].
    #[serde(default)]
    pub keeps_host_key: bool,
    /// Parts of the root that boots read, in the order in which they do: `(offset, length)` in bytes. They are fetched
    /// ahead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hot: Vec<(u64, u32)>,
    /// Whether a node with the root in memory gives it to others: [`Report::serves`].
    #[serde(default)]
    pub serve_peers: bool,
    /// Number of the last order before this session.
    #[serde(default)]
    pub orders: u64,
    /// A node whose image is older than this ([`Baked::built_at`]) does not boot it.
    #[serde(default)]
    pub minimum_built_at: u64,
    /// Whether there are secrets for the node, and what it has to show for them.
    #[serde(default)]
    pub trust: crate::trust::TrustTerms,
}

/// Kept free beside an image in memory, so that the node is of use.
const RESERVE: u64 = 512 << 20;

/// Whether [`Mode::Auto`] means memory for a root and a node of these sizes in bytes.
pub fn fits_in_memory(root: u64, memory: u64) -> bool {
    root.saturating_add(root / 5).saturating_add(RESERVE) < memory
}

/// Where the root is while the node runs: decided by the farm, but for `Auto`, which the node decides by its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Memory if the image times 1.2 and a reserve of 512 MiB fit, else NBD.
    Auto,
    /// The farm, by NBD.
    Nbd,
    /// Memory.
    Ram,
    /// A directory on an NFS server: [`Manifest::nfs`].
    Nfs,
    /// A disk of the node: [`Manifest::disk`].
    Disk,
}

/// How far a boot is. In this order; a report never goes back within a session, except to `Failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not heard of.
    #[default]
    Unknown,
    /// The firmware asked for an address (seen by the router or the farm, not by the node).
    Firmware,
    /// The boot script, kernel or boot program was fetched (seen by the farm).
    Loading,
    /// `stoke-init` runs.
    Init,
    /// The network is up.
    Network,
    /// The manifest is here.
    Manifest,
    /// The root is attached and verified.
    Root,
    /// Control was handed to the image's init system.
    Switched,
    /// The system is up.
    Ready,
    /// It goes down on purpose.
    Stopping,
    /// The boot failed; it is retried.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One phase reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The phase.
    pub phase: Phase,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// A word of detail: which root mode, which failure.
    #[serde(default)]
    pub detail: String,
}

/// What a node reports while it boots and runs. Idempotent: a repeated event changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The session.
    pub session: String,
    /// Phases since the last report that was accepted.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Public host keys, each `TYPE BASE64`.
    #[serde(default)]
    pub ssh_host_keys: Vec<String>,
    /// Where the root is: `nbd`, `ram`, `disk` or `nfs`.
    #[serde(default)]
    pub root: String,
    /// URL at which the node gives its root to others, `http://ADDRESS:PORT/v1/blob/sha256/HEX`; empty if it does not.
    #[serde(default)]
    pub serves: String,
    /// How full the writable layer is, if it has become full or has room again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerUse>,
    /// What the node does not do that its configuration asks for, all of it; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remarks: Option<Vec<String>>,
}

/// What the farm keeps for a node: `GET /v1/node/kept?session=…`, once in a session and only while the node boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The private SSH host key in OpenSSH's format; absent if it was never told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_host_key: Option<Hex>,
}

/// What the farm shall keep: `POST /v1/node/keep`. What it keeps already stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keep {
    /// The session.
    pub session: String,
    /// The private SSH host key in OpenSSH's format.
    pub ssh_host_key: Hex,
}

/// How full the writable layer of a node's root is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayerUse {
    /// Bytes that it can have.
    pub size: u64,
    /// Bytes that are left.
    pub free: u64,
    /// Whether it counts as full: then programs on the node get "No space left on device".
    pub full: bool,
}

/// What the farm wants done by a node that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orders {
    /// Grows with each order. Sent back as `seen`.
    pub number: u64,
    /// Reboot now, cleanly.
    #[serde(default)]
    pub reboot: bool,
    /// What to boot by kexec instead of through the firmware, if that works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kexec: Option<Kexec>,
}

/// A kernel that the running one shall start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kexec {
    /// The image version that it belongs to.
    pub image: Digest,
    /// The kernel.
    pub kernel: BlobRef,
    /// The parts of its initramfs, in order.
    pub initramfs: Vec<BlobRef>,
    /// Its command line, but for the interface that boots, which the node knows.
    pub command_line: String,
    /// URLs of the farm's HTTP servers, without a final slash, best first.
    pub http: Vec<String>,
}

/// Where a node's boot is written down on the node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootRecord {
    /// The node's name.
    pub name: String,
    /// The image version that runs; absent if it was booted without a farm.
    #[serde(default)]
    pub image: Option<Digest>,
    /// The root's digest.
    pub root: Digest,
    /// `nbd`, `ram`, `disk` or `nfs`.
    pub mode: String,
    /// The farm's URL; absent if it was booted without one.
    #[serde(default)]
    pub farm: Option<String>,
    /// Phases reached before the root was switched.
    pub events: Vec<Event>,
}
