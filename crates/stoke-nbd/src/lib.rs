//! Network block device: read-only exports over TCP, both sides of the protocol.
//!
//! - [`session`]: the server's side of one connection as a state machine that is fed with bytes and asks for reads.
//! - [`client`]: the client's side of the handshake, over anything that is `Read + Write`; what comes after it is the
//!   kernel's business, which takes the socket.
//! - [`wire`]: the numbers of the protocol.
//! - `server` (with the feature of that name): the thin tokio driver over files in the page cache.
//!
//! The protocol is the one of the NBD project's `doc/proto.md`, fixed newstyle negotiation only. What this crate never does:
//! write to an export, fork, know what an export contains. Read [`session`] first.

pub mod client;
#[cfg(feature = "server")]
pub mod paged;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
pub mod wire;

pub use session::{Event, Export, Exports, Read, Session};
