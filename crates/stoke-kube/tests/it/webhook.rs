//! The webhook, asked by a real API server: by the name of its Service, with the authority that the operator has injected.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use stoke_api::Kind;
use stoke_api::load::load_text;
use stoke_kube::certificates::Certificates;
use stoke_kube::claims::Claims;
use stoke_kube::store::KubeStore;
use stoke_kube::{object, webhook};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cluster::{LIMIT, shared, until};

const SERVICE: &str = "stokehold-webhook";

/// A Service whose endpoint is this process, and a configuration for one namespace.
async fn configure(client: &Client, namespace: &str, port: u16) -> String {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": SERVICE },
        "spec": { "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] },
    });
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let service = serde_json::from_value(service).expect("a service");
    services.create(&PostParams::default(), &service).await.expect("it is new");
    let name = format!("stokehold-{namespace}");
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [{
            "name": "validate.stokehold.dev",
            "clientConfig": { "service": { "name": SERVICE, "namespace": namespace, "port": port, "path": webhook::PATH } },
            "rules": [{
                "apiGroups": ["stokehold.dev"], "apiVersions": ["*"], "resources": ["*"],
                "operations": ["CREATE", "UPDATE"],
            }],
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
            "failurePolicy": "Ignore", "sideEffects": "None", "timeoutSeconds": 5, "admissionReviewVersions": ["v1"],
        }],
    });
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let configuration = serde_json::from_value(configuration).expect("a configuration");
    api.create(&PostParams::default(), &configuration).await.expect("it is new");
    name
}

fn lan(name: &str, cidr: &str) -> Value {
    let spec = json!({ "subnets": [{ "name": "v4", "cidr": cidr }] });
    json!({ "apiVersion": "stokehold.dev/v1alpha1", "kind": "Lan", "metadata": { "name": name }, "spec": spec })
}

async fn apply(client: &Client, namespace: &str, object: &Value, dry_run: bool) -> Result<(), String> {
    let api: Api<kube::api::DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &object::resource(Kind::Lan));
    let parameters = PatchParams { dry_run, ..PatchParams::apply("tests").force() };
    let name = object["metadata"]["name"].as_str().expect("a name");
    match api.patch(name, &parameters, &Patch::Apply(object)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn kubectl_apply_is_told_what_stoke_up_would_say_and_nothing_stops_when_the_webhook_does() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let found = Certificates::ensure(&client, &namespace, SERVICE).await.expect("certificates");
    let store = Arc::new(KubeStore::open(client.clone(), "stokehold", Arc::new(Notify::new())));
    tokio::time::timeout(LIMIT, store.synced()).await.expect("all kinds are listed");
    let claims = Arc::new(Claims::open(client.clone(), Arc::new(Notify::new())));
    tokio::time::timeout(LIMIT, claims.filled()).await.expect("claims are listed").expect("they may be");
    let listener = TcpListener::bind("localhost:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let shutdown = CancellationToken::new();
    let (_renew, tls) = watch::channel(found.webhook.clone());
    let serving = tokio::spawn(webhook::serve(listener, tls, webhook::router(store.clone(), claims), shutdown.clone()));
    let configuration = configure(&client, &namespace, port).await;
    assert!(webhook::inject(&client, &configuration, &found.ca_pem).await.expect("an answer"));
    assert!(!webhook::inject(&client, &configuration, &found.ca_pem).await.expect("an answer"), "it is there");

    let wrong = lan("lab", "10.77.0.1/24");
    until("the API server asks", async || apply(&client, &namespace, &wrong, true).await.is_err()).await;
    let refused = apply(&client, &namespace, &wrong, false).await.expect_err("host bits are set");
    let text = format!("{wrong}\n");
    let loader = load_text(Path::new("lab.yaml"), &text).expect_err("host bits are set");
    let loader = format!("{}: {}", loader[0].field, loader[0].message);
    assert_eq!(refused, format!("admission webhook \"validate.stokehold.dev\" denied the request: lan/lab: {loader}"));

    let numbered = |name: &str| {
        let mut lan = lan(name, "10.77.0.0/24");
        lan["spec"]["overlay"] = json!({ "vni": 7777 });
        lan
    };
    apply(&client, &namespace, &numbered("lab"), false).await.expect("nothing is wrong with it");
    let same = numbered("other");
    until("the first one is known", async || apply(&client, &namespace, &same, true).await.is_err()).await;
    let refused = apply(&client, &namespace, &same, true).await.expect_err("the other one has it");
    assert!(refused.contains("/lab has this network identifier"), "{refused}");

    let begun = Instant::now();
    for _ in 0..50 {
        apply(&client, &namespace, &lan("another", "10.78.0.0/24"), true).await.expect("nothing is wrong with it");
    }
    println!("a request with the webhook took {:?}", begun.elapsed() / 50);

    shutdown.cancel();
    serving.await.expect("it ends").expect("it ends well");
    let begun = Instant::now();
    apply(&client, &namespace, &wrong, false).await.expect("without the webhook the controller says it");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    api.delete(&configuration, &DeleteParams::default()).await.expect("it is there");
}
