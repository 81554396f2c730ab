//! A node of a cluster: a host in a network namespace, the agent on it, and what stands for pods.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use stoke_api::agent::AgentReport;

use super::host::{program_built, until};

pub(crate) const INSTALLATION: &str = "0a1b2c3d";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A number that no other test of any process at the moment has.
fn unique() -> String {
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// An authority, as the operator has one.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "stokehold");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key.
    pub(crate) fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// Writes what an agent mounts.
    pub(crate) fn write_for_agent(&self, folder: &Path) {
        let (certificate, key) = self.issue("stokehold-agent", ExtendedKeyUsagePurpose::ServerAuth);
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("ca.crt"), self.0.pem()).unwrap();
    }

    /// Who comes with a certificate of this name, or with none, trusting this authority.
    pub(crate) fn client(&self, name: Option<&str>, issuer: &Self) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.der().to_vec())).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (certificate, key) = issuer.issue(name, ExtendedKeyUsagePurpose::ClientAuth);
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![CertificateDer::from(certificate.der().to_vec())], key).unwrap()
            }
        };
        Client(Arc::new(config))
    }
}

/// Who talks to agents.
pub(crate) struct Client(Arc<rustls::ClientConfig>);

impl Client {
    /// Status and body of an answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let name = ServerName::try_from("stokehold-agent").unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(&self.0), name).unwrap();
        let stream = TcpStream::connect("127.0.0.1:9444")?;
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let length = body.len();
        let head = "host: stokehold-agent\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}")?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => return Err(error),
            _ => {}
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
    }
}

/// The agent of a node; all ends with it.
pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) name: String,
    pub(crate) authority: Authority,
    pub(crate) operator: Client,
    process: Option<Child>,
}

impl Node {
    /// Starts an agent without a configuration.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").args([program_built(), folder.path().join("agent")]).status().unwrap();
        assert!(copied.success(), "cp: {copied}");
        let authority = Authority::new();
        let operator = authority.client(Some("operator"), &authority);
        let mut node = Self { folder, name: format!("node-{}", unique()), authority, operator, process: None };
        node.authority.write_for_agent(&node.path("tls"));
        let config = json!({
            "listen": "127.0.0.1:9444", "tls": node.path("tls"), "run": node.path("run"),
            "devicePlugins": node.path("plugins"), "node": node.name, "address": super::host::HOST
        });
        std::fs::write(node.path("config.json"), config.to_string()).unwrap();
        node.launch();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn launch(&mut self) {
        let mut command = Command::new(self.path("agent"));
        command.arg("cluster").args(["run", "config.json", "agent.sock"].map(|name| self.path(name)));
        self.process = Some(command.spawn().unwrap());
        until("the agent answers", || self.operator.ask("GET", "/v1/report", "").is_ok());
    }

    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn report(&self) -> AgentReport {
        let (status, body) = self.operator.ask("GET", "/v1/report", "").unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn configure(&self, config: &Value) {
        let (status, body) = self.operator.ask("PUT", "/v1/config", &config.to_string()).unwrap();
        assert_eq!(status, 204, "{body}");
    }

    /// Steps that the running agent has carried out.
    pub(crate) fn steps(&self) -> u64 {
        let mut stream = std::os::unix::net::UnixStream::connect(self.path("agent.sock")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix("stokehold_node_steps_total "));
        line.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }

    /// The name of the pinned namespace, if there is one.
    pub(crate) fn pinned(&self) -> Option<PathBuf> {
        let hash = self.name.bytes().fold(0x811c_9dc5_u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let path = PathBuf::from(format!("/run/netns/stokehold-{INSTALLATION}-{hash:08x}"));
        path.exists().then_some(path)
    }

    /// A folder, as the device plugin makes one for a pod.
    pub(crate) fn allocate(&self) -> PathBuf {
        let path = self.path("run/pods").join(format!("{:016x}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&path).unwrap();
        until("somebody answers in the folder", || path.join("ports.sock").exists());
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let told = self.operator.ask("POST", "/v1/teardown", "");
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if !std::thread::panicking() {
            assert_eq!(told.unwrap(), (200, "[]".to_owned()));
            assert_eq!(self.pinned(), None);
        }
    }
}

/// A process in a control group and a network namespace, as one of a pod is.
pub(crate) struct Pod {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    group: Group,
}

impl Pod {
    /// A pod that says something to the agent, with a network namespace of its own or the host's.
    pub(crate) fn run(node: &Node, uid: &str, own_network: bool, arguments: &[&str]) -> Self {
        let group = Group::new(&format!("pod{uid}"));
        let script = "echo $$ > $1/cgroup.procs || exit; shift; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&group.path);
        command.args(if own_network { &["unshare", "-n"][..] } else { &[] });
        command.arg(node.path("agent")).args(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output, group }
    }

    /// The next line that it says.
    pub(crate) fn says(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Tells it to go on, and waits for what it says then.
    pub(crate) fn asked(&mut self) -> String {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.says()
    }

    pub(crate) fn network(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.process.id())).unwrap()
    }

    pub(crate) fn has_own_network(&self) -> bool {
        self.network().metadata().unwrap().ino() != std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.group.remove();
    }
}

/// A control group of version 2, or of a hierarchy of version 1.
struct Group {
    path: PathBuf,
}

impl Group {
    fn new(name: &str) -> Self {
        let root = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let root =
            root.into_iter().find(|root| root.join("cgroup.procs").exists()).expect("control groups are mounted");
        let path = root.join(format!("stokehold-it-{}", unique())).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    fn remove(&self) {
        // The kernel takes a moment to see that it is empty.
        until("the control group is empty", || std::fs::remove_dir(&self.path).is_ok());
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}
