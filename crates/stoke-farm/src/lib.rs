//! The role `farm`: boot programs by TFTP, boot scripts and images by HTTP, roots by NBD, and the API that nodes talk to.
//!
//! - [`config`]: the configuration as it is looked up: nodes by address, blobs by digest.
//! - [`sessions`]: what is known of each node, pure: greeting, reports, orders, silence.
//! - [`plan`]: which sockets to open and close when the configuration changes, pure.
//! - `run`: the role: sockets, reloads, the report. `farm` is what the services share.
//! - HTTP: `connections` accepts, `conversation` reads requests ([`request`]) and sends blobs (`blob`, `wire`); `http` and
//!   `node_api` are the routes for everything else.
//! - [`peers`]: which node copies its root from which other one, pure.
//! - `chunks`: what roots are made of, for nodes that have another version on their disk.
//! - `kept`: what is kept for nodes that have no disk: their SSH host keys.
//! - `boot_files`: what loaders are told, in their own languages.
//! - [`admission`]: who may load now when many boot at once, pure.
//! - `trace`: what is remembered of each boot, for `stoke farm trace`.
//! - [`attest`]: whether a node runs what the farm handed out, pure; `trust` remembers what that needs, and the secrets.
//! - `journal`: sessions on disk, written before an answer, so that a farm that was killed goes on where it was.
//!
//! What it never does: give addresses (the router does), build or verify content (nodes verify what they get), serve a file
//! that its configuration does not name by digest. Read [`sessions`] first, then `run`.

pub mod admission;
pub mod attest;
mod blob;
mod boot_files;
mod chunks;
mod classes;
mod clock;
pub mod config;
mod connections;
mod conversation;
mod crowd;
mod descriptors;
mod farm;
mod files;
mod gate;
mod http;
mod journal;
mod kept;
mod ltsp;
mod metrics;
mod node_api;
pub mod peers;
pub mod plan;
pub mod request;
mod roots;
mod run;
pub mod sessions;
mod trace;
mod trust;
mod wire;

pub use run::run;
