//! A client of OCI registries: manifests, blobs and referrers, to and fro (OCI distribution specification 1.1).
//!
//! ```text
//!  reference ── HOST/REPOSITORY:TAG@DIGEST
//!      │
//!  client ──── one connection pool; 401 ─> challenge ─> credentials ─> token ─> the same request again
//!      ├─ manifests    by tag or digest; what comes is compared with its digest
//!      ├─ blobs        streamed; a broken download goes on where it was; an upload is one request
//!      └─ referrers    by the registry's list, or by the tag that stands for it
//! ```
//!
//! Synchronous, so that image builds can use it, too. Read [`Registry`] first.
//!
//! What this crate never does: know what an image means, write into a store, take a password from an argument or the
//! environment, or talk plain HTTP to anything but this host.

mod auth;
mod blobs;
mod client;
mod credentials;
mod manifests;
mod tls;

pub use client::{Options, Registry, RegistryError};
pub use credentials::CredentialsError;
pub use manifests::{Fetched, Referrer};
pub use stoke_api::registry::{Reference, ReferenceError};
