//! The part of the node protocol by which a node proves what it runs, and is given its secrets.
//!
//! ```text
//!  node                                         farm
//!   | POST /v1/node/attest  (Presented)          |   my TPM's keys       -> Challenge, 503 not enrolled yet, 403 another TPM
//!   | POST /v1/node/secrets (SecretsRequest)     |   what I was measured -> Secrets, once; 403 refused, 410 too late
//! ```
//!
//! Only within a session, and only shortly after it began. Without `trust: Tpm` the first step is left out, and the second has
//! no proof. [`crate::node::Manifest::trust`] says what the farm wants.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a farm wants of a node before it gives it secrets, and whether it has any for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustTerms {
    /// Whether the node shall prove by its TPM what it runs.
    #[serde(default)]
    pub proof: bool,
    /// Whether there are secrets in its configuration.
    #[serde(default)]
    pub secrets: bool,
}

/// Bytes that are written in hexadecimal.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Shows how many there are: they may be secret, and are often many.
impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes = text.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>();
        bytes.map(Self).ok_or_else(|| D::Error::custom("hexadecimal digits are wanted, two for each byte"))
    }
}

/// A node presents its TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presented {
    /// The session.
    pub session: String,
    /// Public half of its endorsement key: a point of P-256 in 64 bytes.
    pub endorsement: Hex,
    /// Public half of its attestation key: the same.
    pub attestation: Hex,
    /// The maker's certificate of the endorsement key in DER; empty if the TPM has none.
    #[serde(default)]
    pub certificate: Hex,
}

/// What only this TPM can answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// A secret, wrapped so that only the TPM with both keys gives it out: `TPMS_ID_OBJECT`.
    pub credential: Hex,
    /// The other half of that: `TPMS_ECC_POINT`.
    pub seed: Hex,
    /// To be signed together with the registers.
    pub nonce: Hex,
    /// Numbers of the registers, in ascending order.
    pub registers: Vec<u32>,
}

/// The answer to a [`Challenge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The secret of the credential.
    pub secret: Hex,
    /// What the TPM says: `TPMS_ATTEST`.
    pub statement: Hex,
    /// Its signature: `TPMT_SIGNATURE`.
    pub signature: Hex,
    /// The registers of the SHA-256 bank by number.
    pub registers: BTreeMap<u32, Hex>,
    /// The firmware's log of what it measured, as Linux shows it.
    pub log: Hex,
}

/// A node asks for its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretsRequest {
    /// The session.
    pub session: String,
    /// What the farm wants to see first; none where it wants nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// Secrets by their names, which are those of [`crate::objects::SecretRef`]. Lives in memory only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Content by name.
    pub secrets: BTreeMap<String, Hex>,
}

/// What a farm is given to hand out, on its admin socket: `POST /secrets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmSecrets {
    /// Tells these secrets from earlier ones; says nothing of what they are.
    pub id: String,
    /// The secrets of all its nodes.
    #[serde(flatten)]
    pub secrets: Secrets,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_hexadecimal_and_not_shown() {
        let hex = Hex(vec![0, 0xab, 0xff]);
        let text = serde_json::to_string(&hex).unwrap();
        assert_eq!(text, "\"00abff\"");
        assert_eq!(serde_json::from_str::<Hex>(&text).unwrap(), hex);
        assert_eq!(format!("{hex:?}"), "(3 bytes)");
        for wrong in ["\"0\"", "\"zz\"", "\"00 1\"", "\"+1\"", "1"] {
            assert!(serde_json::from_str::<Hex>(wrong).is_err(), "{wrong}");
        }
    }
}
