//! One virtual machine, from what it needs to a running QEMU.
//!
//! - [`spec`]: what a machine needs, and where this host puts it; [`qemu`] turns both into an argument list, purely.
//! - [`probe`]: whether `/dev/kvm` runs a stock guest, found out by running one.
//! - [`firmware`]: the firmware files of this host, and a machine's own firmware variables.
//! - [`disk`]: the files behind a machine's disks.
//! - [`dialog`]: what firmware says on the console, and what to answer.
//! - [`qmp`]: QEMU's control protocol without I/O; [`client`] is the thin driver of it.
//! - [`tpm`]: the TPM of a machine, a process beside QEMU.
//! - [`process`]: starting a QEMU that outlives us, and watching one whoever started it.
//!
//! What this crate never does: decide when a machine runs (that is `stoke-vm`), ask for LAN ports, talk to a store.
//! Read [`spec`] first, then [`qemu`].

pub mod client;
pub mod dialog;
pub mod disk;
pub mod firmware;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod spec;
pub mod tpm;
