//! Applying objects: the checks of `stoke up` over all that is there and all that comes, then server-side apply of each.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams, ValidationDirective};
use stoke_api::control::{Change, ObjectProblem};
use stoke_api::{AnyObject, Kind, ObjectName, ObjectRef};
use stoke_reconcile::{Environment, Layout};

use super::{Cluster, ClusterError, FIELD_MANAGER, Result, objects};

/// What became of each object.
pub type Applied = Vec<(ObjectRef, Change)>;

impl Cluster {
    /// Applies objects, or says what that would change. Objects that name no namespace go into this cluster's default one.
    ///
    /// # Errors
    /// If they contradict each other or what is there, which changes nothing; or at the first one that is refused.
    pub async fn apply(&self, objects: &[AnyObject], dry_run: bool) -> Result<Applied> {
        let objects: Vec<_> = objects.iter().map(|object| self.placed(object)).collect();
        self.check(&objects).await?;
        let mut parameters = PatchParams::apply(FIELD_MANAGER);
        parameters.dry_run = dry_run;
        // The words of the schema: a field that nobody knows is an error.
        parameters.field_validation = Some(ValidationDirective::Strict);
        let mut sorted: Vec<_> = objects.iter().collect();
        sorted.sort_by_key(|object| object.reference());
        let mut applied = Vec::new();
        for object in sorted {
            applied.push((object.reference(), self.apply_one(object, &parameters).await?));
        }
        Ok(applied)
    }

    async fn apply_one(&self, object: &AnyObject, parameters: &PatchParams) -> Result<Change> {
        let reference = object.reference();
        let api = self.api_of(&reference);
        let before = api.get_opt(reference.name.as_str()).await.map_err(|error| self.about(&reference, error))?;
        let written = objects::written(object, reference.namespace.as_ref().map_or("", ObjectName::as_str));
        let after = api.patch(reference.name.as_str(), parameters, &Patch::Apply(written)).await;
        let after = after.map_err(|error| self.about(&reference, error))?;
        Ok(match before {
            None => Change::Created,
            // A rehearsal keeps the version whatever it changes.
            Some(before) if is_same(&before, &after) => Change::Unchanged,
            Some(_) => Change::Updated,
        })
    }

    fn placed(&self, object: &AnyObject) -> AnyObject {
        let mut object = object.clone();
        let namespace = object.kind().is_namespaced().then(|| self.namespace.clone());
        let metadata = object.metadata_mut();
        metadata.namespace = metadata.namespace.take().or(namespace);
        object
    }

    /// Finds what is wrong between objects. What somebody may not see is not looked at: the operator does.
    async fn check(&self, objects: &[AnyObject]) -> Result<()> {
        let mut all = BTreeMap::new();
        let mut namespaces: Vec<_> = objects.iter().map(|object| object.reference().namespace).collect();
        namespaces.sort();
        namespaces.dedup();
        for kind in Kind::ALL {
            for namespace in namespaces.iter().filter(|namespace| namespace.is_some() == kind.is_namespaced()) {
                match self.list(kind, namespace.as_ref(), &mut |_| {}).await {
                    Ok(found) => all.extend(found.into_iter().map(|object| (object.reference(), object))),
                    Err(ClusterError::Forbidden(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        // Trouble that was there before is not of these objects.
        let before = problems(&all);
        all.extend(objects.iter().map(|object| (object.reference(), object.clone())));
        let own = objects.iter().flat_map(|object| {
            let reference = object.reference();
            object.check().into_iter().map(move |problem| ObjectProblem {
                object: reference.clone(),
                field: problem.field,
                message: problem.message,
            })
        });
        let mut found: Vec<_> = own.collect();
        found.extend(problems(&all).into_iter().filter(|problem| !before.contains(problem)));
        if found.is_empty() { Ok(()) } else { Err(ClusterError::Invalid(found)) }
    }
}

fn problems(objects: &BTreeMap<ObjectRef, AnyObject>) -> Vec<ObjectProblem> {
    let objects: Vec<_> = objects.values().cloned().collect();
    let environment = Environment { layout: Layout::Pods, ..Environment::default() };
    let found = stoke_reconcile::check_between_in(&objects, &environment).into_iter();
    found.map(|(object, problem)| ObjectProblem { object, field: problem.field, message: problem.message }).collect()
}

/// Whether nothing of what people write differs.
fn is_same(before: &kube::api::DynamicObject, after: &kube::api::DynamicObject) -> bool {
    let written = |object: &kube::api::DynamicObject| {
        let metadata = &object.metadata;
        (metadata.labels.clone(), metadata.annotations.clone(), object.data.get("spec").cloned())
    };
    written(before) == written(after)
}
