//! What every `Store` must do. Another implementation is held to it by calling [`store_suite`] with its own stores.

use stoke_api::control::Change;
use stoke_api::meta::Truth;
use stoke_api::objects::LanStatus;
use stoke_api::{AnyObject, Condition, Kind};
use stoke_host::store::Write;
use stoke_host::{LocalStore, Store, StoreError};
use stoke_reconcile::{Occurrence, Status};

use crate::objects::{lan, machine, object, reference};

fn put(object: AnyObject) -> Write {
    Write::Put { object: Box::new(object), origin: None }
}

fn write(store: &impl Store, object: AnyObject) -> Change {
    store.write(vec![put(object)]).expect("the write is accepted").remove(0).1
}

fn read(store: &impl Store) -> AnyObject {
    store.get(&reference(Kind::Lan, "lab")).expect("the store answers").expect("the LAN is there")
}

fn ready(message: &str) -> Status {
    Status::Lan(LanStatus { conditions: vec![Condition::ready(true, "Serving", message)], ..LanStatus::default() })
}

/// Runs the whole suite; `fresh` makes an empty store.
pub(crate) fn store_suite<S: Store>(mut fresh: impl FnMut() -> S) {
    identity_is_given_once(&fresh());
    generation_follows_the_spec_alone(&fresh());
    compare_and_set(&fresh());
    a_status_is_written_over_what_was_read(&fresh());
    all_writes_or_none(&fresh());
    watchers_hear_of_every_change_in_order(&fresh());
}

fn identity_is_given_once(store: &impl Store) {
    assert_eq!(write(store, lan("lab", "10.0.0.0/24")), Change::Created);
    let first = read(store);
    let metadata = first.metadata();
    assert_eq!(metadata.namespace.as_ref().map(stoke_api::ObjectName::as_str), Some("default"));
    assert!(metadata.uid.is_some() && metadata.creation_timestamp.is_some(), "{metadata:?}");
    assert_eq!(write(store, lan("lab", "10.0.1.0/24")), Change::Updated);
    assert_eq!(read(store).metadata().uid, metadata.uid);
    store.write(vec![Write::Delete(first.reference())]).expect("it is there");
    assert_eq!(store.get(&first.reference()).expect("the store answers"), None);
    write(store, lan("lab", "10.0.0.0/24"));
    assert_ne!(read(store).metadata().uid, metadata.uid, "another object of that name is another object");
}

fn generation_follows_the_spec_alone(store: &impl Store) {
    let versions = |store| {
        let object = read(store);
        (object.metadata().generation, object.metadata().resource_version.clone())
    };
    write(store, lan("lab", "10.0.0.0/24"));
    let first = versions(store);
    assert_eq!(write(store, lan("lab", "10.0.0.0/24")), Change::Unchanged);
    assert_eq!(versions(store), first, "the same again writes nothing");
    let mut labelled = lan("lab", "10.0.0.0/24");
    labelled.metadata_mut().labels.insert("a".into(), "b".into());
    assert_eq!(write(store, labelled), Change::Updated);
    let second = versions(store);
    assert_eq!((second.0, second.1 == first.1), (Some(1), false));
    assert_eq!(write(store, lan("lab", "10.0.1.0/24")), Change::Updated);
    assert_eq!(versions(store).0, Some(2));
}

fn compare_and_set(store: &impl Store) {
    write(store, lan("lab", "10.0.0.0/24"));
    let read_before = read(store);
    assert_eq!(write(store, lan("lab", "10.0.1.0/24")), Change::Updated);
    let late = store.write(vec![put(read_before)]);
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    assert_eq!(write(store, read(store)), Change::Unchanged);
}

fn a_status_is_written_over_what_was_read(store: &impl Store) {
    let name = reference(Kind::Lan, "lab");
    write(store, lan("lab", "10.0.0.0/24"));
    let version = |object: AnyObject| object.metadata().resource_version.clone().expect("stored objects have one");
    let before = version(read(store));
    assert!(store.write_status(&name, &before, ready("a")).expect("nobody wrote in between"));
    let condition = read(store).conditions()[0].clone();
    assert_eq!((condition.status, condition.last_transition_time.len()), (Truth::True, 20), "{condition:?}");
    assert_eq!(read(store).metadata().generation, Some(1));
    assert!(matches!(store.write_status(&name, &before, ready("b")), Err(StoreError::Conflict(_))));
    let now = version(read(store));
    let AnyObject::Lan(same) = read(store) else { panic!("a LAN") };
    assert!(!store.write_status(&name, &now, Status::Lan(same.status)).expect("no conflict"));
    assert_eq!(version(read(store)), now, "the same status writes nothing");
    write(store, lan("lab", "10.0.1.0/24"));
    assert_eq!(read(store).conditions().len(), 1, "a new spec keeps the status");
    let missing = store.write_status(&reference(Kind::Lan, "none"), &now, ready("a"));
    assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
}

fn all_writes_or_none(store: &impl Store) {
    let missing = Write::Delete(reference(Kind::Farm, "none"));
    assert!(store.write(vec![put(lan("lab", "10.0.0.0/24")), missing]).is_err());
    assert_eq!(store.list().expect("the store answers"), []);
    store.write(vec![put(machine("b")), put(lan("lab", "10.0.0.0/24")), put(machine("a"))]).expect("all are new");
    let names: Vec<_> = store.list().expect("the store answers").iter().map(|o| o.reference().to_string()).collect();
    assert_eq!(names, ["lan/lab", "machine/a", "machine/b"]);
}

fn watchers_hear_of_every_change_in_order(store: &impl Store) {
    let mut watch = store.watch();
    write(store, lan("lab", "10.0.0.0/24"));
    write(store, lan("lab", "10.0.0.0/24"));
    write(store, lan("lab", "10.0.1.0/24"));
    store.write(vec![Write::Delete(reference(Kind::Lan, "lab"))]).expect("it is there");
    let heard: Vec<_> = std::iter::from_fn(|| watch.try_recv().ok()).map(|event| event.change).collect();
    assert_eq!(heard, [Change::Created, Change::Updated, Change::Deleted]);
}

#[test]
fn the_local_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut number = 0;
    store_suite(|| {
        number += 1;
        LocalStore::open(&folder.path().join(format!("{number}.redb"))).expect("a new store opens")
    });
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let first = LocalStore::open(&path).expect("a new store opens");
    write(&first, lan("lab", "10.0.0.0/24"));
    let before = read(&first);
    drop(first);
    assert_eq!(read(&LocalStore::open(&path).expect("it opens again")), before);
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let database = redb::Database::create(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    let table = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(table).expect("a table").insert("schema", 99).expect("a row");
    transaction.commit().expect("a commit");
    drop(database);
    let refused = LocalStore::open(&path).map(|_| ()).expect_err("it is newer");
    assert_eq!(refused.to_string(), "the store has version 99, this program knows 1; use the newer program");
}

#[test]
fn repeated_events_are_counted_and_old_ones_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LocalStore::open(&folder.path().join("store.redb")).expect("a new store opens");
    let name = reference(Kind::Lan, "lab");
    let event = |message: &str| Occurrence { object: name.clone(), reason: "Seen".into(), message: message.into() };
    store.record_events(vec![event("a"), event("a"), event("b")]).expect("written");
    let events = store.events(&name).expect("read");
    assert_eq!(events.iter().map(|e| (e.message.as_str(), e.count)).collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
    store.record_events((0..200).map(|n| event(&n.to_string())).collect()).expect("written");
    let events = store.events(&name).expect("read");
    assert_eq!((events.len(), events.last().map(|e| e.message.as_str())), (64, Some("199")));
}

#[test]
fn a_server_has_no_namespace() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LocalStore::open(&folder.path().join("store.redb")).expect("a new store opens");
    let spec = serde_json::json!({"farm": {"namespace": "default", "name": "lab"}, "macs": ["52:54:00:00:00:07"]});
    write(&store, object(serde_json::json!({"kind": "Server", "metadata": {"name": "s"}, "spec": spec})));
    assert!(store.get(&reference(Kind::Server, "s")).expect("the store answers").is_some());
}
