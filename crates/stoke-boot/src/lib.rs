//! Boot policy, pure: what a client of this firmware and architecture is told, and the boot files rendered for it.
//!
//! - [`policy`]: from what a DHCP client says of itself to what it is answered.
//! - [`policy6`]: the same answer as IPv6 says it.
//! - [`loaders`]: boot programs and what has them.
//! - [`import`]: objects out of what other systems were told.
//! - [`lts`]: the configuration of an LTSP farm.
//! - [`render`]: the script that iPXE gets.
//! - [`old_paths`]: paths that a DHCP server names which was set up for an older farm.
//! - [`config`]: a node's own configuration out of all its scopes.
//! - [`configs`]: the configurations that PXELINUX and GRUB get, by the names that they ask for.
//!
//! What this crate never does: I/O, reading a clock, knowing DHCP's wire format. Read [`policy`] first.

pub mod config;
pub mod configs;
pub mod import;
pub mod loaders;
pub mod lts;
pub mod old_paths;
pub mod policy;
pub mod policy6;
pub mod render;
