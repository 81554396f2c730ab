//! Where images go beside the store: registries that their authors name, as far as the administrator lets them.

use serde::{Deserialize, Serialize};
use stoke_api::objects::ImageSpec;
use stoke_api::registry::Reference;
use stoke_api::{Condition, Digest, ObjectRef};

use crate::image;
use crate::names::key;
use crate::observed::Desired;
use crate::status::condition;
use crate::view::View;

/// What stands for an image's namespace in a place.
const NAMESPACE: &str = "{namespace}";

/// The places in registries where images may be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RegistryPlaces {
    /// Anywhere: who writes the objects is who runs this.
    #[default]
    Any,
    /// Repositories of these names and below them: `registry.example.org/images/{namespace}`.
    These(Vec<String>),
}

impl RegistryPlaces {
    fn has(&self, namespace: &str, reference: &Reference) -> bool {
        let Self::These(places) = self else { return true };
        let name = reference.name();
        places.iter().any(|place| {
            let place = place.trim_end_matches('/').replace(NAMESPACE, namespace);
            name.strip_prefix(&place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// A version of an image at a place in a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    /// `NAMESPACE/NAME` of the image.
    pub image: String,
    /// The version.
    pub digest: Digest,
    /// Fingerprints of the keys that are known here and have signed it: with another one it is published again.
    pub signed_by: Vec<String>,
    /// Where: `HOST/REPOSITORY:TAG`.
    pub reference: String,
}

/// Wants the version that is handed out to be where its image says. What came of it, if the image says so.
pub(crate) fn desire(view: &View<'_>, owner: &ObjectRef, spec: &ImageSpec, desired: &mut Desired) -> Option<Condition> {
    let newest = image::versions(view, owner).ok()?.first()?;
    let signed_by = image::signers(view, owner, &newest.digest);
    let (mut refused, mut left, mut failed, mut done) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for mut reference in spec.publish.iter().filter_map(|text| text.parse::<Reference>().ok()) {
        let namespace = owner.namespace.as_ref()?.as_str();
        if !view.environment().registries.has(namespace, &reference) {
            refused.push(reference.to_string());
            continue;
        }
        reference.tag.get_or_insert_with(|| newest.digest.short());
        let reference = reference.to_string();
        let wanted = Publication { image: key(owner), digest: newest.digest, signed_by: signed_by.clone(), reference };
        match view.environment().publications.get(&wanted) {
            Some(Ok(())) => done.push(format!("{}@{}", wanted.reference, wanted.digest)),
            Some(Err(why)) => failed.push(why.clone()),
            None => left.push(wanted.reference.clone()),
        }
        desired.publications.push(wanted);
    }
    let told = |reason, message| Some(condition("Published", false, reason, message));
    if !refused.is_empty() {
        let message = format!(
            "images of namespace {} may not go to {}: the administrator names the places (registries.allowed of the chart)",
            owner.namespace.as_ref()?,
            refused.join(", ")
        );
        return told("NotAllowed", message);
    }
    if !failed.is_empty() {
        return told("PushFailed", format!("{}; tried again soon", failed.join("; ")));
    }
    if !left.is_empty() {
        return told("Pushing", left.join(", "));
    }
    (!done.is_empty()).then(|| condition("Published", true, "Pushed", done.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_end_where_names_end() {
        let places = RegistryPlaces::These(vec![
            "registry.example.org/images/{namespace}".to_owned(),
            "localhost:5000/".to_owned(),
        ]);
        let has = |namespace: &str, text: &str| places.has(namespace, &text.parse().unwrap());
        assert!(has("lab", "registry.example.org/images/lab/node:1"));
        assert!(has("lab", "registry.example.org/images/lab"));
        assert!(has("lab", "localhost:5000/anything"));
        assert!(!has("lab", "registry.example.org/images/lab2/node"));
        assert!(!has("lab", "registry.example.org/images/office/node"));
        assert!(!has("lab", "localhost:50001/anything"));
        assert!(!has("lab", "registry.example.org.evil.example/images/lab/node"));
        assert!(!RegistryPlaces::These(Vec::new()).has("lab", &"localhost:5000/a".parse().unwrap()));
        assert!(RegistryPlaces::Any.has("lab", &"localhost:5000/a".parse().unwrap()));
    }
}
