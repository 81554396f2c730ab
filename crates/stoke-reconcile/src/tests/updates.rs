//! What follows from the notes about an update: for the farm, the router, hypervisors and what objects say.

use stoke_api::objects::{FarmStatus, RolloutPhase};
use stoke_api::workload::{Architecture, FarmConfig, RouterConfig, VmConfig};

use super::*;

/// The lab with this update, `node-1` being up with version 7.
fn lab_with(update: &serde_json::Value) -> World {
    let mut world = a_lab_that_is_up();
    comes_up(&mut world, 7, "1970-01-01T01:00:00Z");
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    farm.spec.update = Some(serde_json::from_value(update.clone()).unwrap());
    world.settle();
    assert_eq!(status(&mut world).rollout.as_ref().unwrap().phase, RolloutPhase::Complete);
    world
}

fn comes_up(world: &mut World, image: u8, boot_started: &str) {
    let image = Some(version(image).digest);
    world.node_reports(NodeState {
        phase: Phase::Ready,
        ready: true,
        boot_started: boot_started.to_owned(),
        image,
        boots: image,
        good_image: image,
        ..NodeState::default()
    });
}

fn status(world: &mut World) -> &mut FarmStatus {
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    &mut farm.status
}

fn publish(world: &mut World) {
    let known = world.observed.environment.images.get_mut("default/node").unwrap();
    known.versions.insert(0, version(8));
    known.last_build.as_mut().unwrap().image = Some(version(8).digest);
    world.settle();
}

fn farm_config(world: &World) -> &FarmConfig {
    let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
    config
}

fn router_config(world: &World) -> &RouterConfig {
    let Role::Router(config) = world.role("router-default-lab") else { panic!("a router") };
    config
}

fn vm_config<'a>(world: &'a World, name: &str) -> &'a VmConfig {
    let Role::Vm(config) = world.role(name) else { panic!("a vm") };
    config
}

/// The versions that the farm hands out, and those of its nodes.
fn handed_out(world: &World) -> (Digest, Vec<(String, Option<Digest>)>) {
    let config = farm_config(world);
    let nodes = config.nodes.iter().map(|node| (node.owner.to_string(), node.image)).collect();
    (config.images[0].digest, nodes)
}

fn condition(world: &mut World, kind: &str) -> Option<String> {
    let conditions = &status(world).conditions;
    conditions.iter().find(|one| one.kind == kind).map(|one| format!("{}: {}", one.reason, one.message))
}

#[test]
fn a_new_version_is_noted_told_and_settled() {
    let mut world = lab_with(&json!({"canary": 0, "healthGate": {"minutes": 0}}));
    let (old, new) = (version(7).digest, version(8).digest);
    publish(&mut world);
    // The machine is up and is rebooted by its hypervisor; the server was never heard of and gets it at its first boot.
    assert_eq!(vm_config(&world, "vm-default-node-1").reboots_requested, 1);
    let nodes = vec![("server/rack1-07".to_owned(), Some(new)), ("machine/node-1".to_owned(), Some(new))];
    assert_eq!(handed_out(&world), (old, nodes.clone()));
    let hosts = &router_config(&world).hosts;
    assert!(hosts.iter().all(|host| host.kernels.contains_key(&Architecture::Amd64)), "{hosts:?}");
    assert!(condition(&mut world, "Updating").unwrap().starts_with("Progressing: 0 of 2 nodes are well"));
    // It comes up.
    vm_report(&mut world).reboots = 1;
    vm_report(&mut world).started_ms = Some(7_100_000);
    comes_up(&mut world, 8, "1970-01-01T02:00:00Z");
    world.settle();
    let rollout = status(&mut world).rollout.clone().unwrap();
    assert_eq!((rollout.phase, rollout.stable), (RolloutPhase::Complete, Some(new)));
    assert_eq!(handed_out(&world), (new, nodes));
    assert!(router_config(&world).hosts.iter().all(|host| host.kernels.is_empty()));
    assert_eq!((condition(&mut world, "Updating"), condition(&mut world, "UpdateStopped")), (None, None));
    assert_eq!(vm_config(&world, "vm-default-node-1").reboots_requested, 1);
}

#[test]
fn a_pinned_machine_keeps_its_version_and_one_of_another_image_is_refused() {
    let mut world = lab_with(&json!({"canary": 0, "healthGate": {"minutes": 0}}));
    let old = version(7).digest;
    let pin = |world: &mut World, text: &str| {
        let AnyObject::Machine(machine) = world.object(Kind::Machine, "node-1") else { panic!("a machine") };
        machine.spec.image = Some(text.parse().unwrap());
    };
    pin(&mut world, &format!("node@{old}"));
    publish(&mut world);
    assert_eq!(handed_out(&world).1[1].1, Some(old));
    assert_eq!(vm_config(&world, "vm-default-node-1").reboots_requested, 0);
    assert_eq!(machine_status(&mut world).image, Some(old));
    pin(&mut world, "other:07070707");
    let problems = check(&world.observed.objects);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].1.field, "spec.image");
    assert!(problems[0].1.message.contains("hands out image/node"), "{}", problems[0].1.message);
}

#[test]
fn a_rehearsal_has_a_machine_of_its_own_which_goes_when_it_is_over() {
    let mut world =
        lab_with(&json!({"rehearsal": {"cpus": 2, "firmware": {"bios": {}}}, "healthGate": {"minutes": 0}}));
    let (old, new) = (version(7).digest, version(8).digest);
    publish(&mut world);
    let name = world.names().into_iter().find(|name| name.starts_with("rehearsal-default-lab.")).unwrap().to_owned();
    let vm = vm_config(&world, &name);
    assert_eq!((vm.cpus, vm.state.to_str().unwrap()), (2, "/s/farms/default.lab/rehearsal"));
    assert_eq!(vm.run.to_str().unwrap(), format!("/r/workloads/{name}"));
    let mac = vm.nics[0].mac;
    let farm_ref = reference(Kind::Farm, "lab");
    let node = farm_config(&world).nodes.iter().find(|node| node.owner == farm_ref).unwrap();
    assert_eq!((node.image, node.macs.as_slice()), (Some(new), [mac].as_slice()));
    assert_eq!(node.config.hostname.as_deref(), Some("rehearsal-lab"));
    assert!(router_config(&world).hosts.iter().any(|host| host.owner == farm_ref && host.macs == [mac]));
    assert_eq!(status(&mut world).nodes, 2, "it is no node of the farm's");
    assert!(condition(&mut world, "Updating").unwrap().starts_with("Rehearsing"));
    // It started over: the version is not for anybody.
    let Report::Farm(report) = world.report("farm-default-lab") else { panic!("a farm's report") };
    let state = NodeState { boots: Some(new), failed_boots: 1, ..NodeState::default() };
    report.nodes.push(FarmNodeReport { owner: Some(farm_ref.clone()), mac, state });
    world.settle();
    let stopped = condition(&mut world, "UpdateStopped").unwrap();
    assert!(stopped.starts_with("RehearsalFailed: the rehearsal of 080808080808 failed"), "{stopped}");
    assert!(!world.names().iter().any(|name| name.starts_with("rehearsal")));
    assert_eq!((handed_out(&world).0, handed_out(&world).1[1].1), (old, Some(old)));
}
