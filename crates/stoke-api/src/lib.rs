//! The objects that people write, and everything that Stokehold's programs say to each other about them.
//!
//! - [`names`]: newtypes ([`MacAddr`], [`Digest`], [`ObjectName`], [`Bytes`]), each parsed once and valid ever after.
//! - [`meta`]: what every object has: metadata, conditions, references.
//! - [`objects`]: the kinds, one file each: `Image`, `Lan`, `Farm`, `Server`, `Machine`.
//! - [`workload`]: what the reconcilers ask a backend to run, and the configuration that each role is given.
//! - [`registry`]: names of images in registries.
//! - [`report`]: what each role says of itself on its admin socket; the reconcilers' observed state.
//! - [`agent`]: what the operator and the node agents of a cluster say to each other.
//! - [`control`]: the control socket of a standalone installation.
//! - [`node`]: the protocol between a booting node (`stoke-init`) and its farm.
//! - [`trust`]: the part of it by which a node proves what it runs, and is given its secrets.
//! - [`chunks`]: what a root is made of, for nodes that have another version of it.
//! - [`trace`]: what happened in the boots of one machine.
//! - [`schema`]: the JSON schema of each kind, derived from its types.
//! - [`load`]: objects from files, with all that is wrong in them at once.
//!
//! What this crate never does: I/O other than reading the files it is asked to load, logging, or knowing which backend
//! runs. Read [`objects`] first.

pub mod agent;
pub mod chunks;
pub mod control;
pub mod load;
pub mod meta;
pub mod names;
pub mod node;
pub mod objects;
pub mod registry;
pub mod report;
pub mod schema;
pub mod trace;
pub mod trust;
pub mod workload;

pub use meta::{Condition, Metadata, ObjectRef};
pub use names::{Bytes, Digest, LinkName, MacAddr, ObjectName};
pub use objects::{AnyObject, Kind, Object};

/// Group and version of every object.
pub const API_VERSION: &str = "stokehold.dev/v1alpha1";
