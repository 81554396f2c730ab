//! What `stoke-init` reads of what others wrote, apart from the program, so that it can be fuzzed: packets of DHCP servers
//! and the kernel's command line.
//!
//! What it never does: any I/O. The program begins in `main.rs`; read [`cmdline`] first here.

pub mod cmdline;
pub mod dhcp_wire;
