//! TPM 2.0 as far as a node proves with it what it runs, and a farm checks that (TCG, "Trusted Platform Module Library",
//! family 2.0, revision 1.59; "PC Client Platform Firmware Profile", revision 1.06).
//!
//! ```text
//!  node, its TPM                                     farm
//!   endorsement key, attestation key  ---------->    knows the endorsement key; makes a credential for the other one
//!                                     <----------    credential, nonce
//!   activates it, quotes over the nonce
//!   secret of the credential, quote, log  ------->   the secret is right: both keys live in one TPM
//!                                                    the quote is right: the log is what was measured in this boot
//! ```
//!
//! - [`tpm`]: what a node asks of its TPM, over any transport. Read it first.
//! - [`key`]: the two kinds of key; each has one template, so that a key is known by its point alone.
//! - [`credential`]: what only the TPM with both keys can open.
//! - [`quote`]: what a TPM says of its registers, checked.
//! - [`log`]: the firmware's log of what it measured, and what it has to add up to.
//! - `wire`, `command`: the encodings.
//!
//! What this crate never does: open a device, decide what measurements are right, or use any key but those on the curve P-256
//! with SHA-256.

mod command;
pub mod credential;
pub mod key;
pub mod log;
pub mod quote;
pub mod tpm;
mod wire;

pub use key::{Point, Template};
pub use quote::Quote;
pub use tpm::{Tpm, TpmError, Transport};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Hash {
    sha256(bytes)
}

/// Bytes that nobody can guess, from the system's generator.
///
/// # Errors
/// If there is none, which no system is without.
pub fn random() -> Result<Hash, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().first_chunk().copied().unwrap_or_default()
}

/// SHA-256 of one digest behind another: how a register takes in a measurement (part 1, section 11.4.7).
pub fn extend(register: &Hash, measured: &Hash) -> Hash {
    sha256(&[&register[..], measured].concat())
}
