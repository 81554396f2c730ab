//! References: what they lead to, and who may refer to it.

use stoke_api::objects::{Access, AccessFrom, Kind};
use stoke_api::{ObjectName, ObjectRef};

use super::Findings;

impl<'a> Findings<'a> {
    /// Whether the target exists and the owner may refer to it; if not, that is a problem.
    pub(super) fn refers(&mut self, owner: &ObjectRef, field: &str, target: &ObjectRef) -> bool {
        let exists = self.names.contains(target);
        if !exists && self.some_are_unknown {
            return false;
        }
        let foreign = owner.namespace.as_ref().filter(|_| owner.namespace != target.namespace);
        if exists && foreign.is_some_and(|from| self.nobody_knows_whether_allowed(target, from)) {
            return false;
        }
        match (foreign, &target.namespace) {
            (None, _) | (_, None) if exists => true,
            (Some(from), Some(_)) if exists && self.allows(target, from) => true,
            (Some(from), Some(there)) => {
                let (kind, name) = (target.kind.singular(), target.name.as_str());
                // The same words whether it is there or not: what is there is not theirs to know.
                let message = format!(
                    "no {kind} is called {name:?} in namespace {there} whose spec.access allows namespace {from}"
                );
                self.problem(owner, field, message);
                false
            }
            _ => {
                self.missing(owner, field, target);
                false
            }
        }
    }

    fn access(&self, target: &ObjectRef) -> Option<&'a Access> {
        match target.kind {
            Kind::Image => self.images.get(target).map(|spec| &spec.access),
            Kind::Lan => self.lans.get(target).map(|spec| &spec.access),
            Kind::Farm => self.farms.get(target).map(|spec| &spec.access),
            Kind::Server | Kind::Machine | Kind::MachineSet => None,
        }
    }

    /// Whether objects of another namespace may refer to an object.
    fn allows(&self, target: &ObjectRef, from: &ObjectName) -> bool {
        let labels = self.environment.namespaces.get(from.as_str());
        self.access(target).is_some_and(|access| access.allows(from, labels))
    }

    /// Whether that depends on labels of a namespace that are not known here and may be known to others.
    fn nobody_knows_whether_allowed(&self, target: &ObjectRef, from: &ObjectName) -> bool {
        let unknown = !self.environment.namespaces.contains_key(from.as_str());
        let selects = self.access(target).is_some_and(|access| access.namespaces == AccessFrom::Selector);
        self.some_are_unknown && self.in_pods() && unknown && selects && !self.allows(target, from)
    }

    fn missing(&mut self, owner: &ObjectRef, field: &str, target: &ObjectRef) {
        let (kind, wanted) = (target.kind.singular(), target.name.as_str());
        let elsewhere = self.names.iter().find(|other| other.kind == target.kind && other.name == target.name);
        let elsewhere = elsewhere.filter(|_| !self.in_pods()).and_then(|other| other.namespace.as_ref());
        let hint = if let Some(name) = self.similar(target) {
            format!("; did you mean {:?}?", name.as_str())
        } else if let Some(namespace) = elsewhere {
            format!(" in this namespace; one is in namespace {namespace}")
        } else {
            String::new()
        };
        self.problem(owner, field, format!("no {kind} is called {wanted:?}{hint}"));
    }

    fn similar(&self, target: &ObjectRef) -> Option<ObjectName> {
        let candidates = self.names.iter().filter(|o| o.kind == target.kind && o.namespace == target.namespace);
        let scored = candidates.map(|o| (strsim::jaro_winkler(o.name.as_str(), target.name.as_str()), &o.name));
        let best = scored.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, name)| name.clone())
    }
}
