//! Worlds for tests: a host that is a network namespace, an installation of Stokehold on it, real peers and foreign
//! machines beside it. Everything that a world made goes with it.
//!
//! - [`World`]: the host. Its name is unique; commands run inside by [`World::command`].
//! - [`Installation`]: `stoke up` in a world, its objects and processes.
//! - [`machine::Foreign`]: a machine that nobody of ours started, on a wire to the installation.
//! - [`Relay`]: a wire between worlds that is long, or loses frames.
//! - [`peers`]: the servers that ours are measured against.
//! - [`tpm`]: a TPM without a machine.
//! - [`bmc`]: servers with management controllers.
//! - [`go_tool`]: test servers that are written in Go.
//! - [`kubernetes`]: clusters with their nodes.
//!
//! What this crate never does: run a service of the host, or touch a process that it did not start.

pub mod bmc;
mod cache;
mod console;
mod installation;
pub mod kubernetes;
pub mod machine;
pub mod metrics;
pub mod peers;
mod relay;
mod tools;
pub mod tpm;
mod wait;
mod world;

pub use cache::{cache, lock_cache};
pub use installation::{Installation, User, programs};
pub use relay::{Relay, Wire};
pub use tools::{
    ETCD, GoTool, HELM, KUBERNETES_VERSION, KUBERNETES_VERSIONS, KWOK, REGISTRY, go_tool, kubernetes_program,
};
pub use wait::{Process, wait_for};
pub use world::World;
