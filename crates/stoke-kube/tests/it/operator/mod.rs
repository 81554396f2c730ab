//! The operator against a real API server; node and roles are imitated (`world.rs`).

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod bad_input;
mod builds;
mod exports;
mod joins;
mod placements;
mod servers;
mod services;
pub(crate) mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};

use crate::cluster::until;
use world::{NAMESPACE, NODE, World};

pub(crate) fn lan(name: &str) -> Value {
    json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Lan", "metadata": {"name": name, "namespace": "default"},
        "spec": {"subnets": [{"name": "v4", "cidr": "10.10.0.0/24", "gateway": "10.10.0.1"}]}})
}

/// A farm on a LAN, and its image.
pub(crate) fn farm(lan: &str) -> [Value; 2] {
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "default"});
        json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let source = json!({"source": {"debian": {"suite": "bookworm", "packages": ["linux-image-amd64"]}}, "forms": {"netboot": {}}});
    [object("Image", "node", source), object("Farm", "lab", json!({"lan": lan, "image": "node"}))]
}

fn machine(name: &str, lan: &str) -> Value {
    json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name, "namespace": "default"},
        "spec": {"vm": {"memory": "256Mi"}, "farm": "lab", "nics": [{"name": "lan", "lan": lan}]}})
}

/// Waits until the operator has nothing to write any more.
async fn settled(world: &World, running: &world::Running) {
    let mut last = (0, std::collections::BTreeMap::new());
    until("nothing is written any more", async || {
        let metrics = &running.operator.metrics;
        let rounds = metrics.rounds.get();
        while metrics.rounds.get() < rounds + 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = (metrics.writes.get(), world.versions().await);
        let same = now == last;
        last = now;
        same
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_become_pods_and_pods_become_statuses() {
    let world = World::new().await;
    let running = world.operator().await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.runs("node-1").await;
    assert!(world.is_ready("Lan", "lab").await, "{:?}", world.condition("Lan", "lab").await);

    // The router is where the operator is, the machine where its object is, and goes with it.
    let router = world.pod(NAMESPACE, "router-default-lab").await.unwrap();
    assert_eq!(router.owner_references()[0].kind, "ConfigMap");
    let vm = world.pod("default", "vm-default-node-1").await.unwrap();
    assert_eq!((vm.owner_references()[0].kind.as_str(), vm.owner_references()[0].name.as_str()), ("Machine", "node-1"));
    let farm = world.pod(NAMESPACE, "farm-default-lab").await.unwrap();
    assert_eq!(farm.owner_references()[0].kind, "ConfigMap");
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(world.client.clone(), NAMESPACE);
    let keys: Vec<_> = secrets.get("farm-default-lab").await.unwrap().data.unwrap().into_keys().collect();
    assert_eq!(keys, ["certificate.pem", "key.pem"]);
    let jobs = Api::<k8s_openapi::api::batch::v1::Job>::namespaced(world.client.clone(), NAMESPACE);
    assert!(jobs.get_opt("build-default-node").await.unwrap().is_some());
    let config = world.agent.config.lock().unwrap().clone().unwrap();
    let owners: Vec<_> = config.pods.iter().map(|pod| pod.owner.to_string()).collect();
    assert!(owners.contains(&"lan/lab".to_owned()) && owners.contains(&"machine/node-1".to_owned()), "{owners:?}");

    // Nothing new, nothing written.
    settled(&world, &running).await;
    let (before, writes) = (world.versions().await, running.operator.metrics.writes.get());
    let rounds = running.operator.metrics.rounds.get();
    until("ten more rounds", async || running.operator.metrics.rounds.get() > rounds + 10).await;
    assert_eq!(world.versions().await, before);
    assert_eq!(running.operator.metrics.writes.get(), writes);

    // What is changed is told to the role that runs, which goes on.
    let uid = router.uid().unwrap();
    let mut other = lan("lab");
    other["spec"]["dns"] = json!({"domain": "other.internal"});
    world.apply(&[other]).await;
    until("the router was told", async || {
        let passed = world.agent.passed.lock().unwrap();
        passed.iter().any(|(pod, path, body)| *pod == uid && path == "/reload" && body.contains("other.internal"))
    })
    .await;
    assert_eq!(world.pod(NAMESPACE, "router-default-lab").await.unwrap().uid().unwrap(), uid);

    // A pod that is gone is made again.
    world.pods("default").delete("vm-default-node-1", &DeleteParams::default().grace_period(0)).await.unwrap();
    let gone = vm.uid();
    until("the machine's pod is back", async || {
        world.pod("default", "vm-default-node-1").await.is_some_and(|pod| pod.uid() != gone)
    })
    .await;

    // What is deleted waits until its workloads are gone.
    world.kind("Machine", "default").delete("node-1", &DeleteParams::default()).await.unwrap();
    world.kind("Farm", "default").delete("lab", &DeleteParams::default()).await.unwrap();
    world.kind("Lan", "default").delete("lab", &DeleteParams::default()).await.unwrap();
    until("the LAN is gone", async || world.kind("Lan", "default").get_opt("lab").await.unwrap().is_none()).await;
    assert!(world.pod(NAMESPACE, "router-default-lab").await.is_none());
    until("its configuration, too", async || {
        let maps = Api::<ConfigMap>::namespaced(world.client.clone(), NAMESPACE);
        maps.get_opt("router-default-lab").await.unwrap().is_none()
    })
    .await;
    // No garbage collector runs here.
    until("the farm's certificate, too", async || secrets.get_opt("farm-default-lab").await.unwrap().is_none()).await;
    running.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_object_harms_itself_only() {
    let world = World::new().await;
    let _running = world.operator().await;
    let mut bad = lan("bad");
    bad["spec"]["subnets"] = json!([{"name": "v4", "cidr": "10.11.0.0/24", "gateway": "10.99.0.1"}]);
    world.apply(&farm("good")).await;
    world.apply(&[bad, lan("good"), machine("lost", "nowhere"), machine("fine", "good")]).await;
    world.runs("fine").await;
    let (_, reason, message) = world.condition("Lan", "bad").await.unwrap();
    assert!(reason == "Invalid" && message.contains("outside"), "{reason}: {message}");
    let (_, reason, message) = world.condition("Machine", "lost").await.unwrap();
    assert!(reason == "Invalid" && message.contains("nowhere"), "{reason}: {message}");
    assert!(world.pod("default", "vm-default-lost").await.is_none());

    // A configuration that a role refuses is told on its object, in the role's words.
    world.agent.refuses.store(true, Ordering::Relaxed);
    let mut other = lan("good");
    other["spec"]["dns"] = json!({"domain": "other.internal"});
    world.apply(&[other]).await;
    world.says("Lan", "good", "", "it is no good").await;
}

/// Lets a namespace have no pods.
async fn forbid_pods(world: &World, namespace: &str) {
    let quota: k8s_openapi::api::core::v1::ResourceQuota = serde_json::from_value(json!({
        "metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}, "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}},
    }))
    .unwrap();
    let quotas = Api::namespaced(world.client.clone(), namespace);
    quotas.create(&kube::api::PostParams::default(), &quota).await.unwrap();
    let status = json!({"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}});
    let patch = kube::api::Patch::Merge(status);
    quotas.patch_status("small", &kube::api::PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_forbids_the_pod_is_told_on_the_object() {
    let world = World::new().await;
    let _running = world.operator().await;
    forbid_pods(&world, "default").await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.says("Machine", "node-1", "", "raise the quota").await;
    assert!(world.is_ready("Lan", "lab").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_machines_than_a_round_looks_at_are_in_nobodys_way_if_they_are_refused() {
    let world = World::new().await;
    let _running = world.operator().await;
    forbid_pods(&world, "default").await;
    world.plane.ensure_namespace("last").unwrap();
    let (mut infra, mut wire) = (farm("lab"), lan("lab"));
    for object in infra.iter_mut().chain([&mut wire]) {
        object["spec"]["access"] = json!({"namespaces": "All"});
    }
    world.apply(&infra).await;
    world.apply(&[wire]).await;
    let refused: Vec<_> = (0..120).map(|number| machine(&format!("node-{number}"), "lab")).collect();
    world.apply(&refused).await;
    for name in ["node-0", "node-119"] {
        world.says("Machine", name, "", "raise the quota").await;
    }
    let (mut last, there) = (machine("last", "lab"), json!({"namespace": "default", "name": "lab"}));
    last["metadata"]["namespace"] = "last".into();
    last["spec"]["farm"] = there.clone();
    last["spec"]["nics"][0]["lan"] = there;
    world.apply(&[last]).await;
    until("the last one's pod", async || world.pod("last", "vm-last-last").await.is_some()).await;
    world.says("Machine", "node-119", "", "raise the quota").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_leads_and_the_other_takes_over_without_disturbing_anything() {
    let world = World::new().await;
    let first = world.operator().await;
    until("the first one leads", async || first.leads()).await;
    let second = world.operator().await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.runs("node-1").await;
    settled(&world, &first).await;
    assert!(!second.leads());
    let (pods, before) = (world.pod("default", "vm-default-node-1").await.unwrap().uid(), world.versions().await);
    first.kill();
    until("the second one leads", async || second.leads()).await;
    let rounds = second.operator.metrics.rounds.get();
    until("it has looked around", async || second.operator.metrics.rounds.get() > rounds + 10).await;
    assert_eq!(world.pod("default", "vm-default-node-1").await.unwrap().uid(), pods);
    assert_eq!(world.versions().await, before);

    // While the API server is away nothing happens; afterwards it goes on.
    world.plane.stop_api_server().unwrap();
    until("the second one gave up", async || second.operator.metrics.leads.get() == 0).await;
    world.plane.start_api_server().unwrap();
    until("it leads again", async || second.leads()).await;
    world.apply(&[machine("node-2", "lab")]).await;
    world.runs("node-2").await;
    assert_eq!(world.pod("default", "vm-default-node-1").await.unwrap().uid(), pods);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstallation_leaves_nothing_that_would_wait_for_the_operator() {
    let world = World::new().await;
    let running = world.operator().await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.runs("node-1").await;
    until("claims are kept", async || world.versions().await.contains_key("claim farm-default.lab")).await;
    let leases = Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(world.client.clone(), NAMESPACE);
    let patch = json!({"metadata": {"annotations": {"stokehold.dev/uninstall": "requested"}}});
    let patch = kube::api::Patch::Merge(patch);
    leases.patch("stokehold-operator", &kube::api::PatchParams::default(), &patch).await.unwrap();
    until("all is removed", async || {
        let lease = leases.get("stokehold-operator").await.unwrap();
        lease.annotations().get("stokehold.dev/uninstall").is_some_and(|answer| answer == "done")
    })
    .await;
    assert!(world.agent.cleared.load(Ordering::Relaxed));
    let is_ours = |name: &String| ["pod", "map", "claim"].iter().any(|kind| name.starts_with(kind));
    let left: Vec<_> = world.versions().await.into_keys().filter(is_ours).collect();
    assert_eq!(left, Vec::<String>::new());
    let lan = world.kind("Lan", "default").get("lab").await.unwrap();
    assert!(lan.finalizers().is_empty(), "{:?}", lan.finalizers());
    running.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_leaves_a_node_that_is_out_of_touch_and_a_machine_does_not() {
    let world = World::new().await;
    let _running = world.operator().await;
    world.apply(&farm("lab")).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    world.runs("node-1").await;
    world.kubelet_works.store(false, Ordering::Relaxed);
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(world.client.clone());
    let silent =
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}});
    nodes.patch_status(NODE, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(silent)).await.unwrap();
    let (router, vm) = (
        world.pod(NAMESPACE, "router-default-lab").await.unwrap().uid(),
        world.pod("default", "vm-default-node-1").await.unwrap().uid(),
    );
    // What the cluster does after a while: it asks the pods to go, and no kubelet answers.
    world.pods(NAMESPACE).delete("router-default-lab", &DeleteParams::default()).await.unwrap();
    world.pods("default").delete("vm-default-node-1", &DeleteParams::default()).await.unwrap();
    until("another router is there", async || {
        world.pod(NAMESPACE, "router-default-lab").await.is_some_and(|pod| pod.uid() != router)
    })
    .await;
    assert_eq!(world.pod("default", "vm-default-node-1").await.unwrap().uid(), vm);
}
