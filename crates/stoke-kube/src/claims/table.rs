//! Who has what: fed by the watch and by the answers to our own writes, in whatever order they come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stoke_api::ObjectRef;

/// Claims by their names: who holds each, and nothing else of it.
#[derive(Default)]
pub(super) struct Table {
    held: BTreeMap<String, (ObjectRef, u64)>,
    /// The same for readers, made when somebody reads.
    shown: Option<Arc<BTreeMap<String, ObjectRef>>>,
    /// Names that were seen since a list began.
    listing: Option<BTreeSet<String>>,
    complete: bool,
    /// What the API server refuses the watch.
    pub(super) refusal: Option<String>,
}

impl Table {
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn held(&mut self) -> Arc<BTreeMap<String, ObjectRef>> {
        let held = &self.held;
        let show = || Arc::new(held.iter().map(|(name, (holder, _))| (name.clone(), holder.clone())).collect());
        self.shown.get_or_insert_with(show).clone()
    }

    pub(super) fn begin_list(&mut self) -> bool {
        self.listing = Some(BTreeSet::new());
        false
    }

    /// What was neither listed nor written since the list began is gone.
    pub(super) fn end_list(&mut self) -> bool {
        let (listed, before) = (self.listing.take().unwrap_or_default(), self.held.len());
        self.held.retain(|name, _| listed.contains(name));
        let first = !std::mem::replace(&mut self.complete, true);
        self.changed(self.held.len() != before) || first
    }

    /// A claim as it was at a version. Whether somebody else has it than was known.
    pub(super) fn seen(&mut self, name: String, holder: ObjectRef, version: u64) -> bool {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        match self.held.get_mut(&name) {
            Some((_, known)) if *known > version => false,
            Some((same, known)) if *same == holder => {
                *known = version;
                false
            }
            _ => {
                self.held.insert(name, (holder, version));
                self.changed(true)
            }
        }
    }

    /// A claim was deleted at a version: one that was made later is another one.
    pub(super) fn gone(&mut self, name: &str, version: u64) -> bool {
        let is_it = self.held.get(name).is_some_and(|(_, known)| *known <= version);
        let gone = is_it && self.held.remove(name).is_some();
        self.changed(gone)
    }

    fn changed(&mut self, changed: bool) -> bool {
        if changed {
            self.shown = None;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use stoke_api::Kind;

    use super::*;

    fn machine(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Machine, namespace: Some("a".parse().unwrap()), name: name.parse().unwrap() }
    }

    fn shown(table: &mut Table) -> Vec<String> {
        table.held().iter().map(|(name, holder)| format!("{name} {}", holder.name)).collect()
    }

    #[test]
    fn what_comes_late_does_not_undo_what_was_written() {
        let mut table = Table::default();
        assert!(table.seen("vni-5".to_owned(), machine("old"), 10));
        // Deleted and made again by us, and only then the watch tells of it.
        assert!(table.gone("vni-5", 11));
        assert!(table.seen("vni-5".to_owned(), machine("new"), 12));
        assert!(!table.seen("vni-5".to_owned(), machine("old"), 10));
        assert!(!table.gone("vni-5", 11));
        assert!(!table.seen("vni-5".to_owned(), machine("new"), 12), "no news");
        assert_eq!(shown(&mut table), ["vni-5 new"]);
    }

    #[test]
    fn a_new_list_ends_what_is_not_in_it_but_what_was_written_meanwhile() {
        let mut table = Table::default();
        table.begin_list();
        assert!(!table.is_complete());
        table.seen("vni-1".to_owned(), machine("a"), 1);
        table.seen("vni-2".to_owned(), machine("b"), 2);
        assert!(table.end_list() && table.is_complete());
        table.begin_list();
        assert_eq!(shown(&mut table), ["vni-1 a", "vni-2 b"], "all is known while it is listed");
        table.seen("vni-1".to_owned(), machine("a"), 1);
        table.seen("vni-3".to_owned(), machine("c"), 9);
        assert!(table.end_list());
        assert_eq!(shown(&mut table), ["vni-1 a", "vni-3 c"]);
    }
}
