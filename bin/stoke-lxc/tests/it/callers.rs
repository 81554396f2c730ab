//! The programs that call a runtime: conmon as CRI-O calls it, and podman.

use std::process::Command;

use serde_json::json;

use crate::world::{World, cgroups, until};

/// conmon with the arguments that CRI-O gives it; it creates the container, and stays until it has ended.
fn conmon(world: &World, more: &[&str]) {
    world.command(&[]);
    let exits = world.path("exits");
    std::fs::create_dir_all(&exits).unwrap();
    std::fs::create_dir_all(world.path("sockets")).unwrap();
    let path = |name: &str| world.path(name).display().to_string();
    let status = Command::new("conmon")
        .args(["-b", world.bundle().to_str().unwrap(), "-c", &world.id, "-u", &world.id, "-n", "k8s_test"])
        .args([
            "--exit-dir",
            exits.to_str().unwrap(),
            "-l",
            &path("ctr.log"),
            "-p",
            &path("pid"),
            "-P",
            &path("conmon-pid"),
        ])
        .args(["-r", env!("CARGO_BIN_EXE_stoke-lxc"), "--runtime-arg", &format!("--root={}", path("root"))])
        .args(["--log-level", "info", "--socket-dir-path", &path("sockets")])
        .args(more)
        .status()
        .expect("conmon is needed: install the package conmon");
    assert!(status.success());
    until("its pid file", || world.path("pid").exists().then_some(()));
}

/// What conmon wrote of the container's end; then conmon itself is gone.
fn exit_code(world: &World) -> String {
    let file = world.path("exits").join(&world.id);
    let code = until("the exit file", || std::fs::read_to_string(&file).ok().filter(|text| !text.is_empty()));
    let conmon = std::fs::read_to_string(world.path("conmon-pid")).unwrap();
    until("conmon's end", || (!std::path::Path::new(&format!("/proc/{}", conmon.trim())).exists()).then_some(()));
    code
}

#[test]
fn conmon_sees_output_and_exit_code() {
    let world = World::new("echo hello; exit 42");
    conmon(&world, &[]);
    assert_eq!(world.status(), "created");
    world.ok(&["start", &world.id]);
    assert_eq!(exit_code(&world), "42");
    let log = std::fs::read_to_string(world.path("ctr.log")).unwrap();
    assert!(log.contains(" stdout F hello"), "{log}");
}

#[test]
fn conmon_sees_the_signal_that_ended_it() {
    let world = World::new("sleep 1000");
    conmon(&world, &[]);
    world.ok(&["start", &world.id]);
    world.ok(&["kill", &world.id, "KILL"]);
    assert_eq!(exit_code(&world), "137");
}

#[test]
fn conmon_gets_the_terminal() {
    let world = World::new("tty; exit 3").with("/process/terminal", json!(true));
    conmon(&world, &["-t"]);
    world.ok(&["start", &world.id]);
    assert_eq!(exit_code(&world), "3");
    let log = std::fs::read_to_string(world.path("ctr.log")).unwrap();
    assert!(log.contains("/dev/pts/0"), "{log}");
}

/// podman with a storage of its own and our runtime.
struct Podman(tempfile::TempDir);

impl Podman {
    fn new() -> Self {
        let podman = Self(tempfile::Builder::new().prefix("slxp").tempdir().unwrap());
        // What podman calls when a container has ended gets none of its flags for the runtime: so they are in a script.
        let root = podman.0.path().join("containers");
        let script = format!("#!/bin/sh\nexec {} --root {} \"$@\"\n", env!("CARGO_BIN_EXE_stoke-lxc"), root.display());
        let runtime = podman.0.path().join("stoke-lxc");
        std::fs::write(&runtime, script).unwrap();
        std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let world = World::new("true");
        let archive = world.path("root.tar");
        let made =
            Command::new("tar").arg("-C").arg(world.rootfs()).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(made.success());
        podman.ok(&["import", "--quiet", archive.to_str().unwrap(), "test:1"]);
        podman
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let folder = |name: &str| self.0.path().join(name);
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(folder("storage"))
            .arg("--runroot")
            .arg(folder("run"))
            .arg("--tmpdir")
            .arg(folder("tmp"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.arg("--runtime").arg(folder("stoke-lxc")).args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).output().expect("podman is needed: install the package podman");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), text)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (code, text) = self.call(arguments);
        assert_eq!(code, Some(0), "podman {arguments:?}: {text}");
        text
    }

    /// `podman run` with what its defaults need where root may not raise limits.
    fn run(&self, name: &str, more: &[&str]) -> (Option<i32>, String) {
        let limits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096", "--network", "none"];
        self.call(&[&["run", "--cgroup-parent", &self.cgroup(), "--name", name], limits.as_slice(), more].concat())
    }

    /// Its own folder of cgroups.
    fn cgroup(&self) -> String {
        let name = self.0.path().file_name().unwrap().to_string_lossy().into_owned();
        name.replace('.', "")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let removed = self.call(&["rm", "--force", "--all", "--time", "0"]);
        // What is podman's own stays: the parent that it was told to use, and in it the group of conmon, which ends after us.
        let limit = std::time::Instant::now() + crate::world::LIMIT;
        while !cgroups(&self.cgroup()).is_empty() && std::time::Instant::now() < limit {
            for folder in cgroups(&self.cgroup()) {
                let _busy = std::fs::remove_dir(format!("{folder}/conmon"));
                let _busy = std::fs::remove_dir(folder);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            assert_eq!(removed.0, Some(0), "{}", removed.1);
            assert_eq!(cgroups(&self.cgroup()), [""; 0]);
        }
    }
}

#[test]
fn podman_does_what_it_does() {
    let podman = Podman::new();
    assert_eq!(
        podman.run("once", &["--rm", "test:1", "sh", "-c", "echo hello; exit 7"]),
        (Some(7), "hello\n".to_owned())
    );
    assert_eq!(podman.run("none", &["--rm", "test:1", "no-such-program"]).0, Some(127));
    assert_eq!(
        podman
            .run(
                "a",
                &[
                    "-d",
                    "--memory",
                    "64m",
                    "test:1",
                    "sh",
                    "-c",
                    "trap 'exit 5' TERM; echo up; while true; do sleep 0.1; done"
                ]
            )
            .0,
        Some(0)
    );
    assert_eq!(podman.call(&["exec", "a", "sh", "-c", "exit 9"]).0, Some(9));
    assert!(podman.ok(&["exec", "-t", "a", "tty"]).contains("/dev/pts/"));
    assert!(podman.ok(&["exec", "--user", "5", "a", "id", "-u"]).contains('5'));
    podman.ok(&["pause", "a"]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Status}}", "a"]).trim(), "paused");
    podman.ok(&["unpause", "a"]);
    podman.ok(&["update", "--memory", "128m", "a"]);
    until("its log", || podman.ok(&["logs", "a"]).contains("up").then_some(()));
    podman.ok(&["stop", "a"]);
    assert_eq!(podman.ok(&["wait", "a"]).trim(), "5");
    podman.ok(&["start", "a"]);
    podman.ok(&["kill", "a"]);
    assert_eq!(podman.ok(&["wait", "a"]).trim(), "137");
    podman.ok(&["rm", "a"]);
}

#[test]
fn podman_maps_users_and_shares_namespaces() {
    let podman = Podman::new();
    let (code, text) = podman.run(
        "mapped",
        &["--rm", "--uidmap", "0:200000:1000", "--gidmap", "0:200000:1000", "test:1", "cat", "/proc/self/uid_map"],
    );
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "1000"]);
    assert_eq!(podman.run("one", &["-d", "--hostname", "shared", "test:1", "sleep", "1000"]).0, Some(0));
    let limits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"];
    let share = [
        "run",
        "--rm",
        "--cgroup-parent",
        &podman.cgroup(),
        "--network",
        "container:one",
        "--pid",
        "container:one",
        "--ipc",
        "container:one",
        "--uts",
        "container:one",
    ];
    let text = podman
        .ok(&[&share, limits.as_slice(), &["test:1", "sh", "-c", "hostname; kill -0 1 && echo sees it"]].concat());
    assert_eq!(text, "shared\nsees it\n");
}
