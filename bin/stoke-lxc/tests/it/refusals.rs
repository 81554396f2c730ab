//! What fails says why, in one line and in the log, and leaves nothing.

use serde_json::{Value, json};

use crate::world::World;

#[test]
fn each_is_one_line_with_the_fields_name_and_leaves_nothing() {
    let wrong: [(&str, Value, &str); 14] = [
        ("/root/path", json!("not-there"), "root.path: "),
        ("/process/args", json!(["no-such-program"]), "exec: \"no-such-program\": executable file not found in $PATH"),
        ("/process/args", json!(["/bin/none"]), "exec: \"/bin/none\": no such file or directory"),
        ("/process/args", json!(["/etc"]), "exec: \"/etc\": permission denied"),
        ("/process/args", json!([]), "process.args: "),
        ("/process/oomScoreAdj", json!(-1000), "process.oomScoreAdj: "),
        (
            "/mounts/-",
            json!({"destination": "/x", "source": "/not/there", "options": ["bind"]}),
            "mounts[3] (/x): source /not/there",
        ),
        ("/mounts/-", json!({"destination": "/x", "type": "nofs"}), "mounts[3] (/x): nofs: "),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "tmpfs", "options": ["no-such-option"]}),
            "mounts[3] (/x): tmpfs: no-such-option",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "source": "/tmp", "options": ["bind", "odd-word"]}),
            "mounts[3] (/x): \"odd-word\"",
        ),
        ("/linux/sysctl", json!({"net.no.such": "1"}), "linux.sysctl: cannot set net.no.such"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "q"}]), "linux.devices: /dev/x: "),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTHING"}), "linux.seccomp.defaultAction: "),
        ("/linux/cgroupsPath", json!("/../x"), "linux.cgroupsPath: "),
    ];
    for (pointer, value, begin) in wrong {
        let world = World::new("true").with(pointer, value.clone());
        let log = world.path("log");
        let said = world.fails(&["--log", log.to_str().unwrap(), "--log-format", "json", "create", &world.id]);
        assert!(said.starts_with(begin) && said.lines().count() == 1, "{pointer} {value}: {said}");
        let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
        assert_eq!((line["level"].as_str(), line["msg"].as_str()), (Some("error"), Some(said.as_str())));
        assert!(line["time"].is_string());
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[test]
fn a_program_that_is_none_fails_start_and_the_container_has_stopped() {
    let world = World::new("true").with("/process/args", json!(["/etc/no-program"]));
    let path = world.rootfs().join("etc/no-program");
    std::fs::write(&path, "no program").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.ok(&["create", &world.id]);
    let output = world.call(&["start", &world.id]);
    assert_eq!(output.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exec format error"));
    world.wait_for("stopped");
}

#[test]
fn a_cgroup_of_somebody_else_is_left_alone() {
    let first = World::new("sleep 1000");
    first.begin();
    let second = World::new("true").with("/linux/cgroupsPath", json!(format!("/{}", first.id)));
    assert!(second.fails(&["create", &second.id]).contains("processes already"));
    assert_eq!(first.status(), "running");
    assert_eq!(first.ok(&["exec", &first.id, "echo", "there"]), "there\n");
}

#[test]
fn what_is_not_done_is_said() {
    let world = World::new("true");
    assert!(
        world.fails(&["--systemd-cgroup", "create", &world.id]).contains("systemd cgroup manager is not supported")
    );
    assert!(world.fails(&["--rootless=true", "create", &world.id]).contains("--rootless is not supported"));
    assert!(world.fails(&["checkpoint", &world.id]).contains("unrecognized subcommand"));
}
