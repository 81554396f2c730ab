//! On, off, reboot, and what ends by itself.

use std::process::Command;

use stoke_api::names::Bytes;
use stoke_api::objects::{Power, RunStrategy};
use stoke_api::report::VmReport;

use crate::world::{World, alive};

fn kill(pid: u32) {
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
}

#[test]
fn a_machine_says_what_executes_it_and_why() {
    let mut world = World::new();
    world.start();
    let report = world.until_running();
    assert!(["kvm", "tcg"].contains(&report.accelerator.as_str()), "{report:?}");
    assert!(report.accelerator_reason.contains("/dev/kvm"), "{report:?}");
    assert_eq!(report.failure, None);
}

#[test]
fn off_and_on_again() {
    let mut world = World::new();
    world.start();
    let first = world.until_running();
    world.reload(|config| config.power = Power::Off);
    let off = world.until_report("it is off", |report| report.power == Power::Off && report.pid.is_none());
    assert_eq!((off.state.as_str(), off.failure), ("shutdown", None));
    assert!(!alive(&first.pid.unwrap().to_string()));
    world.reload(|config| config.power = Power::On);
    assert_ne!(world.until_running().pid, first.pid);
}

#[test]
fn always_starts_a_killed_machine_again_and_once_does_not() {
    let mut world = World::new();
    world.start();
    let first = world.until_running();
    kill(first.pid.unwrap());
    let second = world.until_report("it runs again", |report| report.pid.is_some() && report.pid != first.pid);
    world.reload(|config| config.run_strategy = RunStrategy::Once);
    // The first end was before the strategy was: it counts as ended.
    world.until_report("it ends", |report| report.power == Power::Off);
    assert!(!alive(&second.pid.unwrap().to_string()));
    world.reload(|config| config.power = Power::Off);
    world.reload(|config| config.power = Power::On);
    let third = world.until_running();
    kill(third.pid.unwrap());
    let ended = world.until_report("it ends", |report| report.power == Power::Off && report.failure.is_some());
    assert!(ended.failure.unwrap().contains("without a word"));
}

#[test]
fn a_failed_machine_is_rerun_and_a_manual_one_is_not() {
    let mut world = World::new();
    world.config.run_strategy = RunStrategy::RerunOnFailure;
    world.start();
    let first = world.until_running();
    kill(first.pid.unwrap());
    let second = world.until_report("it runs again", |report| report.pid.is_some() && report.pid != first.pid);
    assert!(!second.ended);
    world.reload(|config| config.power = Power::Off);
    world.until_report("it is off", |report| report.power == Power::Off && !report.ended);
    world.reload(|config| (config.run_strategy, config.power) = (RunStrategy::Manual, Power::On));
    let third = world.until_running();
    kill(third.pid.unwrap());
    world.until_report("it has ended", |report| report.power == Power::Off && report.ended);
}

#[test]
fn a_reboot_that_the_guest_does_not_do_is_a_reset() {
    let mut world = World::new();
    world.start();
    let first = world.until_running();
    world.view().until_seen("No bootable device");
    world.reload(|config| config.reboots_requested = 1);
    let after = world.until_report("it was rebooted", |report| report.reboots == 1 && report.pid.is_some());
    assert_eq!(after.pid == first.pid, !is_emulated(&after));
    let text = || String::from_utf8_lossy(&std::fs::read(world.config.state.join("console.log")).unwrap()).into_owned();
    crate::world::until("the firmware starts again", || (text().matches("SeaBIOS").count() >= 2).then_some(()));
}

/// Who is emulated gets a new QEMU for each boot.
fn is_emulated(report: &VmReport) -> bool {
    report.accelerator == "tcg"
}

/// More than a test waits: who gets there has not been cut off.
const LONG_GRACE: u32 = 600;

#[test]
fn a_guest_that_ignores_its_power_button_ends_by_ctrl_alt_delete() {
    let mut world = World::new();
    world.config.grace_seconds = LONG_GRACE;
    world.start();
    world.until_running();
    world.view().until_seen("No bootable device");
    world.reload(|config| config.power = Power::Off);
    world.until_report("it is off", |report| report.power == Power::Off && report.failure.is_none());
}

#[test]
fn a_guest_that_ignores_its_power_button_reboots_by_ctrl_alt_delete() {
    let mut world = World::new();
    world.config.grace_seconds = LONG_GRACE;
    world.start();
    let first = world.until_running();
    world.view().until_seen("No bootable device");
    world.reload(|config| config.reboots_requested = 1);
    let after = world.until_report("it was rebooted", |report| report.reboots == 1 && report.pid.is_some());
    assert_eq!(after.pid == first.pid, !is_emulated(&after));
    assert!(after.started_ms > first.started_ms, "a reset begins a new boot");
    world.kill_owner();
    world.start();
    // Not equal: SeaBIOS does one reboot in up to three resets, a few milliseconds apart, and each begins the boot anew.
    assert!(world.until_running().started_ms >= after.started_ms, "known to the next owner, too");
}

#[test]
fn a_reboot_brings_what_changes_only_by_a_new_start() {
    let mut world = World::new();
    world.config.grace_seconds = LONG_GRACE;
    world.start();
    let first = world.until_running();
    world.view().until_seen("No bootable device");
    world.reload(|config| config.memory = Bytes(96 << 20));
    world.until_report("it waits for a reboot", |report| report.failure.is_some());
    world.reload(|config| config.reboots_requested = 1);
    let after = world.until_report("it was rebooted", |report| report.reboots == 1 && report.pid.is_some());
    assert_ne!(after.pid, first.pid);
    assert_eq!(after.failure, None);
}

#[test]
fn what_changes_only_by_a_new_start_is_said() {
    let mut world = World::new();
    world.start();
    world.until_running();
    world.reload(|config| config.memory = Bytes(96 << 20));
    let report = world.until_report("it says so", |report| report.failure.is_some());
    assert_eq!(report.failure.unwrap(), "memory will change at the next start: reboot the machine");
    assert_eq!(report.power, Power::On);
}

#[test]
fn a_missing_qemu_is_named_with_its_package() {
    let mut world = World::new();
    world.start_with_path("/nonexistent");
    let report = world.until_report("it fails", |report| report.failure.is_some());
    assert_eq!(report.failure.unwrap(), "qemu-system-x86_64 is missing: install the package qemu-system-x86");
    assert!(world.ask("GET", "/ready").unwrap().starts_with("HTTP/1.1 503"));
}

#[test]
fn memory_that_is_not_there_is_refused_before_the_start() {
    let mut world = World::new();
    world.config.memory = Bytes(1 << 50);
    world.start();
    let report = world.until_report("it fails", |report| report.failure.is_some());
    assert!(report.failure.unwrap().contains("lower the machine's memory"));
    world.reload(|config| config.memory = Bytes(64 << 20));
    world.until_running();
}

#[test]
fn a_qemu_that_refuses_its_arguments_is_quoted() {
    let mut world = World::new();
    world.config.cpus = 100_000;
    world.start();
    let report = world.until_report("it fails", |report| report.failure.is_some());
    assert!(report.failure.unwrap().starts_with("QEMU ended: qemu-system-x86_64: "));
}

#[test]
fn a_machine_that_is_not_wanted_is_ended_even_if_it_does_not_answer() {
    let mut world = World::new();
    world.start();
    let pid = world.until_running().pid.unwrap().to_string();
    world.kill_owner();
    std::fs::remove_file(world.config.run.join("qmp.sock")).unwrap();
    world.start();
    let report = world.until_report("it fails", |report| report.failure.is_some());
    assert!(report.failure.unwrap().starts_with("another QEMU runs this machine and does not answer"));
    assert!(alive(&pid), "it was killed although it is wanted");
    world.reload(|config| config.power = Power::Off);
    crate::world::until("it is ended", || (!alive(&pid)).then_some(()));
}

#[test]
fn uefi_that_found_nothing_to_boot_from_is_made_to_try_again() {
    let mut world = World::new();
    world.config.firmware = stoke_api::workload::FirmwareKind::Uefi;
    world.config.memory = Bytes(128 << 20);
    world.start();
    let report = world.until_report("it says so", |report| report.failure.is_some());
    assert_eq!(
        report.failure.as_deref().unwrap(),
        "the firmware found nothing to boot from and tries again: is the farm ready?"
    );
    world.until_report("it was reset", |report| report.failure.is_none() && report.pid.is_some());
    let after = world.until_running();
    assert_eq!(after.pid == report.pid, !is_emulated(&after));
}
