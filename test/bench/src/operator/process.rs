//! `stoke serve operator` as a process, and what it says of itself.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testbed::Process;

use super::cluster::{Cluster, SYSTEM};

pub(crate) struct Operator {
    process: Process,
    pages: SocketAddr,
}

/// Its memory in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The most that it has had.
    pub(crate) peak: f64,
    /// What it has, with the pages of its program.
    pub(crate) resident: f64,
    /// What it has of its own.
    pub(crate) own: f64,
}

impl Operator {
    /// Starts it, as the only container of a pod of this name that was there before, if it was.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let folder = cluster.folder.path();
        let pages = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let images = json!({"stoke": "localhost/stoke:1", "vm": "localhost/vm:1", "builder": "localhost/builder:1"});
        let config = json!({
            "namespace": SYSTEM, "images": images, "state": folder.join("state"), "run": folder.join("run"),
            "storage": {"persistent": false}, "agent": {"port": cluster.agents.port()}, "listen": pages,
        });
        fs_err::write(folder.join("config.json"), config.to_string())?;
        let log = fs_err::File::options().create(true).append(true).open(folder.join("operator.log"))?;
        let mut command = Command::new(testbed::programs()?.join("stoke"));
        command.args(["serve", "operator", "--config"]).arg(folder.join("config.json"));
        command.arg("--socket").arg(folder.join("admin.sock"));
        command.env("KUBECONFIG", folder.join("kubeconfig")).env("POD_NAME", "stokehold-operator-0");
        command.env("POD_UID", "00000000-0000-4000-8000-000000000001");
        // As the chart has it.
        command.env("MALLOC_ARENA_MAX", "2");
        command.env("MALLOC_MMAP_THRESHOLD_", "131072").env("MALLOC_TRIM_THRESHOLD_", "131072");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.into_parts().0);
        Ok(Self { process: Process::start(&mut command)?, pages })
    }

    /// Ends it without a word to anybody.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// A figure of its metrics; nothing while it does not answer.
    pub(crate) fn metric(&mut self, name: &str) -> Result<Option<f64>> {
        ensure!(self.process.is_running()?, "the operator has ended");
        let Ok(mut stream) = TcpStream::connect(self.pages) else { return Ok(None) };
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.and_then(|value| value.parse().ok()))
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            let kibibytes: f64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse()?;
            anyhow::Ok(kibibytes / 1024.0)
        };
        Ok(Memory { peak: field("VmHWM")?, resident: field("VmRSS")?, own: field("RssAnon")? })
    }
}
