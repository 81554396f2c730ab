//! Nodes that join another cluster than the operator's own.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

use super::{farm, lan, machine};
use crate::cluster::{own, until};
use crate::operator::world::{NAMESPACE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_another_cluster_by_the_kubeconfig_in_a_secret() {
    let (world, (plane, client)) = tokio::join!(World::new(), own());
    // What a cluster with its controllers has.
    let root = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "-----BEGIN CERTIFICATE-----"}});
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    let root = serde_json::from_value(root).expect("a ConfigMap");
    maps.create(&PostParams::default(), &root).await.expect("it is new");
    let _running = world.operator().await;
    let [image, mut lab] = farm("lab");
    lab["spec"]["join"] = json!({"cluster": {"secret": "other", "key": "kubeconfig"}});
    world.apply(&[image, lab]).await;
    world.apply(&[lan("lab"), machine("node-1", "lab")]).await;
    let joining = async || {
        let farm = world.kind("Farm", "default").get("lab").await.expect("it is there");
        let conditions = farm.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let joining = conditions.into_iter().find(|one| one["type"] == "Joining")?;
        Some((joining["status"].as_str()?.to_owned(), joining["message"].as_str()?.to_owned()))
    };
    until("it lacks the Secret", async || {
        joining().await.is_some_and(|(is, why)| is == "False" && why.contains("no Secret other in namespace default"))
    })
    .await;

    let kubeconfig = plane.kubeconfig().text();
    let secret = json!({"metadata": {"name": "other"}, "stringData": {"kubeconfig": kubeconfig}});
    let secret: Secret = serde_json::from_value(secret).expect("a Secret");
    let secrets = Api::<Secret>::namespaced(world.client.clone(), "default");
    secrets.create(&PostParams::default(), &secret).await.expect("it is new");
    until("the other cluster is known", async || joining().await.is_some_and(|(is, _)| is == "True")).await;

    let tokens = |client: &kube::Client| Api::<Secret>::namespaced(client.clone(), "kube-system");
    let made = async |client: &kube::Client| {
        let found = tokens(client).list(&ListParams::default()).await.expect("an answer").items;
        found.into_iter().filter(|secret| secret.type_.as_deref() == Some("bootstrap.kubernetes.io/token")).count()
    };
    until("a token there", async || made(&client).await == 1).await;
    assert_eq!(made(&world.client).await, 0, "and none here");
    // The farm has it, to hand it out in this boot.
    let farm = world.pod(NAMESPACE, "farm-default-lab").await.expect("it runs").metadata.uid.expect("a uid");
    until("the farm has the token", async || {
        let passed = world.agent.passed.lock().expect("the agent");
        passed.iter().any(|(pod, path, body)| *pod == farm && path == "/secrets" && body.contains("stokehold-join"))
    })
    .await;
}
