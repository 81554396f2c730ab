//! The versions of an image, as its status lists them, and the keys that farms want them to be signed by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::names::Digest;

/// A published version of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageVersion {
    /// Its digest.
    pub digest: Digest,
    /// When it was built here, or came here: RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub built_at: String,
    /// Bytes of all its parts.
    pub size: u64,
    /// Version of its kernel.
    pub kernel: String,
    /// Whether it stays whatever is pruned.
    #[serde(default)]
    pub kept: bool,
    /// Fingerprints of the keys that are known here and have signed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<String>,
}

/// What is wrong with keys of a farm. Whether one is a key at all is found out by whoever verifies with it.
pub(super) fn check_keys(keys: &[String]) -> Vec<Problem> {
    let is_key = |key: &String| {
        let text = key.trim();
        text.starts_with("-----BEGIN PUBLIC KEY-----") && text.ends_with("-----END PUBLIC KEY-----")
    };
    let wrong = keys.iter().enumerate().filter(|(_, key)| !is_key(key));
    let problem = |(index, key): (usize, &String)| {
        let message = if key.contains("PRIVATE KEY") {
            "this is a private key: keep it to yourself, and write its public half here"
        } else {
            "this is no public key in PEM (-----BEGIN PUBLIC KEY-----); stoke image keys show prints one"
        };
        Problem::new(format!("spec.imageKeys[{index}]"), message)
    };
    wrong.map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::check_keys;

    #[test]
    fn a_key_that_is_none_is_named() {
        let good = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let private = good.replace("PUBLIC", "PRIVATE");
        let found = check_keys(&[good.to_owned(), private, "ssh-ed25519 AAAA".to_owned()]);
        let told: Vec<_> = found.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("spec.imageKeys[1]: this is a private key"), "{told:?}");
        assert!(told[1].starts_with("spec.imageKeys[2]: this is no public key"), "{told:?}");
    }
}
