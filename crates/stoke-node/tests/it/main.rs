//! The node agent as a process, as root and as an ordinary user. Needs root: each test makes the network namespace that
//! stands for the host, and everything ends with the test.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod adoption;
mod cluster;
mod egress;
mod host;
mod kubelet;
mod node;
mod ports;
