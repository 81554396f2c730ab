//! The objects of this host, durable before they are acknowledged.
//!
//! One redb file with versioned tables. Every write is one transaction that is on disk when it returns; watchers hear of
//! it afterwards. [`Store`] is what the rest relies on, and what another implementation is held to by the same tests.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stoke_api::control::{Change, ObjectEvent, WatchEvent};
use stoke_api::objects::{FarmStatus, ImageStatus, LanStatus, MachineSetStatus, MachineStatus, ServerStatus};
use stoke_api::{AnyObject, ObjectRef};
use stoke_reconcile::{Occurrence, Status};
use tokio::sync::broadcast;

/// Version of the tables below. A store of a newer one is refused.
const SCHEMA: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const EVENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("events");
const NOTES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("notes");
/// Events kept for an object; the oldest goes first.
const EVENT_LIMIT: usize = 64;
/// Changes that a slow watcher may be behind before it has to begin again.
const WATCH_BACKLOG: usize = 1024;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody wrote in between; read again.
    #[error("{0} was changed in the meantime")]
    Conflict(ObjectRef),
    /// There is no such object.
    #[error("there is no {0}")]
    NotFound(ObjectRef),
    /// The file is of a newer program.
    #[error("the store has version {found}, this program knows {SCHEMA}; use the newer program")]
    Newer {
        /// Version of the file.
        found: u64,
    },
    /// What is stored is no object.
    #[error("{what} in the store cannot be read")]
    Encoding {
        /// Which entry.
        what: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// The database or the disk below it.
    #[error("the store failed")]
    Database(#[source] Box<redb::Error>),
    /// The API server does not answer, or not now. What was known last is still read; a write is to be tried again.
    #[error("the API server does not answer")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server does not take it: its schema, a webhook or the caller's rights are against it.
    #[error("{object} was refused: {message}")]
    Refused {
        /// The object.
        object: ObjectRef,
        /// The API server's words.
        message: String,
    },
}

fn database(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(Box::new(error.into()))
}

/// One change of what people want.
#[derive(Clone, Debug)]
pub enum Write {
    /// The object with this spec and these labels, whether or not it is there. With a `resourceVersion`, only if it is
    /// still the stored one.
    Put {
        /// The object; its status is ignored.
        object: Box<AnyObject>,
        /// The file that it comes from.
        origin: Option<PathBuf>,
    },
    /// No such object.
    Delete(ObjectRef),
}

/// What the reconcilers and the control socket need of a store: [`LocalStore`] on one host, the API server in a cluster.
///
/// Reading never waits: it is from memory or from this host's disk. Writing may. Who has written reads what was written.
pub trait Store: Send + Sync {
    /// One object.
    fn get(&self, object: &ObjectRef) -> Result<Option<AnyObject>, StoreError>;
    /// All objects, by kind, namespace, name.
    fn list(&self) -> Result<Vec<AnyObject>, StoreError>;
    /// Carries out all writes, or none if one of them is refused as things are. On one host nothing can come between; an
    /// API server has no transactions, so there another writer, or the end of this process, can leave some undone.
    fn write(&self, writes: Vec<Write>) -> impl Future<Output = Result<Vec<(ObjectRef, Change)>, StoreError>> + Send;
    /// Writes a status over the object as it was read, that is: if its `resourceVersion` is still `expected`. Says
    /// whether that changed anything. Conditions without a time get that of now.
    fn write_status(
        &self,
        object: &ObjectRef,
        expected: &str,
        status: Status,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// Adds events. One that repeats the last one is counted.
    fn record_events(&self, occurrences: Vec<Occurrence>) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Events of an object, oldest first.
    fn events(&self, object: &ObjectRef) -> impl Future<Output = Result<Vec<ObjectEvent>, StoreError>> + Send;
    /// Changes from now on.
    fn watch(&self) -> broadcast::Receiver<WatchEvent>;
}

/// Gives the time of now to conditions that have none.
pub fn date_conditions(status: &mut Status) {
    let times = status.conditions_mut().iter_mut().map(|condition| &mut condition.last_transition_time);
    times.filter(|time| time.is_empty()).for_each(|time| *time = now());
}

#[derive(Serialize, Deserialize)]
struct Stored {
    object: AnyObject,
    origin: Option<PathBuf>,
}

/// The store in a file.
pub struct LocalStore {
    database: Database,
    changes: broadcast::Sender<WatchEvent>,
    /// Held from a commit until its watchers are told, so that they hear of commits in their order.
    telling: Mutex<()>,
}

impl LocalStore {
    /// Opens the store, making it if need be.
    ///
    /// # Errors
    /// If another process has it, the disk refuses, or it is of a newer program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Database::create(path).map_err(database)?;
        let transaction = file.begin_write().map_err(database)?;
        {
            let mut meta = transaction.open_table(META).map_err(database)?;
            let found = meta.get("schema").map_err(database)?.map(|version| version.value());
            match found {
                Some(found) if found > SCHEMA => return Err(StoreError::Newer { found }),
                _ => meta.insert("schema", SCHEMA).map_err(database)?,
            };
            transaction.open_table(OBJECTS).map_err(database)?;
            transaction.open_table(EVENTS).map_err(database)?;
            transaction.open_table(NOTES).map_err(database)?;
        }
        transaction.commit().map_err(database)?;
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        Ok(Self { database: file, changes, telling: Mutex::new(()) })
    }

    /// The file that an object came from.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn origin(&self, object: &ObjectRef) -> Result<Option<PathBuf>, StoreError> {
        Ok(self.read::<Stored>(OBJECTS, &object_key(object))?.and_then(|stored| stored.origin))
    }

    /// Each object that came from a file, and the file.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn origins(&self) -> Result<Vec<(ObjectRef, PathBuf)>, StoreError> {
        let stored = self.read_all::<Stored>(OBJECTS)?;
        Ok(stored.into_iter().filter_map(|stored| Some((stored.object.reference(), stored.origin?))).collect())
    }

    /// Events of an object, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn events(&self, object: &ObjectRef) -> Result<Vec<ObjectEvent>, StoreError> {
        Ok(self.read(EVENTS, &object_key(object))?.unwrap_or_default())
    }

    /// Adds events. One that repeats the last one is counted.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn record_events(&self, occurrences: Vec<Occurrence>) -> Result<(), StoreError> {
        if occurrences.is_empty() {
            return Ok(());
        }
        let transaction = self.database.begin_write().map_err(database)?;
        for occurrence in occurrences {
            let key = object_key(&occurrence.object);
            let mut events: Vec<ObjectEvent> = read_in(&transaction, EVENTS, &key)?.unwrap_or_default();
            add_event(&mut events, occurrence);
            write_in(&transaction, EVENTS, &key, &events)?;
        }
        transaction.commit().map_err(database)
    }

    /// Something that the host remembers beside the objects: what was built.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn note<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.read(NOTES, key)
    }

    /// Remembers something beside the objects.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn set_note<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(database)?;
        write_in(&transaction, NOTES, key, value)?;
        transaction.commit().map_err(database)
    }

    /// Carries out all writes, or none.
    ///
    /// # Errors
    /// If one of them is refused, or the store cannot be written.
    pub fn write(&self, writes: Vec<Write>) -> Result<Vec<(ObjectRef, Change)>, StoreError> {
        let transaction = self.database.begin_write().map_err(database)?;
        let (mut changes, mut events) = (Vec::new(), Vec::new());
        for write in writes {
            let (reference, change, object) = match write {
                Write::Put { object, origin } => put(&transaction, *object, origin)?,
                Write::Delete(object) => delete(&transaction, object)?,
            };
            if change != Change::Unchanged {
                events.push(WatchEvent { change, object: Box::new(object) });
            }
            changes.push((reference, change));
        }
        self.tell(transaction, events)?;
        Ok(changes)
    }

    /// Writes a status over the object as it was read. Says whether that changed anything.
    ///
    /// # Errors
    /// If there is no such object, it was written in between, or the store cannot be written.
    pub fn write_status(&self, object: &ObjectRef, expected: &str, mut status: Status) -> Result<bool, StoreError> {
        let transaction = self.database.begin_write().map_err(database)?;
        let key = object_key(object);
        let stored: Option<Stored> = read_in(&transaction, OBJECTS, &key)?;
        let mut stored = stored.ok_or_else(|| StoreError::NotFound(object.clone()))?;
        if stored.object.metadata().resource_version.as_deref() != Some(expected) {
            return Err(StoreError::Conflict(object.clone()));
        }
        date_conditions(&mut status);
        if !status.write_into(&mut stored.object) {
            return Ok(false);
        }
        stored.object.metadata_mut().resource_version = Some(next_revision(&transaction)?);
        write_in(&transaction, OBJECTS, &key, &stored)?;
        self.tell(transaction, vec![WatchEvent { change: Change::Updated, object: Box::new(stored.object) }])?;
        Ok(true)
    }

    fn read<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let transaction = self.database.begin_read().map_err(database)?;
        let table = transaction.open_table(table).map_err(database)?;
        let value = redb::ReadableTable::get(&table, key).map_err(database)?;
        value.map(|value| decode(key, value.value())).transpose()
    }

    fn read_all<T: DeserializeOwned>(&self, table: TableDefinition<'_, &str, &[u8]>) -> Result<Vec<T>, StoreError> {
        let transaction = self.database.begin_read().map_err(database)?;
        let table = transaction.open_table(table).map_err(database)?;
        let entries = table.iter().map_err(database)?;
        let entry = |entry: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>| {
            let (key, value) = entry.map_err(database)?;
            decode(key.value(), value.value())
        };
        entries.map(entry).collect()
    }

    fn tell(&self, transaction: WriteTransaction, events: Vec<WatchEvent>) -> Result<(), StoreError> {
        let _in_order = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        transaction.commit().map_err(database)?;
        // Nobody watching is no failure.
        for event in events {
            drop(self.changes.send(event));
        }
        Ok(())
    }
}

impl Store for LocalStore {
    fn get(&self, object: &ObjectRef) -> Result<Option<AnyObject>, StoreError> {
        Ok(self.read::<Stored>(OBJECTS, &object_key(object))?.map(|stored| stored.object))
    }

    fn list(&self) -> Result<Vec<AnyObject>, StoreError> {
        let mut objects: Vec<_> = self.read_all::<Stored>(OBJECTS)?.into_iter().map(|stored| stored.object).collect();
        objects.sort_by_key(AnyObject::reference);
        Ok(objects)
    }

    // The disk of this host is waited for as it is: a write is one small transaction.
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<(ObjectRef, Change)>, StoreError> {
        Self::write(self, writes)
    }

    async fn write_status(&self, object: &ObjectRef, expected: &str, status: Status) -> Result<bool, StoreError> {
        Self::write_status(self, object, expected, status)
    }

    async fn record_events(&self, occurrences: Vec<Occurrence>) -> Result<(), StoreError> {
        Self::record_events(self, occurrences)
    }

    async fn events(&self, object: &ObjectRef) -> Result<Vec<ObjectEvent>, StoreError> {
        Self::events(self, object)
    }

    fn watch(&self) -> broadcast::Receiver<WatchEvent> {
        self.changes.subscribe()
    }
}

/// RFC 3339 with whole seconds, as Kubernetes writes times.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn object_key(object: &ObjectRef) -> String {
    let namespace = object.namespace.as_ref().map_or("-", |namespace| namespace.as_str());
    format!("{}/{namespace}/{}", object.kind.plural(), object.name)
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Encoding { what: key.to_owned(), source })
}

fn read_in<T: DeserializeOwned>(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let table = transaction.open_table(table).map_err(database)?;
    let value = table.get(key).map_err(database)?;
    value.map(|value| decode(key, value.value())).transpose()
}

fn write_in(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    key: &str,
    value: &impl Serialize,
) -> Result<(), StoreError> {
    let encoding = |source| StoreError::Encoding { what: key.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(encoding)?;
    let mut table = transaction.open_table(table).map_err(database)?;
    table.insert(key, bytes.as_slice()).map_err(database)?;
    Ok(())
}

fn next_revision(transaction: &WriteTransaction) -> Result<String, StoreError> {
    let mut meta = transaction.open_table(META).map_err(database)?;
    let revision = meta.get("revision").map_err(database)?.map_or(0, |revision| revision.value()) + 1;
    meta.insert("revision", revision).map_err(database)?;
    Ok(revision.to_string())
}

type Written = (ObjectRef, Change, AnyObject);

fn put(transaction: &WriteTransaction, new: AnyObject, origin: Option<PathBuf>) -> Result<Written, StoreError> {
    let reference = new.reference();
    let key = object_key(&reference);
    let stored: Option<Stored> = read_in(transaction, OBJECTS, &key)?;
    if let Some(expected) = &new.metadata().resource_version {
        let current = stored.as_ref().and_then(|stored| stored.object.metadata().resource_version.as_ref());
        if current != Some(expected) {
            return Err(StoreError::Conflict(reference));
        }
    }
    let (object, change) = match &stored {
        None => (created(new, &reference), Change::Created),
        Some(stored) => updated(&stored.object, &new),
    };
    let same_origin = stored.is_some_and(|stored| stored.origin == origin);
    let mut stored = Stored { object, origin };
    if change != Change::Unchanged {
        stored.object.metadata_mut().resource_version = Some(next_revision(transaction)?);
    }
    if change != Change::Unchanged || !same_origin {
        write_in(transaction, OBJECTS, &key, &stored)?;
    }
    Ok((reference, change, stored.object))
}

/// The object without a status: that is for the reconcilers to write.
fn created(mut object: AnyObject, reference: &ObjectRef) -> AnyObject {
    clear_status(&mut object);
    let metadata = object.metadata_mut();
    metadata.namespace.clone_from(&reference.namespace);
    metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    metadata.generation = Some(1);
    metadata.creation_timestamp = Some(now());
    object
}

fn clear_status(object: &mut AnyObject) {
    match object {
        AnyObject::Image(object) => object.status = ImageStatus::default(),
        AnyObject::Lan(object) => object.status = LanStatus::default(),
        AnyObject::Farm(object) => object.status = FarmStatus::default(),
        AnyObject::Server(object) => object.status = ServerStatus::default(),
        AnyObject::Machine(object) => object.status = MachineStatus::default(),
        AnyObject::MachineSet(object) => object.status = MachineSetStatus::default(),
    }
}

/// The stored object with the new one's spec, labels and annotations.
fn updated(stored: &AnyObject, new: &AnyObject) -> (AnyObject, Change) {
    let mut object = stored.clone();
    let spec_changed = match (&mut object, new) {
        (AnyObject::Image(old), AnyObject::Image(new)) => replace(&mut old.spec, new.spec.clone()),
        (AnyObject::Lan(old), AnyObject::Lan(new)) => replace(&mut old.spec, new.spec.clone()),
        (AnyObject::Farm(old), AnyObject::Farm(new)) => replace(&mut old.spec, new.spec.clone()),
        (AnyObject::Server(old), AnyObject::Server(new)) => replace(&mut old.spec, new.spec.clone()),
        (AnyObject::Machine(old), AnyObject::Machine(new)) => replace(&mut old.spec, new.spec.clone()),
        (AnyObject::MachineSet(old), AnyObject::MachineSet(new)) => replace(&mut old.spec, new.spec.clone()),
        _ => false,
    };
    let metadata = object.metadata_mut();
    if spec_changed {
        metadata.generation = Some(metadata.generation.unwrap_or_default() + 1);
    }
    let notes_changed = replace(&mut metadata.labels, new.metadata().labels.clone())
        | replace(&mut metadata.annotations, new.metadata().annotations.clone());
    // Only reconcilers write owners: who changes an object of theirs leaves them alone.
    let owners = &new.metadata().owner_references;
    let notes_changed = notes_changed | (!owners.is_empty() && replace(&mut metadata.owner_references, owners.clone()));
    (object, if spec_changed || notes_changed { Change::Updated } else { Change::Unchanged })
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let differs = *place != value;
    *place = value;
    differs
}

fn delete(transaction: &WriteTransaction, reference: ObjectRef) -> Result<Written, StoreError> {
    let key = object_key(&reference);
    let stored: Option<Stored> = read_in(transaction, OBJECTS, &key)?;
    let stored = stored.ok_or_else(|| StoreError::NotFound(reference.clone()))?;
    transaction.open_table(OBJECTS).map_err(database)?.remove(key.as_str()).map_err(database)?;
    transaction.open_table(EVENTS).map_err(database)?.remove(key.as_str()).map_err(database)?;
    Ok((reference, Change::Deleted, stored.object))
}

fn add_event(events: &mut Vec<ObjectEvent>, occurrence: Occurrence) {
    let repeats = |last: &&mut ObjectEvent| last.reason == occurrence.reason && last.message == occurrence.message;
    if let Some(last) = events.last_mut().filter(repeats) {
        last.count += 1;
        last.at = now();
        return;
    }
    let Occurrence { reason, message, .. } = occurrence;
    events.push(ObjectEvent { at: now(), count: 1, reason, message });
    events.drain(..events.len().saturating_sub(EVENT_LIMIT));
}
