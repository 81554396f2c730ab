//! The farm's node API: a few requests of JSON over TLS, trusting the farm's own CA and nothing else.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stoke_api::node::{Hello, Manifest, Orders, Report};
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
/// The farm holds a request for orders open for up to 30 s.
const ORDERS: Duration = Duration::from_secs(45);
/// How much of an error's text is kept.
const MESSAGE: usize = 300;

/// Why the farm did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FarmError {
    /// There is a farm and no certificate of its CA in the initramfs.
    #[error("the farm's CA in this initramfs cannot be used (the farm adds it as a second cpio, or in its UKI)")]
    Ca(#[source] ureq::Error),
    /// No answer: network, TLS, time limit.
    #[error("could not talk to the farm at {url}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<ureq::Error>,
    },
    /// It does not know us (403).
    #[error("the farm does not know this machine: {0}")]
    Unknown(String),
    /// Not now (503).
    #[error("the farm asks to wait {} s: {message}", after.as_secs())]
    Wait { after: Duration, message: String },
    /// The session is over (410): say hello again.
    #[error("the farm has ended this session")]
    SessionOver,
    /// Another refusal.
    #[error("the farm refuses with status {status}: {message}")]
    Refused { status: u16, message: String },
}

/// A farm.
#[derive(Clone, Debug)]
pub(crate) struct Farm {
    url: String,
    agent: Agent,
}

impl Farm {
    /// The farm at this URL, by the CA in this PEM file.
    pub(crate) fn new(url: &str, ca_pem: &str) -> Result<Self, FarmError> {
        let ca = Certificate::from_pem(ca_pem.as_bytes()).map_err(FarmError::Ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[ca]))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .build();
        Ok(Self { url: url.trim_end_matches('/').to_owned(), agent: config.into() })
    }

    /// Says who we are; the answer is what this boot shall be.
    pub(crate) fn hello(&self, hello: &Hello) -> Result<Manifest, FarmError> {
        let response = self.post("/v1/node/hello", hello)?;
        self.read(response)
    }

    /// Tells how far we are.
    pub(crate) fn report(&self, report: &Report) -> Result<(), FarmError> {
        self.post("/v1/node/report", report).map(drop)
    }

    /// Waits for orders above the number `seen`.
    pub(crate) fn orders(&self, session: &str, seen: u64) -> Result<Orders, FarmError> {
        let url = format!("{}/v1/node/orders", self.url);
        let request = self.agent.get(url).query("session", session).query("seen", seen.to_string());
        let response = request.config().timeout_global(Some(ORDERS)).build().call();
        let response = check(response.map_err(|error| self.unreachable(error))?)?;
        self.read(response)
    }

    fn post(&self, path: &str, body: &impl Serialize) -> Result<Response<Body>, FarmError> {
        let response = self.agent.post(format!("{}{path}", self.url)).send_json(body);
        check(response.map_err(|error| self.unreachable(error))?)
    }

    fn read<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T, FarmError> {
        response.body_mut().read_json().map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, source: ureq::Error) -> FarmError {
        FarmError::Unreachable { url: self.url.clone(), source: Box::new(source) }
    }
}

fn check(mut response: Response<Body>) -> Result<Response<Body>, FarmError> {
    let status = response.status().as_u16();
    if response.status().is_success() {
        return Ok(response);
    }
    let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let message: String = text.trim().chars().filter(|c| !c.is_control()).take(MESSAGE).collect();
    Err(match status {
        403 => FarmError::Unknown(message),
        410 => FarmError::SessionOver,
        503 => FarmError::Wait { after: Duration::from_secs(after.unwrap_or(5).clamp(1, 300)), message },
        _ => FarmError::Refused { status, message },
    })
}
