//! More processes in a container that runs.

use serde_json::json;

use crate::world::{World, until};

#[test]
fn it_is_in_all_namespaces_and_cgroups_of_the_container() {
    let world = World::new("sleep 1000");
    world.begin();
    let pid = world.state()["pid"].as_i64().unwrap();
    let link = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    for kind in ["pid", "mnt", "ipc", "uts", "net", "cgroup", "user"] {
        let seen = world.ok(&["exec", &world.id, "readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(seen.trim(), link(kind), "{kind}");
    }
    let seen = world.ok(&["exec", &world.id, "cat", "/proc/self/cgroup"]);
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(seen, own);
    assert_eq!(world.ok(&["exec", &world.id, "sh", "-c", "ls /proc/$$/fd; true"]), "0\n1\n2\n");
}

#[test]
fn exit_codes_and_signals_are_its_own() {
    let world = World::new("sleep 1000");
    world.begin();
    let code = |command: &[&str]| world.call(&[&["exec", &world.id], command].concat()).status.code();
    assert_eq!(code(&["sh", "-c", "exit 9"]), Some(9));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["no-such-program"]), Some(127));
    assert_eq!(code(&["/etc"]), Some(126));
    assert!(world.fails(&["exec", &world.id, "no-such-program"]).contains("executable file not found in $PATH"));
}

#[test]
fn flags_change_what_the_containers_process_has() {
    let world = World::new("sleep 1000");
    world.begin();
    let script = "id -u; id -g; pwd; echo $A; grep CapEff /proc/self/status";
    let seen = world.ok(&[
        "exec",
        "--user",
        "0:5",
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "--cap",
        "CAP_CHOWN",
        &world.id,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(seen, "0\n5\n/tmp\nb\nCapEff:\t0000000000000021\n");
}

#[test]
fn a_process_file_says_everything() {
    let world = World::new("sleep 1000");
    world.begin();
    let process = json!({
        "args": ["sh", "-c", "id -u; ulimit -n; cat /proc/self/oom_score_adj; grep -E 'CapEff|NoNew' /proc/self/status"],
        "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 9, "gid": 9}, "noNewPrivileges": true, "oomScoreAdj": 300,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}],
    });
    std::fs::write(world.path("process.json"), process.to_string()).unwrap();
    let seen = world.ok(&["exec", "--process", world.path("process.json").to_str().unwrap(), &world.id]);
    assert_eq!(seen, "9\n50\n300\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
}

#[test]
fn a_detached_one_is_left_alone_with_its_number_written_down() {
    let world = World::new("sleep 1000");
    world.begin();
    let pid_file = world.path("exec-pid");
    world.ok(&["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), &world.id, "sleep", "77"]);
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, "sleep\x0077\0");
    let listed: Vec<i32> = serde_json::from_str(&world.ok(&["ps", "-f", "json", &world.id])).unwrap();
    assert!(listed.contains(&pid));
}

#[test]
fn a_terminal_of_the_container_is_given_to_the_caller() {
    let world = World::new("sleep 1000");
    world.begin();
    let path = world.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    world.ok(&["exec", "-d", "-t", "--console-socket", path.to_str().unwrap(), &world.id, "sh", "-c", "tty; exit"]);
    let (socket, _) = listener.accept().unwrap();
    let mut master = std::fs::File::from(stoke_runtime::wire::Link::new(socket.into()).receive_descriptor().unwrap());
    let mut text = Vec::new();
    let _ended = std::io::Read::read_to_end(&mut master, &mut text);
    assert_eq!(String::from_utf8_lossy(&text).trim(), "/dev/pts/0");
}

#[test]
fn the_containers_filter_is_its_filter() {
    let world = World::new("sleep 1000").with(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        }),
    );
    world.begin();
    assert!(world.fails(&["exec", &world.id, "mkdir", "/tmp/x"]).contains("Operation not permitted"));
}

#[test]
fn a_listener_is_given_to_its_agent() {
    use std::os::fd::{AsFd as _, OwnedFd};
    let world = World::new("mkdir /tmp/x; echo $?");
    let path = world.path("agent");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let world = world.with(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "about it",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        }),
    );
    let agent = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut text = [0; 4096];
        let socket = OwnedFd::from(socket);
        let length = rustix::net::recv(&socket, text.as_mut_slice(), rustix::net::RecvFlags::PEEK).unwrap().0;
        let message: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
        let listener = stoke_runtime::wire::Link::new(socket).receive_descriptor().unwrap();
        let name = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener.as_fd())))
            .unwrap();
        (message, name.display().to_string())
    });
    // Nobody answers: when the agent closes the listener the call fails with ENOSYS.
    world.ok(&["create", &world.id]);
    world.ok(&["start", &world.id]);
    let (message, name) = agent.join().unwrap();
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!(message["metadata"], "about it");
    assert_eq!(message["state"]["id"], world.id);
    assert_eq!(name, "anon_inode:seccomp notify");
    world.wait_for("stopped");
}

#[test]
fn a_program_of_the_container_cannot_become_ours() {
    // CVE-2019-5736: what runs as `/proc/self/exe` in the container must not be the host's file.
    let world = World::new("sleep 1000");
    world.begin();
    let output = world.call(&["exec", &world.id, "/proc/self/exe", "--version"]);
    let own = std::fs::metadata(env!("CARGO_BIN_EXE_stoke-lxc")).unwrap();
    assert!(own.len() > 0);
    // Whatever it was, it was no file that could be opened for writing.
    let script = "for f in /proc/[0-9]*/exe; do readlink $f; done | sort -u";
    let programs = world.ok(&["exec", &world.id, "sh", "-c", script]);
    assert!(!programs.contains("stoke-lxc\n"), "{programs} {output:?}");
}

#[test]
fn many_at_once() {
    let world = World::new("sleep 1000");
    world.begin();
    let mut running: Vec<_> = (0..10)
        .map(|number| world.command(&["exec", &world.id, "sh", "-c", &format!("exit {number}")]).spawn().unwrap())
        .collect();
    for (number, child) in running.iter_mut().enumerate() {
        let code = until("its end", || child.try_wait().unwrap());
        assert_eq!(code.code(), i32::try_from(number).ok());
    }
}
