//! What nodes with and without disks get beside images: tables of chunks, and the host key of earlier boots.

use sha2::Digest as _;
use stoke_api::chunks::ChunkTable;
use stoke_api::node::{Keep, Kept, Mode, Phase};
use stoke_api::objects::{DiskRoot, RootMode, Trust};
use stoke_api::trust::Hex;

use crate::bed::{Bed, MAC, must};
use crate::nodes::{begin, post, reached};

const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";

/// What the farm keeps for this session, and the status.
fn kept(bed: &Bed, session: &str) -> (Option<Kept>, String) {
    let ca = bed.config.certificate.to_str().unwrap();
    let url = format!("https://{}:{}/v1/node/kept?session={session}", bed.config.address, bed.config.node_port);
    let answer = must("curl", &["-sS", "--cacert", ca, "-w", "\n%{http_code}", &url]);
    let (text, status) = answer.rsplit_once('\n').unwrap();
    (serde_json::from_str(text).ok(), status.to_owned())
}

fn keep(bed: &Bed, session: &str, key: &str) -> String {
    post(bed, "/v1/node/keep", &Keep { session: session.into(), ssh_host_key: Hex(key.into()) }).1
}

#[test]
fn a_host_key_is_kept_and_given_once_in_each_boot_to_a_node_that_boots() {
    let mut bed = Bed::new();
    let first = begin(&bed, MAC);
    assert!(first.keeps_host_key);
    assert_eq!(kept(&bed, &first.session), (Some(Kept::default()), "200".into()));
    assert_eq!(keep(&bed, &first.session, "ssh-ed25519 AAAA"), "400");
    assert_eq!(keep(&bed, &first.session, KEY), "204");
    assert_eq!(keep(&bed, &first.session, &KEY.replace("AAAA", "BBBB")), "204", "what is kept stays");
    bed.kill();
    bed.start();
    let second = begin(&bed, MAC);
    let ours = Kept { ssh_host_key: Some(Hex(KEY.into())) };
    assert_eq!(kept(&bed, &second.session), (Some(ours), "200".into()));
    assert_eq!(kept(&bed, &second.session).1, "403", "once");
    assert_eq!(kept(&bed, &first.session).1, "410", "that session is over");
    let third = begin(&bed, MAC);
    post(&bed, "/v1/node/report", &reached(&third.session, Phase::Ready, 9000));
    assert_eq!(kept(&bed, &third.session).1, "403", "whoever is up has it");
    // The object goes, and with it what was kept for it.
    assert_eq!(std::fs::read_dir(&bed.config.host_keys).unwrap().count(), 1);
    bed.config.nodes.clear();
    bed.reload();
    assert_eq!(std::fs::read_dir(&bed.config.host_keys).unwrap().count(), 0);
}

#[test]
fn with_trust_by_tpm_no_host_key_is_kept() {
    let mut bed = Bed::stopped();
    bed.config.trust = Trust::Tpm;
    bed.start();
    let manifest = begin(&bed, MAC);
    assert!(!manifest.keeps_host_key);
    assert_eq!((kept(&bed, &manifest.session).1, keep(&bed, &manifest.session, KEY)), ("403".into(), "403".into()));
}

#[test]
fn a_node_with_a_disk_is_told_what_its_root_is_made_of() {
    let mut bed = Bed::stopped();
    bed.config.root = RootMode::Disk;
    bed.config.disk = Some(DiskRoot { label: "root".into(), offline: false });
    bed.start();
    let manifest = begin(&bed, MAC);
    assert_eq!((manifest.mode, manifest.disk, manifest.chunks.len()), (Mode::Disk, bed.config.disk.clone(), 1));
    let fetched = || {
        let output = bed.path("table");
        must("curl", &["-sS", "-f", "-o", output.to_str().unwrap(), &manifest.chunks[0]]);
        std::fs::read(output).unwrap()
    };
    let bytes = fetched();
    let table = ChunkTable::decode(&bytes, bed.root.len() as u64).unwrap();
    for (offset, chunk) in table.with_offsets() {
        let start = usize::try_from(offset).unwrap();
        let content = &bed.root[start..start + chunk.length as usize];
        let digest: [u8; 32] = sha2::Sha256::digest(content).into();
        assert_eq!(chunk.digest.0, digest, "at {offset}");
    }
    assert_eq!(fetched(), bytes, "the second time it is read from disk");
    let other = manifest.chunks[0].replace(&bed.config.images[0].root.blob.hex(), &"0".repeat(64));
    let status = must("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &other]);
    assert_eq!(status, "404");
}
