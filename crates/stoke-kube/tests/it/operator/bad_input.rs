//! What is wrong around the objects: rights, definitions, images, nodes, namespaces, sizes. The condition says what to do.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::world::{self, NAMESPACE, NODE, World};
use super::{farm, lan, machine};
use crate::cluster::until;

/// The chart's accounts, roles and bindings, in the cluster; the operator's kubeconfig.
fn with_the_charts_rights(world: &World) -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/stokehold");
    let mut helm = world.plane.helm().unwrap();
    helm.args(["template", "stokehold"]).arg(chart).args([
        "--namespace",
        NAMESPACE,
        "--set",
        "images.registry=localhost",
    ]);
    for template in ["rbac-operator", "serviceaccounts"] {
        helm.args(["--show-only", &format!("templates/{template}.yaml")]);
    }
    let rendered = helm.output().unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let mut kubectl = world.plane.kubectl().unwrap();
    kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    let mut applied = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut applied.stdin.take().unwrap(), &rendered.stdout).unwrap();
    assert!(applied.wait().unwrap().success());
    world.plane.kubeconfig_for_service_account(NAMESPACE, "stokehold-operator").unwrap().text()
}

/// Takes a verb on a resource from the operator.
async fn take_away(world: &World, resource: &str, verb: &str) {
    let roles = Api::<ClusterRole>::all(world.client.clone());
    let mut role = roles.get("stokehold-operator").await.unwrap();
    let mut split = Vec::new();
    for mut rule in role.rules.take().unwrap() {
        let named = rule.resources.clone().unwrap_or_default();
        if named.iter().any(|one| one == resource) && rule.verbs.iter().any(|one| one == verb) {
            let mut less = rule.clone();
            less.resources = Some(vec![resource.to_owned()]);
            less.verbs.retain(|one| one != verb);
            split.push(less);
            rule.resources.as_mut().unwrap().retain(|one| one != resource);
        }
        if rule.resources.as_ref().is_some_and(|resources| !resources.is_empty()) {
            split.push(rule);
        }
    }
    role.rules = Some(split);
    roles.replace("stokehold-operator", &kube::api::PostParams::default(), &role).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_charts_rights_all_goes_and_a_missing_verb_is_told_on_the_object() {
    let world = World::new().await;
    let kubeconfig = with_the_charts_rights(&world);
    let running = world.operator_as(kubeconfig.clone()).await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.runs("node-1").await;
    until("claims are kept", async || world.versions().await.contains_key("claim hostname-default.lab.node-1")).await;

    take_away(&world, "poddisruptionbudgets", "patch").await;
    world.apply(&[machine("node-2", "lab")]).await;
    world.says("Machine", "node-2", "", "the operator's role lacks this: `helm upgrade`").await;
    world.says("Machine", "node-1", "Booting", "").await;

    // One that may not even look says so on every object, and ends nothing.
    let pod = world.pod("default", "vm-default-node-1").await.unwrap().uid();
    running.shutdown.cancel();
    take_away(&world, "poddisruptionbudgets", "list").await;
    let again = world.operator_as(kubeconfig.clone()).await;
    for (kind, name) in [("Machine", "node-1"), ("Lan", "lab")] {
        world.says(kind, name, "OperatorFailed", "cannot watch PodDisruptionBudget").await;
        world.says(kind, name, "OperatorFailed", "`helm upgrade`").await;
    }
    assert_eq!(world.pod("default", "vm-default-node-1").await.unwrap().uid(), pod);
    with_the_charts_rights(&world);
    world.runs("node-2").await;
    assert_eq!(world.pod("default", "vm-default-node-1").await.unwrap().uid(), pod);
    again.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_of_an_older_version_is_brought_up_to_date() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let world = World::new().await;
    // Somebody installed one that knows less.
    let definitions = Api::<CustomResourceDefinition>::all(world.client.clone());
    let mut old = serde_json::to_value(definitions.get("machines.stokehold.dev").await.unwrap()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    for newer in ["ports", "serviceType", "scheduling"] {
        old.pointer_mut(spec).and_then(Value::as_object_mut).unwrap().remove(newer).unwrap();
    }
    old["metadata"].as_object_mut().unwrap().remove("managedFields");
    let old = serde_json::from_value(old).unwrap();
    let somebody = kube::api::PostParams { field_manager: Some("helm".to_owned()), ..Default::default() };
    definitions.replace("machines.stokehold.dev", &somebody, &old).await.unwrap();
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;

    let _running = world.operator().await;
    world.runs("node-1").await;
    let mut newer = machine("node-1", "lab");
    newer["spec"]["ports"] = json!([{"name": "ssh", "port": 22}]);
    let mut stored = json!(null);
    until("the newer field is kept", async || {
        world.apply(&[newer.clone()]).await;
        stored = world.kind("Machine", "default").get("node-1").await.unwrap().data["spec"]["ports"].clone();
        stored != json!(null)
    })
    .await;
    assert_eq!(stored, json!([{"name": "ssh", "port": 22}]));
}

/// A machine whose pod no kubelet starts: what one would say of it.
async fn with_status(world: &World, bound: bool, status: Value) {
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab")]).await;
    until("the LAN is ready", async || world.is_ready("Lan", "lab").await).await;
    until("the farm is ready", async || world.is_ready("Farm", "lab").await).await;
    world.kubelet_works.store(false, Ordering::Relaxed);
    world.apply(&[machine("node-1", "lab")]).await;
    until("its pod", async || world.pod("default", "vm-default-node-1").await.is_some()).await;
    let pods = world.pods("default");
    if bound {
        let pod: Pod = pods.get("vm-default-node-1").await.unwrap();
        world::keep(&pods, &pod).await.unwrap();
    }
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status("vm-default-node-1", &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_is_named_and_where_it_is_set() {
    let world = World::new().await;
    let _running = world.operator().await;
    let message = "failed to pull and unpack image \"registry.test/vm:1\": not found";
    let container = json!({"name": "stoke", "image": "registry.test/vm:1", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": message}}});
    with_status(&world, true, json!({"phase": "Pending", "containerStatuses": [container]})).await;
    world.says("Machine", "node-1", "", "registry.test/vm:1").await;
    world.says("Machine", "node-1", "", "`images` in the chart's values").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_tun_is_named_and_the_module_that_it_lacks() {
    let world = World::new().await;
    let _running = world.operator().await;
    world.agent.without_tun.store(true, Ordering::Relaxed);
    let unschedulable = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient stokehold.dev/lan."});
    with_status(&world, false, json!({"phase": "Pending", "conditions": [unschedulable]})).await;
    world.says("Machine", "node-1", "", "1 Insufficient stokehold.dev/lan").await;
    world.says("Machine", "node-1", "", &format!("on {NODE}: load the module tun")).await;
}

async fn enforce(world: &World, namespace: &str, level: &str) {
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.patch(namespace, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_namespace_takes_machines_and_a_router_that_it_does_not_take_says_so() {
    let world = World::new().await;
    let _running = world.operator().await;
    for namespace in [NAMESPACE, "default"] {
        enforce(&world, namespace, "restricted").await;
    }
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.says("Lan", "lab", "", "violates PodSecurity").await;
    world
        .says("Lan", "lab", "", "the operator's namespace takes `pod-security.kubernetes.io/enforce=privileged`")
        .await;
    enforce(&world, NAMESPACE, "privileged").await;
    world.runs("node-1").await;
    let pod = world.pod("default", "vm-default-node-1").await.unwrap();
    assert_eq!(pod.spec.unwrap().security_context.unwrap().run_as_non_root, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_no_configmap_holds_leaves_what_runs_as_it_is() {
    let world = World::new().await;
    let _running = world.operator().await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.runs("node-1").await;
    let pod = world.pod(NAMESPACE, "farm-default-lab").await.unwrap().uid();
    let [_, mut large] = farm("lab");
    large["spec"]["config"] = json!({"files": [{"path": "/etc/large", "content": "x".repeat(600_000)}]});
    world.apply(&[large]).await;
    world.says("Farm", "lab", "", "a ConfigMap holds at most").await;
    world.says("Farm", "lab", "", "a farm of their own").await;
    assert_eq!(world.pod(NAMESPACE, "farm-default-lab").await.unwrap().uid(), pod);
    world.apply(&farm("lab")).await;
    until("it is as before", async || world.is_ready("Farm", "lab").await).await;
    assert_eq!(world.pod(NAMESPACE, "farm-default-lab").await.unwrap().uid(), pod);
}
