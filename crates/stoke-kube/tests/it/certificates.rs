//! Certificates in real Secrets: made once, renewed in time, and believed by those who are to believe them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use stoke_kube::certificates::{self, AGENT_NAME, AGENT_SECRET, Certificates};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cluster::shared;

async fn ensure(client: &Client, namespace: &str) -> Certificates {
    Certificates::ensure(client, namespace, "stokehold-webhook").await.expect("certificates")
}

async fn secret(client: &Client, namespace: &str, name: &str) -> Secret {
    Api::namespaced(client.clone(), namespace).get(name).await.expect("it is there")
}

fn text(secret: &Secret, name: &str) -> String {
    let data = secret.data.as_ref().expect("data");
    String::from_utf8(data[name].0.clone()).expect("text")
}

/// An agent with what is in its secret; says a word to whom it believes.
async fn agent(secret: &Secret) -> std::net::SocketAddr {
    let part = |name| text(secret, name);
    let tls = certificates::agent_server(&part("tls.crt"), &part("tls.key"), &part("ca.crt")).expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.write_all(b"hello").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

async fn visit(address: std::net::SocketAddr, tls: Arc<rustls::ClientConfig>) -> std::io::Result<String> {
    let name = ServerName::try_from(AGENT_NAME).expect("a name");
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(tls).connect(name, stream).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said)
}

#[tokio::test]
async fn certificates_are_made_once_even_by_two_who_begin_together() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let (one, other) = tokio::join!(ensure(&client, &namespace), ensure(&client, &namespace));
    assert_eq!(one.ca_pem, other.ca_pem);
    let before = secret(&client, &namespace, AGENT_SECRET).await;
    ensure(&client, &namespace).await;
    let after = secret(&client, &namespace, AGENT_SECRET).await;
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version, "nothing was written");
    let address = agent(&before).await;
    assert_eq!(visit(address, one.agents.clone()).await.expect("it is let in"), "hello");
    assert_eq!(visit(address, other.agents).await.expect("it is let in"), "hello");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(one.ca_pem.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let nobody = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let nobody = nobody.expect("versions").with_root_certificates(roots).with_no_client_auth();
    assert!(visit(address, Arc::new(nobody)).await.is_err(), "whoever has no certificate of ours hears nothing");
}

#[tokio::test]
async fn certificates_are_renewed_in_time_and_an_authority_is_believed_beside_the_next() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let first = ensure(&client, &namespace).await;
    let before = secret(&client, &namespace, AGENT_SECRET).await;
    let soon = |days: i64| {
        let end = jiff::Timestamp::now() + jiff::Span::new().hours(days * 24);
        Patch::Merge(json!({ "metadata": { "annotations": { "stokehold.dev/not-after": end.to_string() } } }))
    };
    let secrets = Api::<Secret>::namespaced(client.clone(), &namespace);
    secrets.patch(AGENT_SECRET, &PatchParams::default(), &soon(59)).await.expect("it is there");
    let same = ensure(&client, &namespace).await;
    let renewed = secret(&client, &namespace, AGENT_SECRET).await;
    assert_eq!(same.ca_pem, first.ca_pem);
    assert_ne!(text(&renewed, "tls.crt"), text(&before, "tls.crt"), "two months before its end it is renewed");
    secrets.patch("stokehold-ca", &PatchParams::default(), &soon(364)).await.expect("it is there");
    let second = ensure(&client, &namespace).await;
    assert_eq!(second.ca_pem.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(second.ca_pem.ends_with(&first.ca_pem), "the old one is believed, too");
    // An agent that has not heard of the new authority yet, and one that has.
    let (old, new) = (agent(&renewed).await, agent(&secret(&client, &namespace, AGENT_SECRET).await).await);
    assert_eq!(visit(new, second.agents.clone()).await.expect("it is let in"), "hello");
    assert_eq!(
        visit(new, first.agents.clone()).await.err().map(|_| ()),
        Some(()),
        "the first client knows no second authority"
    );
    assert!(visit(old, first.agents).await.is_ok());
}
