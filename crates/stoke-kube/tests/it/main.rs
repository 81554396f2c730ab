//! Against a real API server and a real etcd: definitions, the store, the webhook, certificates.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test that fails says where")]

mod certificates;
mod cluster;
mod crds;
mod drain;
mod operator;
mod store;
mod tenancy;
mod webhook;

#[path = "../../../stoke-host/tests/suite/store.rs"]
mod suite;
