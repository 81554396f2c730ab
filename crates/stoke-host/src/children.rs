//! Objects that others want: the machines of a set.

use stoke_api::AnyObject;
use stoke_reconcile::ObjectChange;

use crate::store::Write;

/// The writes that the wanted changes come to, each to be carried out by itself: one that is refused leaves the others alone.
/// `objects` is what the reconcilers were given.
pub fn writes(changes: &[ObjectChange], objects: &[AnyObject]) -> Vec<Write> {
    let there = |wanted: &stoke_api::ObjectRef| objects.iter().find(|object| object.reference() == *wanted);
    let write = |change: &ObjectChange| match change {
        ObjectChange::Create(object) | ObjectChange::Update(object) => {
            Some(Write::Put { object: object.clone(), origin: None })
        }
        // Another one of that name is nobody's to delete.
        ObjectChange::Delete { object, uid } => {
            there(object).filter(|there| there.metadata().uid == *uid).map(|_| Write::Delete(object.clone()))
        }
    };
    changes.iter().filter_map(write).collect()
}
