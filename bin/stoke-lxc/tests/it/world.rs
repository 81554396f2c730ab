//! A bundle, a root and a cgroup of its own for each test; all gone at its end, and what is left is a failure.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Everything happens within this or is broken. Far more than needed: the tests' host may be busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < limit, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where everything of one container is.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) id: String,
    /// `config.json`, written before each call that reads it.
    pub(crate) spec: Value,
}

impl World {
    /// A container that runs a script of a shell.
    pub(crate) fn new(script: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "tests of containers need root");
        let folder = tempfile::Builder::new().prefix("slx").tempdir().unwrap();
        // What is mapped to other users must be able to go through it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let id = format!("slx-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        fill(&folder.path().join("bundle/rootfs"));
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "args": ["sh", "-c", script],
                "cwd": "/",
                "env": ["PATH=/bin"],
                "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            },
        });
        Self { folder, id, spec }
    }

    /// Sets a part of the configuration, by a path of keys and a value.
    pub(crate) fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = self.spec.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent} in the configuration"));
        match parent.as_array_mut() {
            Some(list) => list.push(value),
            None => parent[key] = value,
        }
        self
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with the test's root, and the configuration as it is now.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        // In one step: another call may just be reading it.
        let (new, config) = (self.path("config.json.new"), self.bundle().join("config.json"));
        std::fs::write(&new, self.spec.to_string()).unwrap();
        std::fs::rename(new, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_stoke-lxc"));
        command.arg("--root").arg(self.path("root")).args(arguments).current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    /// Calls a verb, whatever comes of it. What runs in the container keeps its output open: it goes to files.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let files = [format!("out-{number}"), format!("err-{number}")].map(|name| self.path(&name));
        let open = |path: &Path| Stdio::from(std::fs::File::create(path).unwrap());
        let status = self.command(arguments).stdout(open(&files[0])).stderr(open(&files[1])).status().unwrap();
        let [stdout, stderr] = files.map(|path| std::fs::read(path).unwrap());
        Output { status, stdout, stderr }
    }

    /// Calls a verb that must succeed, and must say nothing on standard error.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {:?}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Calls a verb that must fail, and gives what it says.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap().trim().trim_start_matches("stoke-lxc: ").to_owned()
    }

    /// Runs the container to its end, which must be a good one, and gives what it printed.
    pub(crate) fn run(&self) -> String {
        self.ok(&["run", &self.id])
    }

    /// Creates and starts it.
    pub(crate) fn begin(&self) {
        self.ok(&["create", &self.id]);
        self.ok(&["start", &self.id]);
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn wait_for(&self, status: &str) {
        until(status, || (self.status() == status).then_some(()));
    }

    /// What the host knows of the container yet: its folder, its cgroups, mounts below the test's folder.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let folder = self.path("root").join(&self.id);
        if folder.exists() {
            left.push(folder.display().to_string());
        }
        left.extend(cgroups(&self.id));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.folder.path().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
        left
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let deleted = self.call(&["delete", "--force", &self.id]);
        if std::thread::panicking() {
            return;
        }
        assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
        assert_eq!(self.leftovers(), [""; 0]);
    }
}

/// Folders of cgroups whose name begins with this.
pub(crate) fn cgroups(name: &str) -> Vec<String> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let hierarchies = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    let entries = hierarchies.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().trim_end_matches(".monitor") == name)
    };
    entries.map(|entry| entry.path()).filter(is_ours).map(|path| path.display().to_string()).collect()
}

/// A root with busybox, and with the libraries that this host's busybox needs.
fn fill(root: &Path) {
    for folder in ["bin", "proc", "sys", "dev", "etc", "tmp", "mnt"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    copy("/bin/busybox", &root.join("bin/busybox"));
    for name in [
        "sh", "cat", "echo", "grep", "head", "id", "kill", "ls", "mount", "pwd", "readlink", "sleep", "stat", "touch",
        "true", "tty", "env", "hostname", "mkdir", "rm", "sort", "test", "wc", "awk", "sed", "dd", "chown", "mknod",
        "ip",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let needed = Command::new("ldd").arg("/bin/busybox").output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    for path in needed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy(path, &to);
    }
}

/// Copies a program, in a process of its own: what another test starts meanwhile would keep a copy of ours open for writing,
/// and such a file cannot be executed.
pub(crate) fn copy(from: &str, to: &Path) {
    assert!(Command::new("cp").args([Path::new(from), to]).status().unwrap().success(), "cannot copy {from}");
}
