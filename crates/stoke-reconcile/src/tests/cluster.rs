//! The example lab in pods: what each is told, and what namespaces, sets and joining nodes come to.

use stoke_api::agent::PortKind;
use stoke_api::objects::{MachineSetStatus, MachineSpec, MachineStatus};
use stoke_api::{Metadata, Object};

use super::*;
use crate::agents::{AgentNode, OVERLAY_PORT, PlacedPod, agent_configs, port_grants};

fn in_pods(objects: Vec<AnyObject>) -> World {
    let mut world = World::new(objects);
    world.observed.environment.layout = Layout::Pods;
    world
}

fn in_namespace(namespace: &str, mut object: AnyObject) -> AnyObject {
    object.metadata_mut().namespace = Some(namespace.parse().unwrap());
    object
}

fn problems(world: &World) -> Vec<String> {
    let found = check_in(&world.observed.objects, &world.observed.environment);
    found.into_iter().map(|(object, problem)| format!("{object} {}: {}", problem.field, problem.message)).collect()
}

#[test]
fn what_each_pod_is_told() {
    let mut world = in_pods(lab());
    world.settle();
    let told: Vec<_> = LAB.iter().map(|name| serde_json::to_value(world.role(name)).unwrap()).collect();
    insta::assert_snapshot!(serde_json::to_string_pretty(&told).unwrap());
}

#[test]
fn what_node_agents_are_told() {
    let mut world = in_pods(lab());
    let AnyObject::Lan(lan) = world.object(Kind::Lan, "lab") else { panic!("a LAN") };
    lan.spec.ipv6 = Some(serde_json::from_value(json!({"prefix": "fd00:10::/64"})).unwrap());
    lan.spec.uplinks = serde_json::from_value(json!([{"interface": "eno2", "nodeSelector": {"rack": "1"}}])).unwrap();
    lan.spec.dhcp.mode = Some(stoke_api::objects::DhcpMode::Authoritative);
    world.settle();
    let wanted = world.round().workloads;
    let node = |name: &str, last: u8, rack: &str| AgentNode {
        name: name.to_owned(),
        address: [192, 0, 2, last].into(),
        labels: BTreeMap::from([("rack".to_owned(), rack.to_owned())]),
    };
    let workload = |name: &str| wanted.iter().find(|workload| workload.name() == name).unwrap();
    let pod = |uid, node, name| PlacedPod { uid, node, workload: workload(name) };
    let pods = [
        pod("uid-router", "a", "router-default-lab"),
        pod("uid-farm", "a", "farm-default-lab"),
        pod("uid-vm", "b", "vm-default-node-1"),
        pod("uid-lost", "c", "vm-default-node-1"),
    ];
    let nodes = [node("a", 1, "1"), node("b", 2, "2")];
    let configs = agent_configs(&world.observed, &wanted, &nodes, &pods, OVERLAY_PORT);
    insta::assert_snapshot!(serde_json::to_string_pretty(&configs).unwrap());
    // On one node there is nobody to talk to.
    let alone = agent_configs(&world.observed, &wanted, &nodes[..1], &[], OVERLAY_PORT);
    assert_eq!(alone["a"].lans[0].overlay, None);
}

#[test]
fn ports_of_machines_are_the_routers_in_pods_and_nobodys_on_one_host() {
    let exposed = |world: &World| {
        let Some(AnyObject::Machine(machine)) = world.observed.objects.iter().find(|o| o.kind() == Kind::Machine)
        else {
            panic!("a machine")
        };
        let condition = machine.status.conditions.iter().find(|condition| condition.kind == "Exposed").unwrap();
        (condition.reason.clone(), condition.message.clone())
    };
    let forwards = |world: &World| {
        let Role::Router(config) = world.role("router-default-lab") else { panic!("a router") };
        config.forwards.clone()
    };
    let with_ports = |mut world: World| {
        let AnyObject::Machine(machine) = world.object(Kind::Machine, "node-1") else { panic!("a machine") };
        machine.spec.ports =
            serde_json::from_value(json!([{"name": "ssh", "port": 22}, {"name": "web", "port": 80}])).unwrap();
        world.settle();
        world
    };
    let mut world = with_ports(in_pods(lab()));
    let before = forwards(&world);
    assert_eq!(before.iter().map(|one| (one.name.as_str(), one.port)).collect::<Vec<_>>(), [("ssh", 22), ("web", 80)]);
    assert!(before.iter().all(|one| (20_000..30_000).contains(&one.listen)), "{before:?}");
    assert_ne!(before[0].listen, before[1].listen);
    assert_eq!(exposed(&world).0, "Waiting");
    let reference = before[0].owner.clone();
    world.observed.environment.services.insert(reference, Ok("Service node-1.default, port 22".to_owned()));
    world.settle();
    assert_eq!(exposed(&world), ("Served".to_owned(), "Service node-1.default, port 22".to_owned()));
    // Whatever comes beside, what is there stays where it is.
    let nic = json!({"name": "lab", "lan": "lab"});
    world.observed.objects.push(machine("node-0", &nic));
    world.settle();
    assert_eq!(forwards(&world), before);

    let world = with_ports(World::new(lab()));
    assert_eq!((forwards(&world), exposed(&world).0), (Vec::new(), "OnOneHost".to_owned()));
}

#[test]
fn on_one_host_nothing_has_an_interface_of_its_own() {
    let mut world = World::new(lab());
    world.settle();
    let wanted = world.round().workloads;
    let grants = |name: &str| port_grants("0a1b2c3d", wanted.iter().find(|w| w.name() == name).unwrap());
    assert_eq!((grants("farm-default-lab").len(), grants("node").len()), (0, 0));
    let [tap] = &grants("vm-default-node-1")[..] else { panic!("one interface") };
    assert_eq!(tap.kind, PortKind::Tap { mac: "52:54:00:00:00:01".parse().unwrap() });
}

#[test]
fn a_farm_in_a_pod_keeps_its_own_address_and_nobody_else_gets_it() {
    let mut world = in_pods(lab());
    world.settle();
    let address = |world: &World| {
        let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
        config.address.to_string()
    };
    assert_eq!(address(&world), "10.10.0.2");
    assert_eq!(boots_are_sent_to(&world), ["10.10.0.2"]);
    let late = machine("node-2", &json!({"name": "lab", "lan": "lab", "address": "10.10.0.2"}));
    world.observed.objects.push(late);
    world.settle();
    assert_eq!(address(&world), "10.10.0.2");
    let said = world.said(Kind::Machine, "node-2");
    assert!(said.contains("10.10.0.2 is already the address of farm/lab"), "{said}");
}

#[test]
fn a_router_in_a_pod_shares_its_address_with_no_farm() {
    let mut objects = lab();
    let Some(AnyObject::Farm(farm)) = objects.get_mut(2) else { panic!("the farm") };
    farm.spec.addresses = vec!["10.10.0.1".parse().unwrap()];
    assert_eq!(problems(&World::new(objects.clone())), [""; 0]);
    assert_eq!(problems(&in_pods(objects)), ["farm/lab spec.addresses[0]: 10.10.0.1 is the gateway of lan/lab"]);
}

fn open(namespaces: &serde_json::Value, mut object: AnyObject) -> AnyObject {
    let access = serde_json::from_value(namespaces.clone()).unwrap();
    match &mut object {
        AnyObject::Image(object) => object.spec.access = access,
        AnyObject::Lan(object) => object.spec.access = access,
        AnyObject::Farm(object) => object.spec.access = access,
        _ => panic!("it has no access"),
    }
    object
}

/// The lab in the namespace `infra`, and a machine of the namespace `team` that refers to it.
fn shared_lab(access: &serde_json::Value) -> Vec<AnyObject> {
    let infra = |object| in_namespace("infra", object);
    let there = json!({"namespace": "infra", "name": "lab"});
    let spec = json!({"vm": {}, "farm": there, "nics": [{"name": "lab", "lan": there}],
        "config": {"files": [{"path": "/token", "secret": {"secret": "own", "key": "token"}}]}});
    let machine = object(json!({"kind": "Machine", "metadata": {"name": "node-1", "namespace": "team"}, "spec": spec}));
    vec![infra(image()), infra(open(access, lan())), infra(open(access, farm())), machine]
}

#[test]
fn what_another_namespace_has_is_reached_only_if_its_access_says_so() {
    let closed = in_pods(shared_lab(&json!({})));
    assert_eq!(
        problems(&closed),
        [
            "machine/team/node-1 spec.nics[0].lan: no lan is called \"lab\" in namespace infra whose spec.access allows namespace team",
            "machine/team/node-1 spec.farm: no farm is called \"lab\" in namespace infra whose spec.access allows namespace team",
        ]
    );
    let gone: Vec<_> = shared_lab(&json!({})).into_iter().filter(|o| o.kind() == Kind::Machine).collect();
    assert_eq!(problems(&in_pods(gone)), problems(&closed), "whether it is there is not to be told from the words");
    assert_eq!(problems(&in_pods(shared_lab(&json!({"namespaces": "All"})))), [""; 0]);
    let by_label = json!({"namespaces": "Selector", "selector": {"matchLabels": {"lab": "yes"}}});
    let mut selected = in_pods(shared_lab(&by_label));
    assert_eq!(problems(&selected).len(), 2);
    let labels = BTreeMap::from([("lab".to_owned(), "yes".to_owned())]);
    selected.observed.environment.namespaces.insert("team".to_owned(), labels);
    assert_eq!(problems(&selected), [""; 0]);
}

#[test]
fn who_runs_already_reaches_nothing_by_a_change_that_is_not_allowed() {
    let mut world = in_pods(lab());
    let mut other = in_namespace("other", lan());
    other.metadata_mut().name = "secret".parse().unwrap();
    world.observed.objects.push(other);
    world.settle();
    let wanted = |world: &mut World, name: &str| {
        let wanted = world.round().workloads;
        port_grants("0a1b2c3d", wanted.iter().find(|workload| workload.name() == name).unwrap())
    };
    let before = (wanted(&mut world, "vm-default-node-1"), wanted(&mut world, "farm-default-lab"));
    let theirs: stoke_api::objects::TargetRef =
        serde_json::from_value(json!({"namespace": "other", "name": "secret"})).unwrap();
    let AnyObject::Machine(machine) = world.object(Kind::Machine, "node-1") else { panic!("a machine") };
    machine.spec.nics[0].lan = theirs.clone();
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    farm.spec.lan = theirs;
    let after = (wanted(&mut world, "vm-default-node-1"), wanted(&mut world, "farm-default-lab"));
    assert_eq!(after, before);
    assert!(world.said(Kind::Machine, "node-1").starts_with("False Invalid"));
    // It still follows requests.
    machine_status(&mut world).stop_requested = true;
    world.round();
    assert_eq!(power_of(&world), stoke_api::objects::Power::Off);
}

#[test]
fn a_machine_of_another_namespace_boots_and_keeps_its_secrets_apart() {
    let mut world = in_pods(shared_lab(&json!({"namespaces": "All"})));
    world.settle();
    assert!(world.names().contains(&"vm-team-node-1"), "{:?}", world.names());
    let Role::Farm(config) = world.role("farm-infra-lab") else { panic!("a farm") };
    let secrets: Vec<_> = config.nodes[0].config.secrets().map(ToString::to_string).collect();
    assert_eq!(secrets, ["team/own/token"]);
}

#[test]
fn what_is_unique_in_a_cluster_is_the_older_ones() {
    let aged = |name: &str, created: &str, namespace: &str, vni: Option<u32>| {
        let mut object = in_namespace(namespace, lan());
        object.metadata_mut().name = name.parse().unwrap();
        object.metadata_mut().creation_timestamp = Some(created.to_owned());
        let AnyObject::Lan(lan) = &mut object else { panic!("a LAN") };
        lan.spec.overlay.vni = vni;
        object
    };
    let mut world = in_pods(vec![
        aged("a", "2026-01-02T00:00:00Z", "one", Some(7)),
        aged("b", "2026-01-01T00:00:00Z", "two", Some(7)),
        aged("c", "2026-01-03T00:00:00Z", "two", None),
    ]);
    // Their subnets are the same: each has a router of its own.
    let told = "lan/one/a spec.overlay.vni: an object that is not in this namespace has this network identifier";
    assert_eq!(problems(&world), [told]);
    world.settle();
    let vnis: Vec<_> = world
        .observed
        .objects
        .iter()
        .filter_map(|object| match object {
            AnyObject::Lan(lan) => Some(lan.status.vni),
            _ => None,
        })
        .collect();
    assert_eq!(vnis[..2], [None, Some(7)]);
    assert!(vnis[2].is_some_and(|vni| vni >= 4096), "{vnis:?}");
}

#[test]
fn uplinks_of_different_nodes_are_different() {
    let with_uplink = |name: &str, rack: &str| {
        let mut object = lan();
        object.metadata_mut().name = name.parse().unwrap();
        let AnyObject::Lan(lan) = &mut object else { panic!("a LAN") };
        lan.spec.uplinks =
            serde_json::from_value(json!([{"interface": "eno2", "nodeSelector": {"rack": rack}}])).unwrap();
        object
    };
    assert_eq!(problems(&in_pods(vec![with_uplink("a", "1"), with_uplink("b", "2")])), [""; 0]);
    let told = ["lan/b spec.uplinks[0].interface: eno2 is already an uplink of lan/a"];
    assert_eq!(problems(&in_pods(vec![with_uplink("a", "1"), with_uplink("b", "1")])), told);
}

fn set(replicas: u32) -> AnyObject {
    let template = json!({
        "metadata": {"labels": {"role": "worker"}},
        "spec": {"vm": {"cpus": 2}, "farm": "lab", "nics": [{"name": "lab", "lan": "lab"}]},
    });
    let spec = json!({"replicas": replicas, "addresses": "10.10.0.50-10.10.0.59", "template": template});
    let metadata = json!({"name": "web", "namespace": "default", "uid": "set-uid"});
    object(json!({"kind": "MachineSet", "metadata": metadata, "spec": spec}))
}

/// The lab, with what a store does of changes of objects.
struct Sets(World);

impl Sets {
    fn new(replicas: u32) -> Self {
        let mut objects = lab();
        objects.push(set(replicas));
        Self(World::new(objects))
    }

    fn round(&mut self) -> Vec<String> {
        let desired = self.0.round();
        desired.objects.iter().map(|change| self.carry_out(change)).collect()
    }

    fn carry_out(&mut self, change: &ObjectChange) -> String {
        let objects = &mut self.0.observed.objects;
        match change {
            ObjectChange::Create(object) => {
                let mut object = (**object).clone();
                let name = object.reference();
                assert!(objects.iter().all(|other| other.reference() != name), "{name} is there");
                object.metadata_mut().uid = Some(format!("uid of {name}"));
                objects.push(object);
                format!("create {name}")
            }
            ObjectChange::Update(object) => {
                let name = object.reference();
                *objects.iter_mut().find(|other| other.reference() == name).unwrap() = (**object).clone();
                format!("update {name}")
            }
            ObjectChange::Delete { object, uid } => {
                objects.retain(|other| other.reference() != *object || other.metadata().uid != *uid);
                format!("delete {object}")
            }
        }
    }

    fn set(&mut self) -> &mut Object<stoke_api::objects::MachineSetSpec, MachineSetStatus> {
        match self.0.object(Kind::MachineSet, "web") {
            AnyObject::MachineSet(set) => set,
            _ => panic!("a set"),
        }
    }

    fn machine(&mut self, name: &str) -> &mut Object<MachineSpec, MachineStatus> {
        match self.0.object(Kind::Machine, name) {
            AnyObject::Machine(machine) => machine,
            _ => panic!("a machine"),
        }
    }
}

#[test]
fn a_set_has_as_many_machines_as_it_says_each_with_what_is_its_own() {
    let mut sets = Sets::new(3);
    assert_eq!(sets.round(), ["create machine/web-0", "create machine/web-1", "create machine/web-2"]);
    assert_eq!(sets.round(), [""; 0]);
    assert_eq!(problems(&sets.0), [""; 0]);
    let second = sets.machine("web-1").clone();
    assert_eq!(second.spec.nics[0].address, Some("10.10.0.51".parse().unwrap()));
    assert_eq!(second.metadata.labels["role"], "worker");
    assert_eq!(second.metadata.controller().map(|owner| owner.uid.as_str()), Some("set-uid"));
    let status = sets.set().status.clone();
    assert_eq!(
        (status.replicas, status.ready_replicas, status.selector.as_str()),
        (3, 0, "stokehold.dev/machine-set=web")
    );
    // Less: the last ones go. More: they come back as they were.
    sets.set().spec.replicas = 1;
    assert_eq!(sets.round(), ["delete machine/web-2", "delete machine/web-1"]);
    assert_eq!(sets.round(), [""; 0]);
    sets.set().spec.replicas = 2;
    assert_eq!(sets.round(), ["create machine/web-1"]);
    assert_eq!(sets.machine("web-1").spec, second.spec);
}

#[test]
fn a_changed_template_changes_the_machines_and_leaves_what_others_noted() {
    let mut sets = Sets::new(1);
    sets.round();
    sets.machine("web-0").metadata.annotations.insert("note".to_owned(), "mine".to_owned());
    assert_eq!(sets.round(), [""; 0]);
    sets.set().spec.template.spec.vm.as_mut().unwrap().cpus = 4;
    assert_eq!(sets.round(), ["update machine/web-0"]);
    let machine = sets.machine("web-0");
    assert_eq!((machine.spec.vm.as_ref().unwrap().cpus, machine.metadata.annotations["note"].as_str()), (4, "mine"));
}

#[test]
fn a_set_takes_no_machine_that_is_not_its_own() {
    let mut sets = Sets::new(1);
    sets.0.observed.objects.push(machine("web-0", &json!({"name": "lab", "lan": "lab"})));
    assert_eq!(sets.round(), [""; 0]);
    let said = sets.0.said(Kind::MachineSet, "web");
    assert_eq!(
        said,
        "False NameTaken: machine/web-0 is there and was not made by this set; delete or rename one of them"
    );
}

#[test]
fn a_set_that_cannot_be_leaves_its_machines_alone() {
    let mut sets = Sets::new(2);
    sets.round();
    sets.set().spec.replicas = 11;
    assert_eq!(sets.round(), [""; 0]);
    assert_eq!(sets.0.said(Kind::MachineSet, "web"), "False Invalid: spec.replicas: spec.addresses has 10 addresses");
    assert_eq!(sets.set().status.replicas, 2);
}

#[test]
fn what_a_sets_machines_would_want_of_others_is_told_before_they_are_there() {
    let mut sets = Sets::new(2);
    sets.0.observed.objects.push(server("other", "52:54:00:00:00:09", "10.10.0.51"));
    sets.set().spec.template.spec.farm = Some("lap".parse().unwrap());
    let told = problems(&sets.0);
    let wanted = "machineset/web spec.template.spec.farm: no farm is called \"lap\"; did you mean \"lab\"?";
    assert!(told.contains(&wanted.to_owned()), "{told:?}");
    let address = told.iter().find(|line| line.contains("10.10.0.51")).unwrap();
    assert!(address.starts_with("machineset/web spec.addresses: ") || address.starts_with("server/other"), "{address}");
}

#[test]
fn machines_of_a_set_that_is_gone_go() {
    let mut sets = Sets::new(2);
    sets.round();
    sets.0.observed.objects.retain(|object| object.kind() != Kind::MachineSet);
    assert_eq!(sets.round(), ["delete machine/web-0", "delete machine/web-1"]);
    // A cluster does that by itself, and knows better whether the set is gone.
    let mut sets = Sets::new(1);
    sets.round();
    sets.0.observed.environment.layout = Layout::Pods;
    sets.0.observed.objects.retain(|object| object.kind() != Kind::MachineSet);
    assert_eq!(sets.round(), [""; 0]);
}

#[test]
fn a_manual_machine_runs_from_its_start_to_its_end() {
    let mut objects = lab();
    let Some(AnyObject::Machine(machine)) = objects.get_mut(4) else { panic!("the machine") };
    machine.spec.run_strategy = stoke_api::objects::RunStrategy::Manual;
    let mut world = World::new(objects);
    world.settle();
    assert!(!world.names().contains(&"vm-default-node-1"));
    assert_eq!(
        world.said(Kind::Machine, "node-1"),
        "False Stopped: its run strategy is Manual; `stoke start` starts it"
    );
    machine_status(&mut world).start_requested = true;
    world.settle();
    assert_eq!(power_of(&world), stoke_api::objects::Power::On);
    *vm_report(&mut world) = VmReport { power: stoke_api::objects::Power::Off, ended: true, ..VmReport::default() };
    world.settle();
    assert_eq!(power_of(&world), stoke_api::objects::Power::Off);
    assert!(!machine_status(&mut world).start_requested);
}

fn power_of(world: &World) -> stoke_api::objects::Power {
    let Role::Vm(config) = world.role("vm-default-node-1") else { panic!("a machine") };
    config.power
}

fn joining() -> World {
    let mut objects = lab();
    let Some(AnyObject::Farm(farm)) = objects.get_mut(2) else { panic!("the farm") };
    let join = json!({"labels": {"role": "worker", "rack": "1"}, "taints": ["new:NoSchedule"], "tokenSeconds": 600});
    farm.spec.join = Some(serde_json::from_value(join).unwrap());
    farm.spec.config.kubelet.labels.insert("rack".to_owned(), "2".to_owned());
    World::new(objects)
}

fn cluster() -> ClusterInfo {
    ClusterInfo {
        server: "https://192.0.2.1:6443".to_owned(),
        ca: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        dns: vec!["10.96.0.10".parse().unwrap()],
        domain: "cluster.local".to_owned(),
    }
}

#[test]
fn nodes_are_told_how_to_join() {
    let mut world = joining();
    world.settle();
    assert!(world.round().joins.is_empty());
    let said = |world: &mut World| {
        let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
        let joining = farm.status.conditions.iter().find(|condition| condition.kind == "Joining").unwrap();
        (joining.reason.clone(), joining.message.clone())
    };
    assert_eq!(said(&mut world).0, "NoCluster");
    world.observed.environment.cluster = Some(cluster());
    world.settle();
    assert_eq!(said(&mut world), ("ClusterKnown".to_owned(), "its nodes join https://192.0.2.1:6443".to_owned()));
    let Role::Farm(config) = world.role("farm-default-lab") else { panic!("a farm") };
    let node = &config.nodes[0].config;
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&json!({"files": node.files, "kubelet": node.kubelet})).unwrap()
    );
    // What machines get that no object names has no token.
    assert!(config.config.files.is_empty());
}

#[test]
fn a_fresh_token_is_wanted_while_a_node_boots() {
    let mut world = joining();
    world.observed.environment.cluster = Some(cluster());
    world.settle();
    let joins = |world: &mut World| {
        let joins = world.round().joins;
        joins.into_iter().map(|join| (join.node.to_string(), join.boots, join.handed_out)).collect::<Vec<_>>()
    };
    let told = |boots, handed_out: &str| {
        vec![
            ("server/rack1-07".to_owned(), false, String::new()),
            ("machine/node-1".to_owned(), boots, handed_out.to_owned()),
        ]
    };
    // The machine is on and nobody has heard of it yet; the server has not asked for anything.
    assert_eq!(joins(&mut world), told(true, ""));
    let given = "1970-01-01T00:20:00Z";
    let state = |phase, ready| NodeState {
        phase,
        ready,
        boot_started: "1970-01-01T00:19:00Z".into(),
        secrets_given: given.into(),
        ..NodeState::default()
    };
    world.node_reports(state(Phase::Root, false));
    assert_eq!(joins(&mut world), told(true, given));
    world.node_reports(state(Phase::Ready, true));
    assert_eq!(joins(&mut world), told(false, given));
    let join = world.round().joins.remove(1);
    assert_eq!(join.node_name, "node-1");
    assert_eq!(join.addresses, ["10.10.0.21".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(join.secret.to_string(), "stokehold-join/machine.default.node-1");
    assert_eq!((join.token_seconds, join.server.as_str()), (600, "https://192.0.2.1:6443"));
    let labels: Vec<_> = join.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!((labels.join(" ").as_str(), join.taints.join(" ").as_str()), ("rack=2 role=worker", "new:NoSchedule"));
}

#[test]
fn who_may_use_an_image_is_no_reason_to_build_it_again() {
    let mut world = World::new(lab());
    world.settle();
    let AnyObject::Image(image) = world.object(Kind::Image, "node") else { panic!("an image") };
    image.spec.access = serde_json::from_value(json!({"namespaces": "All"})).unwrap();
    assert!(world.round().workloads.iter().all(|workload| workload.role.word() != "build"));
    let named = Metadata::named("x".parse().unwrap());
    assert_eq!(named.controller(), None);
}

#[test]
fn a_lan_has_the_mtu_that_goes_whole_between_nodes() {
    let mut world = in_pods(lab());
    world.observed.environment.overlay_mtu = Some(1450);
    world.settle();
    let mtus = |world: &mut World| {
        let one = |workload: &Workload| match &workload.role {
            Role::Node(config) => config.lans.iter().map(|lan| lan.mtu).collect(),
            Role::Router(config) => vec![config.mtu],
            Role::Farm(config) => vec![config.mtu],
            _ => Vec::new(),
        };
        world.round().workloads.iter().flat_map(one).collect::<Vec<_>>()
    };
    assert_eq!(mtus(&mut world), [1450; 3]);
    let AnyObject::Lan(lan) = world.object(Kind::Lan, "lab") else { panic!("a LAN") };
    let ready = lan.status.conditions.iter().find(|condition| condition.kind == "Ready").unwrap();
    assert!(ready.message.contains("MTU 1450"), "{}", ready.message);
    lan.spec.mtu = 1400;
    world.settle();
    assert_eq!(mtus(&mut world), [1400; 3], "what people want is less");
}

/// A farm whose LAN is somebody else's, on one host.
#[test]
fn one_host_says_that_it_has_no_place_for_a_farm_of_another_network() {
    let mut world = in_pods(lab());
    world.observed.environment.layout = Layout::Host;
    let AnyObject::Lan(lan) = world.object(Kind::Lan, "lab") else { panic!("a LAN") };
    lan.spec.external = true;
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    farm.spec.addresses = vec!["10.10.0.5".parse().unwrap()];
    farm.spec.placement = serde_json::from_value(json!({"loadBalancer": {}})).unwrap();
    world.observed.objects.retain(|object| !matches!(object, AnyObject::Machine(_)));
    let workloads = world.round().workloads;
    assert!(!workloads.iter().any(|workload| matches!(workload.role, Role::Farm(_) | Role::Router(_) | Role::Node(_))));
    world.settle();
    let AnyObject::Farm(farm) = world.object(Kind::Farm, "lab") else { panic!("a farm") };
    let ready = farm.status.conditions.iter().find(|condition| condition.kind == "Ready").unwrap();
    assert_eq!(ready.reason, "NeedsCluster", "{}", ready.message);
    assert!(ready.message.contains("spec.placement is ignored on one host"), "{}", ready.message);
}
