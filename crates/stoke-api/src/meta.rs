//! What every object has: metadata, conditions, references.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::ObjectName;
use crate::objects::Kind;

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `None` for a cluster-scoped kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ObjectName>,
    /// The name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectRef {
    /// `machine/node-1`, with the namespace before the name unless it is the default one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind.singular())?;
        match &self.namespace {
            Some(namespace) if namespace.as_str() != DEFAULT_NAMESPACE => write!(f, "{namespace}/{}", self.name),
            _ => write!(f, "{}", self.name),
        }
    }
}

/// Identity and labels of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name, unique among the objects of its kind in its namespace.
    pub name: ObjectName,
    /// Namespace; `default` if absent. A `Server` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ObjectName>,
    /// Labels, by which selectors choose.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and programs that select nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Set by the store: unique over time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Set by the store: grows with each change of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Set by the store: changes with each write; what compare-and-set compares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Set by the store: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Set by the store when deletion was asked for: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// What must be done before the object may go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Set by whoever makes the object for another one: it goes when none of these is there any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

/// An object for which another one was made, as in Kubernetes. Owners may be of kinds that are not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Group and version of its kind.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid: another object of this name is another one.
    pub uid: String,
    /// Whether it is the one that keeps the object as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether it must not be gone before the object is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl Metadata {
    /// Metadata as a person writes it: a name.
    pub fn named(name: ObjectName) -> Self {
        Self {
            name,
            namespace: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            uid: None,
            generation: None,
            resource_version: None,
            creation_timestamp: None,
            deletion_timestamp: None,
            finalizers: Vec::new(),
            owner_references: Vec::new(),
        }
    }

    /// The object that keeps this one as it is, if there is one.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody could find out.
    Unknown,
}

/// One aspect of an object's state, as in Kubernetes. Every kind has `Ready`; its message says what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect, in PascalCase: `Ready`, `Progressing`, `Accelerated`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: Truth,
    /// Why, for programs: one word in PascalCase.
    pub reason: String,
    /// Why, for people: one sentence, with the next step if there is one.
    #[serde(default)]
    pub message: String,
    /// When `status` changed last: RFC 3339. Set by who writes the status to the store.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
}

impl Condition {
    /// A condition whose time the store sets.
    pub fn new(kind: &str, status: Truth, reason: &str, message: impl Into<String>) -> Self {
        let (kind, reason) = (kind.to_owned(), reason.to_owned());
        Self { kind, status, reason, message: message.into(), last_transition_time: String::new() }
    }

    /// The `Ready` condition.
    pub fn ready(ready: bool, reason: &str, message: impl Into<String>) -> Self {
        Self::new("Ready", if ready { Truth::True } else { Truth::False }, reason, message)
    }
}
