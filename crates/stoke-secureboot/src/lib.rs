//! UEFI Secure Boot with keys of one's own: making them, signing boot programs, and bringing the keys into firmware.
//!
//! Three keys, as UEFI has them (UEFI specification 2.10, section 32.3): the platform key (PK) belongs to whoever owns the
//! machine; a key exchange key (KEK), signed for by it, may change the signature database (db); what a key of db has signed
//! is started.
//!
//! - [`keys`]: a set of keys in a folder, made once. Read it first.
//! - [`authenticode`]: the signature in a PE program.
//! - [`measured`]: what a TPM takes in of a program when it is started.
//! - [`variables`]: signature lists, and updates of them that firmware takes from whoever holds the key above.
//! - [`store`]: the variables in a virtual machine's flash.
//! - `der`, `signed`: the encodings.
//!
//! What this crate never does: print or log a key, give one to another process, or sign with one that it was not handed by
//! its owner. Signatures have no time stamp and no randomness: the same program and key give the same bytes.

pub mod authenticode;
mod der;
pub mod keys;
pub mod measured;
mod signed;
pub mod store;
pub mod variables;

pub use keys::{KeyError, KeySet, Signer};
