//! The router of a LAN: DHCP, the names of its machines, and the advertisement that keeps iPXE from waiting for one.
//!
//! - `run`: starts the services and goes over to another configuration; what the role says of itself. Read it first.
//! - `config`: the configuration as the DHCP server and the zone want it; what is refused in it.
//! - `plan`: pure: what a booting client is told, and the zone that follows from hosts and leases.
//! - `state`: what the services share: leases, strangers, boot requests.
//! - `dhcp`, `dhcp6`, `dns`, `advert`: one file for each service's sockets. The protocols themselves are `stoke-dhcp`,
//!   `stoke-dns`, and eight fields of an advertisement.
//! - `forward`: ports of machines, for those who are not on the LAN.
//! - `proxy`: what a boot looks like beside another DHCP server.
//! - `journal`: leases on disk; no acknowledgement leaves before its record is there.
//! - `frame`: IPv4 and UDP headers for clients that have no address yet.
//! - `metrics`: what is counted.
//!
//! What this crate never does: lay links or addresses (`stoke-node` does), forward packets (the kernel does), know a
//! store. It answers only on the interface and addresses that it is given.

mod advert;
mod alarms;
mod answering;
mod arp;
mod config;
mod dhcp;
mod dhcp6;
mod dns;
mod forward;
mod frame;
mod guard;
mod intake;
mod journal;
mod metrics;
mod plan;
mod proxy;
#[cfg(test)]
mod replay;
mod run;
mod state;
mod watch;

pub use run::{Router, run};
