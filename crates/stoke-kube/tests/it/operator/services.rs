//! Services of machines: what there is of them in the cluster.

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::world::{NAMESPACE, World};
use super::{farm, lan, machine};
use crate::cluster::until;

fn with_ports(name: &str, ports: &Value) -> Value {
    let mut machine = machine(name, "lab");
    machine["spec"]["ports"] = ports.clone();
    machine
}

async fn exposed(world: &World, name: &str) -> Option<(String, String)> {
    let object = world.kind("Machine", "default").get(name).await.ok()?;
    let all = object.data["status"]["conditions"].as_array()?.clone();
    let found = all.into_iter().find(|one| one["type"] == "Exposed")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("message")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machines_ports_lead_through_the_pod_of_its_router() {
    let world = World::new().await;
    let running = world.operator().await;
    let services = Api::<Service>::namespaced(world.client.clone(), "default");
    let slices = Api::<EndpointSlice>::namespaced(world.client.clone(), "default");
    // Somebody's own Service is not taken.
    let own = json!({"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 1}]}});
    services.create(&PostParams::default(), &serde_json::from_value(own).unwrap()).await.unwrap();
    world.apply(&farm("lab")).await;
    let ports = json!([{"name": "ssh", "port": 22}, {"name": "web", "port": 8080, "servicePort": 80}]);
    world.apply(&[lan("lab"), with_ports("node-1", &ports), with_ports("taken", &ports)]).await;
    world.runs("node-1").await;
    until("it waits for its router's pod", async || {
        exposed(&world, "node-1").await.is_some_and(|(_, said)| said.contains("is not ready"))
    })
    .await;

    // As the kubelet would: the router's pod has an address and is ready.
    let router = json!({"status": {"podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let pods = Api::<Pod>::namespaced(world.client.clone(), NAMESPACE);
    pods.patch_status("router-default-lab", &PatchParams::default(), &Patch::Merge(router)).await.unwrap();
    until("it is reached", async || exposed(&world, "node-1").await.is_some_and(|(is, _)| is == "True")).await;
    let service = services.get("node-1").await.unwrap();
    assert_eq!(service.owner_references()[0].kind, "Machine");
    let spec = service.spec.unwrap();
    let numbers: Vec<_> = spec.ports.unwrap().into_iter().map(|port| (port.name.unwrap(), port.port)).collect();
    assert_eq!(numbers, [("ssh".to_owned(), 22), ("web".to_owned(), 80)]);
    assert_eq!(spec.selector, None);
    let slice = slices.get("node-1").await.unwrap();
    assert_eq!(slice.endpoints[0].addresses, ["10.244.0.9"]);
    let told = world.pod_config("router-default-lab").await;
    let listens: Vec<_> = told["forwards"].as_array().unwrap().iter().map(|one| one["listen"].clone()).collect();
    for port in slice.ports.unwrap() {
        assert!(listens.contains(&json!(port.port.unwrap())), "{listens:?}");
    }
    assert_eq!(listens.len(), 4, "{told}");
    let (_, said) = exposed(&world, "taken").await.unwrap();
    assert!(said.contains("somebody else made a Service taken"), "{said}");
    assert_eq!(services.get("taken").await.unwrap().spec.unwrap().ports.unwrap()[0].port, 1);

    // One port less, then none.
    world.apply(&[with_ports("node-1", &json!([{"name": "ssh", "port": 22}]))]).await;
    until("one port is gone", async || services.get("node-1").await.unwrap().spec.unwrap().ports.unwrap().len() == 1)
        .await;
    world.apply(&[machine("node-1", "lab")]).await;
    until("the Service is gone", async || services.get_opt("node-1").await.unwrap().is_none()).await;
    until("its slice, too", async || slices.get_opt("node-1").await.unwrap().is_none()).await;
    running.shutdown.cancel();
}
