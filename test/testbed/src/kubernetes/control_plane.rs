//! A control plane: etcd and the API server, and if asked for controller-manager and scheduler.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;

use super::api::Api;
use super::certificates::{Authority, Pair};
use super::folder::Folder;
use super::kubeconfig::Kubeconfig;
use super::server::Server;
use crate::tools::{ETCD, HELM, go_tool, kubernetes_program, oldest_kubernetes};
use crate::wait::wait_for;

/// How long a busy machine may take until a server is ready.
const LIMIT: Duration = Duration::from_mins(2);
/// The addresses of Services; the API server's own is the first.
pub(super) const SERVICES: &str = "10.96.0.0/16";
const OWN_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// What an API server says where it is when nobody looks for it there: an address for documentation.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The names that it has in a cluster.
const NAMES: [&str; 4] = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];

/// What a control plane is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether etcd waits for its disk: only tests of durability need it.
    pub durable: bool,
    /// Whether there is a controller-manager. Without it nothing is garbage-collected, and deleted namespaces stay.
    pub controllers: bool,
    /// Whether there is a scheduler.
    pub scheduler: bool,
    /// The address of this host that the servers are to have, if nodes are to reach them; else one of loopback.
    pub address: Option<Ipv4Addr>,
    /// More arguments for the API server.
    pub api_server: Vec<String>,
}

/// A cluster without nodes, on ports of its own. It ends when it is dropped, or with the process.
pub struct ControlPlane {
    options: Options,
    authority: Authority,
    api: Api,
    etcd_client: SocketAddr,
    etcd_peer: SocketAddr,
    api_address: SocketAddr,
    servers: Mutex<Servers>,
    folder: Folder,
}

/// The fields end in this order: an API server without etcd would stay and keep its port.
#[derive(Default)]
struct Servers {
    scheduler: Option<Server>,
    controllers: Option<Server>,
    api: Option<Server>,
    etcd: Option<Server>,
}

impl ControlPlane {
    /// The one that all tests of this process share, each in namespaces of its own. It has neither controllers nor scheduler.
    ///
    /// # Errors
    /// If it does not start.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<ControlPlane>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(Options::default()));
        shared.as_ref().map_err(|error| anyhow!("the shared control plane did not start: {error:#}"))
    }

    /// Starts one; returns when the API server is ready.
    ///
    /// # Errors
    /// If a program cannot be built, or a server does not become ready.
    pub fn start(options: Options) -> Result<Self> {
        let folder = Folder::new()?;
        let authority = Authority::new()?;
        let address = options.address.unwrap_or_else(loopback);
        let [api_address, etcd_client, etcd_peer] = free_ports(address)?;
        let administrator = authority.client("testbed", Some("system:masters"))?;
        let api = Api::new(&format!("https://{api_address}"), &authority.certificate(), &administrator)?;
        write_keys(folder.path(), &authority, api_address.ip(), &administrator)?;
        let servers = Mutex::default();
        let plane = Self { options, authority, api, etcd_client, etcd_peer, api_address, servers, folder };
        plane.kubeconfig().write(&plane.kubeconfig_file())?;
        plane.start_etcd()?;
        plane.start_api_server()?;
        plane.start_others()?;
        Ok(plane)
    }

    /// The administrator.
    pub fn kubeconfig(&self) -> Kubeconfig {
        let pair = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        let pair = Pair { certificate: pair("admin.crt"), key: pair("admin.key") };
        Kubeconfig::with_certificate(&self.url(), &self.authority.certificate(), &pair)
    }

    /// A file with it, which lives as long as the control plane.
    pub fn kubeconfig_file(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// A user with a certificate, in a group if one is named.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<Kubeconfig> {
        let pair = self.authority.client(user, group)?;
        Ok(Kubeconfig::with_certificate(&self.url(), &self.authority.certificate(), &pair))
    }

    /// A ServiceAccount, by a token that is valid for an hour.
    ///
    /// # Errors
    /// If there is no such ServiceAccount.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<Kubeconfig> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let answer = self.api.create(&path, &request)?;
        let token =
            answer.pointer("/status/token").and_then(|token| token.as_str()).context("no token in the answer")?;
        Ok(Kubeconfig::with_token(&self.url(), &self.authority.certificate(), token).in_namespace(namespace))
    }

    /// A new namespace, with ServiceAccount `default`.
    ///
    /// # Errors
    /// If the API server does not make it.
    pub fn namespace(&self) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.ensure_namespace(&name)?;
        Ok(name)
    }

    /// Makes a namespace with ServiceAccount `default`, unless it is there.
    ///
    /// # Errors
    /// If the API server does not make it.
    pub fn ensure_namespace(&self, name: &str) -> Result<()> {
        let metadata = |name: &str| json!({"metadata": {"name": name}});
        self.api.create("/api/v1/namespaces", &metadata(name))?;
        // If there are controllers, it is made by whoever comes first.
        self.api.create(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &metadata("default"))?;
        Ok(())
    }

    /// The API server, as its administrator.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where the API server is: `https://…`.
    pub fn url(&self) -> String {
        format!("https://{}", self.api_address)
    }

    /// `kubectl` of the administrator.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn kubectl(&self) -> Result<Command> {
        let mut command = Command::new(kubernetes_program("kubectl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig_file()).stdin(Stdio::null());
        // What it has found out about a server is of no use to the next.
        command.arg("--cache-dir").arg(self.folder.path().join("kubectl"));
        Ok(command)
    }

    /// `helm` of the administrator, without anything of its user's.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn helm(&self) -> Result<Command> {
        let mut command = Command::new(go_tool(HELM)?);
        command.env("KUBECONFIG", self.kubeconfig_file()).stdin(Stdio::null());
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.folder.path().join("helm").join(folder));
        }
        Ok(command)
    }

    /// Waits until a node is ready, or until `check` fails.
    pub(super) fn wait_for_node(&self, name: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
        let path = format!("/api/v1/nodes/{name}");
        wait_for(&format!("{name} to be ready"), LIMIT, || {
            check()?;
            let node = self.api.get(&path)?.unwrap_or_default();
            let conditions = node.pointer("/status/conditions").and_then(|list| list.as_array()).cloned();
            let is_ready = |one: serde_json::Value| {
                one.get("type") == Some(&json!("Ready")) && one.get("status") == Some(&json!("True"))
            };
            Ok(conditions.into_iter().flatten().any(is_ready).then_some(()))
        })
    }

    /// Ends the API server at once: an outage.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stop_api_server(&self) -> Result<()> {
        self.servers().api.take().map(drop).context("the API server does not run")
    }

    /// Starts the API server where it was; returns when it is ready.
    ///
    /// # Errors
    /// If it runs already, or does not become ready.
    pub fn start_api_server(&self) -> Result<()> {
        let mut servers = self.servers();
        if servers.api.is_some() {
            bail!("the API server runs already");
        }
        let server = servers.api.insert(self.server("kube-apiserver", &self.api_server_arguments()?)?);
        wait_until_ready("the API server", server, || self.api.is_ready())
    }

    /// Kills etcd and starts it again with what it had written.
    ///
    /// # Errors
    /// If it does not come back.
    pub fn restart_etcd(&self) -> Result<()> {
        drop(self.servers().etcd.take());
        self.start_etcd()?;
        wait_for("the API server", LIMIT, || Ok(self.api.is_ready().then_some(())))
    }

    /// The process ids of the servers that run, by name: for measurements.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let servers = self.servers();
        let all = [
            ("etcd", &servers.etcd),
            ("kube-apiserver", &servers.api),
            ("kube-controller-manager", &servers.controllers),
            ("kube-scheduler", &servers.scheduler),
        ];
        all.into_iter().filter_map(|(name, server)| Some((name, server.as_ref()?.id()))).collect()
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The file with the certificate of the authority.
    pub(super) fn authority_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_etcd(&self) -> Result<()> {
        let mut command = Command::new(go_tool(ETCD)?);
        let (client, peer) = (format!("http://{}", self.etcd_client), format!("http://{}", self.etcd_peer));
        command.arg("--data-dir").arg(self.folder.path().join("etcd")).args(["--name", "testbed"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("testbed={peer}"), "--log-level", "warn"]);
        if !self.options.durable {
            command.arg("--unsafe-no-fsync");
        }
        let mut servers = self.servers();
        let server = servers.etcd.insert(Server::start("etcd", self.folder.path(), &command)?);
        let health = format!("{client}/health");
        wait_until_ready("etcd", server, || ureq::get(&health).call().is_ok_and(|answer| answer.status() == 200))
    }

    fn start_others(&self) -> Result<()> {
        let mut servers = self.servers();
        if self.options.controllers {
            servers.controllers = Some(self.server("kube-controller-manager", &self.controllers_arguments())?);
        }
        if self.options.scheduler {
            let kubeconfig = format!("--kubeconfig={}", self.kubeconfig_file().display());
            let arguments = [kubeconfig, "--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
            servers.scheduler = Some(self.server("kube-scheduler", &arguments)?);
        }
        Ok(())
    }

    fn server(&self, name: &str, arguments: &[String]) -> Result<Server> {
        let mut command = Command::new(kubernetes_program(name)?);
        command.args(arguments).arg("--profiling=false");
        Server::start(name, self.folder.path(), &command)
    }

    fn api_server_arguments(&self) -> Result<Vec<String>> {
        let advertised = self.options.address.map_or(NOWHERE, IpAddr::V4);
        let mut arguments = vec![
            format!("--etcd-servers=http://{}", self.etcd_client),
            format!("--bind-address={}", self.api_address.ip()),
            format!("--secure-port={}", self.api_address.port()),
            format!("--advertise-address={advertised}"),
            format!("--service-cluster-ip-range={SERVICES}"),
        ];
        let fixed = [
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth=true",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
        ];
        arguments.extend(fixed.map(str::to_owned));
        arguments.push(format!("--cert-dir={}", self.folder.path().display()));
        let files = [
            ("client-ca-file", "ca.crt"),
            ("tls-cert-file", "api-server.crt"),
            ("tls-private-key-file", "api-server.key"),
            ("service-account-key-file", "service-accounts.pub"),
            ("service-account-signing-key-file", "service-accounts.key"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("kubelet-client-certificate", "admin.crt"),
            ("kubelet-client-key", "admin.key"),
        ];
        arguments.extend(self.file_arguments(&files));
        if oldest_kubernetes()? {
            arguments.push("--feature-gates=UserNamespacesSupport=true".to_owned());
        }
        arguments.extend(self.options.api_server.iter().cloned());
        Ok(arguments)
    }

    fn controllers_arguments(&self) -> Vec<String> {
        let fixed = [
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=300",
            "--kube-api-burst=300",
            "--controllers=*,bootstrapsigner,tokencleaner",
        ];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
        arguments.push(format!("--service-cluster-ip-range={SERVICES}"));
        let files = [
            ("kubeconfig", "admin.kubeconfig"),
            ("root-ca-file", "ca.crt"),
            ("cluster-signing-cert-file", "ca.crt"),
            ("cluster-signing-key-file", "ca.key"),
            ("service-account-private-key-file", "service-accounts.key"),
        ];
        arguments.extend(self.file_arguments(&files));
        arguments
    }

    fn file_arguments(&self, files: &[(&str, &str)]) -> Vec<String> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        files.iter().map(|(option, name)| format!("--{option}={}", at(name))).collect()
    }
}

/// Writes what the servers read.
fn write_keys(folder: &Path, authority: &Authority, address: IpAddr, administrator: &Pair) -> Result<()> {
    let server = authority.server("kube-apiserver", &[address, OWN_SERVICE], &NAMES)?;
    let accounts = rcgen::KeyPair::generate()?;
    let files = [
        ("ca.crt", authority.certificate()),
        ("ca.key", authority.key()),
        ("api-server.crt", server.certificate),
        ("api-server.key", server.key),
        ("admin.crt", administrator.certificate.clone()),
        ("admin.key", administrator.key.clone()),
        ("service-accounts.key", accounts.serialize_pem()),
        ("service-accounts.pub", accounts.public_key_pem()),
    ];
    files.iter().try_for_each(|(name, text)| Ok(fs_err::write(folder.join(name), text)?))
}

fn wait_until_ready(what: &str, server: &mut Server, ready: impl Fn() -> bool) -> Result<()> {
    let waited = wait_for(what, LIMIT, || {
        server.check()?;
        Ok(ready().then_some(()))
    });
    waited.with_context(|| format!("{what} said last: {}", server.last_lines()))
}

/// An address of this host's loopback interface that no other control plane has.
fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let third = u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 64).unwrap_or_default();
    Ipv4Addr::new(127, 128 + third, high, low)
}

/// Ports of an address that nobody has. These servers cannot be told to take any.
fn free_ports<const COUNT: usize>(address: Ipv4Addr) -> Result<[SocketAddr; COUNT]> {
    let any = SocketAddr::from((address, 0));
    let listeners: Vec<TcpListener> = (0..COUNT).map(|_| TcpListener::bind(any)).collect::<Result<_, _>>()?;
    let ports: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    ports.try_into().map_err(|_| anyhow!("too few ports"))
}
