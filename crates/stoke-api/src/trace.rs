//! What happened in the boots of one machine, in order: the router's and the farm's view, put together by `stoke farm trace`.
//!
//! Each role keeps a bounded number of events for a bounded number of machines and hands them out on its admin socket at
//! `GET /trace?mac=MAC`, as a list of [`TraceEvent`].

use serde::{Deserialize, Serialize};

use crate::names::MacAddr;

/// Machines that a role remembers events of; the one that was silent longest goes first.
pub const TRACED_MACHINES: usize = 1024;
/// Events that a role remembers of one machine; the oldest go first.
pub const TRACED_EVENTS: usize = 128;

/// Something that happened in a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceEvent {
    /// When, in milliseconds since 1970. For what lasts, when it began.
    pub at_ms: u64,
    /// Milliseconds that it lasted; absent for what has no length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The machine.
    pub mac: MacAddr,
    /// By which way: `dhcp`, `dhcp6`, `tftp`, `http`, `nbd`, `node`.
    pub way: String,
    /// What: `DISCOVER`, `undionly.kpxe`, `boot script`, `Network`.
    pub what: String,
    /// How it ended or what was answered: `OFFER 10.10.0.21 undionly.kpxe`, `complete`, `no such file`.
    pub result: String,
    /// Bytes of content that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}
