//! A DHCPv6 server (RFC 8415) without I/O: packets and times go in, replies go out.
//!
//! - [`wire`]: a client's message with the relays that it came through, and the reply by the same way back.
//! - [`identity`]: who asks: its link-layer address, however it is known.
//! - [`server`]: who gets which address, and what is answered.
//!
//! **Nothing is stored.** An address follows from the prefix and from who the client is, by a hash of 62 bits. So there is
//! nothing that a crash could lose, and no other client could be given the same one by mistake: among 100,000 machines two
//! share an address with a probability of one in a billion, and then the second one finds out by itself (duplicate address
//! detection, RFC 8415 section 18.2.10.1), declines, and gets the next one of its row. A journal would add a disk to the
//! path and a way to lose what it holds; a pool of 64 bits does not run out. What is remembered of a client, in memory and
//! bounded, is for its name in DNS and for people.
//!
//! The address is not the one that the client makes of its link-layer address by itself (RFC 4862): it has both.

pub mod identity;
mod reply;
pub mod server;
pub mod wire;

pub use identity::Identity;
pub use server::{Answer, Binding, Boot, Config, Server};
pub use wire::{MessageType, Packet, WireError};
