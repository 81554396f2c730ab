//! The authority of an installation and what it signs, in Secrets of the operator's namespace. Made once, renewed in time.
//!
//! | Secret | for | who has it |
//! |---|---|---|
//! | `stokehold-ca` | the authority: certificate, key, and in `ca.crt` all that are to be believed | the operator |
//! | `stokehold-agent-tls` | node agents as servers, by one fixed name | the DaemonSet mounts it |
//! | `stokehold-operator-tls` | the operator as a client of node agents | the operator |
//! | `stokehold-webhook-tls` | the webhook as a server | the operator |
//!
//! Several operators may do this at once: who comes second takes what the first one has made. A renewed authority is believed
//! beside the one before it until that one ends, so that no two parts of a cluster lose each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{Span, Timestamp, tz::TimeZone};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

/// The name of every node agent.
pub const AGENT_NAME: &str = "stokehold-agent";
/// The name of the operator as a client.
pub const OPERATOR_NAME: &str = "operator";
/// The secret that node agents mount.
pub const AGENT_SECRET: &str = "stokehold-agent-tls";
const AUTHORITY_SECRET: &str = "stokehold-ca";
const OPERATOR_SECRET: &str = "stokehold-operator-tls";
const WEBHOOK_SECRET: &str = "stokehold-webhook-tls";

/// When a certificate ends: RFC 3339.
const ENDS: &str = "stokehold.dev/not-after";
/// Names in a certificate, and a hash of the authority that signed it.
const MADE_FOR: &str = "stokehold.dev/made-for";

/// Days that certificates are good for, and days before their end when they are renewed.
const AUTHORITY_DAYS: (i64, i64) = (3650, 365);
const LEAF_DAYS: (i64, i64) = (180, 60);
/// A clock of a node may be behind by this much.
const EARLIER: i64 = 1;
/// Attempts to be the one who writes.
const ATTEMPTS: u32 = 5;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "ca.crt";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A secret cannot be read or written.
    #[error("cannot use the secret {0}; the operator needs get, create and patch on secrets of its namespace")]
    Secret(&'static str, #[source] kube::Error),
    /// Others write it all the time.
    #[error("the secret {0} is changed all the time")]
    Contended(&'static str),
    /// A secret has something else in it.
    #[error("the secret {0} has no {1} that can be used; delete it and it is made anew")]
    Content(&'static str, &'static str),
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// What was made is refused by the TLS library.
    #[error("the certificates cannot be used")]
    Use(#[from] rustls::Error),
}

/// What the operator shows and believes.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Certificates of the authorities that are to be believed: what a webhook configuration has as `caBundle`.
    pub ca_pem: String,
    /// The operator as a client of node agents.
    pub agents: Arc<ClientConfig>,
    /// The webhook as a server.
    pub webhook: Arc<ServerConfig>,
}

impl Certificates {
    /// Reads all certificates, making or renewing what is needed. To be called again each day or so. `service` is the
    /// Service of the webhook.
    ///
    /// # Errors
    /// If a secret cannot be read or written.
    pub async fn ensure(client: &Client, namespace: &str, service: &str) -> Result<Self, CertificateError> {
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let authority = authority(&secrets).await?;
        leaf(&secrets, AGENT_SECRET, &authority, &Leaf::server(AGENT_NAME.to_owned())).await?;
        let operator = leaf(&secrets, OPERATOR_SECRET, &authority, &Leaf::client(OPERATOR_NAME)).await?;
        let webhook = Leaf::server(format!("{service}.{namespace}.svc"));
        let webhook = leaf(&secrets, WEBHOOK_SECRET, &authority, &webhook).await?;
        Ok(Self {
            agents: Arc::new(client_config(&authority.bundle, &operator)?),
            webhook: Arc::new(server_config(&webhook, None)?),
            ca_pem: authority.bundle,
        })
    }
}

/// What a node agent serves with: its certificate, and only clients of the authority that is in its secret.
///
/// # Errors
/// If the texts are no certificate and key.
pub fn agent_server(certificate: &str, key: &str, bundle: &str) -> Result<ServerConfig, CertificateError> {
    let pair = Pair { secret: AGENT_SECRET, certificate: certificate.to_owned(), key: key.to_owned() };
    server_config(&pair, Some(bundle))
}

struct Authority {
    key: KeyPair,
    /// Tells this authority from the ones before it.
    mark: String,
    bundle: String,
}

#[derive(Clone)]
struct Pair {
    secret: &'static str,
    certificate: String,
    key: String,
}

/// What a certificate is for.
struct Leaf {
    name: String,
    server: bool,
}

impl Leaf {
    fn server(name: String) -> Self {
        Self { name, server: true }
    }

    fn client(name: &str) -> Self {
        Self { name: name.to_owned(), server: false }
    }

    fn sign(&self, authority: &Authority) -> Result<(String, KeyPair), rcgen::Error> {
        let names = if self.server { vec![self.name.clone()] } else { Vec::new() };
        let mut parameters = dated(CertificateParams::new(names)?, LEAF_DAYS.0);
        parameters.distinguished_name.push(DnType::CommonName, self.name.clone());
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage = if self.server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        parameters.extended_key_usages = vec![usage];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority_parameters(), &authority.key);
        Ok((parameters.signed_by(&key, &issuer)?.pem(), key))
    }
}

/// Valid from a day ago on, for some days.
fn dated(mut parameters: CertificateParams, days: i64) -> CertificateParams {
    let midnight = |days| {
        let day = in_days(days).to_zoned(TimeZone::UTC).date();
        date_time_ymd(i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    parameters.not_before = midnight(-EARLIER);
    parameters.not_after = midnight(days);
    parameters
}

fn in_days(days: i64) -> Timestamp {
    Timestamp::now() + Span::new().hours(days * 24)
}

/// The same each time: an issuer made of them and of the key is the one whose certificate is believed.
fn authority_parameters() -> CertificateParams {
    let mut parameters = dated(CertificateParams::default(), AUTHORITY_DAYS.0);
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "Stokehold authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

/// Takes away what was made here; what people brought stays.
///
/// # Errors
/// If a secret cannot be read or deleted.
pub async fn remove(client: &Client, namespace: &str) -> Result<(), kube::Error> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    for name in [AGENT_SECRET, OPERATOR_SECRET, WEBHOOK_SECRET, AUTHORITY_SECRET] {
        if secrets.get_opt(name).await?.is_some_and(|secret| note(&secret, ENDS).is_some()) {
            secrets.delete(name, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

async fn authority(secrets: &Api<Secret>) -> Result<Authority, CertificateError> {
    // An authority without a date is somebody's own: they renew it.
    let is_good = |secret: &Secret| note(secret, ENDS).is_none_or(|end| lasts(end, AUTHORITY_DAYS.1));
    let make = |old: Option<&Secret>| {
        let key = KeyPair::generate()?;
        let certificate = authority_parameters().self_signed(&key)?.pem();
        let before = old.and_then(|old| text(old, CERTIFICATE)).unwrap_or_default();
        let contents =
            [(CERTIFICATE, certificate.clone()), (KEY, key.serialize_pem()), (BUNDLE, certificate + &before)];
        Ok((contents.to_vec(), notes(AUTHORITY_DAYS.0, "authority")))
    };
    let secret = ensure_secret(secrets, AUTHORITY_SECRET, is_good, make).await?;
    let part = |name: &'static str| text(&secret, name).ok_or(CertificateError::Content(AUTHORITY_SECRET, name));
    let (certificate, key) = (part(CERTIFICATE)?, part(KEY)?);
    let key = KeyPair::from_pem(&key).map_err(|_| CertificateError::Content(AUTHORITY_SECRET, KEY))?;
    let bundle = text(&secret, BUNDLE).unwrap_or_else(|| certificate.clone());
    Ok(Authority { key, mark: mark(&certificate), bundle })
}

fn mark(certificate: &str) -> String {
    let start =
        Sha256::digest(certificate.as_bytes()).iter().take(6).fold(0_u64, |all, byte| (all << 8) | u64::from(*byte));
    format!("{start:012x}")
}

async fn leaf(
    secrets: &Api<Secret>,
    name: &'static str,
    authority: &Authority,
    leaf: &Leaf,
) -> Result<Pair, CertificateError> {
    let made_for = format!("{} {}", leaf.name, authority.mark);
    let is_good = |secret: &Secret| {
        note(secret, MADE_FOR) == Some(&made_for)
            && note(secret, ENDS).is_some_and(|end| lasts(end, LEAF_DAYS.1))
            && text(secret, BUNDLE).as_ref() == Some(&authority.bundle)
    };
    let make = |_: Option<&Secret>| {
        let (certificate, key) = leaf.sign(authority)?;
        let contents = [(CERTIFICATE, certificate), (KEY, key.serialize_pem()), (BUNDLE, authority.bundle.clone())];
        Ok((contents.to_vec(), notes(LEAF_DAYS.0, &made_for)))
    };
    let secret = ensure_secret(secrets, name, is_good, make).await?;
    let part = |field: &'static str| text(&secret, field).ok_or(CertificateError::Content(name, field));
    Ok(Pair { secret: name, certificate: part(CERTIFICATE)?, key: part(KEY)? })
}

type Contents = (Vec<(&'static str, String)>, BTreeMap<String, String>);

/// A secret that is good: the one that is there, or a new one. Of two who write at once the first wins, and both take that.
async fn ensure_secret(
    secrets: &Api<Secret>,
    name: &'static str,
    is_good: impl Fn(&Secret) -> bool,
    make: impl Fn(Option<&Secret>) -> Result<Contents, rcgen::Error>,
) -> Result<Secret, CertificateError> {
    let failed = |error| CertificateError::Secret(name, error);
    for _ in 0..ATTEMPTS {
        let found = secrets.get_opt(name).await.map_err(failed)?;
        if let Some(good) = found.as_ref().filter(|secret| is_good(secret)) {
            return Ok(good.clone());
        }
        let new = secret(name, found.as_ref(), make(found.as_ref())?);
        let written = match &found {
            None => secrets.create(&PostParams::default(), &new).await,
            // Over the version that was read: its `resourceVersion` is in it.
            Some(_) => secrets.patch(name, &PatchParams::default(), &Patch::Merge(&new)).await,
        };
        match written {
            Ok(written) => {
                tracing::info!("made the secret {name}");
                return Ok(written);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(CertificateError::Contended(name))
}

fn secret(name: &str, old: Option<&Secret>, (contents, annotations): Contents) -> Secret {
    let labels = [("app.kubernetes.io/managed-by", "stokehold")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let data = contents.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            annotations: Some(annotations),
            resource_version: old.and_then(|old| old.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        // A type is never changed.
        type_: old.map_or(Some("kubernetes.io/tls".to_owned()), |old| old.type_.clone()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

fn notes(days: i64, made_for: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(ENDS.to_owned(), in_days(days).to_string()), (MADE_FOR.to_owned(), made_for.to_owned())])
}

fn note<'a>(secret: &'a Secret, name: &str) -> Option<&'a String> {
    secret.metadata.annotations.as_ref()?.get(name)
}

/// Whether a date is some days away. One that cannot be read is not.
fn lasts(end: &str, days: i64) -> bool {
    end.parse::<Timestamp>().is_ok_and(|end| end > in_days(days))
}

fn text(secret: &Secret, name: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(name)?.0;
    String::from_utf8(bytes.clone()).ok().filter(|text| !text.is_empty())
}

fn roots(bundle: &str) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes());
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if added == 0 { Err(CertificateError::Content(AUTHORITY_SECRET, BUNDLE)) } else { Ok(roots) }
}

fn chain(pair: &Pair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    let wrong = |part| move |_| CertificateError::Content(pair.secret, part);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes());
    Ok((chain.map_err(wrong(CERTIFICATE))?, key.map_err(wrong(KEY))?))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn client_config(bundle: &str, pair: &Pair) -> Result<ClientConfig, CertificateError> {
    let (chain, key) = chain(pair)?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots(bundle)?).with_client_auth_cert(chain, key)?)
}

/// A server that takes any client, or only those of an authority.
fn server_config(pair: &Pair, clients_of: Option<&str>) -> Result<ServerConfig, CertificateError> {
    let (chain, key) = chain(pair)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients_of {
        None => builder.with_no_client_auth(),
        Some(bundle) => {
            let roots = Arc::new(roots(bundle)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let verifier = verifier.map_err(|_| CertificateError::Content(AUTHORITY_SECRET, BUNDLE))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    Ok(builder.with_single_cert(chain, key)?)
}
