//! TLS of a farm's NBD exports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, RootMode};

/// TLS of a farm's NBD exports, which clients may ask for by `STARTTLS`: nbdcopy, QEMU. The kernel's client, by which nodes
/// attach their roots, has none; what they read is verified by its hashes instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NbdTls {
    /// CA certificates in PEM. A client in TLS must have a certificate of one of them; any may come if this is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client_ca: String,
    /// Whether nothing is exported without TLS. Nodes then have their roots in memory.
    #[serde(default)]
    pub required: bool,
}

impl NbdTls {
    /// What is well-formed and still wrong, with roots of this mode.
    pub(super) fn check(&self, root: RootMode) -> Vec<Problem> {
        let mut problems = Vec::new();
        let wrong = |at: &str, message: &str| Problem::new(format!("spec.boot.nbdTls.{at}"), message);
        if !self.client_ca.is_empty() && !self.client_ca.contains("-----BEGIN CERTIFICATE-----") {
            problems.push(wrong("clientCa", "certificates in PEM are wanted: -----BEGIN CERTIFICATE-----"));
        }
        if self.required && root == RootMode::Nbd {
            problems.push(wrong("required", "nodes cannot attach roots in TLS: this needs `root: Ram`, or Auto"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_can_attach_no_root_that_is_only_in_tls() {
        let tls = NbdTls { client_ca: "x".to_owned(), required: true };
        let at = |root| tls.check(root).iter().map(|problem| problem.field.clone()).collect::<Vec<_>>();
        assert_eq!(at(RootMode::Nbd), ["spec.boot.nbdTls.clientCa", "spec.boot.nbdTls.required"]);
        assert_eq!(at(RootMode::Auto), ["spec.boot.nbdTls.clientCa"]);
    }
}
