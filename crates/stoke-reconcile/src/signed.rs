//! Which versions a farm may hand out: those that one of its keys has signed, if it names keys.
//!
//! Nothing is verified here. Whoever has the store says which keys have signed which versions:
//! [`Environment::signed`](crate::Environment::signed).

use stoke_api::report::BuiltImage;
use stoke_api::{Condition, Digest};

use crate::status::{Waiting, condition};
use crate::view::{Farm, View};

/// The versions that the farm may hand out.
pub(crate) fn signed<'a>(
    view: &View<'_>,
    farm: &Farm,
    versions: &'a [BuiltImage],
) -> Result<Vec<&'a BuiltImage>, Waiting> {
    let good: Vec<_> = versions.iter().filter(|version| is_signed(view, farm, &version.digest)).collect();
    if good.is_empty() && !versions.is_empty() {
        return Err(Waiting::new("ImageNotSigned", unsigned(view, farm, versions)));
    }
    Ok(good)
}

fn is_signed(view: &View<'_>, farm: &Farm, version: &Digest) -> bool {
    let keys = &farm.spec.image_keys;
    let by = |key: &String| matches!(view.environment().signed.get(key), Some(Ok(signed)) if signed.contains(version));
    keys.is_empty() || keys.iter().any(by)
}

fn unsigned(view: &View<'_>, farm: &Farm, versions: &[BuiltImage]) -> String {
    let broken = farm.spec.image_keys.iter().enumerate().find_map(|(index, key)| {
        let why = view.environment().signed.get(key)?.as_ref().err()?;
        Some(format!("spec.imageKeys[{index}] cannot be used: {why}"))
    });
    let newest = versions.first().map(|version| version.digest.to_string()).unwrap_or_default();
    broken.unwrap_or_else(|| {
        format!(
            "{newest} is not signed by a key of spec.imageKeys; sign it: stoke image sign {}:{}",
            farm.spec.image,
            newest.get(7..19).unwrap_or_default()
        )
    })
}

/// What the farm says of signatures, if it wants them.
pub(crate) fn signatures(view: &View<'_>, farm: &Farm, versions: &[BuiltImage]) -> Option<Condition> {
    let newest = versions.first().filter(|_| !farm.spec.image_keys.is_empty())?;
    Some(if is_signed(view, farm, &newest.digest) {
        condition("ImageSigned", true, "Verified", String::new())
    } else {
        condition(
            "ImageSigned",
            false,
            "NotSigned",
            format!("{}; it is not handed out", unsigned(view, farm, versions)),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;
    use stoke_api::{AnyObject, Kind, ObjectRef};

    use super::*;
    use crate::observed::Observed;
    use crate::view::Gates;

    fn version(byte: u8) -> BuiltImage {
        let blob = json!({"digest": Digest([1; 32]), "size": 1});
        let verity = json!({"rootHash": "00", "salt": "", "dataBlocks": 1, "hashOffset": 4096});
        serde_json::from_value(json!({
            "digest": Digest([byte; 32]), "size": 1, "kernelVersion": "6.1", "inputs": Digest([byte; 32]),
            "kernel": blob, "initramfs": blob, "uki": null, "kernelArguments": [],
            "root": {"format": "Squashfs", "blob": Digest([1; 32]), "size": 8192, "verity": verity},
        }))
        .unwrap()
    }

    /// The versions that are handed out of 9, 8 and 7, or why none; and the condition.
    fn told(keys: &[&str], signed: &[(&str, Result<&[u8], &str>)]) -> (String, Option<String>) {
        let farm = json!({
            "kind": "Farm", "metadata": {"name": "lab", "namespace": "default"},
            "spec": {"lan": "lab", "image": "node", "imageKeys": keys},
        });
        let mut observed = Observed::default();
        observed.objects.push(serde_json::from_value::<AnyObject>(farm).unwrap());
        for (key, found) in signed {
            let found = found.map(|bytes| bytes.iter().map(|byte| Digest([*byte; 32])).collect::<BTreeSet<_>>());
            observed.environment.signed.insert((*key).to_owned(), found.map_err(str::to_owned));
        }
        let view = View::new(&observed, Gates::Closed);
        let name = ObjectRef { kind: Kind::Farm, namespace: "default".parse().ok(), name: "lab".parse().unwrap() };
        let (farm, versions) = (view.farm(&name).unwrap(), [9, 8, 7].map(version));
        let handed_out = match super::signed(&view, farm, &versions) {
            Ok(good) => good.iter().map(|version| version.digest.0[0].to_string()).collect::<Vec<_>>().join(" "),
            Err(why) => format!("{}: {}", why.reason, why.message),
        };
        let condition = signatures(&view, farm, &versions).map(|found| format!("{:?} {}", found.status, found.message));
        (handed_out, condition)
    }

    #[test]
    fn without_keys_every_version_is_good() {
        assert_eq!(told(&[], &[]), ("9 8 7".to_owned(), None));
    }

    #[test]
    fn what_any_of_the_keys_has_signed_is_handed_out() {
        let (handed_out, condition) = told(&["a", "b"], &[("a", Ok(&[9])), ("b", Ok(&[7])), ("c", Ok(&[8]))]);
        assert_eq!((handed_out.as_str(), condition.as_deref()), ("9 7", Some("True ")));
    }

    #[test]
    fn an_unsigned_newer_version_waits_and_an_older_one_goes_on() {
        let (handed_out, condition) = told(&["a"], &[("a", Ok(&[8, 7]))]);
        assert_eq!(handed_out, "8 7");
        let condition = condition.unwrap();
        assert!(condition.starts_with("False sha256:0909"), "{condition}");
        assert!(condition.contains("stoke image sign node:090909090909; it is not handed out"), "{condition}");
    }

    #[test]
    fn nothing_is_handed_out_that_nobody_signed() {
        let (handed_out, _) = told(&["a"], &[("a", Ok(&[]))]);
        assert!(handed_out.starts_with("ImageNotSigned: sha256:0909"), "{handed_out}");
        let (unknown, _) = told(&["a"], &[]);
        assert!(unknown.starts_with("ImageNotSigned"), "{unknown}");
        let (broken, condition) = told(&["x", "a"], &[("x", Ok(&[])), ("a", Err("no key"))]);
        assert_eq!(broken, "ImageNotSigned: spec.imageKeys[1] cannot be used: no key");
        assert!(condition.unwrap().contains("spec.imageKeys[1]"));
    }
}
