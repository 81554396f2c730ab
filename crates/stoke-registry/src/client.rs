//! One registry: its connections, and who we are to it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stoke_api::Digest;
use stoke_api::registry::Reference;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::auth::{self, Challenge};
use crate::credentials::{self, Credentials, CredentialsError};
use crate::tls;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a registry may think, and how long a transfer may stand still.
const SILENCE: Duration = Duration::from_mins(2);
/// Bound of what is read of a refusal.
const LARGEST_REFUSAL: u64 = 64 << 10;

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection broke.
    #[error("cannot reach {url}: {source}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why not.
        source: Box<ureq::Error>,
    },
    /// It wants to know who we are, or does not let us.
    #[error("{url} refuses: {hint}")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// What to do.
        hint: &'static str,
    },
    /// It has no such thing.
    #[error("{0} does not exist")]
    NotFound(String),
    /// It refused.
    #[error("{url} answered {status}{message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said, behind a colon.
        message: String,
    },
    /// It gave something else than was asked for.
    #[error("{url} gave other content than {digest}")]
    Tampered {
        /// What was asked for.
        url: String,
        /// The digest that it should have.
        digest: Digest,
    },
    /// It said something that no registry should.
    #[error("{url} is no registry: {why}")]
    Strange {
        /// What was asked for.
        url: String,
        /// What it said.
        why: String,
    },
    /// Our own credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A file of ours.
    #[error(transparent)]
    File(#[from] std::io::Error),
}

impl RegistryError {
    pub(crate) fn unreachable(url: &str, source: ureq::Error) -> Self {
        Self::Unreachable { url: url.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn unauthorized(url: &str, known: bool) -> Self {
        let hint = if known {
            "the credentials that we have are not enough"
        } else {
            "log in first (docker login, podman login), or name a file with --auth-file"
        };
        Self::Unauthorized { url: url.to_owned(), hint }
    }

    pub(crate) fn status(url: &str, status: u16, body: &str) -> Self {
        Self::Status { url: url.to_owned(), status, message: said(body) }
    }
}

/// What a registry's refusal says for people (OCI distribution specification, "Error Codes").
fn said(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let error = value.get("errors").and_then(|errors| errors.get(0));
    let text =
        error.and_then(|error| error.get("message").or_else(|| error.get("code"))).and_then(|text| text.as_str());
    text.map(|text| format!(": {}", text.chars().take(200).collect::<String>())).unwrap_or_default()
}

/// How a registry is spoken to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A file with credentials, as docker and podman write it; their own files if absent.
    pub auth_file: Option<PathBuf>,
    /// A file with the certificates that are believed; the host's if absent.
    pub ca_file: Option<PathBuf>,
}

/// Sends a request with a value of `Authorization`.
pub(crate) type Request<'a> = dyn FnMut(Option<&str>) -> Result<Response<Body>, ureq::Error> + 'a;

/// A repository in a registry.
pub struct Registry {
    pub(crate) agent: Agent,
    /// `https://HOST/v2/REPOSITORY`.
    base: String,
    reference: Reference,
    credentials: Option<Credentials>,
    /// The value of `Authorization` that was accepted last.
    authorization: Mutex<Option<String>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Registry {
    /// The repository of a reference; nobody is asked yet.
    ///
    /// # Errors
    /// If files that are named, or that have credentials, cannot be read.
    pub fn open(reference: &Reference, options: &Options) -> Result<Self, RegistryError> {
        let credentials = credentials::find(options.auth_file.as_deref(), &reference.host, &reference.repository)?;
        let local = reference.is_loopback() && options.ca_file.is_none();
        let mut config = Agent::config_builder()
            .tls_config(tls::config(&reference.host, options.ca_file.as_deref())?)
            .https_only(!local)
            .http_status_as_error(false)
            .user_agent(concat!("stokehold/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE));
        if reference.is_loopback() {
            config = config.proxy(None);
        }
        let scheme = if local { "http" } else { "https" };
        Ok(Self {
            agent: config.build().into(),
            base: format!("{scheme}://{}/v2/{}", reference.endpoint(), reference.repository),
            reference: reference.clone(),
            credentials,
            authorization: Mutex::new(None),
        })
    }

    /// The repository that this is.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Where a `Location` leads: an address, or a path on the registry's host.
    pub(crate) fn resolve(&self, location: &str) -> String {
        if !location.starts_with('/') {
            return location.to_owned();
        }
        let origin = self.base.find("/v2/").and_then(|end| self.base.get(..end)).unwrap_or(&self.base);
        format!("{origin}{location}")
    }

    /// Asks; if the registry wants to know who we are, asks again with what it wants.
    pub(crate) fn ask(
        &self,
        url: &str,
        push: bool,
        request: &mut Request<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = request(known.as_deref()).map_err(|source| RegistryError::unreachable(url, source))?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let refused = || RegistryError::unauthorized(url, self.credentials.is_some());
        let mut challenges = answer.headers().get_all("www-authenticate").iter();
        let challenge = challenges.find_map(|value| Challenge::parse(value.to_str().ok()?));
        let authorization = self.authorize(&challenge.ok_or_else(refused)?, push)?.ok_or_else(refused)?;
        let answer = request(Some(&authorization)).map_err(|source| RegistryError::unreachable(url, source))?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(refused());
        }
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(answer)
    }

    fn authorize(&self, challenge: &Challenge, push: bool) -> Result<Option<String>, RegistryError> {
        match (challenge, &self.credentials) {
            (Challenge::Basic, Some(Credentials::Password { user, password })) => Ok(Some(auth::basic(user, password))),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let actions = if push { "pull,push" } else { "pull" };
                let own = format!("repository:{}:{actions}", self.reference.repository);
                let scope = scope.clone().filter(|scope| scope.starts_with("repository:")).unwrap_or(own);
                let token = auth::token(&self.agent, realm, service, &scope, credentials.as_ref())?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }

    /// The answer if it is a good one.
    pub(crate) fn good(&self, url: &str, mut answer: Response<Body>) -> Result<Response<Body>, RegistryError> {
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound(url.to_owned())),
            StatusCode::FORBIDDEN => Err(RegistryError::unauthorized(url, self.credentials.is_some())),
            status => {
                let body = answer.body_mut().with_config().limit(LARGEST_REFUSAL).lossy_utf8(true).read_to_string();
                Err(RegistryError::status(url, status.as_u16(), &body.unwrap_or_default()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn refusals_for_people() {
        let text = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
        assert_eq!(said(text), ": requested access is denied");
        assert_eq!(said(r#"{"errors":[{"code":"DENIED"}]}"#), ": DENIED");
        assert_eq!(said("<html>"), "");
    }
}
