//! Network block device: read-only exports over TCP, both sides of the protocol.
//!
//! - [`session`]: the server's side of one connection as a state machine that is fed with bytes and asks for reads.
//! - [`client`]: the client's side of the handshake, over anything that is `Read + Write`; what comes after it is the
//!   kernel's business, which takes the socket.
//! - [`wire`]: the numbers of the protocol. [`holes`]: where an export holds nothing. [`hot`]: what boots read of it.
//! - `server` (with the feature of that name): sockets and files. It waits for clients by `tokio`, answers them in
//!   `workers` (threads), turn by turn as `connection` says; `channel` is the socket with or without TLS, `image` the file.
//!
//! The protocol is the one of the NBD project's `doc/proto.md`, fixed newstyle negotiation only. What this crate never does:
//! write to an export, fork, know what an export contains. Read [`session`] first, then `connection`.

#[cfg(feature = "server")]
mod channel;
pub mod client;
#[cfg(feature = "server")]
mod connection;
pub mod holes;
pub mod hot;
#[cfg(feature = "server")]
pub mod image;
#[cfg(feature = "server")]
pub mod latency;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
pub mod wire;
#[cfg(feature = "server")]
mod workers;

pub use holes::Holes;
pub use session::{Event, Export, Exports, Read, Session};
