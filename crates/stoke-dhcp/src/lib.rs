//! A DHCP server (RFC 2131) without I/O: packets and times go in, replies and records go out.
//!
//! - [`wire`]: a request as it came, a reply as it goes; options by number.
//! - [`server`]: the state machine: what is answered. [`choose`] says which address a client can have, [`config`] what
//!   there is to give; `proxy` answers beside another server.
//! - [`lease`]: the table of leases; one address for each client, one client for each address.
//! - [`v6`]: the same for IPv6 (RFC 8415), where nothing has to be written down.
//! - [`journal`]: how records are written down, and read back from a file that a crash has cut.
//!
//! A client is its link-layer address, whatever client identifier it sends: firmware, iPXE, an initramfs and an
//! operating system send different ones from one machine, which must keep its address through all of them. A machine
//! that an object names may also be known by its client identifier, its UUID (option 97), or its switch port (option 82).
//!
//! An acknowledgement is durable: [`server::Answer::record`] must be on disk before [`server::Answer::reply`] is sent.
//!
//! The crate reads and writes packets itself: `dhcproto` has assertions on lengths that a packet can violate and
//! stops at the first option that it cannot read; it is the peer that the tests compare with.
//!
//! What this crate never does: open a socket or a file, read a clock, log, know what a boot program is. Read
//! [`server`] first.

pub mod choose;
pub mod config;
pub mod journal;
pub mod lease;
mod offers;
pub mod others;
mod proxy;
mod reply;
mod reserved;
pub mod server;
pub mod v6;
pub mod wire;

pub use choose::Sighting;
pub use config::{ClientId, Config, Mode, Reservation, Subnet};
pub use lease::{Lease, Leases, Record};
pub use server::{Answer, BootOptions, Destination, Reply, Server};
pub use wire::{MessageType, Request, WireError};
