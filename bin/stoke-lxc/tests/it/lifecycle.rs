//! From create to delete, and what each verb says of a container on its way.

use serde_json::{Value, json};

use crate::world::{World, until};

#[test]
fn a_container_goes_through_its_states() {
    let world = World::new("sleep 1000");
    world.ok(&["create", "--pid-file", world.path("pid").to_str().unwrap(), &world.id]);
    let state = world.state();
    let pid: i64 = std::fs::read_to_string(world.path("pid")).unwrap().parse().unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["bundle"], world.bundle().to_str().unwrap());
    world.ok(&["start", &world.id]);
    assert_eq!(world.status(), "running");
    // The process that is named is the container's own, and not somebody's who watches it.
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, "sleep\x001000\0");
    world.ok(&["kill", &world.id, "KILL"]);
    world.wait_for("stopped");
    assert_eq!(world.state().get("pid"), None);
    world.ok(&["delete", &world.id]);
    assert_eq!(world.fails(&["state", &world.id]), format!("container does not exist: {}", world.id));
}

#[test]
fn nothing_of_ours_stays_beside_a_container() {
    let world = World::new("sleep 1000");
    world.begin();
    let own = env!("CARGO_BIN_EXE_stoke-lxc");
    let root = world.path("root").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = processes.filter(|process| {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains(&root) && (command.contains(own) || command.contains("lxc monitor"))
    });
    assert_eq!(ours.count(), 0);
}

#[test]
fn run_gives_the_exit_code_and_the_output() {
    let world = World::new("echo out; echo err >&2; exit 7");
    let output = world.call(&["run", &world.id]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn a_signal_that_ends_it_is_the_exit_code() {
    let world = World::new("kill -9 $$; sleep 1000");
    // A container's first process does not get signals of its own processes: so the host sends it.
    let mut run = world.command(&["run", &world.id]).spawn().unwrap();
    until("running", || {
        (world.call(&["state", &world.id]).status.success() && world.status() == "running").then_some(())
    });
    world.ok(&["kill", &world.id, "9"]);
    assert_eq!(run.wait().unwrap().code(), Some(137));
}

#[test]
fn kill_reaches_only_the_first_process_and_all_reaches_all() {
    let world = World::new(
        "trap 'echo first > /tmp/first' USR1; sh -c \"trap 'echo second > /tmp/second' USR1; touch /tmp/ready; while true; do sleep 0.1; done\" & while true; do sleep 0.1; done",
    );
    world.begin();
    let file = |name: &str| world.rootfs().join("tmp").join(name);
    until("ready", || file("ready").exists().then_some(()));
    world.ok(&["kill", &world.id, "SIGUSR1"]);
    until("first", || file("first").exists().then_some(()));
    assert!(!file("second").exists());
    world.ok(&["kill", "--all", &world.id, "usr1"]);
    until("second", || file("second").exists().then_some(()));
}

#[test]
fn delete_refuses_what_has_not_stopped_and_changes_nothing() {
    let world = World::new("sleep 1000");
    world.ok(&["create", &world.id]);
    assert!(world.fails(&["delete", &world.id]).contains("it is created"));
    world.ok(&["start", &world.id]);
    assert!(world.fails(&["delete", &world.id]).contains("it is running"));
    assert_eq!(world.status(), "running");
    world.ok(&["delete", "--force", &world.id]);
    assert_eq!(world.leftovers(), [""; 0]);
    world.ok(&["delete", "--force", &world.id]);
    assert!(world.fails(&["delete", &world.id]).starts_with("container does not exist: "));
}

#[test]
fn a_container_that_has_stopped_is_not_running() {
    let world = World::new("true");
    world.begin();
    world.wait_for("stopped");
    for verb in
        [vec!["kill", &world.id], vec!["pause", &world.id], vec!["exec", &world.id, "true"], vec!["start", &world.id]]
    {
        let said = world.fails(&verb);
        assert!(said.ends_with("container not running"), "{verb:?}: {said}");
    }
}

#[test]
fn a_name_is_taken_once() {
    let world = World::new("sleep 1000");
    world.begin();
    assert!(world.fails(&["create", &world.id]).contains("exists already"));
    assert_eq!(world.status(), "running");
}

#[test]
fn options_may_stand_anywhere() {
    let world = World::new("true");
    let bundle = world.bundle().display().to_string();
    world.ok(&["create", &world.id, "--bundle", &bundle]);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stoke-lxc"))
        .args(["state", &world.id, "--log-format", "json"])
        .arg(format!("--root={}", world.path("root").display()))
        .output()
        .unwrap();
    assert!(output.status.success());
}

#[test]
fn list_and_ps_show_what_runs() {
    let world = World::new("sleep 1000 & sleep 1000; true");
    world.begin();
    let listed: Value = serde_json::from_str(&world.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(listed[0]["id"], world.id);
    assert_eq!(listed[0]["status"], "running");
    assert_eq!(world.ok(&["list", "-q"]), format!("{}\n", world.id));
    let pid = listed[0]["pid"].as_i64().unwrap();
    let processes: Vec<i64> = until("its processes", || {
        let found: Vec<i64> = serde_json::from_str(&world.ok(&["ps", "--format", "json", &world.id])).unwrap();
        (found.len() == 3).then_some(found)
    });
    assert!(processes.contains(&pid), "{processes:?}");
    let table = world.ok(&["ps", &world.id]);
    assert!(table.lines().next().unwrap().contains("PID") && table.lines().count() == 4, "{table}");
}

#[test]
fn without_a_process_it_can_be_created_and_not_started() {
    let world = World::new("").with("/process", json!(null));
    world.ok(&["create", &world.id]);
    assert!(world.fails(&["start", &world.id]).starts_with("process: "));
    assert_eq!(world.status(), "created");
}

#[test]
fn a_configuration_of_the_spec_verb_runs() {
    let world = World::new("true");
    let folder = world.path("other");
    std::fs::create_dir(&folder).unwrap();
    world.ok(&["spec", "--bundle", folder.to_str().unwrap()]);
    let mut spec: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["sh", "-c", "hostname; touch /x || echo read-only"]);
    spec["process"]["env"] = json!(["PATH=/bin"]);
    std::fs::write(folder.join("config.json"), spec.to_string()).unwrap();
    std::os::unix::fs::symlink(world.rootfs(), folder.join("rootfs")).unwrap();
    let output = world.call(&["run", "--bundle", folder.to_str().unwrap(), &world.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "stoke-lxc\nread-only\n");
}

#[test]
fn features_and_version_are_what_callers_ask_first() {
    let world = World::new("true");
    let features: Value = serde_json::from_str(&world.ok(&["features"])).unwrap();
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
    assert!(world.ok(&["--version"]).contains("spec: 1.3.0"));
}
