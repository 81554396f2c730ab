//! The role `node`: the LANs of one host, laid and kept as its configuration says, and ports on them for others.
//!
//! It lives in the network namespace of its installation, which it makes or joins ([`namespaces`]) before it has a second
//! thread. From there it observes, plans and applies with `stoke-net`, again whenever the kernel reports a change, and
//! answers requests for LAN ports on a socket ([`stoke_net::ports`]). The way out of the namespace ([`egress`]) is
//! `pasta`, which `stoke up` runs.
//!
//! Beyond what each role has, its admin socket knows `POST /plan` (a configuration; answers with the lines that going
//! over to it would carry out) and `POST /teardown` (removes all that is ours; answers with what could not be).
//!
//! On a node of a cluster it is another program around the same thread of LANs: [`cluster`].
//!
//! Roles in pods ask such an agent for their interfaces ([`interfaces`]), and a router lets people reach its LAN ([`proxy`]).
//!
//! What this crate never does: touch a link, table or namespace that is not the installation's, end a link when it stops,
//! read the store. Read [`run()`] first.

mod apply;
pub mod cluster;
mod config;
pub mod egress;
mod holder;
pub mod interfaces;
mod lans;
mod metrics;
pub mod namespaces;
mod plan;
mod ports;
pub mod proxy;
mod run;
mod teardown;

pub use plan::plan_lines;
pub use run::{NodeAgent, run};
pub use teardown::teardown;
