//! Requests of people: power, updates, trust. They are in an object's status, written there with the person's own rights,
//! by the same functions as on one host; the reconcilers follow.

use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use stoke_api::control::{EnrollRequest, PowerAction, RolloutAction};
use stoke_api::{AnyObject, Kind, ObjectRef};
use stoke_host::{control, enrolled, steered};
use stoke_reconcile::Status;

use super::{Cluster, ClusterError, Result};

/// How often a request is written again when somebody else wrote in between.
const TRIES: usize = 16;

impl Cluster {
    /// Asks for power.
    ///
    /// # Errors
    /// If the object has none, or not now.
    pub async fn power(&self, reference: &ObjectRef, action: PowerAction) -> Result<()> {
        self.request(reference, |object| control::powered(object, action)).await
    }

    /// Steers a farm's update.
    ///
    /// # Errors
    /// If there is none that could be steered so.
    pub async fn rollout(&self, farm: &ObjectRef, action: RolloutAction) -> Result<()> {
        let object = self.object(farm).await?;
        let AnyObject::Farm(found) = &object else { return Err(ClusterError::Missing(format!("{farm} is no farm"))) };
        let image = self.object(&found.spec.image.of(farm, Kind::Image)).await?;
        let versions: Vec<_> = match image {
            AnyObject::Image(image) => image.status.versions.iter().map(|version| version.digest).collect(),
            _ => Vec::new(),
        };
        self.request(farm, |object| steered(object, action, &versions)).await
    }

    /// Accepts the TPM of a machine or server.
    ///
    /// # Errors
    /// If it has shown none.
    pub async fn enroll(&self, reference: &ObjectRef, request: EnrollRequest) -> Result<()> {
        self.request(reference, |object| enrolled(object, &request)).await
    }

    /// Changes a status, if nobody else does at the same time.
    async fn request(
        &self,
        reference: &ObjectRef,
        change: impl Fn(&AnyObject) -> std::result::Result<Status, String>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let object = self.object(reference).await?;
            let mut changed = object.clone();
            change(&object).map_err(ClusterError::Refused)?.write_into(&mut changed);
            let Some(patch) = patch(&object, &changed) else { return Ok(()) };
            let api = self.api_of(reference);
            let name = reference.name.as_str();
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.about(reference, error)),
            }
        }
        Err(ClusterError::Conflict(reference.clone()))
    }
}

/// What must be written for the new status, against the version that it was made from; `None` if nothing.
fn patch(old: &AnyObject, new: &AnyObject) -> Option<Value> {
    let status = |object: &AnyObject| serde_json::to_value(object).ok()?.get("status").cloned();
    let difference = difference(&status(old)?, &status(new)?)?;
    let version = old.metadata().resource_version.clone();
    Some(json!({"metadata": {"resourceVersion": version}, "status": difference}))
}

/// A merge patch (RFC 7396) from one value to another; `None` if they are the same.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (field, value) in after {
        let changed = before.get(field).map_or_else(|| Some(value.clone()), |old| difference(old, value));
        patch.extend(changed.map(|value| (field.clone(), value)));
    }
    patch.extend(before.keys().filter(|field| !after.contains_key(*field)).map(|field| (field.clone(), Value::Null)));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let old = json!({"a": 1, "b": {"c": [1], "d": 2}, "gone": true});
        assert_eq!(difference(&old, &old), None);
        let new = json!({"a": 1, "b": {"c": [1, 2], "d": 2}, "fresh": {}});
        assert_eq!(difference(&old, &new), Some(json!({"b": {"c": [1, 2]}, "fresh": {}, "gone": null})));
    }
}
