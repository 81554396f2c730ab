//! What is known of the objects: fed by the watches and by the answers to our own writes, in whatever order they come.
//!
//! ```text
//!             begin_list ── seen … ── end_list     what was there before and was not seen is gone
//!  a kind: ──────────────────────────────────────────────────────────────────────────────────────>
//!             seen (newer wins)   gone   forget (deleted by us: its late news are not believed)
//! ```
//!
//! Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use stoke_api::control::{Change, WatchEvent};
use stoke_api::{AnyObject, Kind, ObjectRef};

use crate::object::Unreadable;

/// Kind, namespace and name as the API server has them: also of objects that cannot be read.
type Place = (Kind, String, String);

/// All that is known.
#[derive(Default)]
pub(super) struct Cache {
    objects: BTreeMap<ObjectRef, AnyObject>,
    unreadable: BTreeMap<Place, Unreadable>,
    /// Uids of objects that we deleted and whose end no watch has told yet.
    deleted: BTreeSet<String>,
    listings: BTreeMap<Kind, Listing>,
    listed: BTreeSet<Kind>,
    troubles: BTreeMap<Kind, String>,
}

/// A list that is under way.
#[derive(Default)]
struct Listing {
    /// Uids that were known when it began.
    before: BTreeSet<String>,
    seen: BTreeSet<String>,
}

fn uid(object: &AnyObject) -> &str {
    object.metadata().uid.as_deref().unwrap_or_default()
}

/// Whether a version is older than another one, or the same. Versions are numbers that grow with each write (KEP-5504).
fn is_news(new: &str, known: &str) -> bool {
    match (new.parse::<u64>(), known.parse::<u64>()) {
        (Ok(new), Ok(known)) => new > known,
        _ => new != known,
    }
}

fn version(object: &AnyObject) -> &str {
    object.metadata().resource_version.as_deref().unwrap_or_default()
}

impl Cache {
    pub(super) fn get(&self, object: &ObjectRef) -> Option<&AnyObject> {
        self.objects.get(object)
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &AnyObject> {
        self.objects.values()
    }

    pub(super) fn unreadable(&self) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.values()
    }

    /// Whether all kinds were listed once.
    pub(super) fn is_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.troubles.iter().next().map(|(kind, message)| format!("{}: {message}", kind.plural()))
    }

    pub(super) fn troubled(&mut self, kind: Kind, message: Option<String>) {
        match message {
            Some(message) => self.troubles.insert(kind, message),
            None => self.troubles.remove(&kind),
        };
    }

    pub(super) fn begin_list(&mut self, kind: Kind) {
        let before = self.uids(kind);
        self.listings.insert(kind, Listing { before, seen: BTreeSet::new() });
    }

    /// The list is complete: what was there before and is not in it is gone.
    pub(super) fn end_list(&mut self, kind: Kind) -> Vec<WatchEvent> {
        self.listed.insert(kind);
        let Some(Listing { before, seen }) = self.listings.remove(&kind) else { return Vec::new() };
        // A late DELETED of these will not come any more.
        self.deleted.retain(|uid| seen.contains(uid));
        let lost: Vec<_> = before.difference(&seen).cloned().collect();
        lost.iter().flat_map(|uid| self.gone(kind, uid)).collect()
    }

    fn uids(&self, kind: Kind) -> BTreeSet<String> {
        let readable = self.objects.values().filter(|object| object.kind() == kind).map(uid);
        let unreadable =
            self.unreadable.values().filter(|object| object.kind == kind).map(|object| object.uid.as_str());
        readable.chain(unreadable).map(str::to_owned).collect()
    }

    /// An object as a watch, a list or an answer has it.
    pub(super) fn seen(&mut self, kind: Kind, found: Result<AnyObject, Box<Unreadable>>) -> Vec<WatchEvent> {
        let id = found.as_ref().map_or_else(|object| object.uid.clone(), |object| uid(object).to_owned());
        if let Some(listing) = self.listings.get_mut(&kind) {
            listing.seen.insert(id.clone());
        }
        if self.deleted.contains(&id) {
            return Vec::new();
        }
        match found {
            Ok(object) => self.readable(object),
            Err(object) => self.not_readable(*object),
        }
    }

    fn readable(&mut self, object: AnyObject) -> Vec<WatchEvent> {
        let reference = object.reference();
        let place = place(&reference);
        if self.unreadable.get(&place).is_some_and(|old| !is_news(version(&object), &old.resource_version)) {
            return Vec::new();
        }
        let mut events = Vec::new();
        let change = match self.objects.get(&reference) {
            Some(known) if !is_news(version(&object), version(known)) => return Vec::new(),
            Some(known) if uid(known) == uid(&object) => Change::Updated,
            Some(other) => {
                events.push(WatchEvent { change: Change::Deleted, object: Box::new(other.clone()) });
                Change::Created
            }
            None => Change::Created,
        };
        self.unreadable.remove(&place);
        self.objects.insert(reference, object.clone());
        events.push(WatchEvent { change, object: Box::new(object) });
        events
    }

    fn not_readable(&mut self, object: Unreadable) -> Vec<WatchEvent> {
        let place = (object.kind, object.namespace.clone().unwrap_or_default(), object.name.clone());
        let known = self.unreadable.get(&place).map(|old| old.resource_version.clone());
        let readable = self.objects.iter().find(|(reference, _)| self::place(reference) == place);
        let readable = readable.map(|(reference, object)| (reference.clone(), version(object).to_owned()));
        let newest = known.iter().chain(readable.as_ref().map(|(_, version)| version));
        if newest.into_iter().any(|known| !is_news(&object.resource_version, known)) {
            return Vec::new();
        }
        self.unreadable.insert(place, object);
        let old = readable.and_then(|(reference, _)| self.objects.remove(&reference));
        old.map(|object| WatchEvent { change: Change::Deleted, object: Box::new(object) }).into_iter().collect()
    }

    /// A watch says that an object is gone.
    pub(super) fn gone(&mut self, kind: Kind, id: &str) -> Vec<WatchEvent> {
        self.deleted.remove(id);
        self.unreadable.retain(|_, object| object.uid != id);
        let found = self.objects.iter().find(|(reference, object)| reference.kind == kind && uid(object) == id);
        let reference = found.map(|(reference, _)| reference.clone());
        let old = reference.and_then(|reference| self.objects.remove(&reference));
        old.map(|object| WatchEvent { change: Change::Deleted, object: Box::new(object) }).into_iter().collect()
    }

    /// We have deleted an object: what a watch still says of it is old.
    pub(super) fn forget(&mut self, object: &ObjectRef, id: &str) -> Vec<WatchEvent> {
        let known = self.objects.get(object).is_some_and(|known| uid(known) == id);
        let events = self.gone(object.kind, id);
        // If the watch was faster, nothing of it will come any more.
        if known {
            self.deleted.insert(id.to_owned());
        }
        events
    }
}

fn place(object: &ObjectRef) -> Place {
    let namespace = object.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
    (object.kind, namespace, object.name.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lan(name: &str, uid: &str, version: u32) -> AnyObject {
        let metadata =
            json!({ "name": name, "namespace": "default", "uid": uid, "resourceVersion": version.to_string() });
        let spec = json!({ "subnets": [] });
        serde_json::from_value(json!({ "kind": "Lan", "metadata": metadata, "spec": spec })).unwrap()
    }

    fn told(events: Vec<WatchEvent>) -> Vec<(Change, String)> {
        events.into_iter().map(|event| (event.change, event.object.metadata().name.to_string())).collect()
    }

    fn seen(cache: &mut Cache, name: &str, uid: &str, version: u32) -> Vec<(Change, String)> {
        told(cache.seen(Kind::Lan, Ok(lan(name, uid, version))))
    }

    fn one(change: Change, name: &str) -> Vec<(Change, String)> {
        vec![(change, name.to_owned())]
    }

    #[test]
    fn old_news_change_nothing() {
        let mut cache = Cache::default();
        assert_eq!(seen(&mut cache, "a", "1", 5), one(Change::Created, "a"));
        assert_eq!(seen(&mut cache, "a", "1", 5), []);
        assert_eq!(seen(&mut cache, "a", "1", 10), one(Change::Updated, "a"));
        assert_eq!(seen(&mut cache, "a", "1", 9), []);
        let again = seen(&mut cache, "a", "2", 11);
        assert_eq!(again, [one(Change::Deleted, "a"), one(Change::Created, "a")].concat());
    }

    #[test]
    fn what_a_list_does_not_have_is_gone_but_for_what_was_written_meanwhile() {
        let mut cache = Cache::default();
        seen(&mut cache, "a", "1", 5);
        seen(&mut cache, "b", "2", 6);
        cache.begin_list(Kind::Lan);
        seen(&mut cache, "b", "2", 6);
        seen(&mut cache, "c", "3", 9);
        assert_eq!(told(cache.end_list(Kind::Lan)), one(Change::Deleted, "a"));
        assert_eq!(cache.objects().count(), 2);
    }

    #[test]
    fn an_object_that_we_deleted_does_not_come_back_by_late_news() {
        let mut cache = Cache::default();
        seen(&mut cache, "a", "1", 5);
        let reference = lan("a", "1", 5).reference();
        assert_eq!(told(cache.forget(&reference, "1")), one(Change::Deleted, "a"));
        assert_eq!(seen(&mut cache, "a", "1", 6), []);
        assert_eq!(told(cache.gone(Kind::Lan, "1")), []);
        assert_eq!(seen(&mut cache, "a", "2", 8), one(Change::Created, "a"));
        assert!(cache.deleted.is_empty());
    }

    #[test]
    fn an_object_that_becomes_unreadable_is_no_object_until_it_is_readable_again() {
        let mut cache = Cache::default();
        seen(&mut cache, "a", "1", 5);
        let unreadable = |version: u32| Unreadable {
            kind: Kind::Lan,
            namespace: Some("default".into()),
            name: "a".into(),
            uid: "1".into(),
            resource_version: version.to_string(),
            message: String::new(),
            generation: 1,
            conditions: Vec::new(),
        };
        assert_eq!(told(cache.seen(Kind::Lan, Err(Box::new(unreadable(4))))), []);
        assert_eq!(told(cache.seen(Kind::Lan, Err(Box::new(unreadable(6))))), one(Change::Deleted, "a"));
        assert_eq!((cache.objects().count(), cache.unreadable().count()), (0, 1));
        assert_eq!(seen(&mut cache, "a", "1", 5), []);
        assert_eq!(seen(&mut cache, "a", "1", 7), one(Change::Created, "a"));
        assert_eq!(cache.unreadable().count(), 0);
    }
}
