//! What PID 1 gives the resident before it becomes the system's init: by a pipe, as JSON.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stoke_api::names::Digest;
use stoke_api::node::{Event, Hello};

use crate::dhcp::Lease;
use crate::disk::Slot;
use crate::findings::Expected;
use crate::nbd::Export;
use crate::nbd::ahead::Range;
use crate::network::Interface;

/// All that the resident needs to know. Descriptors are inherited; their numbers are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handoff {
    /// The farm, if there is one.
    pub(crate) farm: Option<FarmLink>,
    /// The root's device, if it is on the farm.
    pub(crate) nbd: Option<NbdLink>,
    /// The root in memory, if it is given to other nodes.
    #[serde(default)]
    pub(crate) gift: Option<Gift>,
    /// The slot that has the root, if it is on a disk of the node: number of the disk's descriptor, slot, root.
    #[serde(default)]
    pub(crate) slot: Option<(i32, Slot, Digest)>,
    pub(crate) interface: Interface,
    pub(crate) lease: Lease,
    /// How many milliseconds ago the lease began.
    pub(crate) lease_age_ms: u64,
    /// SMBIOS UUID as in DHCP's option 97.
    pub(crate) uuid: Option<[u8; 16]>,
    /// Phases so far.
    pub(crate) events: Vec<Event>,
    pub(crate) ssh_host_keys: Vec<String>,
    /// `nbd`, `ram`, `disk` or `nfs`.
    pub(crate) mode: String,
    /// The device through which the root is read.
    pub(crate) device: PathBuf,
    /// Whether the system will leave the ready file.
    pub(crate) says_ready: bool,
    /// Mounts that the node is to have.
    #[serde(default)]
    pub(crate) mounts: Vec<Expected>,
    /// What the configuration asks for and the image cannot do.
    #[serde(default)]
    pub(crate) remarks: Vec<String>,
}

/// How to reach the farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FarmLink {
    /// Of its replicas, the one of the session first.
    pub(crate) urls: Vec<String>,
    pub(crate) ca_pem: String,
    pub(crate) session: String,
    /// Number of the last order that this boot has heard of.
    #[serde(default)]
    pub(crate) orders: u64,
    /// To begin a new session if the farm has ended this one.
    pub(crate) hello: Hello,
}

/// The device and its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NbdLink {
    pub(crate) index: u32,
    pub(crate) export: Export,
    pub(crate) descriptors: Vec<i32>,
    /// Where to read ahead what boots read, and what that is.
    #[serde(default)]
    pub(crate) ahead: Option<(PathBuf, Vec<Range>)>,
}

/// A root in memory for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gift {
    /// Number of the descriptor of that memory.
    pub(crate) descriptor: i32,
    /// What it is.
    pub(crate) blob: Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
}

impl Handoff {
    /// The node's address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.lease.address
    }
}
