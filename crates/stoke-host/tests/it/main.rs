//! The host as a whole: its store against the suite that every store is held to, its socket, and processes that outlive it.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test that fails says where")]

mod host;
#[cfg(test)]
mod images;
mod life;
mod local_store;
mod objects;
#[path = "../suite/store.rs"]
mod suite;
