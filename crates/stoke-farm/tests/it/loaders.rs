//! What PXELINUX, GRUB and firmware that loads the kernel itself ask of TFTP and HTTP.

use std::fs;

use stoke_api::MacAddr;

use crate::bed::{Bed, MAC, blob_path, must, node, run};

const UUID: &str = "6f1c1d5e-0000-4000-8000-00000000ABCD";

fn tftp(bed: &Bed, name: &str) -> Option<Vec<u8>> {
    let to = bed.path("got");
    let url = format!("tftp://{}:{}/{name}", bed.config.address, bed.config.tftp_port);
    let _ = fs::remove_file(&to);
    let output = run("curl", &["-sS", "--tftp-blksize", "1408", "-o", to.to_str().unwrap(), &url]);
    output.status.success().then(|| fs::read(to).unwrap_or_default())
}

fn config(bed: &Bed, name: &str) -> Option<String> {
    tftp(bed, name).map(|content| String::from_utf8(content).unwrap())
}

#[test]
fn loaders_get_the_configuration_of_their_machine_wherever_they_look_for_it() {
    let mut bed = Bed::stopped();
    let other = MacAddr([0x52, 0x54, 0, 0, 0, 8]);
    let mut second = node("rack1-08", other);
    second.uuid = Some(UUID.to_owned());
    bed.config.nodes.push(second);
    bed.start();
    let kernel = bed.http(&blob_path(&bed.config.images[0].kernel.digest));
    let pxelinux = config(&bed, "pxelinux.cfg/01-52-54-00-00-00-07").unwrap();
    assert!(pxelinux.contains(&format!("LINUX {kernel}")) && pxelinux.contains("rack1-07 boots"), "{pxelinux}");
    assert!(pxelinux.contains("BOOTIF=01-52-54-00-00-00-07"), "{pxelinux}");
    let by_uuid = config(&bed, &format!("pxelinux.cfg/{}", UUID.to_ascii_lowercase())).unwrap();
    assert!(by_uuid.contains("rack1-08 boots") && by_uuid.contains("BOOTIF=01-52-54-00-00-00-08"), "{by_uuid}");
    for folder in ["grub/", "", "debian-installer/amd64/grub/"] {
        let grub = config(&bed, &format!("{folder}grub.cfg-01-52-54-00-00-00-07")).unwrap();
        assert!(grub.contains("if linux $from/v1/blob/sha256/") && grub.contains("rack1-07 boots"), "{grub}");
    }
    // Over the loopback network no neighbour is known: GRUB says its MAC the second time, PXELINUX asks on by itself.
    assert_eq!(config(&bed, "grub/grub.cfg").unwrap(), "configfile $prefix/grub.cfg-01-$net_default_mac\n");
    for unknown in
        ["pxelinux.cfg/6f1c1d5e-0000-4000-8000-000000000000", "pxelinux.cfg/7f000001", "pxelinux.cfg/default"]
    {
        assert_eq!(config(&bed, unknown), None, "{unknown}");
    }
    let stranger = config(&bed, "grub/grub.cfg-01-52-54-00-00-00-99").unwrap();
    assert!(stranger.contains("no Server or Machine") && stranger.ends_with("exit\n"), "{stranger}");
    // By HTTP, too, as GRUB that was loaded by HTTP asks.
    let http = must("curl", &["-sSf", &bed.http("/v1/boot/grub/grub.cfg-01-52:54:00:00:00:07")]);
    assert!(http.contains("rack1-07 boots"), "{http}");
}

#[test]
fn a_farm_without_an_image_lets_loaders_ask_again() {
    let mut bed = Bed::stopped();
    bed.config.images.clear();
    bed.start();
    let grub = config(&bed, "grub/grub.cfg-01-52-54-00-00-00-07").unwrap();
    assert!(grub.contains("is not built yet") && grub.ends_with("configfile $prefix/grub.cfg-01-52-54-00-00-00-07\n"));
    let pxelinux = config(&bed, "pxelinux.cfg/01-52-54-00-00-00-07").unwrap();
    assert!(pxelinux.contains("TIMEOUT 50") && pxelinux.contains("CONFIG ::pxelinux.cfg/01-52-54-00-00-00-07"));
    assert!(bed.report().nodes.iter().any(|node| node.mac == MAC), "the machine that asks is not seen");
}

#[test]
fn kernels_are_had_by_tftp_under_their_digest_alone() {
    let bed = Bed::new();
    let uki = bed.config.images[0].uki.unwrap();
    let path = uki.http_path();
    let content = fs::read(bed.config.blobs.join("sha256").join(uki.digest.hex())).unwrap();
    for name in [path.trim_start_matches('/').to_owned(), format!("{path}.efi")] {
        assert!(tftp(&bed, &name) == Some(content.clone()), "{name}");
    }
    assert_eq!(tftp(&bed, &format!("v1/blob/sha256/{}", "00".repeat(32))), None);
    assert_eq!(tftp(&bed, "v1/blob/sha256/../../config.json"), None);
}
