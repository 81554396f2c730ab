//! What of `stoke-init` others use: what reads what strangers wrote (packets of DHCP servers, the kernel's command line), so
//! that it can be fuzzed, and the server of a root in memory, so that a thousand simulated nodes can be it.
//!
//! What it never does: anything that only the first program of a machine may do. The program begins in `main.rs`; read
//! [`cmdline`] first here.

pub mod cmdline;
pub mod dhcp_wire;
pub mod peer;
