//! A farm on an address of its own on the loopback network, with a made-up image, and clients to run against it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use sha2::Digest as _;
use stoke_api::node::{RootInfo, Verity};
use stoke_api::objects::{RootFormat, RootMode, UnknownClients};
use stoke_api::report::{FarmReport, Report};
use stoke_api::workload::{BlobRef, FarmConfig, FarmImage, FarmNode};
use stoke_api::{Digest, Kind, MacAddr, ObjectRef};

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_mins(1);

/// Last part of the next farm's address.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// The node that an object names.
pub(crate) const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 7]);

pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: FarmConfig,
    pub(crate) root: Vec<u8>,
    /// How many descriptors the farm may have, if not as many as the tests.
    pub(crate) descriptors: Option<u32>,
    farm: Option<Child>,
}

impl Bed {
    /// A farm that runs.
    pub(crate) fn new() -> Self {
        let mut bed = Self::stopped();
        bed.start();
        bed
    }

    /// A farm that was not started yet.
    pub(crate) fn stopped() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // An address of our own: the tests of this process run side by side, and so do processes of several checkouts.
        let process = std::process::id();
        let address = Ipv4Addr::new(
            127,
            1 + u8::try_from(process % 250).unwrap(),
            u8::try_from(process / 250 % 250).unwrap(),
            NEXT.fetch_add(1, Ordering::Relaxed),
        );
        let root = pattern(3 << 20, 5);
        let config = config(folder.path(), address, &root);
        Self { folder, config, root, descriptors: None, farm: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_config(&self) {
        let text = serde_json::to_vec(&self.config).unwrap();
        std::fs::write(self.path("config.new"), text).unwrap();
        std::fs::rename(self.path("config.new"), self.path("config.json")).unwrap();
    }

    /// Starts the role and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.launch();
        self.wait("the farm to be ready", |bed| {
            bed.try_admin("GET", "/ready").is_some_and(|(status, _)| status == 200)
        });
    }

    pub(crate) fn launch(&mut self) {
        self.write_config();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = match self.descriptors {
            None => Command::new(example()),
            Some(most) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={most}")).arg(example());
                command
            }
        };
        command.arg(self.path("config.json")).arg(self.path("admin.sock"));
        command.env("STOKE_LOG", "debug").stdin(Stdio::null()).stderr(log);
        self.farm = Some(command.spawn().unwrap());
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.farm.as_ref().unwrap().id()
    }

    /// Kills the role as if by lightning.
    pub(crate) fn kill(&mut self) {
        let mut farm = self.farm.take().unwrap();
        farm.kill().unwrap();
        farm.wait().unwrap();
    }

    pub(crate) fn reload(&self) {
        self.write_config();
        let (status, text) = self.try_admin("POST", "/reload").unwrap();
        assert_eq!(status, 204, "{text}");
    }

    pub(crate) fn report(&self) -> FarmReport {
        let (_, text) = self.try_admin("GET", "/status").unwrap();
        match serde_json::from_str(&text).unwrap() {
            Report::Farm(report) => report,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn try_admin(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.path("admin.sock")).ok()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(begin.elapsed() < LIMIT, "gave up waiting for {what}; the farm says:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.config.address, self.config.http_port)
    }

    pub(crate) fn nbd(&self, digest: &Digest) -> String {
        format!("nbd://{}:{}/{digest}", self.config.address, self.config.nbd_port)
    }
}

/// Path of a blob on a farm's HTTP server.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("/v1/blob/sha256/{}", digest.hex())
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut farm) = self.farm.take() {
            let _ = farm.kill();
            let _ = farm.wait();
        }
    }
}

/// The example, which cargo builds together with the tests.
fn example() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let path = target.parent().and_then(Path::parent).unwrap().join("examples/farm");
    assert!(path.exists(), "{} is missing: run the tests by cargo test", path.display());
    path
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}); is its Debian package installed?"))
}

/// Runs a program that must succeed and returns what it wrote.
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Content that repeats late, so that a block out of place shows.
pub(crate) fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn owner(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Server, namespace: None, name: name.parse().unwrap() }
}

pub(crate) fn node(name: &str, mac: MacAddr) -> FarmNode {
    let config = stoke_api::objects::NodeConfig { hostname: Some(name.to_owned()), ..Default::default() };
    FarmNode {
        owner: owner(name),
        macs: vec![mac],
        uuid: None,
        config,
        scopes: Vec::new(),
        root: None,
        enrolment: None,
        reboots_requested: 0,
        image: None,
        kexec: false,
    }
}

fn config(folder: &Path, address: Ipv4Addr, root: &[u8]) -> FarmConfig {
    let blobs = folder.join("blobs");
    std::fs::create_dir_all(blobs.join("sha256")).unwrap();
    let store = |content: &[u8]| {
        let digest = Digest(sha2::Sha256::digest(content).into());
        std::fs::write(blobs.join("sha256").join(digest.hex()), content).unwrap();
        BlobRef { digest, size: content.len() as u64 }
    };
    let root = store(root);
    let verity =
        Verity { root_hash: "00".repeat(32), salt: String::new(), data_blocks: root.size / 4096, hash_offset: 0 };
    let image = FarmImage {
        digest: Digest([1; 32]),
        architecture: stoke_api::workload::Architecture::Amd64,
        kernel: store(&pattern(100_001, 2)),
        initramfs: store(&pattern(300_000, 3)),
        farm_initramfs: store(b"farm"),
        uki: Some(store(&pattern(500_000, 4))),
        root: RootInfo { format: RootFormat::Squashfs, blob: root.digest, size: root.size, verity },
        kernel_arguments: vec!["console=ttyS0".to_owned()],
        built_at: 1_700_000_000,
    };
    std::fs::write(folder.join("snponly.efi"), pattern(180_000, 6)).unwrap();
    let certified = rcgen::generate_simple_self_signed([address.to_string()]).unwrap();
    std::fs::write(folder.join("certificate.pem"), certified.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    FarmConfig {
        farm: ObjectRef { kind: Kind::Farm, namespace: Some("default".parse().unwrap()), name: "lab".parse().unwrap() },
        replica: 0,
        address,
        listen: None,
        replicas: vec![address],
        address6: None,
        mtu: 1500,
        tftp_port: 6969,
        tftp: stoke_api::objects::TftpMode::SinglePort,
        loader: stoke_api::objects::LoaderSpec::default(),
        nfs: None,
        peers: false,
        max_loading: None,
        http_port: 8080,
        node_port: 8443,
        nbd_port: 10809,
        nbd_tls: None,
        blobs,
        images: vec![image],
        nodes: vec![node("rack1-07", MAC)],
        unknown_clients: UnknownClients::Ignore,
        minimum_built_at: 0,
        trust: stoke_api::objects::Trust::Network,
        root: RootMode::Auto,
        disk: None,
        config: stoke_api::objects::NodeConfig::default(),
        scopes: Vec::new(),
        ltsp: stoke_api::workload::LtspFiles::default(),
        domain: "lab.internal".to_owned(),
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
        boot_programs: BTreeMap::from([("snponly.efi".to_owned(), folder.join("snponly.efi"))]),
        state: folder.join("sessions"),
        host_keys: folder.join("host-keys"),
        port: None,
    }
}
