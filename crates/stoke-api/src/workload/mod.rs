//! What the reconcilers ask a backend to run: a [`Workload`] is a role and its configuration, neutral of where it runs.
//!
//! Every role is started the same way, `stoke serve ROLE --config FILE --socket SOCKET` (or `stoke-vm` with the same two
//! flags), reads its configuration again when it is told `POST /reload` on the socket, and says what it observes in
//! `GET /status` there: one of the types in [`crate::report`]. So a role needs no store, and goes on without anybody.

mod farm;
pub mod pod;
mod router;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use farm::{
    Architecture, BlobRef, ConfigScope, FarmBoot, FarmConfig, FarmImage, FarmNode, FarmPort, LtspFiles, turned,
};
pub use pod::{TCG_OVERHEAD, vm_overhead};
pub use router::{FORWARDS, Forward, RouterConfig, RouterHost, RouterIpv6, RouterSubnet};

use crate::meta::ObjectRef;
use crate::names::{Bytes, LinkName, MacAddr};
use crate::objects::{ImageSpec, Kind, Power, RunStrategy, VmDisk};

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
#[expect(clippy::large_enum_variant, reason = "workloads are few, and passed on by reference")]
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
            // A farm tries image versions in machines of its own, one after the other. No object's name has a full stop.
            Role::Vm(vm) if self.owner.kind == Kind::Farm => {
                let run = vm.uuid.get(..8).unwrap_or_default();
                format!("rehearsal-{namespace}-{}.{run}", self.owner.name)
            }
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
    /// Whose keys its UEFI trusts, if it starts nothing that is not signed.
    #[serde(default)]
    pub secure_boot: Option<TrustedKeys>,
    /// Whether it has a TPM 2.0, whose state is in its state folder.
    #[serde(default)]
    pub tpm: bool,
    /// Network interfaces; the first boots.
    pub nics: Vec<VmNic>,
    /// Disks.
    #[serde(default)]
    pub disks: Vec<VmDisk>,
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

/// Whose keys a virtual machine's UEFI trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrustedKeys {
    /// Those that machines are sold with: Microsoft's. It loads a signed shim by PXE.
    Microsoft,
    /// Those of its farm.
    Farm {
        /// The folder of the keys, of which only the certificates are read.
        folder: PathBuf,
        /// Tells the keys apart: another one means other keys.
        fingerprint: String,
    },
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
    /// The images that it starts from, and those that these start from, by `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bases: BTreeMap<String, ImageSpec>,
}
