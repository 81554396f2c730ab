//! The console: late, by several, and after a restart.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::world::{World, until};

#[test]
fn two_late_viewers_see_the_same_history() {
    let mut world = World::new();
    world.start();
    world.view().until_seen("No bootable device");
    let (mut first, mut second) = (world.view(), world.view());
    first.until_seen("No bootable device");
    second.until_seen("No bootable device");
    let log = std::fs::read(world.config.state.join("console.log")).unwrap();
    for viewer in [first, second] {
        assert!(log.starts_with(&viewer.seen), "a viewer was shown what the console never said");
    }
}

#[test]
fn who_is_attached_does_not_keep_a_stopped_machine_from_ending() {
    let mut world = World::new();
    let mut owner = world.start_attached();
    let mut seen = Vec::new();
    let mut output = owner.stdout.take().unwrap();
    while !String::from_utf8_lossy(&seen).contains("No bootable device") {
        let mut piece = [0; 4096];
        let length = output.read(&mut piece).unwrap();
        assert!(length > 0, "the console ended: {}", String::from_utf8_lossy(&seen));
        seen.extend(&piece[..length]);
    }
    let process = rustix::process::Pid::from_child(&owner);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    // Its standard input is open all the time.
    let ended = until("the owner ends", || owner.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn live_bytes_reach_a_viewer_that_waits_and_all_may_type() {
    let mut world = World::new();
    world.config.power = stoke_api::objects::Power::Off;
    world.start();
    let mut viewer = world.view();
    let typist = UnixStream::connect(world.config.run.join("console.sock")).unwrap();
    world.reload(|config| config.power = stoke_api::objects::Power::On);
    viewer.until_seen("SeaBIOS");
    // SeaBIOS ignores keys here; what matters is that typing disturbs nobody.
    (&typist).write_all(b"hello\r").unwrap();
    viewer.until_seen("No bootable device");
}

#[test]
fn a_viewer_that_never_reads_holds_up_nobody() {
    let mut world = World::new();
    world.start();
    let socket = world.config.run.join("console.sock");
    let _silent: Vec<UnixStream> = (0..8).map(|_| until("console", || UnixStream::connect(&socket).ok())).collect();
    world.view().until_seen("No bootable device");
}

#[test]
fn the_history_is_on_the_admin_socket_too() {
    let mut world = World::new();
    world.start();
    world.view().until_seen("SeaBIOS");
    assert!(world.ask("GET", "/console-log").unwrap().contains("SeaBIOS"));
}

#[test]
fn metrics_are_on_the_admin_socket() {
    let mut world = World::new();
    world.start();
    world.until_running();
    let metrics = world.ask("GET", "/metrics").unwrap();
    assert!(metrics.contains("stoke_vm_on 1") && metrics.contains("stoke_vm_starts_total 1"), "{metrics}");
}

#[test]
fn nobody_else_reads_the_console_or_commands_the_machine() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut world = World::new();
    world.start();
    world.until_running();
    let (state, run) = (&world.config.state, &world.config.run);
    for path in [state.join("console.log"), run.join("qmp.sock"), run.join("serial.sock"), run.join("console.sock")] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}
