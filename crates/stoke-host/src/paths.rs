//! Where an installation keeps what it has, and where its programs are.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The two folders of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// What must outlast a restart of the host.
    pub state: PathBuf,
    /// Sockets and what belongs to running processes.
    pub run: PathBuf,
}

impl Folders {
    /// `--state DIR` if given; else those of root, or of the user (XDG Base Directory Specification 0.8).
    ///
    /// # Errors
    /// If the user has no home folder, or the path is relative to a folder that is gone.
    pub fn resolve(state: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(state) = state {
            let state = std::path::absolute(&state).with_context(|| format!("no such path: {}", state.display()))?;
            return Ok(Self { run: state.join("run"), state });
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self { state: "/var/lib/stokehold".into(), run: "/run/stokehold".into() });
        }
        let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || folder("HOME").map(|home| home.join(".local/state"));
        let state = folder("XDG_STATE_HOME").or_else(home).context("HOME is not set; name a folder with --state")?;
        let state = state.join("stokehold");
        let run = folder("XDG_RUNTIME_DIR").map_or_else(|| state.join("run"), |run| run.join("stokehold"));
        Ok(Self { state, run })
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// The socket on which LAN ports are asked for.
    pub fn ports_socket(&self) -> PathBuf {
        self.run.join("ports.sock")
    }

    /// The namespaces of the installation: a link to `/proc/PID/ns`.
    pub fn namespaces(&self) -> PathBuf {
        self.run.join("ns")
    }

    /// The folder of all workloads' configurations and sockets.
    pub fn workloads(&self) -> PathBuf {
        self.run.join("workloads")
    }

    /// The log of a workload.
    pub fn log(&self, workload: &str) -> PathBuf {
        self.state.join("logs").join(format!("{workload}.log"))
    }

    /// The store of objects.
    pub fn store(&self) -> PathBuf {
        self.state.join("store.redb")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// Boot programs that are made on this host.
    pub fn boot_programs(&self) -> PathBuf {
        self.state.join("boot")
    }

    /// Keys that sign image versions.
    pub fn image_keys(&self) -> PathBuf {
        self.keys().join("images")
    }

    /// Keys: the farm's authority, and the one that enters nodes.
    pub fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }

    /// Private key that enters nodes.
    pub fn ssh_key(&self) -> PathBuf {
        self.keys().join("ssh_ed25519")
    }

    /// Eight hexadecimal digits that stand for the installation in names of links and tables.
    pub fn installation(&self) -> String {
        stoke_reconcile::names::installation(&self.state)
    }
}

/// The files of one workload in [`Folders::workloads`].
#[derive(Clone, Debug)]
pub struct WorkloadFiles {
    /// The folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its admin socket.
    pub socket: PathBuf,
    /// Its process id.
    pub pid: PathBuf,
    /// What it was started with: see `record.rs`.
    pub record: PathBuf,
    /// What an image build said last.
    pub build_report: PathBuf,
}

impl WorkloadFiles {
    /// The files of the workload called `name`.
    pub fn new(folders: &Folders, name: &str) -> Self {
        let folder = folders.workloads().join(name);
        let file = |name: &str| folder.join(name);
        Self {
            config: file("config.json"),
            socket: file("admin.sock"),
            pid: file("pid"),
            record: file("workload.json"),
            build_report: crate::build::report_path(&file("admin.sock")),
            folder,
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// `stoke`.
    pub stoke: PathBuf,
    /// `stoke-vm`.
    pub stoke_vm: PathBuf,
    /// `stoke-init`, static: it goes into images.
    pub stoke_init: PathBuf,
}

/// Where a package puts the programs that are not for people.
const LIBRARY: &str = "/usr/lib/stokehold";

impl Binaries {
    /// Beside the program that runs, else where a package puts them.
    ///
    /// # Errors
    /// If the program's own path is unknown.
    pub fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find the path of this program")?;
        // A program that was replaced while it runs: the new one is at the same place (proc(5), /proc/PID/exe).
        let text = own.to_string_lossy();
        let stoke = PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text));
        let beside = stoke.parent().unwrap_or(Path::new("/")).to_owned();
        let find = |name: &str| {
            let near = beside.join(name);
            if near.exists() { near } else { Path::new(LIBRARY).join(name) }
        };
        Ok(Self { stoke_vm: find("stoke-vm"), stoke_init: find("stoke-init"), stoke })
    }

    /// A word that changes when the programs do that go into images.
    pub fn fingerprint(&self) -> String {
        let meta = std::fs::metadata(&self.stoke_init).ok();
        let modified = meta.as_ref().and_then(|meta| meta.modified().ok());
        let age = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        format!("{} {} {}", env!("CARGO_PKG_VERSION"), meta.map_or(0, |meta| meta.len()), age.as_millis())
    }
}
