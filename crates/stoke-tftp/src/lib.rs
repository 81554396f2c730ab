//! TFTP for boot programs: a server that only reads, fast over long round trips by windows.
//!
//! RFC 1350 with the options of RFC 2347 to 2349 and 7440.
//! - [`packet`]: the wire format. Parsing never fails but with a reason.
//! - [`transfer`]: one transfer as a state machine that is fed with packets and a clock.
//! - `server` (with the feature of that name): one socket for everybody, tokio.
//!
//! What this crate never does: write a file, translate line ends, open a port per transfer. Read [`transfer`] first.

pub mod packet;
#[cfg(feature = "server")]
pub mod server;
pub mod transfer;

pub use packet::{Packet, PacketError, Request};
pub use transfer::{Action, Limits, Outcome, Transfer};
