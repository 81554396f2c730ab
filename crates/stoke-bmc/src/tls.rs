//! Which certificates of controllers are believed.

use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Where distributions keep the authorities that a host believes.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates in `ca_file`, or else the host's; any if `insecure`.
pub(crate) fn config(ca_file: Option<&Path>, insecure: bool) -> std::io::Result<TlsConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    if insecure {
        return Ok(config.disable_verification(true).build());
    }
    let certificates = match ca_file {
        Some(file) => {
            let certificates = read(file)?;
            if certificates.is_empty() {
                return Err(std::io::Error::other(format!("there is no certificate in {}", file.display())));
            }
            certificates
        }
        // A host without a bundle believes nobody; the connection says so.
        None => match BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
            Some(bundle) => read(bundle)?,
            None => Vec::new(),
        },
    };
    Ok(config.root_certs(RootCerts::new_with_certs(&certificates)).build())
}

fn read(path: &Path) -> std::io::Result<Vec<Certificate<'static>>> {
    let text = fs_err::read(path)?;
    let certificates = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(certificates.collect())
}
