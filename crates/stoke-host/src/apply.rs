//! Files to objects: what an application of files changes, or all that is wrong with it.
//!
//! Objects that came from a file belong to it: they go when they are no longer in it, and nobody else changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use stoke_api::control::{Applied, Apply, Change, ObjectProblem, Refused};
use stoke_api::objects::Problem;
use stoke_api::{AnyObject, ObjectRef};

use crate::store::{LocalStore, Store, StoreError, Write};

/// What an application comes to.
#[derive(Clone, Debug)]
pub struct Merge {
    /// What is to be written.
    pub writes: Vec<Write>,
    /// All objects afterwards, as they would be.
    pub objects: Vec<AnyObject>,
}

/// Why an application did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Something is wrong with the objects; nothing was changed.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Carries an application out.
///
/// # Errors
/// With everything that is wrong at once; then nothing was changed.
pub fn apply(store: &LocalStore, apply: &Apply) -> Result<Applied, ApplyError> {
    let merge = merge(store, apply)?;
    Ok(Applied { changes: store.write(merge.writes)? })
}

/// What an application comes to, without changing anything.
///
/// # Errors
/// With everything that is wrong at once.
pub fn merge(store: &LocalStore, apply: &Apply) -> Result<Merge, ApplyError> {
    let (current, origins) = (store.list()?, store.origins()?.into_iter().collect());
    let merge = combine(&current, &origins, apply, &Path::exists).map_err(ApplyError::Refused)?;
    let problems = new_problems(&current, &merge, apply);
    if problems.is_empty() { Ok(merge) } else { Err(ApplyError::Refused(refused(problems))) }
}

/// What would change, compared with the store as it is.
pub fn changes(current: &[AnyObject], merge: &Merge) -> Vec<(ObjectRef, Change)> {
    let before: BTreeMap<_, _> = current.iter().map(|object| (object.reference(), object)).collect();
    let change = |write: &Write| match write {
        Write::Delete(reference) => (reference.clone(), Change::Deleted),
        Write::Put { object, .. } => {
            let reference = object.reference();
            let change = match before.get(&reference) {
                None => Change::Created,
                Some(old) if merge.objects.iter().any(|new| same_wish(old, new)) => Change::Unchanged,
                Some(_) => Change::Updated,
            };
            (reference, change)
        }
    };
    merge.writes.iter().map(change).collect()
}

/// Whether two objects are the same one and want the same.
fn same_wish(a: &AnyObject, b: &AnyObject) -> bool {
    let wish = |object: &AnyObject| {
        let mut wish = with_state_of(object.clone(), b);
        *wish.metadata_mut() = b.metadata().clone();
        wish
    };
    let metadata = (a.metadata(), b.metadata());
    let notes = metadata.0.labels == metadata.1.labels && metadata.0.annotations == metadata.1.annotations;
    a.reference() == b.reference() && notes && wish(a) == wish(b)
}

fn refused(problems: Vec<ObjectProblem>) -> Refused {
    let message = match problems.as_slice() {
        [one] => format!("{}: {}: {}", one.object, one.field, one.message),
        several => format!("{} problems; nothing was changed", several.len()),
    };
    Refused { message, problems }
}

fn problem(object: &ObjectRef, field: &str, message: String) -> ObjectProblem {
    ObjectProblem { object: object.clone(), field: field.to_owned(), message }
}

fn combine(
    current: &[AnyObject],
    origins: &BTreeMap<ObjectRef, PathBuf>,
    apply: &Apply,
    exists: &dyn Fn(&Path) -> bool,
) -> Result<Merge, Refused> {
    let applied: BTreeSet<_> = apply.files.iter().map(|file| file.path.as_path()).collect();
    let mut after: BTreeMap<_, _> = current.iter().map(|object| (object.reference(), object.clone())).collect();
    let (mut writes, mut problems) = (Vec::new(), Vec::new());
    let mut placed = BTreeMap::<ObjectRef, &Path>::new();
    for file in &apply.files {
        for object in &file.objects {
            let reference = object.reference();
            if let Some(other) = placed.insert(reference.clone(), &file.path) {
                problems.push(problem(&reference, "metadata.name", format!("it is in {}, too", other.display())));
                continue;
            }
            // A file that is gone has no say any more, and one that is applied now says itself what it has.
            let owner = origins.get(&reference).filter(|owner| !applied.contains(owner.as_path()) && exists(owner));
            if let Some(owner) = owner {
                problems.push(problem(&reference, "metadata.name", format!("it belongs to {}", owner.display())));
            }
            let maker = after.get(&reference).and_then(|there| there.metadata().controller());
            if let Some(maker) = maker {
                let message = format!("it is one of {}/{}", maker.kind.to_lowercase(), maker.name);
                problems.push(problem(&reference, "metadata.name", message));
                continue;
            }
            let new = after.get(&reference).map_or_else(|| object.clone(), |old| over(object, old));
            after.insert(reference, new);
            writes.push(Write::Put { object: Box::new(object.clone()), origin: Some(file.path.clone()) });
        }
    }
    let gone =
        |(object, owner): &(&ObjectRef, &PathBuf)| applied.contains(owner.as_path()) && !placed.contains_key(object);
    for (object, _) in origins.iter().filter(gone) {
        after.remove(object);
        writes.push(Write::Delete(object.clone()));
    }
    if problems.is_empty() {
        Ok(Merge { writes, objects: after.into_values().collect() })
    } else {
        Err(refused(problems))
    }
}

/// The new object as the store will have it: with the old one's identity and status.
fn over(new: &AnyObject, old: &AnyObject) -> AnyObject {
    let mut object = with_state_of(new.clone(), old);
    let (labels, annotations) = (new.metadata().labels.clone(), new.metadata().annotations.clone());
    let metadata = object.metadata_mut();
    *metadata = old.metadata().clone();
    (metadata.labels, metadata.annotations) = (labels, annotations);
    object
}

fn with_state_of(mut object: AnyObject, other: &AnyObject) -> AnyObject {
    match (&mut object, other) {
        (AnyObject::Image(object), AnyObject::Image(other)) => object.status.clone_from(&other.status),
        (AnyObject::Lan(object), AnyObject::Lan(other)) => object.status.clone_from(&other.status),
        (AnyObject::Farm(object), AnyObject::Farm(other)) => object.status.clone_from(&other.status),
        (AnyObject::Server(object), AnyObject::Server(other)) => object.status.clone_from(&other.status),
        (AnyObject::Machine(object), AnyObject::Machine(other)) => object.status.clone_from(&other.status),
        (AnyObject::MachineSet(object), AnyObject::MachineSet(other)) => object.status.clone_from(&other.status),
        _ => {}
    }
    object
}

/// What is wrong with the applied objects, and what the application would break elsewhere. What was wrong elsewhere before
/// does not stand in its way.
fn new_problems(current: &[AnyObject], merge: &Merge, apply: &Apply) -> Vec<ObjectProblem> {
    let before: Vec<_> = stoke_reconcile::check(current);
    let applied: BTreeSet<_> = apply.files.iter().flat_map(|file| &file.objects).map(AnyObject::reference).collect();
    let found = stoke_reconcile::check(&merge.objects).into_iter();
    let counts = |found: &(ObjectRef, Problem)| applied.contains(&found.0) || !before.contains(found);
    found.filter(counts).map(|(object, found)| problem(&object, &found.field, found.message)).collect()
}

/// Removes one object, unless a file says that it should be there.
///
/// # Errors
/// If it belongs to a file, or others need it.
pub fn delete(store: &LocalStore, object: &ObjectRef) -> Result<(), ApplyError> {
    if store.get(object)?.is_none() {
        return Err(StoreError::NotFound(object.clone()).into());
    }
    if let Some(file) = store.origin(object)?.filter(|file| file.exists()) {
        let message = format!("{object} comes from {}; remove it there and it goes", file.display());
        return Err(ApplyError::Refused(Refused { message, problems: Vec::new() }));
    }
    let current = store.list()?;
    let objects = current.iter().filter(|other| other.reference() != *object).cloned().collect();
    let merge = Merge { writes: vec![Write::Delete(object.clone())], objects };
    let problems = new_problems(&current, &merge, &Apply { files: Vec::new() });
    if !problems.is_empty() {
        return Err(ApplyError::Refused(refused(problems)));
    }
    store.write(merge.writes)?;
    Ok(())
}
