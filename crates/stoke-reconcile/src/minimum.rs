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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoke_api::objects::{AnyObject, Kind};
    use stoke_api::{Digest, ObjectName};

    use super::*;
    use crate::observed::{KnownImage, Observed};
    use crate::view::Gates;

    /// Versions 9, 8 and 7, as old as their numbers say.
    fn built(byte: u8) -> stoke_api::report::BuiltImage {
        let blob = json!({"digest": Digest([1; 32]), "size": 1});
        let verity = json!({"rootHash": "00", "salt": "", "dataBlocks": 1, "hashOffset": 4096});
        serde_json::from_value(json!({
            "digest": Digest([byte; 32]), "size": 1, "kernelVersion": "6.1", "inputs": Digest([byte; 32]),
            "kernel": blob, "initramfs": blob, "uki": null, "kernelArguments": [], "builtAt": byte,
            "root": {"format": "Squashfs", "blob": Digest([1; 32]), "size": 8192, "verity": verity},
        }))
        .unwrap()
    }

    /// What is handed out of 9, 8 and 7, or why nothing is.
    fn handed_out(minimum: &str, noted: &serde_json::Value) -> Result<String, String> {
        let spec = json!({"lan": "lab", "image": "node", "minimumVersion": minimum});
        let status = json!({"minimum": noted});
        let farm = json!({
            "kind": "Farm", "metadata": {"name": "lab", "namespace": "default"}, "spec": spec, "status": status,
        });
        let image = json!({
            "kind": "Image", "metadata": {"name": "node", "namespace": "default"},
            "spec": {"source": {"debian": {"suite": "bookworm"}}, "forms": {"netboot": {}}},
        });
        let mut observed = Observed::default();
        observed.objects.extend([farm, image].map(|object| serde_json::from_value::<AnyObject>(object).unwrap()));
        let versions = vec![built(9), built(8), built(7)];
        let known = KnownImage { versions: versions.clone(), ..KnownImage::default() };
        observed.environment.images.insert("default/node".into(), known);
        let view = View::new(&observed, Gates::Closed);
        let name: ObjectName = "lab".parse().unwrap();
        let reference = ObjectRef { kind: Kind::Farm, namespace: "default".parse().ok(), name };
        let minimum = of_farm(&view, &reference, view.farm(&reference).unwrap());
        let blob = stoke_api::workload::BlobRef { digest: Digest([1; 32]), size: 1 };
        let images = versions.iter().map(|version| version.for_farm(blob, None)).collect();
        let left = without_older(images, minimum.as_ref());
        let left: Vec<_> = left.iter().map(|image| image.digest.0[0].to_string()).collect();
        match minimum {
            Some(Err(why)) => Err(format!("{} {}", why.reason, left.join(" "))),
            _ => Ok(left.join(" ")),
        }
    }

    #[test]
    fn what_is_older_than_the_minimum_is_not_handed_out() {
        assert_eq!(handed_out("node:08080808", &json!(null)), Ok("9 8".to_owned()));
        assert_eq!(handed_out("node:09090909", &json!(null)), Ok("9".to_owned()));
    }

    #[test]
    fn a_minimum_that_nobody_knows_lets_nothing_pass_and_one_that_was_known_holds() {
        assert_eq!(handed_out("node:05050505", &json!(null)), Err("UnknownMinimum ".to_owned()));
        let noted = json!({"version": "node:05050505", "builtAt": 8});
        assert_eq!(handed_out("node:05050505", &noted), Ok("9 8".to_owned()));
        assert_eq!(handed_out("node:06060606", &noted), Err("UnknownMinimum ".to_owned()));
    }
}
