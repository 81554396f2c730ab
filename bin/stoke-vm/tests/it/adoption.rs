//! `kill -9` of the owner changes nothing for the guest.

use stoke_api::report::VmReport;

use crate::world::{World, alive};

#[test]
fn a_killed_owner_leaves_the_guest_running_and_the_next_one_adopts_it() {
    let mut world = World::new();
    world.start();
    let before = world.until_running();
    world.view().until_seen("SeaBIOS");
    world.kill_owner();
    assert!(alive(&before.pid.unwrap().to_string()), "QEMU went with its owner");
    world.start();
    let after = world.until_running();
    // Its firmware may have found in the meantime that there is nothing to boot from.
    let but_for_firmware = |report: &VmReport| VmReport { failure: None, ..report.clone() };
    assert_eq!(but_for_firmware(&before), but_for_firmware(&after));
    let mut viewer = world.view();
    viewer.until_seen("SeaBIOS");
    assert_eq!(String::from_utf8_lossy(&viewer.seen).matches("SeaBIOS").count(), 1, "the guest was rebooted");
    world.stop();
    assert!(!alive(&before.pid.unwrap().to_string()), "QEMU is still there after the stop");
}

#[test]
fn an_adopted_guest_is_watched_like_one_that_was_started() {
    let mut world = World::new();
    world.start();
    let before = world.until_running();
    world.kill_owner();
    world.start();
    world.until_running();
    std::process::Command::new("kill").args(["-9", &before.pid.unwrap().to_string()]).status().unwrap();
    let after = world.until_report("another QEMU runs", |report| report.pid.is_some() && report.pid != before.pid);
    assert!(alive(&after.pid.unwrap().to_string()));
}

#[test]
fn a_restart_of_the_owner_is_no_reboot() {
    let mut world = World::new();
    world.config.reboots_requested = 4;
    world.start();
    let first = world.until_running();
    assert_eq!(first.reboots, 4, "a machine that never ran has nothing to reboot");
    world.kill_owner();
    world.start();
    assert_eq!(world.until_running().pid, first.pid);
}
