//! One host without Kubernetes: objects in a local store, workloads as processes, a control socket.
//!
//! ```text
//!  files ─ control socket ─> store ─┐
//!                                   ├─> stoke_reconcile::reconcile ─> statuses ─> store
//!  processes ─ admin sockets ───────┘                              └> workloads ─> supervisor ─> processes
//! ```
//!
//! - [`up`](fn@up::up): the loop that ties these together, and what starts with it. Read it first.
//! - [`store`]: objects, events and what was built, in one redb file.
//! - [`supervise`]: workloads to processes. They outlive this one, and are found again.
//! - [`publisher`], [`registry`]: image versions in registries.
//! - [`bmc`], [`ssh_reboots`]: servers that are switched and rebooted.
//! - [`secrets`]: secrets of nodes, read and given to their farms.
//! - [`control`], [`apply`], [`plan`]: what people ask for over the socket.
//! - [`export`]: keys and leases to files, and back.
//! - [`down`](fn@down::down): ends everything, with or without a living `stoke up`.
//! - [`build`]: the role that builds one image and ends.
//!
//! What this crate never does: serve a guest or a node itself, touch a link (that is `stoke-node`'s), or be the parent
//! that a workload needs: `kill -9` of it disturbs nothing.

pub mod apply;
pub mod authority;
pub mod bmc;
pub mod boot_programs;
pub mod build;
pub mod children;
pub mod control;
pub mod down;
pub mod export;
pub mod http;
pub mod images;
pub mod keys;
pub mod paths;
pub mod plan;
pub mod process;
pub mod publisher;
pub mod registry;
pub mod secrets;
pub mod secureboot;
pub mod ssh_reboots;
pub mod store;
pub mod supervise;
pub mod up;

mod bmc_visit;
mod egress;
mod enroll;
mod files;
mod in_use;
mod power;
mod record;
mod signatures;
mod steer;
mod stop;
mod watching;

pub use enroll::enrolled;
pub use in_use::in_use;
pub use paths::{Binaries, Folders};
pub use signatures::signers;
pub use steer::steered;
pub use store::{LocalStore, Store, StoreError};
pub use up::UpOptions;
