//! The store over a real API server: the suite of every store, outages, other writers, objects of other versions.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use kube::Client;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use stoke_api::control::Change;
use stoke_api::objects::LanStatus;
use stoke_api::{AnyObject, Condition, Kind};
use stoke_host::store::Write;
use stoke_host::{Store as _, StoreError};
use stoke_kube::object;
use stoke_kube::store::KubeStore;
use stoke_reconcile::Status;
use tokio::sync::Notify;

use crate::cluster::{self, LIMIT, own, shared, until};
use crate::suite::store_suite;

async fn open(client: &Client) -> KubeStore {
    let store = KubeStore::open(client.clone(), "stokehold", Arc::new(Notify::new()));
    tokio::time::timeout(LIMIT, store.synced()).await.expect("all kinds are listed");
    store
}

fn lan_in(namespace: &str, name: &str) -> AnyObject {
    let spec = json!({ "subnets": [{ "name": "v4", "cidr": "10.0.0.0/24" }] });
    let metadata = json!({ "name": name, "namespace": namespace });
    serde_json::from_value(json!({ "kind": "Lan", "metadata": metadata, "spec": spec })).expect("a LAN")
}

fn put(object: AnyObject) -> Write {
    Write::Put { object: Box::new(object), origin: None }
}

fn names(store: &KubeStore, namespace: &str) -> BTreeSet<String> {
    let all = store.list().expect("it is in memory");
    let ours = all.iter().filter(|object| object.reference().namespace.is_some_and(|n| n.as_str() == namespace));
    ours.map(|object| object.metadata().name.to_string()).collect()
}

async fn delete_everything(client: &Client) {
    for kind in Kind::ALL {
        for found in object::all(client, kind).list(&ListParams::default()).await.expect("a list") {
            let reference = object::read(kind, &found).expect("it is of our version").reference();
            let api = object::place(client, &reference);
            api.delete(reference.name.as_str(), &DeleteParams::default()).await.expect("it goes");
        }
    }
}

#[tokio::test]
async fn the_store_over_the_api_server_passes_the_suite() {
    let (_plane, client) = own().await;
    let begun = Instant::now();
    store_suite(async || {
        delete_everything(&client).await;
        open(&client).await
    })
    .await;
    println!("the suite took {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_others_write_is_seen_and_wins() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let store = open(&client).await;
    let reference = lan_in(&namespace, "lab").reference();
    store.write(vec![put(lan_in(&namespace, "lab"))]).await.expect("it is new");
    let read = || store.get(&reference).expect("it is in memory").expect("it is there");
    let version = |object: AnyObject| object.metadata().resource_version.clone().expect("stored objects have one");
    let before = version(read());
    let label = Patch::Merge(json!({ "metadata": { "labels": { "theirs": "1" } } }));
    object::place(&client, &reference).patch("lab", &PatchParams::default(), &label).await.expect("it is there");
    // Whether or not the watch has told of it by now: what was read is old.
    let conditions = vec![Condition::ready(true, "Serving", "")];
    let status = Status::Lan(LanStatus { conditions, ..LanStatus::default() });
    let late = store.write_status(&reference, &before, status.clone()).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    let took = until("the label is seen", async || read().metadata().labels.contains_key("theirs")).await;
    println!("a change of others was seen after {took:?}");
    assert!(store.write_status(&reference, &version(read()), status).await.expect("nobody wrote in between"));
    // A label of others is theirs.
    let mut labelled = lan_in(&namespace, "lab");
    labelled.metadata_mut().labels.insert("ours".into(), "1".into());
    let change = store.write(vec![put(labelled)]).await.expect("it is accepted").remove(0).1;
    assert_eq!((change, read().metadata().labels.len()), (Change::Updated, 2));
    let change = store.write(vec![put(lan_in(&namespace, "lab"))]).await.expect("it is accepted").remove(0).1;
    assert_eq!(change, Change::Updated);
    assert_eq!(read().metadata().labels.keys().collect::<Vec<_>>(), ["theirs"]);
    let before = version(read());
    let change = store.write(vec![put(lan_in(&namespace, "lab"))]).await.expect("it is accepted").remove(0).1;
    assert_eq!((change, version(read())), (Change::Unchanged, before));
}

#[tokio::test]
async fn an_object_with_a_finalizer_waits_for_it() {
    let (plane, client) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let store = open(&client).await;
    let reference = lan_in(&namespace, "lab").reference();
    store.write(vec![put(lan_in(&namespace, "lab"))]).await.expect("it is new");
    assert!(store.set_finalizer(&reference, "stokehold.dev/test", true).await.expect("it is there"));
    assert!(!store.set_finalizer(&reference, "stokehold.dev/test", true).await.expect("it is there"));
    store.write(vec![Write::Delete(reference.clone())]).await.expect("it is there");
    let going = store.get(&reference).expect("it is in memory").expect("it waits");
    assert!(going.metadata().deletion_timestamp.is_some());
    assert!(store.set_finalizer(&reference, "stokehold.dev/test", false).await.expect("it is there"));
    assert_eq!(store.get(&reference).expect("it is in memory"), None);
    let gone = object::place(&client, &reference).get_opt("lab").await.expect("an answer");
    assert!(gone.is_none());
    assert!(!store.set_finalizer(&reference, "stokehold.dev/test", false).await.expect("it is gone"));
}

#[tokio::test]
async fn a_caller_without_rights_is_told_what_it_may_not() {
    let (plane, _admin) = shared().await;
    let namespace = plane.namespace().expect("a namespace");
    let kubeconfig = plane.kubeconfig_for_user("nobody", None).expect("a user");
    let client = cluster::client(&kubeconfig.text()).await;
    let store = KubeStore::open(client, "stokehold", Arc::new(Notify::new()));
    let refused = store.write(vec![put(lan_in(&namespace, "lab"))]).await.expect_err("it may not");
    let words = "is forbidden: User \"nobody\" cannot patch resource \"lans\"";
    assert!(matches!(&refused, StoreError::Refused { message, .. } if message.contains(words)), "{refused}");
    until("the watches say why", async || store.trouble().is_some_and(|why| why.contains("cannot list resource")))
        .await;
}

#[tokio::test]
async fn an_outage_leaves_what_is_known_and_what_happened_in_it_is_found() {
    let (plane, client) = own().await;
    let plane = Arc::new(plane);
    let store = open(&client).await;
    store.write(vec![put(lan_in("default", "a")), put(lan_in("default", "b"))]).await.expect("both are new");
    let blocking = |what: fn(&testbed::kubernetes::ControlPlane) -> anyhow::Result<()>| {
        let plane = plane.clone();
        async move { tokio::task::spawn_blocking(move || what(&plane)).await.expect("it ends").expect("it works") }
    };
    let listed = object::all(&client, Kind::Lan).list(&ListParams::default()).await.expect("a list");
    let version = listed.metadata.resource_version.expect("lists have one");
    blocking(testbed::kubernetes::ControlPlane::stop_api_server).await;
    let failed = store.write(vec![put(lan_in("default", "c"))]).await.expect_err("nobody answers");
    assert!(matches!(failed, StoreError::Unreachable(_)), "{failed}");
    assert_eq!(failed.to_string(), "the API server does not answer");
    until("the watches have broken", async || store.trouble().is_some()).await;
    assert_eq!(names(&store, "default"), ["a", "b"].map(str::to_owned).into());
    blocking(testbed::kubernetes::ControlPlane::start_api_server).await;
    let begun = Instant::now();
    // Likely before the watches are back: then only a list can tell that it is gone.
    let lans = object::place(&client, &lan_in("default", "b").reference());
    lans.delete("b", &DeleteParams::default()).await.expect("it is there");
    store.write(vec![put(lan_in("default", "c"))]).await.expect("somebody answers again");
    until("all is known again", async || names(&store, "default") == ["a", "c"].map(str::to_owned).into()).await;
    until("nothing is wrong any more", async || store.trouble().is_none()).await;
    println!("known again {:?} after the API server was ready", begun.elapsed());
    // What a watch was told that went on where it was: the list was needed.
    let lans = object::all(&client, Kind::Lan);
    let resumed = lans.watch(&WatchParams::default().timeout(5), &version).await.expect("a watch");
    let first = pin!(resumed).next().await.expect("a word").expect("a frame");
    assert!(matches!(&first, WatchEvent::Error(status) if status.code == 410), "{first:?}");
}

#[tokio::test]
async fn an_object_of_another_version_harms_only_itself() {
    let (_plane, client) = own().await;
    let store = open(&client).await;
    store.write(vec![put(lan_in("default", "good")), put(lan_in("default", "bad"))]).await.expect("both are new");
    // A definition of tomorrow, whose objects have more than this program knows.
    let mut future = stoke_kube::crd::of(Kind::Lan);
    let spec = &mut future["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["fromTheFuture"] = json!({ "type": "string" });
    let definitions = kube::Api::<kube::api::DynamicObject>::all_with(client.clone(), &definition_resource());
    let parameters = PatchParams::apply("tests").force();
    definitions.patch("lans.stokehold.dev", &parameters, &Patch::Apply(future)).await.expect("a definition");
    let lans = object::place(&client, &lan_in("default", "bad").reference());
    let patch = Patch::Merge(json!({ "spec": { "fromTheFuture": "yes" } }));
    until("the API server knows the field", async || {
        let written = lans.patch("bad", &PatchParams::default(), &patch).await.expect("it is there");
        written.data["spec"].get("fromTheFuture").is_some()
    })
    .await;
    // A watch that is under way goes on with the definition that it began with: what is new in one is seen by the next.
    let store = open(&client).await;
    until("it is seen", async || !store.unreadable().is_empty()).await;
    assert_eq!(names(&store, "default"), ["good"].map(str::to_owned).into());
    let unreadable = store.unreadable();
    assert_eq!(unreadable.iter().map(ToString::to_string).collect::<Vec<_>>(), ["lan/default/bad"]);
    store.tell_unreadable().await.expect("an answer");
    let conditions = || async {
        let found = lans.get("bad").await.expect("it is there");
        found.data.pointer("/status/conditions").cloned().unwrap_or_default()
    };
    let told = conditions().await;
    assert_eq!((&told[0]["reason"], &told[0]["status"]), (&json!("Unreadable"), &json!("False")), "{told}");
    let message = told[0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("unknown field `fromTheFuture`"), "{message}");
    until("that is seen, too", async || store.unreadable().iter().all(|object| !object.conditions.is_empty())).await;
    let version = store.unreadable()[0].resource_version.clone();
    store.tell_unreadable().await.expect("an answer");
    assert_eq!(lans.get("bad").await.expect("it is there").metadata.resource_version, Some(version), "said once");
    let mend = Patch::Merge(json!({ "spec": { "fromTheFuture": Value::Null } }));
    lans.patch("bad", &PatchParams::default(), &mend).await.expect("it is there");
    until("it is an object again", async || names(&store, "default").contains("bad")).await;
    assert_eq!(store.unreadable(), []);
}

fn definition_resource() -> kube::api::ApiResource {
    kube::api::ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    }
}
