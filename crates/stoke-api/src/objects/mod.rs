//! The kinds of object, as people write them. One file for each kind: its spec, its status, what it means.
//!
//! Serde and the JSON schema decide what is well-formed; each spec's `check` finds what is well-formed and still wrong
//! (a pool outside its subnet), by field, and does not stop at the first.

mod bmc;
mod class;
mod debian;
mod disk;
mod farm;
mod image;
mod image_source;
mod image_version;
mod join;
mod lan;
mod ltsp;
mod machine;
mod machine_port;
mod machine_set;
mod nbd;
pub mod node_config;
mod placement;
mod reference;
mod root_form;
mod scheduling;
mod secret;
mod server;
mod trust;
mod update;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bmc::{
    BmcInventory, BmcSpec, BmcStatus, IPMI_PORT, IpmiSpec, NetworkBoot, RebootAsked, RebootCounts, RedfishSpec,
};
pub use class::{ClassSelector, FarmClass, Inventory, InventorySelector, LabelExpression, LabelOperator};
pub use debian::{DebianSource, Hooks, RecipeFile};
pub use disk::{DiskRoot, VmDisk};
pub use farm::{
    BiosLoader, BootSpec, FarmSpec, FarmStatus, HttpLoader, LoaderSpec, NfsRoot, NodeState, RootMode, TftpMode, Trust,
    UefiLoader, UnknownClients,
};
pub use image::{Architecture, Forms, ImageSource, ImageSpec, ImageStatus, NetbootForm};
pub use image_source::{ContainerfileSource, OciSource, TreeSource, image_bases};
pub use image_version::ImageVersion;
pub use join::{JOIN_SECRET, JoinSpec, is_join_secret, join_secret};
pub use lan::{
    DhcpMode, DhcpSpec, DnsSpec, Egress, Ipv6Spec, LanSpec, LanStatus, OverlaySpec, Pool, Reservation, Subnet, Uplink,
};
pub use ltsp::{Compatibility, LtspFile};
pub use machine::{BootFrom, BootOrder, Firmware, MachineSpec, MachineStatus, Nic, Power, RunStrategy, Uefi, VmSpec};
pub use machine_port::{MachinePort, ServiceType};
pub use machine_set::{MACHINE_SET_LABEL, MachineSetSpec, MachineSetStatus, MachineTemplate, TemplateMetadata};
pub use nbd::NbdTls;
pub use node_config::{
    BondMode, BondSpec, BridgeSpec, DnsClient, DropIn, FileEntry, FileMode, Hook, HookFailure, HookTime, HostEntry,
    InterfaceSpec, KubeletSpec, ModuleEntry, MountEntry, NodeConfig, RegistryMirror, RuntimeSpec, SwapEntry, UnitEntry,
    User, VlanSpec,
};
pub use placement::{FarmPlacement, HostNetwork, LoadBalancer};
pub use reference::{Access, AccessFrom, LabelSelector, NAMESPACE_LABEL, TargetRef};
pub use root_form::{Cleanup, Compression, RootForm, RootFormat};
pub use scheduling::{AntiAffinity, Scheduling, TaintEffect, Toleration, TolerationOperator};
pub use secret::{SecretRef, SecretSource};
pub use server::{ClusterRef, ServerSpec, ServerStatus};
pub use trust::{Enrolment, MinimumVersion, NodeTpm, TpmSpec, Verdict};
pub use update::{
    DrainSpec, FAILED_BOOTS, HealthGate, ImagePin, NodeDrain, NodeUpdate, RebootWay, Rehearsal, RehearsalPhase,
    RehearsalSpec, RolloutPhase, RolloutStatus, UpdatePhase, UpdateSpec,
};

use crate::meta::{Metadata, ObjectRef};
use crate::names::ObjectName;

/// One kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "each is documented where its spec is")]
pub enum Kind {
    Image,
    Lan,
    Farm,
    Server,
    Machine,
    MachineSet,
}

impl Kind {
    /// All kinds, in the order in which one needs the next.
    pub const ALL: [Self; 6] = [Self::Image, Self::Lan, Self::Farm, Self::Server, Self::Machine, Self::MachineSet];

    /// As in a command line: `machine`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Lan => "lan",
            Self::Farm => "farm",
            Self::Server => "server",
            Self::Machine => "machine",
            Self::MachineSet => "machineset",
        }
    }

    /// As in a path: `machines`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Lan => "lans",
            Self::Farm => "farms",
            Self::Server => "servers",
            Self::Machine => "machines",
            Self::MachineSet => "machinesets",
        }
    }

    /// The short name that kubectl knows it by.
    pub fn short(self) -> &'static str {
        match self {
            Self::Image => "simg",
            Self::Lan => "slan",
            Self::Farm => "sfarm",
            Self::Server => "ssrv",
            Self::Machine => "smach",
            Self::MachineSet => "smset",
        }
    }

    /// Whether objects of this kind live in a namespace. A `Server` is an asset, not a workload.
    pub fn is_namespaced(self) -> bool {
        self != Self::Server
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A word that names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kind is called {0:?}; kinds are images, lans, farms, servers, machines, machinesets")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;
    /// Accepts singular, plural and short name in any case.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let lower = text.to_lowercase();
        let named = |kind: &Self| [kind.singular(), kind.plural(), kind.short()].contains(&lower.as_str());
        Self::ALL.into_iter().find(named).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// An object: who it is, what is wanted, what is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(bound = "Spec: JsonSchema, Status: JsonSchema + Serialize + Default")]
pub struct Object<Spec, Status> {
    /// Identity and labels.
    pub metadata: Metadata,
    /// What is wanted. Written by people.
    pub spec: Spec,
    /// What is. Written by the reconcilers only.
    #[serde(default)]
    pub status: Status,
}

/// An object of any kind. In JSON and YAML, `kind` tells which; `apiVersion` is checked where files are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[expect(missing_docs, reason = "each is documented where its spec is")]
pub enum AnyObject {
    Image(Object<ImageSpec, ImageStatus>),
    Lan(Object<LanSpec, LanStatus>),
    Farm(Object<FarmSpec, FarmStatus>),
    Server(Object<ServerSpec, ServerStatus>),
    Machine(Object<MachineSpec, MachineStatus>),
    MachineSet(Object<MachineSetSpec, MachineSetStatus>),
}

/// Applies one expression to the object inside, whatever its kind.
macro_rules! each {
    ($any:expr, $object:ident => $body:expr) => {
        match $any {
            AnyObject::Image($object) => $body,
            AnyObject::Lan($object) => $body,
            AnyObject::Farm($object) => $body,
            AnyObject::Server($object) => $body,
            AnyObject::Machine($object) => $body,
            AnyObject::MachineSet($object) => $body,
        }
    };
}

impl AnyObject {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
            Self::Lan(_) => Kind::Lan,
            Self::Farm(_) => Kind::Farm,
            Self::Server(_) => Kind::Server,
            Self::Machine(_) => Kind::Machine,
            Self::MachineSet(_) => Kind::MachineSet,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        each!(self, object => &object.metadata)
    }

    /// Its metadata, to be changed by the store.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        each!(self, object => &mut object.metadata)
    }

    /// Its conditions.
    pub fn conditions(&self) -> &[crate::Condition] {
        each!(self, object => &object.status.conditions)
    }

    /// Its name for others, with the default namespace filled in.
    pub fn reference(&self) -> ObjectRef {
        let metadata = self.metadata();
        let namespace = self
            .kind()
            .is_namespaced()
            .then(|| metadata.namespace.clone().or_else(|| crate::meta::DEFAULT_NAMESPACE.parse::<ObjectName>().ok()));
        ObjectRef { kind: self.kind(), namespace: namespace.flatten(), name: metadata.name.clone() }
    }

    /// Makes the paths of files that it names absolute: in a file they are seen from the folder that the file lies in.
    pub fn resolve_paths(&mut self, folder: &std::path::Path) {
        if let Self::Image(image) = self {
            image.spec.source.resolve(folder);
        }
    }

    /// What is well-formed and still wrong in the spec, each with its field.
    pub fn check(&self) -> Vec<Problem> {
        each!(self, object => object.spec.check())
    }
}

/// Something wrong at a field: `spec.subnets[0].pools[1]`, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field from the object's root.
    pub field: String,
    /// What is wrong and what would be right: lower case, no full stop.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}
