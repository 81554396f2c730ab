//! liblxc and libseccomp, opened when a verb needs them: most verbs of the runtime need neither, and start faster.
//!
//! - [`container`] starts a container of liblxc in a child of the calling process. Read it first.
//! - [`filter`] makes a seccomp filter of rules with names.
//!
//! What this crate never does: decide what a container is like. Beside `stoke-sys` it is the only crate with `unsafe`.

pub mod container;
pub mod filter;
mod library;

pub use library::LibraryError;
