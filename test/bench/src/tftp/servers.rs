//! The servers, ours and theirs, each on a port of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use testbed::peers::Peers;
use testbed::{Process, World, wait_for};

use super::MEBIBYTE;
use super::client::{Ask, fetch};

/// Where all of them are.
pub(super) const ADDRESS: &str = "10.9.0.1";
/// Sizes of the files.
const SIZES: [usize; 5] = [MEBIBYTE / 4, MEBIBYTE, 2 * MEBIBYTE, 4 * MEBIBYTE, 64 * MEBIBYTE];

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Ours,
    Hpa,
    Atftpd,
    Dnsmasq,
}

impl Server {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hpa => "tftpd-hpa",
            Self::Atftpd => "atftpd",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        let port = match self {
            // Its port cannot be chosen.
            Self::Dnsmasq => 69,
            Self::Ours => 1069,
            Self::Hpa => 2069,
            Self::Atftpd => 3069,
        };
        SocketAddr::from(([10, 9, 0, 1], port))
    }
}

/// All of them, running.
pub(super) struct Servers {
    files: BTreeMap<usize, Vec<u8>>,
    _processes: Vec<Process>,
}

impl Servers {
    /// Starts them on the host `far` and waits until each serves the host `near`.
    pub(super) fn start(peers: &Peers, far: &World, near: &World) -> Result<Self> {
        let folder = far.folder().join("tftp");
        fs_err::create_dir_all(&folder)?;
        let files: BTreeMap<_, _> = SIZES.into_iter().map(|size| (size, pattern(size))).collect();
        for (size, content) in &files {
            fs_err::write(folder.join(Self::name(*size)), content)?;
        }
        let processes = vec![
            ours(far, &folder)?,
            hpa(peers, far, &folder)?,
            atftpd(peers, far, &folder)?,
            dnsmasq(peers, far, &folder)?,
        ];
        let servers = Self { files, _processes: processes };
        for server in super::ALL {
            let ask = Ask { server: server.address(), name: Self::name(MEBIBYTE), block: super::BLOCK, window: 1 };
            wait_for(server.name(), Duration::from_mins(1), || {
                let whole = fetch(near, &ask, &servers.content(MEBIBYTE), 1, Duration::from_secs(30))?;
                Ok((whole == 1).then_some(()))
            })?;
        }
        Ok(servers)
    }

    /// Name of the file of a size.
    pub(super) fn name(size: usize) -> String {
        format!("program-{size}")
    }

    /// What is in it.
    pub(super) fn content(&self, size: usize) -> Vec<u8> {
        self.files.get(&size).cloned().unwrap_or_default()
    }
}

/// Content that repeats late, so that a block out of place shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// A farm without images or nodes: the whole role, of which TFTP is asked.
fn ours(far: &World, folder: &Path) -> Result<Process> {
    let path = |name: &str| far.folder().join(name);
    let (certificate, key) = crate::farm::certificate(far.folder(), ADDRESS)?;
    let programs: BTreeMap<String, PathBuf> =
        SIZES.into_iter().map(|size| (Servers::name(size), folder.join(Servers::name(size)))).collect();
    let config = json!({
        "farm": { "kind": "Farm", "namespace": "default", "name": "bench" }, "address": ADDRESS, "tftpPort": Server::Ours.address().port(), "httpPort": 8080,
        "nodePort": 8443, "nbdPort": 10809, "blobs": path("blobs"), "images": [], "nodes": [],
        "unknownClients": "Ignore", "root": "Auto", "config": {}, "domain": "bench.internal",
        "certificate": certificate, "key": key, "bootPrograms": programs, "state": path("state"),
    });
    fs_err::write(path("farm.json"), serde_json::to_vec(&config)?)?;
    let mut command = far.command(testbed::programs()?.join("stoke"));
    command.args(["serve", "farm", "--config"]).arg(path("farm.json")).arg("--socket").arg(path("farm.sock"));
    command.env("STOKE_LOG", "warn");
    Process::start(&mut command).context("cannot start our farm")
}

fn hpa(peers: &Peers, far: &World, folder: &Path) -> Result<Process> {
    let mut command = peers.command(far, "/usr/sbin/in.tftpd");
    command.args(["--foreground", "--user", "root", "--address", &Server::Hpa.address().to_string(), "--secure"]);
    Process::start(command.arg(folder))
}

fn atftpd(peers: &Peers, far: &World, folder: &Path) -> Result<Process> {
    let mut command = peers.command(far, "/usr/sbin/atftpd");
    command.args(["--daemon", "--no-fork", "--user", "root", "--group", "root", "--bind-address", ADDRESS]);
    command.args(["--port", &Server::Atftpd.address().port().to_string(), "--maxthread", "1000"]);
    command.args(["--logfile", "/dev/null"]);
    Process::start(command.arg(folder))
}

fn dnsmasq(peers: &Peers, far: &World, folder: &Path) -> Result<Process> {
    let mut command = peers.command(far, "/usr/sbin/dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--log-facility=/dev/null",
    ]);
    command.args(["--enable-tftp", "--tftp-max=1000"]).arg(format!("--listen-address={ADDRESS}"));
    command.arg(format!("--tftp-root={}", folder.display()));
    command.arg(format!("--pid-file={}", far.folder().join("dnsmasq.pid").display()));
    Process::start(&mut command)
}
