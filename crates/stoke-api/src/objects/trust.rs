//! What is known of a node's TPM, and which one it shall have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ImagePin, NodeConfig, SecretRef};
use crate::names::Digest;

impl NodeConfig {
    /// The secrets that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.files.iter().filter_map(|file| file.secret.as_ref())
    }
}

/// The oldest version that may be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MinimumVersion {
    /// As it is written in `minimumVersion`.
    pub version: ImagePin,
    /// When the newest of what is in that version was made, in seconds since 1970.
    pub built_at: u64,
}

/// The TPM that a server has, if its owner knows it beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TpmSpec {
    /// Fingerprint of its endorsement key: SHA-256 of the key's public area (`TPMT_PUBLIC`) by the profile's template for
    /// P-256, as `stoke describe` shows it.
    pub ek_public: Digest,
}

/// A TPM that was accepted: `stoke farm enroll`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// Fingerprint of its endorsement key.
    pub key: Digest,
    /// Register 7 at that time: the machine's Secure Boot, on or off, and its keys. A boot with another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<Digest>,
}

/// What a node's TPM said in its present boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTpm {
    /// Fingerprint of its endorsement key.
    pub key: Digest,
    /// What came of it.
    pub verdict: Verdict,
    /// Why, if it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Register 7, once it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<Digest>,
    /// Whether the firmware starts only what is signed, once that is proven.
    #[serde(default)]
    pub secure_boot_is_on: bool,
    /// SHA-256 of the maker's certificate of its endorsement key, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Digest>,
}

/// What came of a node's proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// Nobody has accepted this TPM yet.
    NotEnrolled,
    /// It was asked and has not answered yet.
    Asked,
    /// It runs what its farm handed out.
    Proven,
    /// It is another TPM, or it runs something else.
    Refused,
}
