//! `NodeConfig`: what a node is told of itself, in types. Part of a `Farm`, its classes, a `Server` and a `Machine`.
//!
//! A wider scope's value is replaced by a narrower one's: each field by itself, maps by their keys, lists of things by
//! what is unique in them ([`LISTS`]): the whole entry is replaced. Lists of plain words are replaced as a whole, but for
//! those in [`APPENDED`]. The merge itself is in `stoke-boot`.
//!
//! These types travel to nodes of older versions, too, so nothing in them refuses a field that it does not know; files
//! are held against the schema, which does.

mod check;
mod conflicts;
mod generation;
mod kubernetes;
mod network;
mod storage;
mod system;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use conflicts::Conflict;
pub use kubernetes::{KubeletSpec, RegistryMirror, RuntimeSpec};
pub(super) use kubernetes::{label_key, label_value, taint};
pub use network::{BondMode, BondSpec, BridgeSpec, DnsClient, HostEntry, InterfaceSpec, VlanSpec};
pub use storage::{FileEntry, FileMode, MountEntry, SwapEntry};
pub use system::{DropIn, Hook, HookFailure, HookTime, ModuleEntry, UnitEntry, User};

use super::Compatibility;
use crate::names::Bytes;

/// Lists of things, by their field, and what is unique in each entry: the first of these that the entry has.
pub const LISTS: [(&str, &[&str]); 12] = [
    ("users", &["name"]),
    ("hosts", &["address"]),
    ("interfaces", &["interface", "mac"]),
    ("mounts", &["path"]),
    ("swap", &["device"]),
    ("files", &["path"]),
    ("modules", &["name"]),
    ("units", &["name"]),
    ("units.dropIns", &["name"]),
    ("runtime.registryMirrors", &["registry"]),
    ("runtime.dropIns", &["name"]),
    ("hooks", &["name"]),
];

/// Lists of words to which a narrower scope adds.
pub const APPENDED: [&str; 1] = ["kernelArguments"];

/// Configuration of a node. Each field that is absent falls back to the wider scope: server or machine, classes, farm,
/// LAN, default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// Host name; the object's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Time zone, for example `Europe/Berlin`; `Etc/UTC` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Accounts; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Bound of the writable layer in memory; half of the node's memory if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_size: Option<Bytes>,
    /// Lines of `/etc/hosts` beside the node's own; keyed by `address`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostEntry>,
    /// How names are looked up; as DHCP says if absent.
    #[serde(default, skip_serializing_if = "DnsClient::is_empty")]
    pub dns: DnsClient,
    /// Servers of the time, by name or address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    /// Network interfaces beside the one that boots, and what that one has besides; keyed by `interface`, else by `mac`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceSpec>,
    /// File systems that are mounted; keyed by `path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountEntry>,
    /// Swap space; keyed by `device`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swap: Vec<SwapEntry>,
    /// Files; keyed by `path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
    /// Settings of the kernel, as in sysctl.d(5): `net.ipv4.ip_forward: "1"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Kernel modules; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleEntry>,
    /// Units of systemd; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitEntry>,
    /// Kernel arguments of the node's boots, after those of the image. A narrower scope adds to a wider one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
    /// The container runtime.
    #[serde(default, skip_serializing_if = "RuntimeSpec::is_empty")]
    pub runtime: RuntimeSpec,
    /// The kubelet.
    #[serde(default, skip_serializing_if = "KubeletSpec::is_empty")]
    pub kubelet: KubeletSpec,
    /// Scripts; keyed by `name`, run in this order. For what no field says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Whose scripts shall find what they expect; set where a farm has a configuration of LTSP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
}
