//! The bill of materials of an image: SPDX 2.3 of its packages, as images of nodes have it, and of the crates that our
//! programs are compiled from.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use stoke_image::sbom::{Subject, installed, spdx};

use super::recipes::Recipe;
use super::tree::{EPOCH, Layered};
use crate::run::{cargo, output};

/// A crate, as cargo names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    license: String,
    /// Whether it is one of this workspace, which is in no registry.
    own: bool,
}

/// The bill of an image.
pub(super) fn of(recipe: &Recipe, name: &str, base: &Layered) -> Result<Vec<u8>> {
    let os_release = if base.os_release.is_empty() {
        b"ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n".as_slice()
    } else {
        &base.os_release
    };
    let subject = Subject { name, os_release, time: EPOCH };
    let mut bill: Value = serde_json::from_slice(&spdx(&subject, &installed(&base.status)))?;
    for one in crates(recipe.programs)? {
        let entry = described(&one);
        let id = entry.get("SPDXID").cloned();
        list(&mut bill, "packages")?.push(entry);
        list(&mut bill, "relationships")?.push(json!({
            "spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS", "relatedSpdxElement": id,
        }));
    }
    Ok(serde_json::to_vec_pretty(&bill)?)
}

fn list<'a>(bill: &'a mut Value, field: &str) -> Result<&'a mut Vec<Value>> {
    bill.get_mut(field).and_then(Value::as_array_mut).context("a bill of materials without parts")
}

/// What the programs are compiled from.
fn crates(programs: &[&str]) -> Result<Vec<Crate>> {
    let mut arguments = vec!["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}|{l}", "--locked"];
    for program in programs {
        arguments.extend(["--package", program]);
    }
    let mut found: Vec<_> = output(&mut cargo(&arguments))?.lines().filter_map(parse).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// `anyhow v1.0.100|MIT OR Apache-2.0`, with a path behind the version if it is not from a registry.
fn parse(line: &str) -> Option<Crate> {
    let (package, license) = line.trim_end_matches(" (*)").split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
    let own = words.any(|word| word.starts_with("(/"));
    Some(Crate { name, version, license: license.trim_end_matches(" (*)").replace('/', " OR "), own })
}

fn described(one: &Crate) -> Value {
    let Crate { name, version, license, own } = one;
    let license = if license.is_empty() { "NOASSERTION" } else { license };
    let place = if *own {
        "NOASSERTION".to_owned()
    } else {
        format!("https://crates.io/api/v1/crates/{name}/{version}/download")
    };
    json!({
        "SPDXID": format!("SPDXRef-Crate-{}-{}", name.replace('_', "."), version.replace('+', ".x2b.")),
        "name": name,
        "versionInfo": version,
        "downloadLocation": place,
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": license,
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_from_what_cargo_says() {
        let one = parse("zstd-sys v2.0.16+zstd.1.5.7|MIT/Apache-2.0 (*)").unwrap();
        assert_eq!((one.name.as_str(), one.version.as_str(), one.own), ("zstd-sys", "2.0.16+zstd.1.5.7", false));
        assert_eq!(one.license, "MIT OR Apache-2.0");
        assert!(parse("stoke v0.1.0 (/somewhere/bin/stoke)|Apache-2.0").unwrap().own);
        assert_eq!(parse(""), None);
    }
}
