//! Who somebody is to an API server.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::certificates::Pair;

/// An API server and a user of it, as the file that every client of Kubernetes reads. (JSON is YAML.)
#[derive(Clone, Debug)]
pub struct Kubeconfig(Value);

impl Kubeconfig {
    pub(super) fn with_certificate(server: &str, authority: &str, pair: &Pair) -> Self {
        let user = json!({"client-certificate-data": base64(&pair.certificate), "client-key-data": base64(&pair.key)});
        Self::new(server, authority, &user)
    }

    pub(super) fn with_token(server: &str, authority: &str, token: &str) -> Self {
        Self::new(server, authority, &json!({"token": token}))
    }

    fn new(server: &str, authority: &str, user: &Value) -> Self {
        let cluster = json!({"server": server, "certificate-authority-data": base64(authority)});
        Self(json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": "testbed", "user": user}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
            "current-context": "testbed",
        }))
    }

    /// The same user, in a namespace unless another is named.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        if let Some(context) = self.0.pointer_mut("/contexts/0/context") {
            context["namespace"] = json!(namespace);
        }
        self
    }

    /// What the file holds.
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(fs_err::write(path, self.text())?)
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
