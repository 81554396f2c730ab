//! Containers: ours beside crun and runc, in one run and alternating. A container whose program is `true`, and one that waits.
//!
//! crun refuses hosts with both versions of cgroups, so all three are in a mount namespace in which version 2 is not mounted.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::row::Row;

/// How often each side is measured in a round.
const REPEATS: usize = 10;
/// Containers that are started at once, and one after the other.
const AT_ONCE: usize = 100;
const IN_A_ROW: usize = 1000;

/// A runtime, with a folder of its own.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    root: PathBuf,
}

/// Where the bundles are.
struct Bench {
    folder: tempfile::TempDir,
}

/// Create, start and delete; execute; what stays in memory; and many at once and in a row.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    if !"oci ours".contains(only) {
        return Ok(Vec::new());
    }
    ensure!(rustix::process::geteuid().is_root(), "containers need root");
    only_version_1()?;
    let bench = Bench { folder: tempfile::Builder::new().prefix("slxb").tempdir()? };
    bench.bundle("short", &["true"])?;
    bench.bundle("long", &["sleep", "1000000"])?;
    let programs = std::env::var_os("STOKE_PROGRAMS").context("STOKE_PROGRAMS is not set: use cargo xtask bench")?;
    let ours = bench.runtime("ours", Path::new(&programs).join("stoke-lxc"));
    let crun = bench.runtime("crun", PathBuf::from("/usr/bin/crun"));
    let runc = bench.runtime("runc", PathBuf::from("/usr/sbin/runc"));
    let mut rows = Vec::new();
    rows.extend(bench.cycles(rounds, &ours, &crun, &runc)?);
    rows.extend(bench.executions(rounds, &ours, &crun, &runc)?);
    rows.extend(bench.memory(&ours)?);
    rows.extend(bench.many(&ours)?);
    Ok(rows)
}

/// A mount namespace of this process in which cgroups are of version 1 alone, where the host has both.
fn only_version_1() -> Result<()> {
    const UNIFIED: &str = "/sys/fs/cgroup/unified";
    stoke_sys::namespace::unshare_mounts()?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )?;
    if Path::new(UNIFIED).join("cgroup.procs").exists() {
        rustix::mount::unmount(UNIFIED, rustix::mount::UnmountFlags::DETACH)?;
    }
    Ok(())
}

impl Bench {
    fn runtime(&self, name: &'static str, program: PathBuf) -> Runtime {
        Runtime { name, program, root: self.folder.path().join(name) }
    }

    /// A bundle with busybox, and what it needs.
    fn bundle(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let bundle = self.folder.path().join(name);
        let root = bundle.join("rootfs");
        for folder in ["bin", "proc", "dev", "sys"] {
            fs_err::create_dir_all(root.join(folder))?;
        }
        fs_err::copy("/bin/busybox", root.join("bin/busybox"))?;
        for program in ["true", "sleep", "sh"] {
            symlink("busybox", root.join("bin").join(program))?;
        }
        let needed = Command::new("ldd").arg("/bin/busybox").output()?;
        for path in String::from_utf8(needed.stdout)?.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = root.join(path.trim_start_matches('/'));
            fs_err::create_dir_all(copy.parent().context("no folder")?)?;
            fs_err::copy(path, copy)?;
        }
        Ok(fs_err::write(bundle.join("config.json"), configuration(arguments).to_string())?)
    }

    /// Create, start and delete by three calls: milliseconds.
    fn cycle(&self, runtime: &Runtime, id: &str) -> Result<f64> {
        let begin = Instant::now();
        self.create(runtime, "short", id)?;
        runtime.call(&["start", id])?;
        runtime.call(&["delete", "--force", id])?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    fn create(&self, runtime: &Runtime, bundle: &str, id: &str) -> Result<()> {
        let bundle = self.folder.path().join(bundle);
        runtime.call(&["create", "--bundle", bundle.to_str().context("not UTF-8")?, id])
    }

    fn cycles(&self, rounds: usize, ours: &Runtime, crun: &Runtime, runc: &Runtime) -> Result<Vec<Row>> {
        let mut measured = [Vec::new(), Vec::new(), Vec::new()];
        let all = [ours, crun, runc];
        for round in 0..rounds * REPEATS {
            // Each begins as often as the others: who comes first pays for a grace period of RCU that the next ones share.
            for side in turn(round) {
                let (Some(runtime), Some(times)) = (all.get(side), measured.get_mut(side)) else { continue };
                times.push(self.cycle(runtime, &id(runtime.name, round))?);
            }
        }
        let [ours, crun, runc] = measured;
        let metric = "create, start, delete";
        let beside_crun = Row::lower("oci", metric, "ms", &ours, &[("crun", crun)], Some(1.0));
        let beside_runc = Row::lower("oci", metric, "ms", &ours, &[("runc", runc)], Some(0.6));
        Ok(beside_crun.into_iter().chain(beside_runc).collect())
    }

    fn executions(&self, rounds: usize, ours: &Runtime, crun: &Runtime, runc: &Runtime) -> Result<Vec<Row>> {
        let all = [ours, crun, runc];
        for runtime in all {
            self.create(runtime, "long", &id(runtime.name, 0))?;
            runtime.call(&["start", &id(runtime.name, 0)])?;
        }
        let mut measured = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds * REPEATS {
            for side in turn(round) {
                let (Some(runtime), Some(times)) = (all.get(side), measured.get_mut(side)) else { continue };
                let begin = Instant::now();
                runtime.call(&["exec", &id(runtime.name, 0), "true"])?;
                times.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
        }
        for runtime in all {
            runtime.call(&["delete", "--force", &id(runtime.name, 0)])?;
        }
        let [ours, crun, runc] = measured;
        let beside_crun = Row::lower("oci", "exec", "ms", &ours, &[("crun", crun)], Some(1.2));
        Ok(beside_crun.into_iter().chain(Row::lower("oci", "exec", "ms", &ours, &[("runc", runc)], None)).collect())
    }

    /// What stays in memory beside a container that runs: all processes whose program or command line is ours.
    fn memory(&self, ours: &Runtime) -> Result<Option<Row>> {
        self.create(ours, "long", &id("ours", 0))?;
        ours.call(&["start", &id("ours", 0)])?;
        let folder = self.folder.path().display().to_string();
        let mut kilobytes = 0;
        for process in fs_err::read_dir("/proc")?.flatten() {
            let read = |name: &str| fs_err::read(process.path().join(name)).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
            if !command.contains(&folder) && !command.contains("lxc monitor") {
                continue;
            }
            let rollup = String::from_utf8_lossy(&read("smaps_rollup")).into_owned();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            kilobytes += line.and_then(|line| line.trim().split(' ').next()?.parse::<u32>().ok()).unwrap_or_default();
        }
        ours.call(&["delete", "--force", &id("ours", 0)])?;
        Ok(Row::lower("oci", "memory beside a container", "MiB", &[f64::from(kilobytes) / 1024.0], &[], None)
            .map(|row| row.bound(2.0)))
    }

    /// Many at once, and many in a row: how many fail, and how many folders of cgroups and mounts are left.
    fn many(&self, ours: &Runtime) -> Result<Vec<Row>> {
        let bundle = self.folder.path().join("short");
        let start = |number: usize| {
            let mut command = ours.command(&["run", "--bundle"]);
            command.arg(&bundle).arg(id("ours", number)).stdin(Stdio::null()).spawn()
        };
        let mut running = (0..AT_ONCE).map(start).collect::<std::io::Result<Vec<_>>>()?;
        let mut failed = 0_u32;
        for child in &mut running {
            failed += u32::from(!child.wait()?.success());
        }
        for number in 0..IN_A_ROW {
            failed += u32::from(!start(number)?.wait()?.success());
        }
        let left = u32::try_from(traces(self.folder.path())?)?;
        let rows = [
            Row::lower("oci", "of 100 at once and 1000 in a row fail", "", &[f64::from(failed)], &[], None),
            Row::lower("oci", "cgroups and mounts left of them", "", &[f64::from(left)], &[], None),
        ];
        Ok(rows.into_iter().flatten().map(|row| row.bound(0.0)).collect())
    }
}

/// What containers of ours could leave: mounts of their folders, and groups that are named as they are.
fn traces(folder: &Path) -> Result<usize> {
    let folder = folder.display().to_string();
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(&folder)).count();
    let mut groups = 0;
    for hierarchy in fs_err::read_dir("/sys/fs/cgroup")?.flatten() {
        // Without a path in the configuration ours are in a folder of their own.
        let entries = std::fs::read_dir(hierarchy.path().join("stoke-lxc")).into_iter().flatten().flatten();
        groups += entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix())).count();
    }
    Ok(mounts + groups)
}

/// The three sides, another one first each time.
fn turn(round: usize) -> [usize; 3] {
    [0, 1, 2].map(|side| (side + round) % 3)
}

fn prefix() -> String {
    format!("slxb-{}-", rustix::process::getpid().as_raw_nonzero())
}

fn id(runtime: &str, number: usize) -> String {
    format!("{}{runtime}-{number}", prefix())
}

impl Runtime {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(arguments);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("{} is needed", self.name))?;
        if !status.success() {
            bail!("{} {arguments:?}: {status}", self.name);
        }
        Ok(())
    }
}

/// What `spec` writes, without a terminal and without what a container of one program does not need.
fn configuration(arguments: &[&str]) -> serde_json::Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": arguments, "cwd": "/", "env": ["PATH=/bin"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}], "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
