//! The crate edges that the design allows: arrows go down only.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::run::{cargo, output};

/// Layer of each crate; an edge must lead to a lower layer, or to one that [`SIDEWAYS`] names.
const LAYERS: &[(&str, &[&str])] = &[
    ("ground", &["stoke-api", "stoke-daemon", "stoke-lxc-sys", "stoke-sys"]),
    ("protocols", &["stoke-dhcp", "stoke-dns", "stoke-tftp", "stoke-nbd", "stoke-tpm"]),
    (
        "engines",
        &[
            "stoke-bmc",
            "stoke-boot",
            "stoke-host",
            "stoke-image",
            "stoke-kube",
            "stoke-net",
            "stoke-reconcile",
            "stoke-registry",
            "stoke-runtime",
            "stoke-secureboot",
            "stoke-signing",
            "stoke-vmm",
        ],
    ),
    ("roles", &["stoke-farm", "stoke-node", "stoke-router"]),
    ("programs", &["stoke", "stoke-init", "stoke-lxc", "stoke-vm"]),
    ("tests", &["captures", "cluster", "e2e", "bench", "fuzz", "storm", "testbed", "xtask"]),
];

/// Edges within a layer, or upwards, each with its reason.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    ("stoke-daemon", "stoke-api", "speaks its reports"),
    ("stoke-host", "stoke-reconcile", "runs the reconcilers"),
    ("stoke-reconcile", "stoke-boot", "knows which boot programs a farm needs"),
    ("stoke-host", "stoke-bmc", "switches servers"),
    ("stoke-host", "stoke-boot", "finds boot programs"),
    ("stoke-host", "stoke-secureboot", "signs what its farms hand out"),
    ("stoke-host", "stoke-signing", "verifies what its farms hand out"),
    ("stoke-vmm", "stoke-secureboot", "puts keys into the firmware of machines"),
    ("stoke-host", "stoke-image", "finds and prepares what farms serve"),
    ("stoke-host", "stoke-net", "prints the plan of a LAN"),
    ("stoke-host", "stoke-registry", "publishes image versions"),
    ("stoke-host", "stoke-node", "starts the way out, and ends what a dead node left"),
    ("stoke-kube", "stoke-reconcile", "runs the reconcilers"),
    ("stoke-kube", "stoke-host", "one store's suite, one way to images, keys and requests"),
    ("stoke-kube", "stoke-image", "finds and prepares what farms serve"),
    ("e2e", "testbed", "the test bed is there for it"),
    ("bench", "e2e", "boots the same image"),
    ("cluster", "e2e", "boots the same image"),
    ("cluster", "testbed", "the test bed is there for it"),
    ("bench", "testbed", "the test bed is there for it"),
    ("bench", "storm", "measures it"),
    ("storm", "testbed", "the test bed is there for it"),
    ("xtask", "testbed", "the cache is one"),
];

/// Crates that must not reach tokio, built alone.
const WITHOUT_TOKIO: &[&str] = &[
    "stoke-registry",
    "stoke-signing",
    "stoke-init",
    "stoke-lxc",
    "stoke-net",
    "stoke-reconcile",
    "stoke-image",
    "stoke-api",
    "stoke-runtime",
    "stoke-sys",
];

/// Libraries that only these crates of ours may import.
const IMPORTERS: &[(&str, &[&str])] = &[
    ("netlink-packet-route", &["stoke-net"]),
    ("redb", &["stoke-host"]),
    ("kube", &["stoke-kube"]),
    ("k8s-openapi", &["stoke-kube", "fuzz"]),
    // The probe, and the part of it that is unsafe.
    ("kvm-ioctls", &["stoke-vmm", "stoke-sys"]),
];

#[derive(serde::Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(serde::Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(serde::Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Everything that is wrong with the edges, one a line.
pub(crate) fn violations() -> Result<Vec<String>> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata printed something else")?;
    let mut wrong = edges(&metadata.packages);
    for package in WITHOUT_TOKIO {
        let tree = output(&mut cargo(&["tree", "--package", package, "--edges", "normal", "--prefix", "none"]))?;
        if tree.lines().any(|line| line.starts_with("tokio v")) {
            wrong
                .push(format!("{package} reaches tokio: cargo tree --package {package} --edges normal --invert tokio"));
        }
    }
    Ok(wrong)
}

fn edges(packages: &[Package]) -> Vec<String> {
    let level: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(level, (_, names))| names.iter().map(move |name| (*name, level)))
        .collect();
    let sideways: BTreeSet<_> = SIDEWAYS.iter().map(|(from, to, _)| (*from, *to)).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let Some(own) = level.get(package.name.as_str()) else {
            wrong.push(format!("{} is in no layer of xtask/src/graph.rs", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind.is_none()) {
            let edge = (package.name.as_str(), dependency.name.as_str());
            if level.get(edge.1).is_some_and(|other| other >= own) && !sideways.contains(&edge) {
                wrong.push(format!("{} must not depend on {}: arrows go down only", edge.0, edge.1));
            }
            let importers = IMPORTERS.iter().find(|(library, _)| *library == edge.1);
            if importers.is_some_and(|(_, allowed)| !allowed.contains(&edge.0)) {
                wrong.push(format!("{} must not import {}", edge.0, edge.1));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency { name: (*name).to_owned(), kind: None };
        Package { name: name.to_owned(), dependencies: dependencies.iter().map(dependency).collect() }
    }

    #[test]
    fn arrows_go_down_only() {
        assert_eq!(edges(&[package("stoke-farm", &["stoke-tftp", "stoke-boot", "serde"])]), [""; 0]);
        let wrong = ["stoke-tftp must not depend on stoke-farm: arrows go down only"];
        assert_eq!(edges(&[package("stoke-tftp", &["stoke-farm"])]), wrong);
        let wrong = ["stoke-farm must not depend on stoke-router: arrows go down only"];
        assert_eq!(edges(&[package("stoke-farm", &["stoke-router"])]), wrong);
    }

    #[test]
    fn a_library_has_its_importer_and_a_crate_its_layer() {
        let wrong = ["stoke-net must not import redb"];
        assert_eq!(edges(&[package("stoke-net", &["redb"])]), wrong);
        assert_eq!(edges(&[package("stoke-new", &[])]), ["stoke-new is in no layer of xtask/src/graph.rs"]);
    }
}
