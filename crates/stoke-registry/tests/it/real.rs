//! Against distribution's registry: without TLS on this host, with TLS, with a password.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::workload::BlobRef;
use stoke_registry::{Options, Referrer, Registry, RegistryError};
use tempfile::TempDir;
use testbed::{Process, REGISTRY, go_tool, wait_for};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The password `secret` of the user `farm`, as `htpasswd -B` writes it.
const USERS: &str = "farm:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

struct Server {
    folder: TempDir,
    port: u16,
    _process: Process,
}

impl Server {
    fn start(tls: bool, password: bool) -> Self {
        let folder = TempDir::new().unwrap();
        // A port that is free now; the registry says if it is not any more, and another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = serve(folder.path(), port, tls, password) {
                return Self { folder, port, _process: process };
            }
        }
        panic!("the registry does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    fn open(&self, repository: &str, options: &Options) -> Registry {
        Registry::open(&format!("127.0.0.1:{}/{repository}", self.port).parse().unwrap(), options).unwrap()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn serve(folder: &Path, port: u16, tls: bool, password: bool) -> Option<Process> {
    let mut config = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}, delete: {{enabled: true}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        folder.display()
    );
    if tls {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(folder.join("ca.pem"), key.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), key.signing_key.serialize_pem()).unwrap();
        writeln!(config, "  tls: {{certificate: {0}/ca.pem, key: {0}/key.pem}}", folder.display()).unwrap();
    }
    if password {
        fs::write(folder.join("users"), USERS).unwrap();
        writeln!(config, "auth:\n  htpasswd: {{realm: test, path: {}/users}}", folder.display()).unwrap();
    }
    fs::write(folder.join("config.yml"), config).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(go_tool(REGISTRY).unwrap());
    command.arg("serve").arg(folder.join("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.env("OTEL_TRACES_EXPORTER", "none");
    let mut process = Process::start(&mut command).unwrap();
    let answers = wait_for("the registry", Duration::from_mins(1), || {
        if !process.is_running()? {
            return Ok(Some(false));
        }
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true))
    });
    answers.unwrap().then_some(process)
}

fn blob(content: &[u8]) -> BlobRef {
    BlobRef { digest: Digest(Sha256::digest(content).into()), size: content.len() as u64 }
}

fn put(registry: &Registry, content: &[u8]) -> BlobRef {
    let blob = blob(content);
    registry.put_blob(&blob, || Ok(content)).unwrap();
    blob
}

fn manifest(config: &BlobRef, subject: Option<&BlobRef>) -> Vec<u8> {
    let subject = subject.map_or_else(String::new, |subject| {
        format!(r#","subject":{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}"#, subject.digest, subject.size)
    });
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","artifactType":"application/x.test","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":{}}},"layers":[]{subject}}}"#,
        config.digest, config.size
    )
    .into_bytes()
}

fn round_trip(registry: &Registry) {
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let large = put(registry, &content);
    assert!(!registry.put_blob(&large, || Ok(content.as_slice())).unwrap(), "it is there");
    let (mut read, mut told) = (Vec::new(), 0);
    registry.get_blob(&large, &mut read, &mut |bytes| told += bytes).unwrap();
    assert!(read == content && told == large.size);
    let config = put(registry, b"{}");
    let text = manifest(&config, None);
    registry.put_manifest("1", MANIFEST, &text).unwrap();
    let fetched = registry.manifest("1").unwrap().unwrap();
    assert_eq!((fetched.content.as_slice(), fetched.media_type.as_str()), (text.as_slice(), MANIFEST));
    assert_eq!(registry.manifest(&fetched.digest.to_string()).unwrap(), Some(fetched));
    assert_eq!(registry.manifest("2").unwrap(), None);
    assert!(!registry.has_blob(&Digest([0; 32])).unwrap());
    let missing = registry.get_blob(&blob(b"never"), &mut Vec::new(), &mut |_| ()).unwrap_err();
    assert!(matches!(missing, RegistryError::NotFound(_)), "{missing}");
}

fn referrers(registry: &Registry) {
    let config = put(registry, b"{}");
    let text = manifest(&config, None);
    registry.put_manifest("subject", MANIFEST, &text).unwrap();
    let subject = blob(&text);
    assert!(registry.referrers(&subject.digest).unwrap().is_empty());
    let text = manifest(&config, Some(&subject));
    let BlobRef { digest, size } = blob(&text);
    let kind = "application/x.test".to_owned();
    let referrer = Referrer { media_type: MANIFEST.to_owned(), digest, size, artifact_type: kind };
    for _ in 0..2 {
        registry.put_referrer(&subject.digest, &referrer, &text).unwrap();
        let found: Vec<_> = registry.referrers(&subject.digest).unwrap().into_iter().map(|one| one.digest).collect();
        assert_eq!(found, [digest]);
    }
}

#[test]
fn without_tls_on_this_host() {
    let server = Server::start(false, false);
    let registry = server.open("farm/node", &Options::default());
    round_trip(&registry);
    referrers(&registry);
    let tampered = registry.put_blob(&blob(b"one"), || Ok(&b"two"[..])).unwrap_err();
    assert!(matches!(tampered, RegistryError::Status { status: 400, .. }), "{tampered}");
}

#[test]
fn with_tls_and_a_password() {
    let server = Server::start(true, true);
    let ca_file = Some(server.folder.path().join("ca.pem"));
    let auth = |password: &str| {
        use base64::Engine as _;
        let word = base64::engine::general_purpose::STANDARD.encode(format!("farm:{password}"));
        let text = format!(r#"{{"auths":{{"127.0.0.1:{}":{{"auth":"{word}"}}}}}}"#, server.port);
        Some(server.file(&format!("{password}.json"), &text))
    };
    let known = Options { auth_file: auth("secret"), ca_file: ca_file.clone() };
    round_trip(&server.open("farm/node", &known));

    let empty = Some(server.file("empty.json", "{}"));
    let nobody = server.open("farm/node", &Options { auth_file: empty, ca_file: ca_file.clone() });
    let refused = nobody.manifest("1").unwrap_err().to_string();
    assert!(refused.contains("log in first"), "{refused}");
    let wrong = server.open("farm/node", &Options { auth_file: auth("wrong"), ca_file });
    let refused = wrong.manifest("1").unwrap_err().to_string();
    assert!(refused.contains("are not enough") && !refused.contains("wrong"), "{refused}");

    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = Some(server.file("other.pem", &other.cert.pem()));
    let stranger = server.open("farm/node", &Options { auth_file: auth("secret"), ca_file: other });
    let refused = stranger.manifest("1").unwrap_err();
    assert!(matches!(refused, RegistryError::Unreachable { .. }), "{refused}");
}
