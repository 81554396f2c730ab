//! Servers of a few lines: tokens, downloads that break, answers that no registry gives.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::workload::BlobRef;
use stoke_registry::{Options, Registry, RegistryError};
use tempfile::TempDir;

/// Answers each request, given as its head in lower case, with raw bytes, and closes the connection.
fn server(answer: impl Fn(&str, u16) -> Vec<u8> + Send + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = head(&stream);
            if head.is_empty() {
                continue;
            }
            seen.lock().unwrap().push(head.clone());
            // The client may have gone.
            let _ = stream.write_all(&answer(&head, port));
        }
    });
    (port, heads)
}

fn head(stream: &TcpStream) -> String {
    let mut head = String::new();
    let mut lines = BufReader::new(stream);
    while let Ok(read) = lines.read_line(&mut head) {
        if read == 0 || head.ends_with("\r\n\r\n") {
            break;
        }
    }
    head
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn open(port: u16, auth: &str) -> (Registry, TempDir) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("auth.json");
    fs::write(&path, auth).unwrap();
    let reference = format!("127.0.0.1:{port}/farm/node").parse().unwrap();
    (Registry::open(&reference, &Options { auth_file: Some(path), ca_file: None }).unwrap(), folder)
}

fn blob(content: &[u8]) -> BlobRef {
    BlobRef { digest: Digest(Sha256::digest(content).into()), size: content.len() as u64 }
}

#[test]
fn a_token_is_fetched_once_and_the_password_goes_to_its_issuer_alone() {
    let (port, heads) = server(|head, port| {
        if head.starts_with("GET /token?") {
            return reply("200 OK", "", br#"{"access_token":"abc"}"#);
        }
        if head.to_lowercase().contains("authorization: bearer abc") {
            return reply("200 OK", "content-type: application/vnd.oci.image.manifest.v1+json\r\n", b"{}");
        }
        let realm = format!("www-authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"r\"\r\n");
        reply("401 Unauthorized", &realm, b"{}")
    });
    let word = STANDARD.encode("farm:secret");
    let (registry, _folder) = open(port, &format!(r#"{{"auths":{{"127.0.0.1:{port}":{{"auth":"{word}"}}}}}}"#));
    for _ in 0..2 {
        assert_eq!(registry.manifest("1").unwrap().unwrap().content, b"{}");
    }
    let heads = heads.lock().unwrap();
    let tokens: Vec<_> = heads.iter().filter(|head| head.starts_with("GET /token?")).collect();
    assert_eq!(tokens.len(), 1);
    assert!(
        tokens[0].contains("service=r") && tokens[0].contains("scope=repository%3Afarm%2Fnode%3Apull"),
        "{}",
        tokens[0]
    );
    for head in heads.iter() {
        assert_eq!(head.contains(&word), head.starts_with("GET /token?"), "{head}");
    }
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let content: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = content.clone();
    let (port, heads) = server(move |head, _| {
        let from = head.lines().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        match from.and_then(|range| range.split('-').next()?.parse::<usize>().ok()) {
            None => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", whole.len());
                [head.as_bytes(), &whole[..70_000]].concat()
            }
            Some(at) => reply("206 Partial Content", "", &whole[at..]),
        }
    });
    let (registry, _folder) = open(port, "{}");
    let mut read = Vec::new();
    registry.get_blob(&blob(&content), &mut read, &mut |_| ()).unwrap();
    assert!(read == content);
    assert_eq!(heads.lock().unwrap().len(), 2);
}

#[test]
fn a_blob_that_is_another_or_longer_or_never_whole_is_refused() {
    for body in [&b"other"[..], b"wanted and more", b"want"] {
        let (port, _) = server(move |head, _| {
            let ranged = head.to_lowercase().contains("range: bytes=");
            reply(if ranged { "206 Partial Content" } else { "200 OK" }, "", if ranged { b"" } else { body })
        });
        let (registry, _folder) = open(port, "{}");
        let error = registry.get_blob(&blob(b"wanted"), &mut Vec::new(), &mut |_| ()).unwrap_err();
        assert!(matches!(error, RegistryError::Tampered { .. }), "{error}");
    }
}

#[test]
fn what_no_registry_says() {
    let (port, _) = server(|head, _| match head {
        head if head.contains("/manifests/sha256:") => reply("200 OK", "", b"another"),
        head if head.contains("/manifests/denied") => {
            reply("403 Forbidden", "", br#"{"errors":[{"code":"DENIED","message":"no"}]}"#)
        }
        head if head.contains("/manifests/slow") => reply("429 Too Many Requests", "", b"{}"),
        head if head.contains("/referrers/") => reply("200 OK", "", b"<html>"),
        head if head.starts_with("POST ") => reply("202 Accepted", "", b""),
        _ => reply("404 Not Found", "", b""),
    });
    let (registry, _folder) = open(port, "{}");
    let tampered = registry.manifest(&blob(b"wanted").digest.to_string()).unwrap_err();
    assert!(matches!(tampered, RegistryError::Tampered { .. }), "{tampered}");
    assert!(matches!(registry.manifest("denied"), Err(RegistryError::Unauthorized { .. })));
    assert!(matches!(registry.manifest("slow"), Err(RegistryError::Status { status: 429, .. })));
    assert!(matches!(registry.referrers(&Digest([1; 32])), Err(RegistryError::Strange { .. })));
    assert!(matches!(registry.put_blob(&blob(b"x"), || Ok(&b"x"[..])), Err(RegistryError::Strange { .. })));
}
