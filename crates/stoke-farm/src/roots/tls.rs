//! TLS of NBD exports: the farm's own certificate, and whose clients may come.

use std::sync::Arc;

use anyhow::Context as _;
use stoke_api::objects::NbdTls;
use stoke_nbd::server::TlsConfig;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

/// The configuration of NBD in TLS, from that of the node API, whose certificate is used.
///
/// # Errors
/// If the clients' CA cannot be used.
pub(crate) fn config(node_api: &rustls::ServerConfig, wanted: Option<&NbdTls>) -> anyhow::Result<TlsConfig> {
    let wanted = wanted.cloned().unwrap_or_default();
    if wanted.client_ca.is_empty() {
        return Ok(TlsConfig { server: Arc::new(node_api.clone()), required: wanted.required });
    }
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(wanted.client_ca.as_bytes()) {
        let ca = ca.context("the CA of NBD clients is no PEM")?;
        roots.add(ca).context("the CA of NBD clients cannot be used")?;
    }
    let provider = node_api.crypto_provider().clone();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().context("the CA of NBD clients cannot be used")?;
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(node_api.cert_resolver.clone());
    Ok(TlsConfig { server: Arc::new(server), required: wanted.required })
}
