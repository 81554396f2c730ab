//! What PID 1 gives the resident before it becomes the system's init: by a pipe, as JSON.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stoke_api::node::{Event, Hello};

use crate::dhcp::Lease;
use crate::nbd::Export;
use crate::network::Interface;

/// All that the resident needs to know. Descriptors are inherited; their numbers are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handoff {
    /// The farm, if there is one.
    pub(crate) farm: Option<FarmLink>,
    /// The root's device, if it is on the farm.
    pub(crate) nbd: Option<NbdLink>,
    pub(crate) interface: Interface,
    pub(crate) lease: Lease,
    /// How many milliseconds ago the lease began.
    pub(crate) lease_age_ms: u64,
    /// SMBIOS UUID as in DHCP's option 97.
    pub(crate) uuid: Option<[u8; 16]>,
    /// Phases so far.
    pub(crate) events: Vec<Event>,
    pub(crate) ssh_host_keys: Vec<String>,
    /// `nbd` or `ram`.
    pub(crate) mode: String,
    /// The device through which the root is read.
    pub(crate) device: PathBuf,
    /// Whether the system will leave the ready file.
    pub(crate) says_ready: bool,
}

/// How to reach the farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FarmLink {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
    pub(crate) session: String,
    /// To begin a new session if the farm has ended this one.
    pub(crate) hello: Hello,
}

/// The device and its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NbdLink {
    pub(crate) index: u32,
    pub(crate) export: Export,
    pub(crate) descriptors: Vec<i32>,
}

impl Handoff {
    /// The node's address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.lease.address
    }
}
