//! Serves one file under the name `image`, for tests and measurements: `nbd ADDRESS:PORT FILE [CERTIFICATE KEY CLIENT-CA]`.
//! With a certificate, clients that have one of the CA may come in TLS, and no others may. Prints the address that it
//! listens on; ends when its standard input does.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use stoke_nbd::image::Image;
use stoke_nbd::server::{Handle, Server, TlsConfig};
use stoke_nbd::{Export, Exports};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct One(Arc<Image>);

impl Exports for One {
    type Handle = Handle;

    fn find(&self, name: &str) -> Option<Export<Handle>> {
        let export =
            || Export { handle: self.0.clone(), size: self.0.size(), preferred_block: 4096, holes: self.0.holes() };
        (name == "image").then(export)
    }

    fn names(&self) -> Vec<String> {
        vec!["image".to_owned()]
    }
}

fn tls(certificate: &str, key: &str, client_ca: &str) -> Result<TlsConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_file_iter(client_ca)? {
        roots.add(ca?)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<Vec<_>, _>>()?;
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(TlsConfig { server: Arc::new(server), required: true })
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, file, rest @ ..] = arguments.as_slice() else {
        return Err("nbd ADDRESS:PORT FILE [CERTIFICATE KEY CLIENT-CA]".into());
    };
    let mut server = Server::new(Arc::new(One(Arc::new(Image::new(File::open(file)?)?))), Arc::default());
    if let [certificate, key, client_ca] = rest {
        let tls = Arc::new(tls(certificate, key, client_ca)?);
        server = server.with_tls(Arc::new(move || Some(tls.clone())));
    }
    let listener = tokio::net::TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let stop = CancellationToken::new();
    let at_end = stop.clone();
    std::thread::spawn(move || {
        // Whatever it is that ends the input.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        at_end.cancel();
    });
    server.serve(listener, stop).await;
    Ok(())
}
