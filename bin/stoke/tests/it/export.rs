//! `stoke export`, and `stoke up` of what it wrote: the same farm in another place.

use std::os::unix::fs::PermissionsExt as _;

use crate::installation::{Ended, Up};
use crate::stoke::{Stoke, until};

const LAN: &str = "apiVersion: stokehold.dev/v1alpha1
kind: Lan
metadata: {name: lab, labels: {site: cellar}}
spec:
  subnets: [{name: v4, cidr: 10.83.0.0/24, pools: [10.83.0.100-10.83.0.199]}]
  egress: None
";

/// A journal with one lease, of 10.83.0.150 until the year 2100: see `stoke_dhcp::journal`.
fn journal() -> Vec<u8> {
    let (address, mac) = ([10, 83, 0, 150], [0x52, 0x54, 0, 1, 2, 3]);
    let body = [&[1][..], &address, &mac, &4_102_444_800_000_u64.to_be_bytes(), &[0], b"kept"].concat();
    let checked = [&[u8::try_from(body.len()).unwrap()][..], &body].concat();
    let crc = !checked.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 })
    });
    [b"STKLEASE\x00\x01\xA5", &checked[..], &crc.to_be_bytes()].concat()
}

fn has_its_lease(stoke: &Stoke) {
    until("the lease is known", || {
        let told = stoke.told(&["get", "lan/lab", "-o", "json"]);
        told.contains("\"leases\": 1").then_some(())
    });
}

fn keys(stoke: &Stoke) -> Vec<Vec<u8>> {
    ["ca.key", "ca.pem", "ssh_ed25519", "ssh_ed25519.pub"]
        .map(|name| std::fs::read(stoke.state.path().join("keys").join(name)).unwrap())
        .to_vec()
}

#[test]
fn an_export_is_the_same_farm_in_another_place() {
    let (old, new) = (Stoke::new(), Stoke::new());
    let (_old_ended, _new_ended) = (Ended(&old), Ended(&new));
    let lan = old.file("files/lan.yaml", LAN);
    let leases = old.state.path().join("leases");
    std::fs::create_dir(&leases).unwrap();
    std::fs::write(leases.join("default.lab.journal"), journal()).unwrap();
    let host_key = "farms/default.lab/host-keys/machine.default.a";
    old.file(host_key, "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let up = Up::start(&old, &lan);
    has_its_lease(&old);

    let folder = tempfile::tempdir().unwrap();
    let export = folder.path().join("export");
    let path = export.display().to_string();
    let told = old.stdout(&["export", &path]);
    assert!(told.starts_with("1 objects, 5 keys and certificates, 1 journals of leases in "), "{told}");
    let text = std::fs::read_to_string(export.join("lans.yaml")).unwrap();
    assert!(text.contains("site: cellar"), "{text}");
    let added = ["status", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"];
    assert_eq!(added.into_iter().find(|field| text.contains(field)), None, "{text}");
    for name in ["keys", "keys/ca.key", "keys/farms/default.lab/host-keys/machine.default.a", "leases"] {
        let mode = std::fs::metadata(export.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    assert!(old.told(&["export", &path]).contains("is not empty\nhint: "));
    let kept = keys(&old);
    up.interrupt();
    old.stdout(&["down", "--purge"]);

    let up = Up::start(&new, &path);
    has_its_lease(&new);
    assert_eq!(keys(&new), kept);
    assert!(new.state.path().join(host_key).exists());
    assert!(new.stdout(&["get", "lan/lab", "-o", "yaml"]).contains("site: cellar"));
    let (clean, told) = up.interrupt();
    assert!(clean && told.starts_with("brought back 6 keys and journals of leases\ncreate lan/lab\n"), "{told}");
    // Once more: nothing is overwritten by what is older.
    let up = Up::start(&new, &path);
    has_its_lease(&new);
    let (clean, told) = up.interrupt();
    assert!(clean && !told.contains("brought back"), "{told}");
}

#[test]
fn an_export_is_no_other_farms() {
    let (one, other) = (Stoke::new(), Stoke::new());
    let (_one_ended, _other_ended) = (Ended(&one), Ended(&other));
    let (folder, lan) = (tempfile::tempdir().unwrap(), one.file("files/lan.yaml", LAN));
    let path = folder.path().display().to_string();
    assert!(one.told(&["export", &path]).contains("there is no installation at STATE\nhint: "));
    let up = Up::start(&one, &lan);
    until("the LAN is there", || one.run(&["get", "lan/lab"]).status.success().then_some(()));
    one.stdout(&["export", &path]);
    up.interrupt();
    let up = Up::start(&other, &lan);
    let refused = other.told(&["up", &path]);
    assert!(refused.starts_with("exit 1\n") && refused.contains("has keys of its own\nhint: "), "{refused}");
    up.interrupt();
    let refused = other.told(&["up", &path]);
    assert!(refused.starts_with("exit 1\n") && refused.contains("stoke down --purge"), "{refused}");
}
