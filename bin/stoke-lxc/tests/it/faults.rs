//! Our processes killed at any moment: the next call finds a state that it can name, and delete leaves nothing.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, until};

/// Kills a verb after some time, for many times, and then deletes what there is.
fn killed_at_any_moment(verb: &dyn Fn(&World) -> Vec<String>, prepare: &dyn Fn(&World)) {
    for step in 0..40 {
        let world = World::new("sleep 1000");
        prepare(&world);
        let arguments = verb(&world);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut child = world.command(&arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(step * 700));
        let _ended = child.kill();
        child.wait().unwrap();
        let output = world.call(&["state", &world.id]);
        if output.status.success() {
            until("a state that lasts", || (world.status() != "creating").then_some(()));
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("does not exist") || said.contains("never created whole"), "step {step}: {said}");
        }
        let deleted = world.call(&["delete", "--force", &world.id]);
        assert!(deleted.status.success(), "step {step}: {}", String::from_utf8_lossy(&deleted.stderr));
        until("nothing is left", || world.leftovers().is_empty().then_some(()));
    }
}

#[test]
fn create_killed() {
    killed_at_any_moment(&|world| vec!["create".to_owned(), world.id.clone()], &|_| ());
}

#[test]
fn start_killed() {
    killed_at_any_moment(&|world| vec!["start".to_owned(), world.id.clone()], &|world| {
        world.ok(&["create", &world.id]);
    });
}

#[test]
fn exec_killed() {
    let command = |world: &World| ["exec", &world.id, "sleep", "1000"].map(str::to_owned).to_vec();
    killed_at_any_moment(&command, &World::begin);
}

#[test]
fn delete_killed() {
    killed_at_any_moment(&|world| ["delete", "--force", &world.id].map(str::to_owned).to_vec(), &World::begin);
}

#[test]
fn a_start_that_says_nothing_does_not_start() {
    let world = World::new("sleep 1000");
    world.ok(&["create", &world.id]);
    let socket = world.path("root").join(&world.id).join("start.sock");
    drop(stoke_runtime::wire::connect(&socket, rustix::net::SocketType::SEQPACKET).unwrap());
    assert_eq!(world.status(), "created");
    world.ok(&["start", &world.id]);
    assert_eq!(world.status(), "running");
}

#[test]
fn what_is_left_of_a_container_that_died_with_the_host_can_be_deleted() {
    let world = World::new("sleep 1000");
    world.begin();
    let pid = world.state()["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    world.wait_for("stopped");
    world.ok(&["delete", &world.id]);
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn another_program_in_our_place_knows_running_containers() {
    let world = World::new("sleep 1000").with("/hostname", json!("kept"));
    let copy = world.path("stoke-lxc");
    crate::world::copy(env!("CARGO_BIN_EXE_stoke-lxc"), &copy);
    let call = |arguments: &[&str]| {
        let root = format!("--root={}", world.path("root").display());
        let status = std::process::Command::new(&copy).arg(root).args(arguments).current_dir(world.bundle()).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    };
    world.command(&[]);
    call(&["create", &world.id]);
    std::fs::remove_file(&copy).unwrap();
    crate::world::copy(env!("CARGO_BIN_EXE_stoke-lxc"), &copy);
    call(&["start", &world.id]);
    std::fs::remove_file(&copy).unwrap();
    for verb in [
        vec!["pause", &world.id],
        vec!["resume", &world.id],
        vec!["exec", &world.id, "true"],
        vec!["kill", &world.id, "KILL"],
    ] {
        world.ok(&verb);
    }
    world.wait_for("stopped");
}

#[test]
fn many_in_a_row_and_at_once_leave_nothing() {
    let worlds: Vec<_> = (0..8).map(|_| World::new("exit 3")).collect();
    let mut running: Vec<_> = worlds.iter().map(|world| world.command(&["run", &world.id]).spawn().unwrap()).collect();
    for child in &mut running {
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
    for world in &worlds {
        assert_eq!(world.leftovers(), [""; 0]);
    }
}
