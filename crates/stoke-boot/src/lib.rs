//! Boot policy, pure: what a client of this firmware and architecture is told, and the boot files rendered for it.
//!
//! - [`policy`]: from what a DHCP client says of itself to what it is answered.
//! - [`render`]: the script that iPXE gets.
//!
//! What this crate never does: I/O, reading a clock, knowing DHCP's wire format. Read [`policy`] first.

pub mod policy;
pub mod render;
