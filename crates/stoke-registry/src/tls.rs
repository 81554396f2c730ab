//! Which certificates are believed: those that this host believes, and those that it keeps for a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Where distributions keep the authorities that a host believes.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where docker and podman look for the authorities of single registries (`containers-certs.d(5)`).
const PER_HOST: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// The authorities for a registry: those in `named`, or else the host's.
pub(crate) fn config(host: &str, named: Option<&Path>) -> std::io::Result<TlsConfig> {
    let mut certificates = Vec::new();
    if let Some(path) = named {
        certificates.extend(read(path)?);
        if certificates.is_empty() {
            return Err(std::io::Error::other(format!("there is no certificate in {}", path.display())));
        }
    } else {
        for path in files(host) {
            // What cannot be read is not believed; the connection says then that it is not.
            certificates.extend(read(&path).unwrap_or_default());
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = RootCerts::new_with_certs(&certificates);
    Ok(TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build())
}

fn files(host: &str) -> Vec<PathBuf> {
    // The variable that openssl and Go heed, too.
    let named = std::env::var_os("SSL_CERT_FILE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let bundle = named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()));
    let folders = PER_HOST.iter().map(|folder| Path::new(folder).join(host));
    let own = folders.filter_map(|folder| fs_err::read_dir(folder).ok()).flatten().flatten();
    let own = own.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "crt"));
    bundle.into_iter().chain(own).collect()
}

fn read(path: &Path) -> std::io::Result<Vec<Certificate<'static>>> {
    let text = fs_err::read(path)?;
    let certificates = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(certificates.collect())
}
