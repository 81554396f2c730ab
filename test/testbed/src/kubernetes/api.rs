//! The API server as its administrator sees it: as much of it as the test bed itself needs. Tests use real clients.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body, http::Response};

use super::certificates::Pair;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A client with the rights of an administrator.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    server: String,
}

impl Api {
    pub(super) fn new(server: &str, authority: &str, pair: &Pair) -> Result<Self> {
        let root = Certificate::from_pem(authority.as_bytes())?;
        let shown = Certificate::from_pem(pair.certificate.as_bytes())?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .client_cert(Some(ClientCert::new_with_certs(&[shown], PrivateKey::from_pem(pair.key.as_bytes())?)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let agent = Agent::config_builder().tls_config(tls).timeout_global(Some(LIMIT)).http_status_as_error(false);
        Ok(Self { agent: agent.build().into(), server: server.to_owned() })
    }

    /// Reads an object or a list; nothing if it is not there.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.agent.get(self.url(path)).call().with_context(|| format!("cannot get {path}"))?;
        if answer.status() == 404 {
            return Ok(None);
        }
        parsed(path, answer).map(Some)
    }

    /// Makes an object; one of that name that is there already stays as it is.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let answer =
            self.agent.post(self.url(path)).send_json(object).with_context(|| format!("cannot post {path}"))?;
        if answer.status() == 409 {
            return Ok(object.clone());
        }
        parsed(path, answer)
    }

    /// Changes fields of an object by a JSON merge patch; `…/status` for those of its status.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub fn patch(&self, path: &str, fields: &Value) -> Result<Value> {
        let request = self.agent.patch(self.url(path)).header("content-type", "application/merge-patch+json");
        parsed(path, request.send(fields.to_string()).with_context(|| format!("cannot patch {path}"))?)
    }

    /// Deletes an object if it is there. It may stay for a while: finalizers.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub fn delete(&self, path: &str) -> Result<()> {
        let answer = self.agent.delete(self.url(path)).call().with_context(|| format!("cannot delete {path}"))?;
        if answer.status() != 404 {
            parsed(path, answer)?;
        }
        Ok(())
    }

    /// Whether the server says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.agent.get(self.url("/readyz")).call().is_ok_and(|answer| answer.status() == 200)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }
}

fn parsed(path: &str, mut answer: Response<Body>) -> Result<Value> {
    let status = answer.status();
    let text = answer.body_mut().read_to_string().with_context(|| format!("cannot read {path}"))?;
    if !status.is_success() {
        bail!("{path}: {status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("{path} is not JSON: {text}"))
}
