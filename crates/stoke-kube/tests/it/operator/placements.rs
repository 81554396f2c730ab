//! Farms of networks that are somebody else's.

use k8s_openapi::api::core::v1::{Node, Service};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::world::{NAMESPACE, NODE, World};
use super::{farm, settled};
use crate::cluster::until;

const ADDRESS: &str = "10.20.0.5";

/// A farm of a network that is described and not laid, and its image.
fn rack(placement: &Value) -> [Value; 3] {
    let [image, mut farm] = farm("rack");
    farm["spec"]["addresses"] = json!([ADDRESS]);
    farm["spec"]["placement"] = placement.clone();
    let subnets = json!([{"name": "v4", "cidr": "10.20.0.0/24"}]);
    let lan = json!({"apiVersion": "stokehold.dev/v1alpha1", "kind": "Lan", "metadata": {"name": "rack", "namespace": "default"},
        "spec": {"external": true, "subnets": subnets}});
    [image, lan, farm]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_of_somebody_elses_network_is_behind_a_load_balancer_or_on_a_node() {
    let world = World::new().await;
    let running = world.operator().await;
    world.apply(&rack(&json!({"loadBalancer": {}}))).await;
    let services = Api::<Service>::namespaced(world.client.clone(), NAMESPACE);
    let service = || async { services.get_opt("farm-default-lab").await.unwrap() };
    until("the farm has a service", async || service().await.is_some()).await;
    let spec = service().await.unwrap().spec.unwrap();
    assert_eq!((spec.type_.as_deref(), spec.load_balancer_ip.as_deref()), (Some("LoadBalancer"), Some(ADDRESS)));
    until("the farm's server is there", async || world.pod(NAMESPACE, "farm-default-lab").await.is_some()).await;
    let server = world.pod(NAMESPACE, "farm-default-lab").await.unwrap();
    let selected = |(label, value): (&String, &String)| server.labels().get(label) == Some(value);
    assert!(spec.selector.unwrap().iter().all(selected), "{:?}", server.labels());
    world.says("Farm", "lab", "", "has no address yet").await;

    // What a load balancer does, of another address than the one that nodes are told, and then of that one.
    let give = |address: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
    let parameters = PatchParams::default();
    services.patch_status("farm-default-lab", &parameters, &Patch::Merge(give("10.20.0.9"))).await.unwrap();
    world.says("Farm", "lab", "", "10.20.0.9, not 10.20.0.5").await;
    services.patch_status("farm-default-lab", &parameters, &Patch::Merge(give(ADDRESS))).await.unwrap();
    until("the farm serves", async || world.is_ready("Farm", "lab").await).await;
    assert!(world.pod(NAMESPACE, "router-default-rack").await.is_none(), "the network has its own");
    settled(&world, &running).await;

    // On a node instead: another pod, and no service.
    world.apply(&rack(&json!({"hostNetwork": {"nodes": [NODE]}}))).await;
    until("the farm is on the node's network", async || {
        let pod = world.pod(NAMESPACE, "farm-default-lab").await;
        pod.is_some_and(|pod| pod.spec.is_some_and(|spec| spec.host_network == Some(true)))
    })
    .await;
    until("the service is gone", async || service().await.is_none()).await;
    until("the farm serves", async || world.is_ready("Farm", "lab").await).await;

    // What agents find out about devices is on their nodes.
    let nodes = Api::<Node>::all(world.client.clone());
    let labels = nodes.get(NODE).await.unwrap().labels().clone();
    assert_eq!(labels.get("stokehold.dev/tun").map(String::as_str), Some("usable"), "{labels:?}");
    running.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_says_where_it_is_missing_a_place() {
    let world = World::new().await;
    let _running = world.operator().await;
    let [image, lan, mut farm] = rack(&json!({"loadBalancer": {}}));
    farm["spec"].as_object_mut().unwrap().remove("placement");
    world.apply(&[image, lan, farm]).await;
    world.says("Farm", "lab", "Invalid", "lan/rack is external: say where the farm's servers are").await;
}
