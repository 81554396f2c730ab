//! The network of a host as Stokehold wants it: bridges of LANs, their addresses, uplinks and ports, and the packet
//! filter that keeps LANs apart and hides them behind the way out.
//!
//! [`plan`] is pure: [`plan::lan`] and [`plan::namespace`] compare [`wanted`] with [`observed`] and give [`Step`]s, which
//! print as lines. [`apply()`] carries them out through [`Links`]: [`kernel::KernelLinks`] is the network namespace of the
//! calling thread, [`fake::FakeLinks`] one in memory, and both are held to the same tests. [`ports`] gives TAP devices to
//! processes outside of the namespace, [`interface`] moves ends of links into theirs.
//!
//! What this crate never does: touch a link without a [`Label`] of the installation, wait for time to pass, use an
//! asynchronous runtime, decide which LANs there are. Read [`plan`] first.

pub mod apply;
pub mod fake;
pub mod firewall;
pub mod interface;
pub mod kernel;
pub mod label;
mod names;
pub mod netlink;
pub mod observed;
pub mod plan;
pub mod ports;
mod step;
mod sysctl;
pub mod wanted;

pub use apply::{ApplyError, Links, apply};
pub use label::{Installation, Label, LanKey};
pub use step::Step;
