//! The system calls that no safe crate wraps, each as a safe function with a typed error.
//!
//! This is the only crate of the workspace (beside the bindings of liblxc) that contains `unsafe`. What it never does:
//! decide anything. It holds no state beyond open descriptors, and each `unsafe` block does one call and says why it is
//! needed and why it is sound. What rustix offers safely (modules, mounts, netlink, reboot) is used from there directly.
//!
//! Read [`dm`] first: it shows the shape of the others.

pub mod attributes;
pub mod datagrams;
pub mod dm;
pub mod fd;
pub mod kexec;
#[cfg(feature = "kvm")]
pub mod kvm;
pub mod loopback;
pub mod loopdev;
pub mod mounts;
pub mod namespace;
pub mod packet;
pub mod tap;
