//! The agent's certificate and the authority of its clients, read again when the files change: the operator renews them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// Certificate, key, authority.
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// Common name of the only client, as the subject of its certificate has it: an attribute (2.5.4.3, RFC 5280) in UTF-8.
const OPERATOR: &[u8] = b"\x06\x03\x55\x04\x03\x0c\x08operator";

/// The files, and what was made of them last.
pub(super) struct Certificates {
    folder: PathBuf,
    made: Mutex<Option<Made>>,
}

#[derive(Clone)]
struct Made {
    texts: [Vec<u8>; 3],
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Those in this folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), made: Mutex::default() }
    }

    /// What connections are to be served with now. Files that do not fit each other are in the middle of a change: what
    /// was there before them serves on.
    ///
    /// # Errors
    /// If there never was anything of use.
    pub(super) fn current(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.read(made.as_ref()), made.as_ref()) {
            (Ok(new), _) => {
                let config = Arc::clone(&new.config);
                *made = Some(new);
                Ok(config)
            }
            (Err(error), Some(old)) => {
                tracing::warn!("the old certificate serves on: {error:#}");
                Ok(Arc::clone(&old.config))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn read(&self, before: Option<&Made>) -> anyhow::Result<Made> {
        let read = |name| fs_err::read(self.folder.join(name));
        let [certificate, key, authority] = FILES;
        let texts = [read(certificate)?, read(key)?, read(authority)?];
        match before {
            Some(before) if before.texts == texts => Ok(before.clone()),
            _ => {
                let config = configure(&texts).with_context(|| format!("{} is of no use", self.folder.display()))?;
                Ok(Made { config: Arc::new(config), texts })
            }
        }
    }
}

fn configure([certificate, key, authority]: &[Vec<u8>; 3]) -> anyhow::Result<ServerConfig> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority) {
        roots.add(root?)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_client_cert_verifier(clients).with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether the certificate is the operator's, and not another one of the same authority. What is in it, the authority has
/// written, and it writes this nowhere else.
pub(super) fn is_operator(certificates: Option<&[CertificateDer<'_>]>) -> bool {
    let own = certificates.and_then(<[_]>::first);
    own.is_some_and(|own| own.windows(OPERATOR.len()).any(|window| window == OPERATOR))
}
