//! DNS of a LAN without I/O: which questions are the LAN's own, how they are answered, and how the others are passed on.
//!
//! - [`zone`]: the names of the machines, forward and reverse (RFC 1034, RFC 2308 for what is not there).
//! - [`relay`]: a question to an upstream server under another id, and whether what comes back is its answer (RFC 5452).
//!
//! Wire format is hickory's.
//!
//! What this crate never does: open a socket, read a clock, log, resolve by itself. Read [`zone`] first.

pub mod relay;
pub mod zone;

pub use relay::Relayed;
pub use zone::{Decision, Zone};
