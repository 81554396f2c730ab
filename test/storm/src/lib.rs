//! Machines that boot, simulated down to the wire, as many as one likes: each asks by DHCP as firmware does, loads a boot
//! program by TFTP, asks again as iPXE, fetches its script, kernel and initramfs by HTTP, asks a third time as `stoke-init`,
//! says hello over TLS, reads its root by NBD or copies it from whom the farm names, reports itself ready, and gives its
//! root to others. The servers are the real ones, in a network namespace; the machines are in another one.
//!
//! - [`Lab`]: the two hosts, the wire between them, the router and the farm.
//! - [`machine::boot`]: the story of one machine, in its steps.
//! - [`crowd`]: many of them at once, and what became of them.
//! - `dhcp`, `tftp`, `http`, `root`: what a machine speaks.
//!
//! What this crate never does: leave out a protocol to be faster, or take bytes for right that it has not looked at. Read
//! [`machine`] first.

pub mod content;
pub mod crowd;
mod dhcp;
mod http;
mod lab;
pub mod machine;
mod root;
mod tftp;

pub use lab::{Lab, Wanted};
