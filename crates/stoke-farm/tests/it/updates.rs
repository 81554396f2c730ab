//! Each node gets its own version, boots that fail are counted whatever becomes of the farm, and nodes of the first version
//! are understood.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stoke_api::Digest;
use stoke_api::node::{Orders, Phase};
use stoke_api::objects::RootMode;
use stoke_api::workload::FarmImage;

use crate::bed::{Bed, MAC, blob_path, must};
use crate::nodes::{begin, post, reached};

const SECOND: Digest = Digest([2; 32]);

/// A farm with two versions, of which the node shall boot the second.
fn two_versions() -> Bed {
    let mut bed = Bed::stopped();
    let first = &bed.config.images[0];
    let second = FarmImage {
        digest: SECOND,
        kernel: first.initramfs,
        kernel_arguments: vec!["version=2".into()],
        ..first.clone()
    };
    bed.config.images.push(second);
    bed.config.nodes[0].image = Some(SECOND);
    bed.start();
    bed
}

fn script(bed: &Bed) -> String {
    must("curl", &["-sS", "-f", &bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:07")])
}

fn state(bed: &Bed) -> stoke_api::objects::NodeState {
    bed.report().nodes[0].state.clone()
}

#[test]
fn a_node_gets_its_own_version_by_every_way() {
    let mut bed = two_versions();
    let script_text = script(&bed);
    assert!(script_text.contains("boots image 020202020202") && script_text.contains("version=2"), "{script_text}");
    assert!(script_text.contains(&blob_path(&bed.config.images[1].kernel.digest)), "{script_text}");
    // Both versions have the same root: which one runs is known by what was loaded.
    let manifest = begin(&bed, MAC);
    assert_eq!(manifest.image, SECOND);
    assert_eq!(post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Ready, 9000)).1, "204");
    assert_eq!((state(&bed).boots, state(&bed).good_image), (Some(SECOND), Some(SECOND)));
    // By kexec it gets what it would load.
    (bed.config.nodes[0].reboots_requested, bed.config.nodes[0].kexec) = (1, true);
    bed.config.nodes[0].image = None;
    bed.reload();
    let orders = format!("/v1/node/orders?session={}&seen=0", manifest.session);
    let orders: Orders = serde_json::from_str(&get(&bed, &orders)).unwrap();
    let kexec = orders.kexec.unwrap();
    assert!(orders.reboot && kexec.image == bed.config.images[0].digest);
    assert_eq!(kexec.initramfs, [bed.config.images[0].farm_initramfs, bed.config.images[0].initramfs]);
    assert!(kexec.command_line.starts_with("console=ttyS0 stoke.fallback=https://"), "{}", kexec.command_line);
    must("curl", &["-sS", "-f", "-o", "/dev/null", &format!("{}{}", kexec.http[0], kexec.kernel.http_path())]);
    assert_eq!(begin(&bed, MAC).image, bed.config.images[0].digest);
}

#[test]
fn boots_that_said_nothing_are_counted_by_a_farm_that_was_killed_meanwhile() {
    let mut bed = two_versions();
    let manifest = begin(&bed, MAC);
    assert_eq!(manifest.image, SECOND);
    // It dies, loads again, and nothing more is heard of it.
    script(&bed);
    assert_eq!(state(&bed).failed_boots, 1);
    let journal = bed.config.state.join("sessions.journal");
    let noted = || std::fs::read_to_string(&journal).unwrap_or_default().contains("\"failed\":1");
    bed.wait("the boot to be on disk", |_| noted());
    bed.kill();
    bed.start();
    assert_eq!((state(&bed).failed_boots, state(&bed).boots), (1, Some(SECOND)));
}

fn get(bed: &Bed, path: &str) -> String {
    let ca = bed.config.certificate.to_str().unwrap();
    must(
        "curl",
        &["-sS", "-f", "--cacert", ca, &format!("https://{}:{}{path}", bed.config.address, bed.config.node_port)],
    )
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// What the first `stoke-init` said, word for word, and what it could read: it refused words in a configuration that it did
/// not know, and knew three modes.
#[test]
fn a_node_of_the_first_version_boots_from_todays_farm() {
    let mut bed = Bed::stopped();
    bed.config.root = RootMode::Disk;
    let config = &mut bed.config.nodes[0].config;
    let whole = include_str!("../../../stoke-api/src/objects/node_config/whole.json");
    *config =
        stoke_api::objects::NodeConfig { hostname: Some("rack1-07".into()), ..serde_json::from_str(whole).unwrap() };
    bed.start();
    let hello = json!({
        "protocol": 1, "bootMac": "52:54:00:00:00:07", "macs": ["52:54:00:00:00:07"],
        "uuid": "4c4c4544-0000-1000-8000-000000000007", "address": "10.10.0.27",
        "root": bed.config.images[0].root.blob, "memory": 1_031_798_784, "cpus": 1,
        "product": "QEMU Standard PC (Q35 + ICH9, 2009)", "uptimeMs": 2218,
    });
    let (text, status) = post(&bed, "/v1/node/hello", &hello);
    assert_eq!(status, "200", "{text}");
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["protocol"], 1);
    let wanted = ["session", "name", "nowMs", "image", "root", "mode", "nbd", "http", "config"];
    assert!(fields(&manifest).is_superset(&BTreeSet::from(wanted)), "{manifest}");
    assert!(["Auto", "Nbd", "Ram"].contains(&manifest["mode"].as_str().unwrap()), "{manifest}");
    let known = BTreeSet::from(["hostname", "timezone", "users", "overlaySize"]);
    assert!(fields(&manifest["config"]).is_subset(&known), "{}", manifest["config"]);
    for user in manifest["config"]["users"].as_array().unwrap() {
        assert!(fields(user).is_subset(&BTreeSet::from(["name", "sshAuthorizedKeys"])), "{user}");
    }
    assert!(["Squashfs", "Erofs"].contains(&manifest["root"]["format"].as_str().unwrap()));
    assert_eq!(fields(&manifest["root"]["verity"]).len(), 4);
    let session = manifest["session"].as_str().unwrap();
    let report = json!({
        "session": session, "root": "nbd", "sshHostKeys": ["ssh-ed25519 AAAA"],
        "events": [{"phase": "Init", "uptimeMs": 800, "detail": "image default/node for 6.1.0"},
                   {"phase": "Root", "uptimeMs": 2600, "detail": "nbd 377982eed579"}, {"phase": "Ready", "uptimeMs": 9000}],
    });
    assert_eq!(post(&bed, "/v1/node/report", &report).1, "204");
    assert!(state(&bed).ready);
    (bed.config.nodes[0].reboots_requested, bed.config.nodes[0].kexec) = (1, true);
    bed.reload();
    let orders: Value = serde_json::from_str(&get(&bed, &format!("/v1/node/orders?session={session}&seen=0"))).unwrap();
    assert_eq!((&orders["number"], &orders["reboot"]), (&1.into(), &true.into()), "{orders}");
}
