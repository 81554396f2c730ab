//! The whole program, with real containers: they need root, and leave nothing behind.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: the lints' exemption knows test functions only, not what they share"
)]

mod callers;
mod exec;
mod faults;
mod hooks;
mod inside;
mod lifecycle;
mod limits;
mod namespaces;
mod refusals;
mod world;
