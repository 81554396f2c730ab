//! The example lab, step by step: what is wanted and said while it comes up, goes wrong, and is changed.

mod claims;
mod cluster;
mod publish;
mod updates;

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;
use stoke_api::meta::Truth;
use stoke_api::node::{LayerUse, Phase};
use stoke_api::objects::{FarmStatus, NodeState, UefiLoader};
use stoke_api::report::{
    BuiltImage, FarmNodeReport, FarmReport, ImageBuildReport, LanReport, NodeAgentReport, Report, RouterReport,
    VmReport,
};
use stoke_api::workload::{BlobRef, Role, TrustedKeys, Workload};
use stoke_api::{AnyObject, Digest, Kind, ObjectRef};

use super::*;

fn object(value: serde_json::Value) -> AnyObject {
    serde_json::from_value(value).unwrap()
}

fn image() -> AnyObject {
    let spec = json!({"source": {"debian": {"suite": "bookworm"}}, "forms": {"netboot": {}}});
    object(json!({"kind": "Image", "metadata": {"name": "node"}, "spec": spec}))
}

fn lan() -> AnyObject {
    let subnet =
        json!({"name": "v4", "cidr": "10.10.0.0/24", "gateway": "10.10.0.1", "pools": ["10.10.0.100-10.10.0.199"]});
    let spec = json!({"subnets": [subnet], "dns": {"domain": "lab.internal"}});
    object(json!({"kind": "Lan", "metadata": {"name": "lab"}, "spec": spec}))
}

fn farm() -> AnyObject {
    let config = json!({"timezone": "Etc/UTC", "users": [{"name": "admin", "sshAuthorizedKeys": ["ssh-ed25519 A"]}]});
    object(
        json!({"kind": "Farm", "metadata": {"name": "lab"}, "spec": {"lan": "lab", "image": "node", "config": config}}),
    )
}

fn server(name: &str, mac: &str, address: &str) -> AnyObject {
    let farm = json!({"namespace": "default", "name": "lab"});
    let spec = json!({"farm": farm, "macs": [mac], "address": address, "config": {"hostname": name}});
    object(json!({"kind": "Server", "metadata": {"name": name}, "spec": spec}))
}

fn machine(name: &str, nic: &serde_json::Value) -> AnyObject {
    let spec = json!({"vm": {"cpus": 2}, "farm": "lab", "nics": [nic]});
    object(json!({"kind": "Machine", "metadata": {"name": name}, "spec": spec}))
}

fn node_1() -> AnyObject {
    machine("node-1", &json!({"name": "lab", "lan": "lab", "mac": "52:54:00:00:00:01", "address": "10.10.0.21"}))
}

fn lab() -> Vec<AnyObject> {
    vec![image(), lan(), farm(), server("rack1-07", "52:54:00:00:00:07", "10.10.0.27"), node_1()]
}

fn reference(kind: Kind, name: &str) -> ObjectRef {
    let namespace = kind.is_namespaced().then(|| "default".parse().unwrap());
    ObjectRef { kind, namespace, name: name.parse().unwrap() }
}

fn blob(byte: u8) -> BlobRef {
    BlobRef { digest: Digest([byte; 32]), size: 4096 }
}

fn version(byte: u8) -> BuiltImage {
    let verity = json!({"rootHash": "00", "salt": "", "dataBlocks": 1, "hashOffset": 4096});
    let root = json!({"format": "Squashfs", "blob": blob(byte).digest, "size": 8192, "verity": verity});
    BuiltImage {
        digest: Digest([byte; 32]),
        architecture: stoke_api::workload::Architecture::Amd64,
        size: 1 << 20,
        kernel_version: "6.1".into(),
        inputs: Digest([byte; 32]),
        kernel: blob(1),
        initramfs: blob(2),
        uki: Some(blob(3)),
        root: serde_json::from_value(root).unwrap(),
        kernel_arguments: vec![],
        built_at: u64::from(byte),
    }
}

/// A host that does at once what is wanted: the edge of the machine, without a machine.
struct World {
    observed: Observed,
    /// Workloads that do not get ready.
    stuck: Vec<&'static str>,
    building: bool,
}

impl World {
    fn new(objects: Vec<AnyObject>) -> Self {
        let environment = Environment {
            installation: "0a1b2c3d".into(),
            state: "/s".into(),
            run: "/r".into(),
            ssh_public_key: "ssh-ed25519 KEY stokehold".into(),
            tools: "1".into(),
            ..Environment::default()
        };
        let observed = Observed { objects, environment, workloads: BTreeMap::new() };
        Self { observed, stuck: vec![], building: false }
    }

    /// One round; what was wanted in it.
    fn round(&mut self) -> Desired {
        let desired = reconcile(&self.observed);
        for (reference, status) in &desired.statuses {
            let object = self.observed.objects.iter_mut().find(|object| object.reference() == *reference).unwrap();
            status.clone().write_into(object);
        }
        for request in &desired.farm_parts {
            let signed_by = request.keys.as_ref().map(|keys| keys.fingerprint.clone());
            let uki = if signed_by.is_some() { blob(10) } else { blob(9) };
            let parts = FarmParts { initramfs: blob(8), uki: Some(uki), signed_by };
            self.observed.environment.farm_parts.insert((request.farm.clone(), request.image.digest), parts);
        }
        self.observed.workloads.retain(|name, _| desired.workloads.iter().any(|workload| workload.name() == *name));
        for workload in &desired.workloads {
            self.run(workload);
        }
        desired
    }

    fn run(&mut self, workload: &Workload) {
        if let (Role::ImageBuild(config), false) = (&workload.role, self.building) {
            let build = FinishedBuild {
                spec: config.spec.clone(),
                bases: BTreeMap::new(),
                tools: "1".into(),
                image: Some(version(7).digest),
                failure: None,
                attempts: 0,
                finished_ms: 0,
            };
            let known = KnownImage { versions: vec![version(7)], last_build: Some(build), ..KnownImage::default() };
            self.observed.environment.images.insert(config.name.clone(), known);
            self.observed.workloads.remove(&workload.name());
            return;
        }
        let ready = !self.stuck.contains(&workload.role.word());
        let before = self.observed.workloads.remove(&workload.name()).and_then(|seen| seen.report);
        let report = match (&workload.role, before) {
            (Role::Vm(_) | Role::Farm(_), Some(before)) => before,
            (role, _) => report(role, ready),
        };
        let seen = ObservedWorkload {
            workload: Some(workload.clone()),
            kept: true,
            running: true,
            report: Some(report),
            failure: None,
        };
        self.observed.workloads.insert(workload.name(), seen);
    }

    fn settle(&mut self) -> &mut Self {
        for _ in 0..10 {
            self.round();
        }
        self
    }

    fn names(&self) -> Vec<&str> {
        self.observed.workloads.keys().map(String::as_str).collect()
    }

    fn said(&self, kind: Kind, name: &str) -> String {
        let object = self.observed.objects.iter().find(|object| object.reference() == reference(kind, name)).unwrap();
        let ready = object.conditions().iter().find(|condition| condition.kind == "Ready").unwrap();
        format!("{:?} {}: {}", ready.status, ready.reason, ready.message)
    }

    fn object(&mut self, kind: Kind, name: &str) -> &mut AnyObject {
        self.observed.objects.iter_mut().find(|object| object.reference() == reference(kind, name)).unwrap()
    }

    fn role(&self, name: &str) -> &Role {
        &self.observed.workloads[name].workload.as_ref().unwrap().role
    }

    fn report(&mut self, workload: &str) -> &mut Report {
        self.observed.workloads.get_mut(workload).unwrap().report.as_mut().unwrap()
    }

    fn node_reports(&mut self, state: NodeState) {
        let owner = Some(reference(Kind::Machine, "node-1"));
        let Report::Farm(report) = self.report("farm-default-lab") else { panic!("a farm's report") };
        report.nodes = vec![FarmNodeReport { owner, mac: "52:54:00:00:00:01".parse().unwrap(), state }];
    }
}

fn report(role: &Role, ready: bool) -> Report {
    let failure = (!ready).then(|| "port 69 is in use".to_owned());
    match role {
        Role::Node(config) => {
            let lans = config.lans.iter().map(|lan| LanReport {
                lan: lan.lan.clone(),
                bridge: lan.bridge.clone(),
                failure: failure.clone(),
            });
            let upstreams = vec!["192.0.2.53".parse().unwrap()];
            Report::Node(NodeAgentReport { lans: lans.collect(), upstreams, egress_failure: None })
        }
        Role::Router(_) => Report::Router(RouterReport { ready, failure, capacity: 100, ..RouterReport::default() }),
        Role::Farm(_) => Report::Farm(FarmReport { ready, failure, ..FarmReport::default() }),
        Role::Vm(config) => Report::Vm(VmReport {
            power: config.power,
            accelerator: "tcg".into(),
            accelerator_reason: "KVM cannot run a guest".into(),
            started_ms: Some(1_000_000),
            ..VmReport::default()
        }),
        Role::ImageBuild(_) => {
            Report::ImageBuild(ImageBuildReport { stage: "install packages".into(), percent: 40, ..Default::default() })
        }
    }
}

const LAB: [&str; 4] = ["farm-default-lab", "node", "router-default-lab", "vm-default-node-1"];

#[test]
fn the_lab_comes_up_one_step_after_the_other() {
    let mut world = World::new(lab());
    let steps: Vec<Vec<_>> = (0..5).map(|_| world.round().workloads.iter().map(Workload::name).collect()).collect();
    let expected: [&[&str]; 5] = [
        &["node", "build-default-node"],
        &["node", "router-default-lab", "farm-default-lab"],
        &["node", "router-default-lab", "farm-default-lab"],
        &["node", "router-default-lab", "farm-default-lab", "vm-default-node-1"],
        &["node", "router-default-lab", "farm-default-lab", "vm-default-node-1"],
    ];
    assert_eq!(steps, expected);
    assert_eq!(world.said(Kind::Image, "node"), format!("True Built: {}", version(7).digest));
    assert_eq!(world.said(Kind::Farm, "lab"), format!("True Serving: hands out {}", version(7).digest));
    assert_eq!(world.said(Kind::Machine, "node-1"), "False Booting: booting: the firmware is starting");
}

#[test]
fn what_is_on_its_way_says_so_and_what_waits_for_somebody_does_not() {
    let mut world = World::new(lab());
    world.building = true;
    let progressing = |world: &World, kind, name: &str| {
        let object = world.observed.objects.iter().find(|object| object.reference() == reference(kind, name)).unwrap();
        let found = object.conditions().iter().find(|condition| condition.kind == "Progressing").unwrap();
        format!("{:?} {}", found.status, found.reason)
    };
    world.settle();
    assert_eq!(progressing(&world, Kind::Farm, "lab"), "True WaitingForImage");
    world.building = false;
    world.observed.workloads.clear();
    let events = world.settle().round().events;
    assert_eq!(progressing(&world, Kind::Farm, "lab"), "False Serving");
    assert_eq!(progressing(&world, Kind::Machine, "node-1"), "True Booting");
    assert!(events.is_empty(), "{events:?}");
    world.object(Kind::Farm, "lab").metadata_mut().name = "other".parse().unwrap();
    world.round();
    assert_eq!(progressing(&world, Kind::Machine, "node-1"), "False Invalid");
}

#[test]
fn what_each_workload_is_told() {
    let mut world = World::new(lab());
    world.settle();
    let told: Vec<_> = LAB.iter().map(|name| serde_json::to_value(world.role(name)).unwrap()).collect();
    insta::assert_snapshot!(serde_json::to_string_pretty(&told).unwrap());
}

#[test]
fn a_second_look_changes_nothing() {
    let mut world = World::new(lab());
    world.settle();
    let before = (world.observed.objects.clone(), world.names().len());
    let desired = world.round();
    assert_eq!((desired.farm_parts.len(), desired.events.len()), (0, 0));
    assert_eq!((world.observed.objects.clone(), world.names().len()), before);
}

fn farm_with_replicas() -> Vec<AnyObject> {
    let mut objects = lab();
    let Some(AnyObject::Farm(farm)) = objects.get_mut(2) else { panic!("the farm") };
    farm.spec.addresses = vec!["10.10.0.1".parse().unwrap(), "10.10.0.2".parse().unwrap()];
    objects
}

fn boots_are_sent_to(world: &World) -> Vec<String> {
    let Role::Router(config) = world.role("router-default-lab") else { panic!("a router") };
    config.farms["default/lab"].addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_replica_that_is_lost_gets_no_boots_until_it_is_back() {
    let mut world = World::new(farm_with_replicas());
    world.settle();
    let both = ["10.10.0.1", "10.10.0.2"];
    assert_eq!(boots_are_sent_to(&world), both);
    assert_eq!(world.said(Kind::Farm, "lab"), format!("True Serving: hands out {}", version(7).digest));
    let lose = |world: &mut World, name: &str| world.observed.workloads.get_mut(name).unwrap().running = false;
    lose(&mut world, "farm-default-lab");
    world.round();
    assert_eq!(boots_are_sent_to(&world), ["10.10.0.2"]);
    // Both replicas know of each other as before: clients that know the lost one find the other.
    let Role::Farm(config) = world.role("farm-default-lab.1") else { panic!("a farm") };
    assert_eq!((config.replicas.len(), config.replica, config.address.to_string().as_str()), (2, 1, "10.10.0.2"));
    world.settle();
    assert_eq!(boots_are_sent_to(&world), both);
    // With all of them lost, there is nothing better than all of them.
    lose(&mut world, "farm-default-lab");
    lose(&mut world, "farm-default-lab.1");
    world.round();
    assert_eq!(boots_are_sent_to(&world), both);
}

#[test]
fn a_machine_is_as_ready_as_its_newest_session_says() {
    let mut world = World::new(farm_with_replicas());
    world.settle();
    let at =
        |time: &str, ready| NodeState { phase: Phase::Ready, boot_started: time.into(), ready, ..NodeState::default() };
    let owner = Some(reference(Kind::Machine, "node-1"));
    for (replica, state) in [
        ("farm-default-lab", at("2026-01-01T00:00:00Z", false)),
        ("farm-default-lab.1", at("2026-01-01T00:05:00Z", true)),
    ] {
        let Report::Farm(report) = world.report(replica) else { panic!("a farm's report") };
        report.nodes = vec![FarmNodeReport { owner: owner.clone(), mac: "52:54:00:00:00:01".parse().unwrap(), state }];
    }
    world.settle();
    assert!(world.said(Kind::Machine, "node-1").starts_with("True "), "{}", world.said(Kind::Machine, "node-1"));
}

#[test]
fn kernels_are_signed_anew_when_a_farm_gets_keys() {
    let mut world = World::new(lab());
    world.settle();
    let handed_out = |world: &World| {
        let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
        config.images[0].uki.unwrap()
    };
    assert_eq!(handed_out(&world), blob(9));
    let keys = FarmKeys { folder: "/s/keys".into(), fingerprint: "f".into() };
    world.observed.environment.farm_keys.insert("default/lab".into(), keys.clone());
    let desired = world.round();
    assert_eq!(desired.farm_parts[0].keys, Some(keys));
    assert_eq!(handed_out(&world), blob(9), "the unsigned one until the signed one is there");
    world.settle();
    assert_eq!(handed_out(&world), blob(10));
    assert!(world.round().farm_parts.is_empty());
}

#[test]
fn secure_boot_waits_for_something_that_it_would_start() {
    let mut objects = lab();
    for object in &mut objects {
        if let AnyObject::Machine(machine) = object {
            machine.spec.vm.as_mut().unwrap().firmware.uefi = Some(stoke_api::objects::Uefi { secure_boot: true });
            machine.spec.vm.as_mut().unwrap().firmware.bios = None;
        }
    }
    let trusted = |world: &World| {
        let Role::Vm(config) = world.role("vm-default-node-1") else { panic!("a machine") };
        config.secure_boot.clone()
    };
    let mut world = World::new(objects.clone());
    world.settle();
    let said = world.said(Kind::Machine, "node-1");
    assert!(said.starts_with("False NothingSigned") && said.contains("stoke farm keys create lab"), "{said}");
    let keys = FarmKeys { folder: "/s/keys".into(), fingerprint: "f".into() };
    world.observed.environment.farm_keys.insert("default/lab".into(), keys);
    world.settle();
    let ours = TrustedKeys::Farm { folder: "/s/keys".into(), fingerprint: "f".into() };
    assert_eq!(trusted(&world), Some(ours));
    for object in &mut objects {
        if let AnyObject::Farm(farm) = object {
            farm.spec.boot.loader.uefi = UefiLoader::Shim;
        }
    }
    let mut world = World::new(objects);
    world.settle();
    assert_eq!(trusted(&world), Some(TrustedKeys::Microsoft));
}

#[test]
fn boot_programs_that_a_farm_needs_and_the_host_lacks_are_told() {
    let mut world = World::new(lab());
    let place = |name: &str| (name.to_owned(), PathBuf::from(format!("/boot/{name}")));
    world.observed.environment.boot_programs = ["snponly.efi", "shimx64.efi"].map(place).into();
    world.settle();
    let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
    assert_eq!(config.boot_programs.keys().collect::<Vec<_>>(), ["snponly.efi"], "no more than it needs");
    let said = |world: &mut World| {
        let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
        let told = farm.status.conditions.iter().find(|condition| condition.kind == "BootPrograms");
        told.map(|condition| condition.message.clone())
    };
    assert_eq!(said(&mut world).as_deref(), Some("undionly.kpxe is missing: apt-get install ipxe"));
    world.observed.environment.boot_programs.extend([place("undionly.kpxe")]);
    world.settle();
    assert_eq!(said(&mut world), None);
}

#[test]
fn a_machine_says_what_it_waits_for() {
    let mut world = World::new(lab());
    world.building = true;
    world.settle();
    assert_eq!(world.names(), ["build-default-node", "farm-default-lab", "node", "router-default-lab"]);
    let waits = "False WaitingForImage: waiting for image/node: install packages 40 %";
    assert_eq!(world.said(Kind::Machine, "node-1"), waits);
    assert_eq!(world.said(Kind::Server, "rack1-07"), waits);
    assert_eq!(world.said(Kind::Image, "node"), "False Building: install packages 40 %");
}

#[test]
fn a_router_that_cannot_serve_is_named_by_all_who_wait_for_it() {
    let mut world = World::new(lab());
    world.stuck = vec!["router"];
    world.settle();
    assert_eq!(world.said(Kind::Lan, "lab"), "False Failed: port 69 is in use");
    assert_eq!(world.said(Kind::Farm, "lab"), "False WaitingForLan: waiting for lan/lab: port 69 is in use");
    assert_eq!(world.said(Kind::Machine, "node-1"), "False WaitingForLan: waiting for lan/lab: port 69 is in use");
}

#[test]
fn what_a_router_notices_on_the_wire_is_a_condition_while_it_lasts() {
    let mut world = World::new(lab());
    world.settle();
    let kinds = |world: &mut World| {
        let lan = world.object(Kind::Lan, "lab");
        lan.conditions().iter().map(|condition| condition.kind.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&mut world), ["Ready", "Progressing"]);
    let exhausted = |world: &mut World, at| {
        let Report::Router(report) = world.report("router-default-lab") else { panic!("a router's report") };
        report.exhausted_at = at;
        world.round().events.iter().map(|event| event.reason.clone()).collect::<Vec<_>>()
    };
    assert_eq!(exhausted(&mut world, Some(7)), ["PoolsFull"]);
    assert_eq!(kinds(&mut world), ["Ready", "Progressing", "AddressesExhausted"]);
    assert_eq!(exhausted(&mut world, None), [""; 0]);
    assert_eq!(kinds(&mut world), ["Ready", "Progressing"]);
}

#[test]
fn a_running_machine_goes_on_whatever_becomes_not_ready() {
    let mut world = World::new(lab());
    world.settle();
    world.stuck = vec!["node", "router"];
    world.settle();
    assert_eq!(world.names(), LAB);
    // Not even when the objects that it refers to are gone: that is wrong, and said.
    world.observed.objects.retain(|object| matches!(object.kind(), Kind::Machine | Kind::Lan));
    world.settle();
    assert!(world.names().contains(&"vm-default-node-1"));
    assert_eq!(world.said(Kind::Machine, "node-1"), "False Invalid: spec.farm: no farm is called \"lab\"");
}

#[test]
fn machines_are_kept_when_all_processes_are_killed_at_once() {
    let mut world = World::new(lab());
    world.settle();
    world.observed.workloads.values_mut().for_each(|seen| seen.running = false);
    let wanted: Vec<_> = reconcile(&world.observed).workloads.iter().map(Workload::name).collect();
    assert_eq!(wanted, ["node", "router-default-lab", "farm-default-lab", "vm-default-node-1"]);
    world.round();
    assert_eq!(world.said(Kind::Machine, "node-1"), "False Booting: booting: the firmware is starting");
}

#[test]
fn a_node_reports_and_the_machine_is_ready() {
    let mut world = World::new(lab());
    world.settle();
    // Reported before this machine was started: of an earlier boot.
    let stamped = |text: &str, ready| NodeState {
        phase: if ready { Phase::Ready } else { Phase::Manifest },
        boot_started: text.into(),
        ready,
        ..NodeState::default()
    };
    world.node_reports(stamped("1970-01-01T00:01:00Z", true));
    world.round();
    assert_eq!(world.said(Kind::Machine, "node-1"), "False Booting: booting: the firmware is starting");
    world.node_reports(stamped("1970-01-01T00:16:50Z", false));
    let events = world.round().events;
    assert_eq!(world.said(Kind::Machine, "node-1"), "False Booting: booting: Manifest");
    assert!(events.iter().any(|event| event.reason == "PhaseManifest"), "{events:?}");
    let address = Some("10.10.0.21".parse().unwrap());
    world.node_reports(NodeState { address, ..stamped("1970-01-01T00:16:50Z", true) });
    world.round();
    assert_eq!(world.said(Kind::Machine, "node-1"), "True NodeReady: 10.10.0.21");
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    assert_eq!((farm.status.nodes, farm.status.ready_nodes), (2, 1));
    assert!(farm.status.conditions.iter().any(|condition| condition.kind == "NetworkTrust"));
}

#[test]
fn a_full_writable_layer_is_a_condition_until_there_is_room() {
    let mut world = World::new(lab());
    world.settle();
    let mut said = |full| {
        let layer = Some(LayerUse { size: 96 << 20, free: 0, full });
        let boot_started = "1970-01-01T00:16:50Z".into();
        world.node_reports(NodeState { phase: Phase::Ready, ready: true, boot_started, layer, ..NodeState::default() });
        world.round();
        let AnyObject::Machine(machine) = world.object(Kind::Machine, "node-1") else { panic!("a machine") };
        let layer = machine.status.conditions.iter().find(|condition| condition.kind == "WritableLayer").unwrap();
        (layer.status, layer.message.clone())
    };
    let (status, message) = said(true);
    assert!(
        status == Truth::False && message.contains("96 MiB is full") && message.contains("overlaySize"),
        "{message}"
    );
    assert_eq!(said(false).0, Truth::True);
}

#[test]
fn the_firmware_is_heard_of_by_the_router() {
    let mut world = World::new(lab());
    world.settle();
    let Report::Router(router) = world.report("router-default-lab") else { panic!("a router's report") };
    router.boot_requests.insert("machine/node-1".into(), 1_000_500);
    router.boot_requests.insert("server/rack1-07".into(), 5);
    let desired = reconcile(&world.observed);
    let phase = |wanted: &ObjectRef| {
        desired.statuses.iter().find(|(name, _)| name == wanted).and_then(|(_, status)| match status {
            Status::Machine(status) => status.node.as_ref().map(|node| node.phase),
            Status::Server(status) => status.node.as_ref().map(|node| node.phase),
            _ => None,
        })
    };
    assert_eq!(phase(&reference(Kind::Machine, "node-1")), Some(Phase::Firmware));
    assert_eq!(phase(&reference(Kind::Server, "rack1-07")), Some(Phase::Firmware));
}

#[test]
fn a_stopped_machine_is_switched_off_and_not_started_anew() {
    let mut world = World::new(lab());
    world.settle();
    let AnyObject::Machine(machine) = world.object(Kind::Machine, "node-1") else { panic!("a machine") };
    machine.status.stop_requested = true;
    world.settle();
    let Role::Vm(config) = world.role("vm-default-node-1") else { panic!("a vm") };
    assert_eq!(config.power, stoke_api::objects::Power::Off);
    world.observed.workloads.remove("vm-default-node-1");
    world.settle();
    assert!(!world.names().contains(&"vm-default-node-1"));
    assert_eq!(world.said(Kind::Machine, "node-1"), "False Stopped: stopped by request; `stoke start` takes it back");
}

/// The lab with `node-1` up since 01:00:00 of the first day, its hypervisor since a minute before.
fn a_lab_that_is_up() -> World {
    let mut world = World::new(lab());
    world.settle();
    vm_report(&mut world).started_ms = Some(3_540_000);
    let boot_started = "1970-01-01T01:00:00Z".to_owned();
    world.node_reports(NodeState { phase: Phase::Ready, ready: true, boot_started, ..NodeState::default() });
    world.round();
    assert!(world.said(Kind::Machine, "node-1").starts_with("True NodeReady"));
    world
}

fn vm_report(world: &mut World) -> &mut VmReport {
    let Report::Vm(report) = world.report("vm-default-node-1") else { panic!("a vm's report") };
    report
}

fn machine_status(world: &mut World) -> &mut stoke_api::objects::MachineStatus {
    let AnyObject::Machine(machine) = world.object(Kind::Machine, "node-1") else { panic!("a machine") };
    &mut machine.status
}

/// What `node-1` says of itself, and how many nodes its farm calls ready.
fn after_a_round(world: &mut World) -> (String, Option<Phase>, u32) {
    world.settle();
    let phase = machine_status(world).node.as_ref().map(|node| node.phase);
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    let ready_nodes = farm.status.ready_nodes;
    (world.said(Kind::Machine, "node-1"), phase, ready_nodes)
}

#[test]
fn a_machine_that_was_stopped_shows_nothing_of_its_last_boot() {
    use stoke_api::objects::Power;
    let mut world = a_lab_that_is_up();
    machine_status(&mut world).stop_requested = true;
    let goes_down = ("False Stopping: it is shutting down".to_owned(), Some(Phase::Stopping), 0);
    assert_eq!(after_a_round(&mut world), goes_down);
    *vm_report(&mut world) = VmReport { power: Power::Off, ..VmReport::default() };
    let off = "False Stopped: stopped by request; `stoke start` takes it back".to_owned();
    assert_eq!(after_a_round(&mut world), (off, None, 0));
    // On again; the farm still has the session of the boot before.
    machine_status(&mut world).stop_requested = false;
    *vm_report(&mut world) = VmReport { started_ms: Some(4_000_000), ..VmReport::default() };
    assert_eq!(after_a_round(&mut world), ("False Booting: booting: the firmware is starting".to_owned(), None, 0));
}

#[test]
fn a_machine_that_was_rebooted_shows_nothing_of_its_last_boot() {
    let mut world = a_lab_that_is_up();
    machine_status(&mut world).reboots_requested = 1;
    let goes_down = ("False Rebooting: it is rebooting by request".to_owned(), Some(Phase::Stopping), 0);
    assert_eq!(after_a_round(&mut world), goes_down);
    let report = vm_report(&mut world);
    (report.reboots, report.started_ms) = (1, Some(4_000_000));
    assert_eq!(after_a_round(&mut world), ("False Booting: booting: the firmware is starting".to_owned(), None, 0));
    let boot_started = "1970-01-01T01:10:00Z".to_owned();
    world.node_reports(NodeState { phase: Phase::Ready, ready: true, boot_started, ..NodeState::default() });
    assert_eq!(after_a_round(&mut world), ("True NodeReady: ".to_owned(), Some(Phase::Ready), 1));
}

#[test]
fn a_failed_build_waits_longer_each_time_and_not_when_its_input_changes() {
    let mut world = World::new(vec![image()]);
    let AnyObject::Image(spec) = image() else { panic!("an image") };
    let failed = |attempts, tools: &str| FinishedBuild {
        spec: spec.spec.clone(),
        bases: BTreeMap::new(),
        tools: tools.into(),
        image: None,
        failure: Some("no such suite".into()),
        attempts,
        finished_ms: 1_000,
    };
    let mut wanted = |build, now_ms| {
        world.observed.environment.now_ms = now_ms;
        let known = KnownImage { last_build: Some(build), ..KnownImage::default() };
        world.observed.environment.images.insert("default/node".into(), known);
        !reconcile(&world.observed).workloads.is_empty()
    };
    assert!(!wanted(failed(1, "1"), 60_999));
    assert!(wanted(failed(1, "1"), 61_000));
    assert!(!wanted(failed(3, "1"), 200_000));
    assert!(wanted(failed(3, "1"), 241_000));
    assert!(wanted(failed(30, "1"), 1_801_000));
    assert!(wanted(failed(1, "2"), 1_001), "other tools may do better at once");
}

#[test]
fn a_newer_image_is_first_and_older_ones_stay() {
    let mut world = World::new(lab());
    world.settle();
    world.observed.environment.images.get_mut("default/node").unwrap().versions.insert(0, version(9));
    let desired = world.round();
    assert_eq!(desired.farm_parts.len(), 1);
    world.settle();
    let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
    assert_eq!(
        config.images.iter().map(|image| image.digest).collect::<Vec<_>>(),
        [version(9).digest, version(7).digest]
    );
}

#[test]
fn a_new_farm_does_not_begin_with_an_old_version_whose_parts_are_made_sooner() {
    let mut world = World::new(lab());
    world.settle();
    world.observed.environment.images.get_mut("default/node").unwrap().versions.insert(0, version(9));
    for object in &mut world.observed.objects {
        if let AnyObject::Farm(farm) = object {
            farm.status = FarmStatus::default();
        }
    }
    let served = |desired: &Desired| {
        let roles = desired.workloads.iter().map(|workload| &workload.role);
        roles.filter_map(|role| if let Role::Farm(farm) = role { Some(farm.images.len()) } else { None }).sum::<usize>()
    };
    assert_eq!(served(&world.round()), 0);
    world.settle();
    assert_eq!(served(&world.round()), 2);
    let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
    assert_eq!(config.images[0].digest, version(9).digest);
}

#[test]
fn one_bad_object_harms_itself_only() {
    let nic = json!({"name": "lab", "lan": "lap", "address": "10.10.0.30"});
    let mut world = World::new([lab(), vec![machine("node-2", &nic)]].concat());
    world.settle();
    assert_eq!(world.names(), LAB);
    let said = world.said(Kind::Machine, "node-2");
    assert!(
        said.starts_with("False Invalid: spec.nics[0].lan: no lan is called \"lap\"; did you mean \"lab\"?"),
        "{said}"
    );
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    assert_eq!(farm.status.nodes, 2);
}

fn problems(more: Vec<AnyObject>) -> Vec<String> {
    let found = check(&[lab(), more].concat());
    found.into_iter().map(|(object, problem)| format!("{object} {}: {}", problem.field, problem.message)).collect()
}

#[test]
fn the_example_has_no_problem() {
    assert_eq!(problems(vec![]), [""; 0]);
}

#[test]
fn what_is_wrong_across_objects() {
    let nic = |mac: &str, address: &str| json!({"name": "lab", "lan": "lab", "mac": mac, "address": address});
    let mut other_lan = lan();
    other_lan.metadata_mut().name = "other".parse().unwrap();
    let mut other_farm = farm();
    other_farm.metadata_mut().name = "second".parse().unwrap();
    insta::assert_snapshot!(
        problems(vec![
            other_lan,
            other_farm,
            server("rack2-01", "52:54:00:00:00:01", "10.10.0.21"),
            machine("x1", &nic("52:54:00:00:00:11", "10.11.0.1")),
            machine("x2", &nic("52:54:00:00:00:12", "10.10.0.1")),
            machine("x3", &nic("52:54:00:00:00:07", "10.10.0.255")),
            machine("x4", &json!({"name": "a", "lan": "lob"})),
        ])
        .join("\n")
    );
}

#[test]
fn an_older_object_keeps_what_a_newer_one_wants_too() {
    let mut old = machine("z-old", &json!({"name": "a", "lan": "lab", "address": "10.10.0.40"}));
    old.metadata_mut().creation_timestamp = Some("2026-01-01T00:00:00Z".into());
    let new = machine("a-new", &json!({"name": "a", "lan": "lab", "address": "10.10.0.40"}));
    let found = problems(vec![new, old]);
    assert_eq!(found, ["machine/a-new spec.nics[0].address: 10.10.0.40 is already the address of machine/z-old"]);
}

#[test]
fn a_machine_that_runs_keeps_its_mac_from_a_server_that_is_added() {
    let mut old = node_1();
    old.metadata_mut().creation_timestamp = Some("2026-01-01T00:00:00Z".into());
    let found = check(&[image(), lan(), farm(), server("new", "52:54:00:00:00:01", "10.10.0.9"), old]);
    let found: Vec<_> = found.iter().map(|(object, problem)| format!("{object} {}", problem.field)).collect();
    assert_eq!(found, ["server/new spec.macs[0]"]);
}

#[test]
fn derived_names_stay_the_same() {
    let lab = reference(Kind::Lan, "lab");
    let names = [
        names::bridge("0a1b2c3d", &lab).unwrap().to_string(),
        names::bridge_mac("0a1b2c3d", &lab).to_string(),
        names::machine_uuid(&reference(Kind::Machine, "node-1"), None),
        names::installation("/var/lib/stokehold".as_ref()),
    ];
    insta::assert_snapshot!(names.join("\n"));
}

proptest! {
    /// Whatever the objects are: what came true of the output gives the same output again.
    #[test]
    fn any_set_of_objects_comes_to_rest(
        chosen in prop::collection::vec(any::<bool>(), 5),
        addresses in prop::collection::vec((0..4u8, 20..24u8), 0..6),
        stuck in prop::sample::subsequence(vec!["node", "router", "farm"], 0..=3),
        building: bool,
    ) {
        let mut objects: Vec<_> = lab().into_iter().zip(chosen).filter(|(_, keep)| *keep).map(|(object, _)| object).collect();
        for (number, (mac, address)) in addresses.into_iter().enumerate() {
            let nic = json!({
                "name": "lab", "lan": "lab",
                "mac": format!("52:54:00:00:01:{mac:02x}"), "address": format!("10.10.0.{address}"),
            });
            objects.push(machine(&format!("m{number}"), &nic));
        }
        let mut world = World::new(objects);
        (world.stuck, world.building) = (stuck, building);
        world.settle();
        let before = (world.observed.objects.clone(), world.observed.environment.farm_parts.len());
        let desired = world.round();
        prop_assert_eq!(desired.events.len(), 0);
        prop_assert_eq!(&before, &(world.observed.objects.clone(), world.observed.environment.farm_parts.len()));
        let again = reconcile(&world.observed);
        prop_assert_eq!(&desired.workloads, &again.workloads);
        prop_assert_eq!(&desired.statuses, &again.statuses);
    }
}
