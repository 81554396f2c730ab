//! What every `Store` must do: each implementation's tests include this file and call [`store_suite`] with their own stores.

use serde_json::{Value, json};
use stoke_api::control::Change;
use stoke_api::meta::Truth;
use stoke_api::objects::LanStatus;
use stoke_api::{AnyObject, Condition, Kind, ObjectRef};
use stoke_host::store::Write;
use stoke_host::{Store, StoreError};
use stoke_reconcile::{Occurrence, Status};

fn object(value: Value) -> AnyObject {
    serde_json::from_value(value).expect("tests write valid objects")
}

fn lan(name: &str, cidr: &str) -> AnyObject {
    let spec = json!({"subnets": [{"name": "v4", "cidr": cidr}], "egress": "None"});
    object(json!({"kind": "Lan", "metadata": {"name": name}, "spec": spec}))
}

fn machine(name: &str) -> AnyObject {
    let spec = json!({"vm": {}, "farm": "lab", "nics": [{"name": "lab", "lan": "lab"}]});
    object(json!({"kind": "Machine", "metadata": {"name": name}, "spec": spec}))
}

fn reference(kind: Kind, name: &str) -> ObjectRef {
    let namespace = kind.is_namespaced().then(|| "default".parse().expect("a name"));
    ObjectRef { kind, namespace, name: name.parse().expect("a name") }
}

fn put(object: AnyObject) -> Write {
    Write::Put { object: Box::new(object), origin: None }
}

async fn write(store: &impl Store, object: AnyObject) -> Change {
    store.write(vec![put(object)]).await.expect("the write is accepted").remove(0).1
}

fn read(store: &impl Store) -> AnyObject {
    store.get(&reference(Kind::Lan, "lab")).expect("the store answers").expect("the LAN is there")
}

fn ready(message: &str) -> Status {
    Status::Lan(LanStatus { conditions: vec![Condition::ready(true, "Serving", message)], ..LanStatus::default() })
}

/// Runs the whole suite; `fresh` makes an empty store.
pub(crate) async fn store_suite<S: Store>(mut fresh: impl AsyncFnMut() -> S) {
    identity_is_given_once(&fresh().await).await;
    generation_follows_the_spec_alone(&fresh().await).await;
    compare_and_set(&fresh().await).await;
    a_status_is_written_over_what_was_read(&fresh().await).await;
    all_writes_or_none(&fresh().await).await;
    watchers_hear_of_every_change_in_order(&fresh().await).await;
    repeated_events_are_counted(&fresh().await).await;
}

async fn identity_is_given_once(store: &impl Store) {
    assert_eq!(write(store, lan("lab", "10.0.0.0/24")).await, Change::Created);
    let first = read(store);
    let metadata = first.metadata();
    assert_eq!(metadata.namespace.as_ref().map(stoke_api::ObjectName::as_str), Some("default"));
    assert!(metadata.uid.is_some() && metadata.creation_timestamp.is_some(), "{metadata:?}");
    assert_eq!(write(store, lan("lab", "10.0.1.0/24")).await, Change::Updated);
    assert_eq!(read(store).metadata().uid, metadata.uid);
    store.write(vec![Write::Delete(first.reference())]).await.expect("it is there");
    assert_eq!(store.get(&first.reference()).expect("the store answers"), None);
    write(store, lan("lab", "10.0.0.0/24")).await;
    assert_ne!(read(store).metadata().uid, metadata.uid, "another object of that name is another object");
}

async fn generation_follows_the_spec_alone(store: &impl Store) {
    let versions = |store| {
        let object = read(store);
        (object.metadata().generation, object.metadata().resource_version.clone())
    };
    write(store, lan("lab", "10.0.0.0/24")).await;
    let first = versions(store);
    assert_eq!(write(store, lan("lab", "10.0.0.0/24")).await, Change::Unchanged);
    assert_eq!(versions(store), first, "the same again writes nothing");
    let mut labelled = lan("lab", "10.0.0.0/24");
    labelled.metadata_mut().labels.insert("a".into(), "b".into());
    assert_eq!(write(store, labelled).await, Change::Updated);
    let second = versions(store);
    assert_eq!((second.0, second.1 == first.1), (Some(1), false));
    assert_eq!(write(store, lan("lab", "10.0.1.0/24")).await, Change::Updated);
    assert_eq!(versions(store).0, Some(2));
}

async fn compare_and_set(store: &impl Store) {
    write(store, lan("lab", "10.0.0.0/24")).await;
    let read_before = read(store);
    assert_eq!(write(store, lan("lab", "10.0.1.0/24")).await, Change::Updated);
    let late = store.write(vec![put(read_before)]).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    assert_eq!(write(store, read(store)).await, Change::Unchanged);
}

async fn a_status_is_written_over_what_was_read(store: &impl Store) {
    let name = reference(Kind::Lan, "lab");
    write(store, lan("lab", "10.0.0.0/24")).await;
    let version = |object: AnyObject| object.metadata().resource_version.clone().expect("stored objects have one");
    let before = version(read(store));
    assert!(store.write_status(&name, &before, ready("a")).await.expect("nobody wrote in between"));
    let condition = read(store).conditions()[0].clone();
    assert_eq!((condition.status, condition.last_transition_time.len()), (Truth::True, 20), "{condition:?}");
    assert_eq!(read(store).metadata().generation, Some(1));
    assert!(matches!(store.write_status(&name, &before, ready("b")).await, Err(StoreError::Conflict(_))));
    let now = version(read(store));
    let AnyObject::Lan(same) = read(store) else { panic!("a LAN") };
    assert!(!store.write_status(&name, &now, Status::Lan(same.status)).await.expect("no conflict"));
    assert_eq!(version(read(store)), now, "the same status writes nothing");
    write(store, lan("lab", "10.0.1.0/24")).await;
    assert_eq!(read(store).conditions().len(), 1, "a new spec keeps the status");
    let missing = store.write_status(&reference(Kind::Lan, "none"), &now, ready("a")).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
}

async fn all_writes_or_none(store: &impl Store) {
    let missing = Write::Delete(reference(Kind::Farm, "none"));
    assert!(store.write(vec![put(lan("lab", "10.0.0.0/24")), missing]).await.is_err());
    assert_eq!(store.list().expect("the store answers"), []);
    store.write(vec![put(machine("b")), put(lan("lab", "10.0.0.0/24")), put(machine("a"))]).await.expect("all are new");
    let names: Vec<_> = store.list().expect("the store answers").iter().map(|o| o.reference().to_string()).collect();
    assert_eq!(names, ["lan/lab", "machine/a", "machine/b"]);
}

async fn watchers_hear_of_every_change_in_order(store: &impl Store) {
    let mut watch = store.watch();
    write(store, lan("lab", "10.0.0.0/24")).await;
    write(store, lan("lab", "10.0.0.0/24")).await;
    write(store, lan("lab", "10.0.1.0/24")).await;
    store.write(vec![Write::Delete(reference(Kind::Lan, "lab"))]).await.expect("it is there");
    let heard: Vec<_> = std::iter::from_fn(|| watch.try_recv().ok()).map(|event| event.change).collect();
    assert_eq!(heard, [Change::Created, Change::Updated, Change::Deleted]);
}

async fn repeated_events_are_counted(store: &impl Store) {
    write(store, lan("lab", "10.0.0.0/24")).await;
    let name = reference(Kind::Lan, "lab");
    let event = |message: &str| Occurrence { object: name.clone(), reason: "Seen".into(), message: message.into() };
    store.record_events(vec![event("a"), event("a"), event("b")]).await.expect("written");
    let events = store.events(&name).await.expect("read");
    let told: Vec<_> = events.iter().map(|e| (e.reason.as_str(), e.message.as_str(), e.count)).collect();
    assert_eq!(told, [("Seen", "a", 2), ("Seen", "b", 1)]);
}
