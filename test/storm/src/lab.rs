//! Two hosts on a wire: one with the router and the farm, one with all the machines.
//!
//! The machines' addresses are none of their host's interfaces: a route makes all of the pool local there, and the servers
//! reach the pool by one neighbour. So a thousand machines cost the kernel's table of neighbours one entry.

use std::io::{BufWriter, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use stoke_api::Digest;
use testbed::{Process, World, programs, wait_for};

use crate::content::Content;
use crate::dhcp::Exchange;
use crate::machine::numbered;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const MACHINES: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
const POOL: &str = "10.20.128.10-10.20.159.250";
const POOL_ROUTE: &str = "10.20.128.0/19";
const PROGRAM: u64 = 200_000;
const READY: Duration = Duration::from_mins(1);

/// How large things are.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Machines that objects name.
    pub machines: u16,
    /// Bytes of the root, a multiple of 4096.
    pub root: u64,
    /// Bytes of the kernel and of the image's initramfs each, a multiple of 8.
    pub kernel: u64,
    /// How many may load at once.
    pub max_loading: Option<u32>,
}

/// A blob of the lab's image.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What is in it.
    pub content: Content,
}

impl Blob {
    fn new(number: u8, size: u64) -> Self {
        Self { digest: Digest([number; 32]), size, content: Content(number.into()) }
    }

    fn path(&self) -> String {
        format!("/v1/blob/sha256/{}", self.digest.hex())
    }
}

/// The hosts and what runs on them. All of it ends when it is dropped.
pub struct Lab {
    router: Mutex<Option<Process>>,
    farm: Mutex<Option<Process>>,
    exchange: Mutex<Option<Arc<Exchange>>>,
    servers: World,
    machines: World,
    /// Kernel, the farm's initramfs, the image's, and the root.
    blobs: [Blob; 4],
    program: Vec<u8>,
    tls: Arc<ClientConfig>,
}

impl Lab {
    /// Makes the hosts and starts the servers. The calling thread, and all that it starts from then on, are on the machines'
    /// host.
    ///
    /// # Errors
    /// If the caller is not root, or a server does not start.
    pub fn start(wanted: Wanted) -> Result<Arc<Self>> {
        raise_limit();
        let (servers, machines) = (World::new()?, World::new()?);
        servers.connect(&machines, [&format!("{SERVER}/16"), &format!("{MACHINES}/16")])?;
        servers.run("ip", &["route", "add", POOL_ROUTE, "via", &MACHINES.to_string()])?;
        // Only the host's own address is answered for by ARP: those of the pool are nobody's until they are given.
        machines.run("sysctl", &["-qw", "net.ipv4.conf.all.arp_ignore=1"])?;
        machines.run("ip", &["route", "add", "local", POOL_ROUTE, "dev", "lo"])?;
        let kernel = wanted.kernel;
        let blobs = [Blob::new(1, kernel), Blob::new(2, 4096), Blob::new(3, kernel), Blob::new(4, wanted.root)];
        let folder = servers.folder().to_owned();
        write_blobs(&folder, &blobs)?;
        let mut program = Vec::new();
        Content(9).write(&mut program, PROGRAM)?;
        for name in ["undionly.kpxe", "snponly.efi"] {
            fs_err::write(folder.join(name), &program)?;
        }
        let tls = certificate(&folder)?;
        write_json(&folder.join("router.json"), &router(&folder, wanted.machines))?;
        write_json(&folder.join("farm.json"), &farm(&folder, &blobs, wanted))?;
        let lab = Arc::new(Self {
            router: Mutex::default(),
            farm: Mutex::default(),
            exchange: Mutex::default(),
            servers,
            machines,
            blobs,
            program,
            tls,
        });
        *lock(&lab.router) = Some(lab.serve("router")?);
        *lock(&lab.farm) = Some(lab.serve("farm")?);
        for role in ["router", "farm"] {
            lab.wait_ready(role)?;
        }
        lab.machines.enter()?;
        *lock(&lab.exchange) = Some(Exchange::open()?);
        Ok(lab)
    }

    fn serve(&self, role: &str) -> Result<Process> {
        let folder = self.servers.folder();
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.log(role))?.into_file();
        let mut command = self.servers.command(programs()?.join("stoke"));
        command.args(["serve", role, "--config"]).arg(folder.join(format!("{role}.json")));
        command.arg("--socket").arg(self.socket(role)).env("STOKE_LOG", "warn");
        Process::start(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))
    }

    fn log(&self, role: &str) -> PathBuf {
        self.servers.folder().join(format!("{role}.log"))
    }

    fn socket(&self, role: &str) -> PathBuf {
        self.servers.folder().join(format!("{role}.sock"))
    }

    fn wait_ready(&self, role: &str) -> Result<()> {
        let ready = || Ok(self.ask(role, "/ready").ok().filter(|(status, _)| *status == 200).map(drop));
        wait_for(&format!("the {role}"), READY, ready).with_context(|| self.said(role))
    }

    /// What a server has logged.
    pub fn said(&self, role: &str) -> String {
        fs_err::read_to_string(self.log(role)).unwrap_or_default()
    }

    /// Asks a server on its admin socket.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&self, role: &str, path: &str) -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket(role))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
        Ok((status, body.to_owned()))
    }

    /// A counter of the farm's; zero if it counts no such thing.
    ///
    /// # Errors
    /// If the farm does not answer.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let (_, text) = self.ask("farm", "/metrics")?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok();
        Ok(text.lines().filter_map(value).sum())
    }

    /// `kill -9` of the farm, and a start.
    ///
    /// # Errors
    /// If it does not start.
    pub fn kill_farm(&self) -> Result<()> {
        let mut farm = lock(&self.farm);
        drop(farm.take());
        *farm = Some(self.serve("farm")?);
        Ok(())
    }

    /// Waits until the farm serves.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn wait_farm(&self) -> Result<()> {
        self.wait_ready("farm")
    }

    pub(crate) fn dhcp(&self) -> Result<Arc<Exchange>> {
        lock(&self.exchange).clone().context("DHCP is not open")
    }

    pub(crate) fn program(&self) -> &Vec<u8> {
        &self.program
    }

    pub(crate) fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    /// The blob at this path.
    pub(crate) fn blob(&self, path: &str) -> Option<&Blob> {
        self.blobs.iter().find(|blob| blob.path() == path)
    }

    /// The root.
    pub fn root(&self) -> &Blob {
        let [.., root] = &self.blobs;
        root
    }

    pub(crate) fn root_file(&self) -> PathBuf {
        blob_file(self.servers.folder(), self.root())
    }

    /// Bytes of kernel and initramfs that each boot fetches.
    pub fn parts(&self) -> u64 {
        let [kernel, first, second, _] = &self.blobs;
        kernel.size + first.size + second.size
    }

    /// Whether a URL is the farm's.
    pub fn is_farm(&self, url: &str) -> bool {
        url.starts_with(&format!("http://{SERVER}/"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Before their hosts.
        drop(lock(&self.farm).take());
        drop(lock(&self.router).take());
        if let Some(exchange) = lock(&self.exchange).take() {
            exchange.close();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each machine that gives its root listens.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is not allowed fails later, where it is known for what it was wanted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(fs_err::write(path, serde_json::to_vec(value)?)?)
}

fn blob_file(folder: &Path, blob: &Blob) -> PathBuf {
    folder.join("blobs/sha256").join(blob.digest.hex())
}

fn write_blobs(folder: &Path, blobs: &[Blob]) -> Result<()> {
    fs_err::create_dir_all(folder.join("blobs/sha256"))?;
    for blob in blobs {
        ensure!(blob.size.is_multiple_of(8), "{} bytes are no words", blob.size);
        let mut file = BufWriter::new(fs_err::File::create(blob_file(folder, blob))?);
        blob.content.write(&mut file, blob.size)?;
        file.flush()?;
    }
    Ok(())
}

/// Makes the farm's certificate; with what it is trusted.
fn certificate(folder: &Path) -> Result<Arc<ClientConfig>> {
    let made = rcgen::generate_simple_self_signed([SERVER.to_string()])?;
    fs_err::write(folder.join("certificate.pem"), made.cert.pem())?;
    fs_err::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn owner(number: u16) -> Value {
    json!({"kind": "Server", "name": format!("node-{number}")})
}

fn router(folder: &Path, machines: u16) -> Value {
    let host = |number| {
        json!({"owner": owner(number), "hostname": format!("node-{number}"), "macs": [numbered(number).mac()],
            "uuid": null, "address": null, "farm": "default/lab"})
    };
    let farm = json!({"addresses": [SERVER], "httpPort": 80, "nodePort": 8443, "unknownClients": "Ignore"});
    json!({
        "lan": {"kind": "Lan", "namespace": "default", "name": "lab"},
        "interface": "wire0",
        "mtu": 1500,
        "subnets": [{"cidr": "10.20.0.0/16", "gateway": SERVER, "defaultRoute": false, "pools": [POOL]}],
        "dhcp": "Authoritative",
        "domain": "lab.internal",
        "upstreams": [],
        "hosts": (0..machines).map(host).collect::<Vec<_>>(),
        "farms": {"default/lab": farm},
        "leases": folder.join("leases.journal"),
    })
}

fn farm(folder: &Path, blobs: &[Blob; 4], wanted: Wanted) -> Value {
    let [kernel, farm_initramfs, initramfs, root] = blobs;
    let part = |blob: &Blob| json!({"digest": blob.digest, "size": blob.size});
    let verity = json!({"rootHash": "00".repeat(32), "salt": "", "dataBlocks": root.size / 4096, "hashOffset": 0});
    let image = json!({
        "digest": Digest([7; 32]),
        "kernel": part(kernel),
        "initramfs": part(initramfs),
        "farmInitramfs": part(farm_initramfs),
        "uki": null,
        "root": {"format": "Squashfs", "blob": root.digest, "size": root.size, "verity": verity},
        "kernelArguments": ["console=ttyS0"],
    });
    let node = |number| {
        json!({"owner": owner(number), "macs": [numbered(number).mac()], "uuid": null,
            "config": {"hostname": format!("node-{number}")}, "rebootsRequested": 0})
    };
    let program = |name: &str| folder.join(name);
    json!({
        "farm": {"kind": "Farm", "namespace": "default", "name": "lab"},
        "address": SERVER,
        "replicas": [SERVER],
        "peers": true,
        "maxLoading": wanted.max_loading,
        "tftpPort": 69, "httpPort": 80, "nodePort": 8443, "nbdPort": 10809,
        "blobs": folder.join("blobs"),
        "images": [image],
        "nodes": (0..wanted.machines).map(node).collect::<Vec<_>>(),
        "unknownClients": "Ignore",
        "root": "Auto",
        "config": {},
        "domain": "lab.internal",
        "certificate": folder.join("certificate.pem"),
        "key": folder.join("key.pem"),
        "bootPrograms": {"undionly.kpxe": program("undionly.kpxe"), "snponly.efi": program("snponly.efi")},
        "state": folder.join("sessions"),
    })
}
