//! The oldest version that a farm still boots.
//!
//! Versions are ordered by what is in them: when the newest of it was made. What the minimum is, is found once and noted in the
//! farm's status, for the version that it names may be pruned one day.

use stoke_api::ObjectRef;
use stoke_api::objects::MinimumVersion;
use stoke_api::workload::FarmImage;

use crate::farm;
use crate::status::Waiting;
use crate::view::{Farm, View};

/// The minimum, if one is written; an error if nobody knows that version.
pub(crate) fn of_farm(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Option<Result<MinimumVersion, Waiting>> {
    let pin = farm.spec.minimum_version.as_ref()?;
    let versions = farm::all_versions(view, reference, farm).unwrap_or_default();
    if let Some(version) = versions.iter().find(|version| pin.names(&version.digest)) {
        return Some(Ok(MinimumVersion { version: pin.clone(), built_at: version.built_at }));
    }
    let noted = farm.status.minimum.clone().filter(|noted| noted.version == *pin);
    Some(noted.ok_or_else(|| {
        let message =
            format!("there is no version {pin}, so that no version can be told to be newer: see stoke image list");
        Waiting::new("UnknownMinimum", message)
    }))
}

/// Below this a version is refused. All are if nobody knows what is meant.
pub(crate) fn built_at(minimum: Option<&Result<MinimumVersion, Waiting>>) -> u64 {
    match minimum {
        None => 0,
        Some(Ok(minimum)) => minimum.built_at,
        Some(Err(_)) => u64::MAX,
    }
}

/// The versions that may be handed out.
pub(crate) fn without_older(
    images: Vec<FarmImage>,
    minimum: Option<&Result<MinimumVersion, Waiting>>,
) -> Vec<FarmImage> {
    let built_at = built_at(minimum);
    images.into_iter().filter(|image| image.built_at >= built_at).collect()
}
