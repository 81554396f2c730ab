//! The local store: the suite that every store is held to, and what is its own.

use stoke_api::control::Change;
use stoke_api::{AnyObject, Kind};
use stoke_host::store::Write;
use stoke_host::{LocalStore, Store as _};
use stoke_reconcile::Occurrence;

use crate::objects::{lan, object, reference};
use crate::suite::store_suite;

fn write(store: &LocalStore, object: AnyObject) -> Change {
    let put = Write::Put { object: Box::new(object), origin: None };
    store.write(vec![put]).expect("the write is accepted").remove(0).1
}

fn read(store: &LocalStore) -> AnyObject {
    store.get(&reference(Kind::Lan, "lab")).expect("the store answers").expect("the LAN is there")
}

#[tokio::test]
async fn the_local_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut number = 0;
    store_suite(async || {
        number += 1;
        LocalStore::open(&folder.path().join(format!("{number}.redb"))).expect("a new store opens")
    })
    .await;
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
