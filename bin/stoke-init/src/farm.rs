//! The farm's node API: a few requests of JSON over TLS, trusting the farm's own CA and nothing else.
//!
//! A farm may have several replicas. A session is at one of them; when that one does not answer, the node says hello at the
//! next, and all later requests go there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use stoke_api::node::{Hello, Keep, Kept, Manifest, Orders, Report};
use stoke_api::trust::{Challenge, Presented, Secrets, SecretsRequest};
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
    /// No URL was named.
    #[error("no URL of the farm is named")]
    Nowhere,
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

/// A farm: its replicas, and the one that this node talks to. Clones talk to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Farm {
    replicas: Arc<Mutex<Replicas>>,
    agent: Agent,
}

#[derive(Debug, Default)]
struct Replicas {
    urls: Vec<String>,
    /// Number of the one that this node talks to.
    current: usize,
    /// Since when it has not answered.
    away: Option<Instant>,
}

/// The replicas' URLs in a list as DHCP and the kernel's command line have it: between spaces or commas.
pub(crate) fn urls(list: &str) -> Vec<String> {
    distinct(list.split([' ', ',']).map(|url| url.trim_end_matches('/').to_owned()).filter(|url| !url.is_empty()))
}

/// Each once, in the order of their first appearance.
pub(crate) fn distinct(urls: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut distinct = Vec::new();
    for url in urls {
        if !distinct.contains(&url) {
            distinct.push(url);
        }
    }
    distinct
}

impl Farm {
    /// The farm at these URLs, the first one first, by the CA in this PEM file.
    pub(crate) fn new(urls: &[String], ca_pem: &str) -> Result<Self, FarmError> {
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
        let replicas = Replicas { urls: urls.to_vec(), ..Replicas::default() };
        Ok(Self { replicas: Arc::new(Mutex::new(replicas)), agent: config.into() })
    }

    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// URL of the replica that this node talks to.
    pub(crate) fn url(&self) -> String {
        let replicas = self.replicas();
        replicas.urls.get(replicas.current).cloned().unwrap_or_default()
    }

    /// Whether there is another replica to go to.
    pub(crate) fn has_others(&self) -> bool {
        self.replicas().urls.len() > 1
    }

    /// Learns where the replicas are now. The one that this node talks to stays one of them until another answers. Whether
    /// that is news.
    pub(crate) fn learn(&self, urls: Vec<String>) -> bool {
        let current = self.url();
        let known = distinct(urls.into_iter().chain([current.clone()]));
        let mut replicas = self.replicas();
        let news = known.iter().any(|url| !replicas.urls.contains(url));
        replicas.current = known.iter().position(|url| *url == current).unwrap_or_default();
        replicas.urls = known;
        news
    }

    /// Notes whether the replica answers.
    pub(crate) fn answers(&self, it_does: bool) {
        let mut replicas = self.replicas();
        replicas.away = if it_does { None } else { replicas.away.or_else(|| Some(Instant::now())) };
    }

    /// How long no replica has answered; none if one does.
    pub(crate) fn away(&self) -> Option<Duration> {
        self.replicas().away.map(|since| since.elapsed())
    }

    /// Says who we are; the answer is what this boot shall be. Asks one replica after the other, the present one first,
    /// until one answers: that one is the present one from now on.
    pub(crate) fn hello(&self, hello: &Hello) -> Result<Manifest, FarmError> {
        let (first, urls) = {
            let replicas = self.replicas();
            (replicas.current, replicas.urls.clone())
        };
        let mut last = None;
        for url in urls.iter().cycle().skip(first).take(urls.len()) {
            match self.post(url, "/v1/node/hello", hello).and_then(|response| read(url, response)) {
                Err(error @ FarmError::Unreachable { .. }) => last = Some(error),
                answer => {
                    self.went_to(url);
                    return answer;
                }
            }
        }
        Err(last.unwrap_or(FarmError::Nowhere))
    }

    fn went_to(&self, url: &str) {
        let mut replicas = self.replicas();
        replicas.away = None;
        if let Some(number) = replicas.urls.iter().position(|known| known == url) {
            replicas.current = number;
        }
    }

    /// Tells how far we are.
    pub(crate) fn report(&self, report: &Report) -> Result<(), FarmError> {
        self.post(&self.url(), "/v1/node/report", report).map(drop)
    }

    /// What it keeps for us: once in a session.
    pub(crate) fn kept(&self, session: &str) -> Result<Kept, FarmError> {
        let url = self.url();
        let response = self.agent.get(format!("{url}/v1/node/kept")).query("session", session).call();
        read(&url, check(response.map_err(|error| unreachable(&url, error))?)?)
    }

    /// Gives it something to keep.
    pub(crate) fn keep(&self, keep: &Keep) -> Result<(), FarmError> {
        self.post(&self.url(), "/v1/node/keep", keep).map(drop)
    }

    /// Shows the node's TPM; the answer is a question to it.
    pub(crate) fn attest(&self, presented: &Presented) -> Result<Challenge, FarmError> {
        let url = self.url();
        read(&url, self.post(&url, "/v1/node/attest", presented)?)
    }

    /// Asks for the node's secrets.
    pub(crate) fn secrets(&self, request: &SecretsRequest) -> Result<Secrets, FarmError> {
        let url = self.url();
        read(&url, self.post(&url, "/v1/node/secrets", request)?)
    }

    /// Waits for orders above the number `seen`.
    pub(crate) fn orders(&self, session: &str, seen: u64) -> Result<Orders, FarmError> {
        let url = self.url();
        let request = self.agent.get(format!("{url}/v1/node/orders"));
        let request = request.query("session", session).query("seen", seen.to_string());
        let response = request.config().timeout_global(Some(ORDERS)).build().call();
        let response = check(response.map_err(|error| unreachable(&url, error))?)?;
        read(&url, response)
    }

    fn post(&self, url: &str, path: &str, body: &impl Serialize) -> Result<Response<Body>, FarmError> {
        let response = self.agent.post(format!("{url}{path}")).send_json(body);
        check(response.map_err(|error| unreachable(url, error))?)
    }
}

fn read<T: DeserializeOwned>(url: &str, mut response: Response<Body>) -> Result<T, FarmError> {
    response.body_mut().read_json().map_err(|error| unreachable(url, error))
}

fn unreachable(url: &str, source: ureq::Error) -> FarmError {
    FarmError::Unreachable { url: url.to_owned(), source: Box::new(source) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_between_spaces_or_commas_each_once() {
        let expected = ["https://10.0.0.1:8443", "https://10.0.0.2:8443"];
        assert_eq!(urls("https://10.0.0.1:8443/ https://10.0.0.2:8443"), expected);
        assert_eq!(urls(" https://10.0.0.1:8443,https://10.0.0.2:8443, https://10.0.0.1:8443"), expected);
        assert_eq!(urls(" "), [""; 0]);
    }

    #[test]
    fn a_farm_that_moves_is_found_at_its_new_address_and_the_old_one_is_asked_until_then() {
        let certified = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        let farm = Farm::new(&["https://a".to_owned()], certified).unwrap();
        assert!(!farm.has_others() && !farm.learn(vec!["https://a".into()]));
        assert!(farm.learn(vec!["https://b".into()]));
        assert_eq!((farm.url().as_str(), farm.has_others()), ("https://a", true));
        farm.answers(false);
        assert!(farm.away().is_some());
        farm.went_to("https://b");
        assert_eq!((farm.url().as_str(), farm.away()), ("https://b", None));
        farm.learn(vec!["https://b".into()]);
        assert!(!farm.has_others());
    }
}
