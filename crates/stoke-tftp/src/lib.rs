//! TFTP for boot programs: a server that only reads, fast over long round trips by windows.
//!
//! RFC 1350 with the options of RFC 2347 to 2349 and 7440, and tftpd-hpa's `utimeout` and `rollover`.
//! - [`packet`]: the wire format. Parsing never fails but with a reason.
//! - [`transfer`]: one transfer as a state machine that is fed with packets and a clock; `options`, `timing` and `pace` are
//!   what it negotiates, how long it waits, and how much leaves at once.
//! - [`names`] and, with the server, `content`: names as firmware writes them, and what is behind them.
//! - `server` (with the feature of that name): one thread for all transfers of an address.
//!
//! What this crate never does: write a file, or know a file system: names are looked up by who uses it. Read [`transfer`]
//! first.

#[cfg(feature = "server")]
pub mod content;
pub mod names;
mod options;
mod pace;
pub mod packet;
#[cfg(feature = "server")]
pub mod server;
mod timing;
pub mod transfer;

pub use packet::{Packet, PacketError, Request};
pub use transfer::{Action, Limits, Outcome, Transfer};
