use std::path::Path;

use stoke_api::load::load_text;
use stoke_reconcile::{Environment, Layout, Observed, reconcile_eventually};

use super::*;

fn settings() -> Settings {
    let text = r#"{"namespace": "stokehold-system", "images": {"stoke": "registry.test/stoke:1", "vm": "registry.test/vm:1",
        "builder": "registry.test/builder:1", "pullSecrets": ["registry"]}}"#;
    serde_json::from_str(text).unwrap()
}

fn facts() -> Facts {
    Facts { installation: "0a1b2c3d".to_owned(), uid: Some("11111111-2222".to_owned()), ..Facts::default() }
}

/// What the example comes to in a cluster.
fn workloads() -> BTreeMap<String, Workload> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/netboot");
    let files = ["image.yaml", "lan.yaml", "farm.yaml", "machines.yaml"];
    let loaded = files.map(|file| {
        let path = folder.join(file);
        load_text(&path, &fs_err::read_to_string(&path).unwrap()).unwrap()
    });
    let objects = loaded.into_iter().flat_map(|loaded| loaded.objects).map(|(object, _)| object).collect();
    let environment = Environment {
        installation: "0a1b2c3d".to_owned(),
        layout: Layout::Pods,
        state: "/var/lib/stokehold".into(),
        run: "/run/stokehold".into(),
        ..Environment::default()
    };
    let desired = reconcile_eventually(&Observed { objects, environment, ..Observed::default() });
    desired.workloads.into_iter().map(|workload| (workload.name(), workload)).collect()
}

fn rendered(facts: &Facts, name: &str) -> Rendered {
    let workloads = workloads();
    let workload = workloads.get(name).unwrap_or_else(|| panic!("{name} is not among {:?}", workloads.keys()));
    render(&settings(), facts, workload).unwrap()
}

fn shown(rendered: &Rendered) -> String {
    let runs = match &rendered.runs {
        Runs::Pod(pod) => serde_json::to_value(pod),
        Runs::Job(job) => serde_json::to_value(job),
    };
    let all = serde_json::json!({
        "map": rendered.config_map.metadata, "claim": rendered.claim, "budget": rendered.budget, "service": rendered.service, "runs": runs.unwrap(),
    });
    serde_json::to_string_pretty(&all).unwrap()
}

#[test]
fn a_router() {
    insta::assert_snapshot!(shown(&rendered(&facts(), "router-default-lab")));
}

#[test]
fn a_farm() {
    insta::assert_snapshot!(shown(&rendered(&facts(), "farm-default-lab")));
}

#[test]
fn a_machine() {
    insta::assert_snapshot!(shown(&rendered(&facts(), "vm-default-node-1")));
}

#[test]
fn a_build() {
    insta::assert_snapshot!(shown(&rendered(&facts(), "build-default-node")));
}

#[test]
fn a_workload_is_read_back_from_its_configuration() {
    for (name, workload) in workloads() {
        let Ok(rendered) = render(&settings(), &facts(), &workload) else {
            assert_eq!(name, "node");
            continue;
        };
        assert_eq!(workload_in(&rendered.config_map), Some(workload), "{name}");
    }
}

#[test]
fn another_configuration_is_no_other_pod() {
    let workloads = workloads();
    let mut workload = workloads["vm-default-node-1"].clone();
    let template = |workload: &Workload| match render(&settings(), &facts(), workload).unwrap().runs {
        Runs::Pod(pod) => pod.metadata.annotations.unwrap()[TEMPLATE].clone(),
        Runs::Job(_) => unreachable!(),
    };
    let before = template(&workload);
    let Role::Vm(vm) = &mut workload.role else { unreachable!() };
    vm.reboots_requested += 1;
    assert_eq!(template(&workload), before);
    let Role::Vm(vm) = &mut workload.role else { unreachable!() };
    vm.cpus += 1;
    assert_ne!(template(&workload), before);
}

#[test]
fn a_machine_of_a_set_keeps_away_from_the_others() {
    let facts = Facts { set: Some("workers".to_owned()), kvm: true, ..facts() };
    let rendered = rendered(&facts, "vm-default-node-1");
    let Runs::Pod(pod) = rendered.runs else { unreachable!() };
    let spec = pod.spec.unwrap();
    assert!(spec.affinity.unwrap().pod_anti_affinity.is_some());
    let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
    assert!(limits.contains_key("stokehold.dev/kvm"));
}

#[test]
fn a_machine_is_in_the_groups_that_may_open_kvm_and_needs_no_privilege_for_it() {
    let facts = Facts { kvm: true, kvm_groups: [36, 104].into(), ..facts() };
    let rendered = rendered(&facts, "vm-default-node-1");
    let Runs::Pod(pod) = rendered.runs else { unreachable!() };
    let spec = pod.spec.unwrap();
    let security = spec.security_context.unwrap();
    assert_eq!(security.supplemental_groups, Some(vec![36, 104]));
    assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(USER)));
    assert_eq!(spec.containers[0].security_context, Some(pod::security(&[])));
}

/// A farm of two servers on a network that is somebody else's.
fn farms(placement: &str) -> BTreeMap<String, Rendered> {
    let text = format!(
        "apiVersion: stokehold.dev/v1alpha1\nkind: Lan\nmetadata: {{name: rack}}\n\
         spec: {{external: true, subnets: [{{name: v4, cidr: 10.20.0.0/24}}]}}\n---\n\
         apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {{name: rack}}\n\
         spec: {{lan: rack, image: node, addresses: [10.20.0.5, 10.20.0.6], placement: {placement}}}\n"
    );
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/netboot/image.yaml");
    let loaded =
        [load_text(Path::new("rack.yaml"), &text), load_text(&image, &fs_err::read_to_string(&image).unwrap())];
    let loaded = loaded.into_iter().flat_map(|loaded| loaded.unwrap().objects);
    let objects: Vec<_> = loaded.map(|(object, _)| object).collect();
    let farm = objects.iter().find_map(|object| match object {
        stoke_api::AnyObject::Farm(farm) => Some(farm.spec.clone()),
        _ => None,
    });
    let facts = Facts { placement: farm.unwrap().placement, ..facts() };
    let environment =
        Environment { installation: "0a1b2c3d".to_owned(), layout: Layout::Pods, ..Environment::default() };
    let desired = reconcile_eventually(&Observed { objects, environment, ..Observed::default() });
    let names: Vec<_> = desired.workloads.iter().map(Workload::name).collect();
    assert!(!names.iter().any(|name| name.starts_with("router")), "somebody else's network has its own: {names:?}");
    let farms = desired.workloads.into_iter().filter(|workload| matches!(workload.role, Role::Farm(_)));
    farms.map(|workload| (workload.name(), render(&settings(), &facts, &workload).unwrap())).collect()
}

#[test]
fn a_farm_on_the_network_of_nodes() {
    let farms = farms("{hostNetwork: {nodes: [worker-1, worker-2]}}");
    assert_eq!(farms.keys().collect::<Vec<_>>(), ["farm-default-rack", "farm-default-rack.1"]);
    insta::assert_snapshot!(shown(&farms["farm-default-rack.1"]));
}

#[test]
fn a_farm_behind_a_load_balancer() {
    let farms = farms("{loadBalancer: {annotations: {example.org/pool: boot}}}");
    insta::assert_snapshot!(shown(&farms["farm-default-rack"]));
    let second = farms["farm-default-rack.1"].service.as_ref().unwrap().metadata.name.clone().unwrap();
    assert!(second.starts_with("farm-default-rack-1-") && !second.contains('.'), "no label of DNS: {second}");
}
