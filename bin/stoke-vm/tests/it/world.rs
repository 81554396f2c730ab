//! A machine of its own for each test: folders, configuration, a `stoke-vm` process, and no trace at the end.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stoke_api::meta::ObjectRef;
use stoke_api::names::Bytes;
use stoke_api::objects::{Kind, Power, RunStrategy};
use stoke_api::report::{Report, VmReport};
use stoke_api::workload::{FirmwareKind, VmConfig};

/// Everything happens within this or is broken. Far more than needed: the tests' host may be busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < limit, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A machine and the process that owns it.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) config: VmConfig,
    owner: Option<Child>,
}

impl World {
    /// A small BIOS machine without interfaces, not started.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = ObjectRef {
            kind: Kind::Machine,
            namespace: Some("default".parse().unwrap()),
            name: "test".parse().unwrap(),
        };
        let config = VmConfig {
            machine,
            uuid: "6f1c1d5e-0000-4000-8000-000000000001".to_owned(),
            cpus: 1,
            memory: Bytes(64 << 20),
            firmware: FirmwareKind::Bios,
            secure_boot: None,
            tpm: false,
            nics: Vec::new(),
            disks: Vec::new(),
            power: Power::On,
            run_strategy: RunStrategy::Always,
            reboots_requested: 0,
            grace_seconds: 0,
            state: folder.path().join("state"),
            run: folder.path().join("run"),
            ports_socket: folder.path().join("ports.sock"),
        };
        Self { folder, config, owner: None }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    fn write_config(&self) {
        std::fs::write(self.path().join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    /// Starts the owner.
    pub(crate) fn start(&mut self) {
        self.start_with_path(&std::env::var("PATH").unwrap());
    }

    /// Starts the owner with another search path for programs.
    pub(crate) fn start_with_path(&mut self, path: &str) {
        self.write_config();
        let owner = Command::new(env!("CARGO_BIN_EXE_stoke-vm"))
            .args(["--config".as_ref(), self.path().join("config.json").as_os_str()])
            .args(["--socket".as_ref(), self.socket().as_os_str()])
            .env("PATH", path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.owner = Some(owner);
    }

    /// Starts an owner whose standard input and output are the console.
    pub(crate) fn start_attached(&mut self) -> Child {
        self.write_config();
        Command::new(env!("CARGO_BIN_EXE_stoke-vm"))
            .args(["--config".as_ref(), self.path().join("config.json").as_os_str()])
            .args(["--socket".as_ref(), self.socket().as_os_str()])
            .arg("--console-stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Changes the configuration and has it read.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut VmConfig)) {
        change(&mut self.config);
        self.write_config();
        let answer = self.ask("POST", "/reload").expect("the owner answers");
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }

    /// One request on the admin socket; the whole answer.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: vm\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// What the owner reports.
    pub(crate) fn report(&self) -> Option<VmReport> {
        let answer = self.ask("GET", "/status")?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        match serde_json::from_str(body).ok()? {
            Report::Vm(report) => Some(report),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a report.
    pub(crate) fn until_report(&self, what: &str, condition: impl Fn(&VmReport) -> bool) -> VmReport {
        until(what, || self.report().filter(|report| condition(report)))
    }

    /// Waits until the guest runs.
    pub(crate) fn until_running(&self) -> VmReport {
        self.until_report("the machine runs", |report| report.power == Power::On && report.state == "running")
    }

    /// `kill -9` of the owner.
    pub(crate) fn kill_owner(&mut self) {
        let mut owner = self.owner.take().expect("the owner runs");
        owner.kill().unwrap();
        owner.wait().unwrap();
    }

    /// Tells the owner to stop, and waits for its end.
    pub(crate) fn stop(&mut self) {
        self.ask("POST", "/stop").expect("the owner answers");
        let mut owner = self.owner.take().expect("the owner runs");
        let status = until("the owner ends", || owner.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    /// A viewer of the console.
    pub(crate) fn view(&self) -> Viewer {
        let socket = self.config.run.join("console.sock");
        let stream = until("the console is there", || UnixStream::connect(&socket).ok());
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Viewer { stream, seen: Vec::new() }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.config.state.join("qemu.pid")).unwrap_or_default();
        if let Some(mut owner) = self.owner.take() {
            let _ = owner.kill();
            let _ = owner.wait();
        }
        if alive(&pid) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

/// Whether a process of this number is a QEMU that runs.
pub(crate) fn alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    status.starts_with("Name:\tqemu") && !status.contains("State:\tZ")
}

/// Somebody at the console.
pub(crate) struct Viewer {
    stream: UnixStream,
    pub(crate) seen: Vec<u8>,
}

impl Viewer {
    /// Reads until this was seen.
    pub(crate) fn until_seen(&mut self, text: &str) {
        until(text, || {
            let mut buffer = [0; 4096];
            let size = self.stream.read(&mut buffer).unwrap_or(0);
            self.seen.extend_from_slice(&buffer[..size]);
            String::from_utf8_lossy(&self.seen).contains(text).then_some(())
        });
    }
}
