//! Hooks: each in its place, in its order, with the state it is about.

use serde_json::{Value, json};

use crate::world::World;

fn hook(world: &World, script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": [format!("OUT={}", world.path("order").display()), "PATH=/bin:/usr/bin"]}])
}

#[test]
fn they_run_in_order_with_the_state_on_their_input() {
    let world = World::new("sleep 1000");
    let note = |name: &str| format!("read -r state; echo \"{name} $state\" >> $OUT");
    let hooks = json!({
        "prestart": hook(&world, &note("prestart")),
        "createRuntime": hook(&world, &note("createRuntime")),
        "createContainer": hook(&world, &note("createContainer")),
        "poststart": hook(&world, &note("poststart")),
        "poststop": hook(&world, &note("poststop")),
    });
    let world = world.with("/hooks", hooks);
    let order = || -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(world.path("order")).unwrap_or_default();
        let line = |line: &str| {
            let (name, state) = line.split_once(' ').unwrap();
            (name.to_owned(), serde_json::from_str(state).unwrap())
        };
        text.lines().map(line).collect()
    };
    world.ok(&["create", &world.id]);
    let pid = world.state()["pid"].clone();
    let names = |list: &[(String, Value)]| {
        list.iter().map(|(name, state)| format!("{name} {}", state["status"].as_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(names(&order()), ["prestart created", "createRuntime creating", "createContainer creating"]);
    assert!(order().iter().all(|(_, state)| state["pid"] == pid && state["id"] == world.id));
    world.ok(&["start", &world.id]);
    assert_eq!(names(&order())[3..], ["poststart running"]);
    world.ok(&["delete", "--force", &world.id]);
    assert_eq!(names(&order())[4..], ["poststop stopped"]);
}

#[test]
fn those_of_the_container_are_in_its_namespaces() {
    let world = World::new("cat /tmp/seen");
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo $PPID > /tmp/seen; readlink /proc/self/ns/uts >> /tmp/seen"], "env": ["PATH=/bin"]}]);
    let mounts = hook(&world, "readlink /proc/self/ns/mnt > $OUT");
    let world = world.with("/hooks", json!({"startContainer": inside, "createContainer": mounts}));
    let seen = world.run();
    assert!(seen.starts_with("1\nuts:"), "{seen}");
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    assert_ne!(std::fs::read_to_string(world.path("order")).unwrap().trim(), own);
}

#[test]
fn one_that_fails_fails_create_and_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let world = World::new("true");
        let failing = hook(&world, "echo no luck; exit 3");
        let world = world.with("/hooks", json!({kind: failing}));
        let said = world.fails(&["create", &world.id]);
        assert!(said.starts_with(&format!("{kind} hook /bin/sh: exit status: 3: no luck")), "{said}");
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[test]
fn one_of_the_start_that_fails_fails_start_and_the_container_stops() {
    let world = World::new("sleep 1000");
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    let world = world.with("/hooks", json!({"startContainer": inside}));
    world.ok(&["create", &world.id]);
    assert!(world.fails(&["start", &world.id]).starts_with("startContainer hook /bin/sh: exit status: 3"));
    world.wait_for("stopped");
}

#[test]
fn after_the_start_a_failure_is_a_warning_or_since_1_3_the_end() {
    let world = World::new("sleep 1000");
    let failing = hook(&world, "exit 3");
    let world = world.with("/hooks", json!({"poststart": failing, "poststop": failing}));
    let log = world.path("log");
    world.ok(&["create", &world.id]);
    world.ok(&["--log", log.to_str().unwrap(), "--log-format", "json", "start", &world.id]);
    assert_eq!(world.status(), "running");
    let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(
        (line["level"].as_str(), line["msg"].as_str()),
        (Some("warning"), Some("poststart hook /bin/sh: exit status: 3"))
    );
    world.ok(&["delete", "--force", &world.id]);
    let world = world.with("/ociVersion", json!("1.3.0"));
    world.ok(&["create", &world.id]);
    assert!(world.fails(&["start", &world.id]).starts_with("poststart hook"));
    world.wait_for("stopped");
}
