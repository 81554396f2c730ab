//! Builds images and keeps them: from a recipe to kernel, initramfs, verified root and unified kernel image.
//!
//! ```text
//!  recipe ─ mmdebstrap ─> tree (tar, cached) ─ scan, clean ─> root (squashfs or EROFS) ─ dm-verity ─┐
//!                              │                                                                    │ root hash
//!                              └─ kernel, modules ─> initramfs (with stoke-init) <──────────────────┘
//!                                     kernel + initramfs + arguments ─> unified kernel image ─> published version
//! ```
//!
//! - [`build`](fn@build): the story of a build, stage by stage. Read it first.
//! - `sources`: other trees than a recipe's: a Containerfile by buildah, an image of containers, a folder or archive.
//! - `layers`: layers of strangers into one tree, without unpacking anything.
//! - [`Store`]: an OCI image layout. A version is published in one step or not at all.
//! - [`recipe`], [`clean`], [`modules`]: what is installed, what never ships, which modules an initramfs needs: pure.
//! - [`cpio`], [`verity`], [`uki`]: the formats, each a writer and the reader that proves it.
//! - [`farm_initramfs`], [`farm_uki`]: a farm's own parts, outside of an image's digest.
//!
//! A tree is only ever handled as a tar stream: owners, modes and extended attributes survive when an ordinary user
//! builds, and nothing needs to be mounted.
//!
//! What this crate never does: hold a key, talk to a network itself, start a runtime, log, or hold a build's half-done files
//! anywhere but in the store's `tmp`, which the next [`Store::open`] empties.

pub mod build;
pub mod clean;
pub mod cpio;
mod debian;
mod error;
mod farm;
mod initramfs;
mod install;
mod layers;
pub mod lock;
pub mod modules;
mod process;
pub mod recipe;
mod root;
pub mod sbom;
mod sources;
pub mod store;
mod tree;
pub mod uki;
pub mod verity;

pub use build::{Progress, Tools, build};
pub use error::BuildError;
pub use farm::{Signature, farm_initramfs, farm_uki};
pub use lock::Lock;
pub use store::{ImageSignature, Store, StoreError};
