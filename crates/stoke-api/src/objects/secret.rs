//! A reference to a secret. The secret itself is never in an object.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::names::ObjectName;

/// Where a secret is: `{secret: NAME, key: KEY}`, or on one host `{file: PATH}`, which only its owner may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Kubernetes `Secret`, in the namespace of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectName>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A file on the host that `stoke up` runs on. Never in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The namespace of the `Secret`, where that is not the farm's. People do not write it: it is that of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub namespace: Option<ObjectName>,
}

/// The one place that a valid [`SecretRef`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretSource<'a> {
    /// A key of a Kubernetes `Secret`.
    Secret {
        /// Its name.
        name: &'a ObjectName,
        /// The key.
        key: &'a str,
    },
    /// A file of this host, by its absolute path.
    File(&'a Path),
}

impl SecretRef {
    /// The place that is named; `None` if the reference names none or two, which [`Self::check`] tells.
    pub fn source(&self) -> Option<SecretSource<'_>> {
        match (&self.secret, &self.key, &self.file) {
            (Some(name), Some(key), None) => Some(SecretSource::Secret { name, key }),
            (None, None, Some(file)) => Some(SecretSource::File(file)),
            _ => None,
        }
    }

    /// What is well-formed and still wrong. `at` is the field of the reference.
    pub fn check(&self, at: &str) -> Vec<Problem> {
        let key = |key: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !key.is_empty() && key.len() <= 253 && key.chars().all(allowed)
        };
        if super::is_join_secret(self) {
            return vec![Problem::new(format!("{at}.secret"), "this name is kept for nodes that join a cluster")];
        }
        match self.source() {
            None => vec![Problem::new(at, "name one place: {secret: NAME, key: KEY}, or {file: PATH}")],
            Some(SecretSource::Secret { key: text, .. }) if !key(text) => {
                vec![Problem::new(format!("{at}.key"), format!("{text:?} is no key of a Secret"))]
            }
            Some(SecretSource::File(file)) if !file.is_absolute() => {
                vec![Problem::new(format!("{at}.file"), "write the whole path, from the slash on")]
            }
            Some(_) => Vec::new(),
        }
    }
}

impl fmt::Display for SecretRef {
    /// Names the secret in messages and between programs: `NAME/KEY` or the path. Two references to one secret read the
    /// same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            Some(SecretSource::Secret { name, key }) => match &self.namespace {
                Some(namespace) => write!(f, "{namespace}/{name}/{key}"),
                None => write!(f, "{name}/{key}"),
            },
            Some(SecretSource::File(file)) => write!(f, "{}", file.display()),
            None => f.write_str("no secret"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let secret: SecretRef = serde_json::from_str(text).unwrap();
        secret.check("spec.x").into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_secret_is_in_one_place() {
        assert_eq!(problems(r#"{"secret":"a","key":"b.txt"}"#), [""; 0]);
        assert_eq!(problems(r#"{"file":"/etc/x"}"#), [""; 0]);
        for wrong in [r"{}", r#"{"secret":"a"}"#, r#"{"key":"a"}"#, r#"{"secret":"a","key":"b","file":"/c"}"#] {
            assert_eq!(problems(wrong), ["spec.x"], "{wrong}");
        }
        assert_eq!(problems(r#"{"secret":"a","key":"b/c"}"#), ["spec.x.key"]);
        assert_eq!(problems(r#"{"secret":"stokehold-join","key":"server.other"}"#), ["spec.x.secret"]);
        assert_eq!(problems(r#"{"file":"x"}"#), ["spec.x.file"]);
    }
}
