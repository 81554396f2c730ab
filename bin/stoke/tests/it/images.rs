//! Verbs for images, in a store that is filled without a build: what they print, and what they leave.

use fs_err as fs;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_image::store::Incoming;
use stoke_image::{Store, verity};

use crate::stoke::Stoke;

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

/// Publishes a small version, whose kernel and packages have this number; its digest.
pub(crate) fn publish(stoke: &Stoke, name: &str, number: u8) -> Digest {
    let images = Store::open(stoke.state.path().join("images")).unwrap();
    let path = stoke.state.path().join("root");
    fs::write(&path, vec![number; 20_000]).unwrap();
    let verity = verity::append(&path).unwrap();
    let root = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let config = json!({
        "architecture": "amd64", "kernelVersion": format!("6.1.{number}"), "kernelArguments": ["quiet"],
        "root": {"format": "Squashfs", "blob": digest(&root), "size": root.len(), "verity": verity},
    });
    let package = |name: &str, version: String| json!({"name": name, "version": version, "architecture": "amd64"});
    let packages = json!([
        package("base-files", "12".to_owned()),
        package("linux", format!("6.1.{number}")),
        package(&format!("only-{number}"), "1".to_owned()),
    ]);
    let (config, packages) = (config.to_string().into_bytes(), packages.to_string().into_bytes());
    let (kernel, initramfs) = (format!("kernel {number}").into_bytes(), b"initramfs".to_vec());
    let layer = |media: &str, content: &[u8]| {
        let media = format!("application/vnd.stokehold.{media}");
        json!({"mediaType": media, "digest": digest(content), "size": content.len()})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.stokehold.netboot.v1", "config": layer("netboot.config.v1+json", &config),
        "layers": [
            layer("kernel", &kernel), layer("initramfs", &initramfs), layer("root.verity", &root),
            layer("packages.v1+json", &packages),
        ],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut incoming = Incoming::begin(&images).unwrap();
    for content in [&manifest, &config, &packages, &kernel, &initramfs, &root] {
        incoming.add(&digest(content), content.as_slice()).unwrap();
    }
    incoming.publish(name, &digest(&manifest)).unwrap().digest
}

fn rows(stoke: &Stoke) -> Vec<(String, bool, bool, Vec<String>)> {
    let value: Value = serde_json::from_str(&stoke.stdout(&["image", "list", "-o", "json"])).unwrap();
    let row = |row: &Value| {
        let signers = row["signedBy"].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned());
        let kernel = row["kernel"].as_str().unwrap().to_owned();
        (kernel, row["handedOut"].as_bool().unwrap(), row["kept"].as_bool().unwrap(), signers.collect())
    };
    value.as_array().unwrap().iter().map(row).collect()
}

fn handed_out(stoke: &Stoke) -> String {
    let rows = rows(stoke);
    let mut found = rows.iter().filter(|(_, handed_out, ..)| *handed_out);
    let only = found.next().unwrap().0.clone();
    assert!(found.next().is_none());
    only
}

#[test]
fn versions_are_listed_shown_and_compared() {
    let stoke = Stoke::new();
    let one = publish(&stoke, "default/node", 1);
    let two = publish(&stoke, "default/node", 2);
    assert_eq!(stoke.stdout(&["image", "list", "-o", "name"]), format!("default/node@{two}\ndefault/node@{one}\n"));
    assert_snapshot!("image_list", without_age(&stoke.stdout(&["image", "list", "node"])));
    assert_snapshot!("image_show", without_time(&stoke.stdout(&["image", "show", &format!("node:{}", one.short())])));
    assert_snapshot!("image_diff", stoke.stdout(&["image", "diff", &format!("node@{one}")]));
    let shown: Value = serde_json::from_str(&stoke.stdout(&["image", "show", "node", "-o", "json"])).unwrap();
    assert_eq!(
        (shown["digest"].as_str(), shown["packages"].as_array().map(Vec::len)),
        (Some(two.to_string().as_str()), Some(3))
    );
    let diff: Value =
        serde_json::from_str(&stoke.stdout(&["image", "diff", &format!("node@{one}"), "node", "-o", "json"])).unwrap();
    assert_eq!(diff["packages"].as_array().unwrap().len(), 3, "{diff}");
    assert_snapshot!("image_unknown", stoke.told(&["image", "show", "nude"]));
    // What older programs published has none.
    assert!(stoke.told(&["image", "show", "node", "--sbom"]).contains("this version has no bill of materials"));
    assert_snapshot!("image_no_version", stoke.told(&["image", "show", "node:00000000"]));
}

/// The column of ages, which depends on the clock, is taken out.
fn without_age(text: &str) -> String {
    let line = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        words.remove(2);
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn without_time(text: &str) -> String {
    let line = |line: &str| if line.starts_with("built ") { "built       TIME".to_owned() } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_older_version_is_handed_out_until_a_newer_one_comes() {
    let stoke = Stoke::new();
    let one = publish(&stoke, "default/node", 1);
    let told = stoke.told(&["image", "rollback", "node"]);
    assert!(told.contains("default/node has no version before"), "{told}");
    publish(&stoke, "default/node", 2);
    assert!(stoke.stdout(&["image", "rollback", "node"]).contains(&format!("hands out {one} from now on")));
    assert_eq!(handed_out(&stoke), "6.1.1");
    assert!(stoke.stdout(&["image", "list"]).contains("handed out (rolled back)"));
    let three = publish(&stoke, "default/node", 3);
    assert_eq!(handed_out(&stoke), "6.1.3");
    stoke.stdout(&["image", "rollback", "node", "--to", &one.short()]);
    assert_eq!(handed_out(&stoke), "6.1.1");
    stoke.stdout(&["image", "rollback", "node", "--to", &three.to_string()]);
    assert_eq!(handed_out(&stoke), "6.1.3");
    assert_eq!(stoke.run(&["image", "rollback", "node", "--to", "xyz"]).status.code(), Some(64));
}

#[test]
fn old_versions_go_and_kept_ones_stay() {
    let stoke = Stoke::new();
    let versions: Vec<_> = (1..=4).map(|number| publish(&stoke, "default/node", number)).collect();
    stoke.stdout(&["image", "keep", &format!("node:{}", versions[0].short())]);
    let would = stoke.stdout(&["image", "prune", "--keep", "1", "--dry-run"]);
    assert_eq!(would, format!("would remove default/node:{}\n", versions[1].short()));
    assert_eq!(rows(&stoke).len(), 4);
    let gone = stoke.stdout(&["image", "prune", "node", "--keep", "1"]);
    assert!(gone.starts_with(&format!("removed default/node:{}\n", versions[1].short())), "{gone}");
    let left: Vec<_> = rows(&stoke).into_iter().map(|(kernel, _, kept, _)| (kernel, kept)).collect();
    let wanted = [("6.1.4", false), ("6.1.3", false), ("6.1.1", true)];
    assert_eq!(left, wanted.map(|(kernel, kept)| (kernel.to_owned(), kept)));
    stoke.stdout(&["image", "keep", "--off", &format!("node:{}", versions[0].short())]);
    stoke.stdout(&["image", "prune", "--keep", "1"]);
    assert_eq!(stoke.stdout(&["image", "prune", "--keep", "1"]), "nothing to remove\n");
}

#[test]
fn a_signature_is_made_found_and_demanded() {
    let stoke = Stoke::new();
    publish(&stoke, "default/node", 1);
    let told = stoke.told(&["image", "sign", "node"]);
    assert!(told.contains("hint: make one: stoke image keys create"), "{told}");
    let public = stoke.stdout(&["image", "keys", "create"]);
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{public}");
    assert_eq!(stoke.stdout(&["image", "keys", "show"]), public);
    stoke.stdout(&["image", "keys", "create", "other"]);
    assert_eq!(stoke.stdout(&["image", "keys", "list"]).lines().count(), 3);
    for _ in 0..2 {
        stoke.stdout(&["image", "sign", "node"]);
    }
    assert_eq!(rows(&stoke)[0].3, ["default"]);
    let good = stoke.stdout(&["image", "verify"]);
    assert!(good.contains(" good: root hash ") && good.contains("signed by default"), "{good}");
    stoke.stdout(&["image", "verify", "node", "--key", "default"]);
    let told = stoke.told(&["image", "verify", "node", "--key", "other"]);
    assert!(told.starts_with("exit 1\n") && told.contains("none of its 1 signatures is"), "{told}");
}

#[test]
fn what_was_changed_is_told_and_not_signed() {
    let stoke = Stoke::new();
    publish(&stoke, "default/node", 1);
    stoke.stdout(&["image", "keys", "create"]);
    let initramfs = stoke.state.path().join("images/blobs/sha256").join(digest(b"initramfs").hex());
    fs::write(&initramfs, b"another").unwrap();
    let told = stoke.told(&["image", "verify"]);
    assert!(told.starts_with("exit 1\n") && told.contains("BAD: the initramfs was changed"), "{told}");
    let told = stoke.told(&["image", "sign", "node"]);
    assert!(told.starts_with("exit 1\n") && told.contains("is not signed: the initramfs was changed"), "{told}");
}

#[test]
fn an_archive_goes_elsewhere_with_its_signature() {
    let (here, there) = (Stoke::new(), Stoke::new());
    let version = publish(&here, "default/node", 1);
    let archive = here.state.path().join("node.tar").display().to_string();
    let public = here.file("key.pub", &here.stdout(&["image", "keys", "create"]));
    here.stdout(&["image", "export", "node", "-o", &archive]);
    let told = there.told(&["image", "import", &archive, "--key", &public]);
    assert!(told.starts_with("exit 1\n") && told.contains("is not signed"), "{told}");
    assert!(there.stdout(&["image", "list", "-o", "name"]).is_empty());
    here.stdout(&["image", "sign", "node"]);
    here.stdout(&["image", "export", "node", "-o", &archive]);
    let taken = there.stdout(&["image", "import", &archive, "--key", &public, "--name", "lab/copy"]);
    assert_eq!(taken, format!("lab/copy@{version}\n"));
    there.stdout(&["image", "verify", "lab/copy", "--key", &public]);
    let broken = there.file("broken.tar", "no archive");
    let told = there.told(&["image", "import", &broken]);
    assert!(told.starts_with("exit 1\n") && told.contains("nothing of "), "{told}");
}

#[test]
fn a_transfer_in_a_pipe_prints_lines() {
    let stoke = Stoke::new();
    publish(&stoke, "default/node", 1);
    let archive = stoke.state.path().join("node.tar").display().to_string();
    let output = stoke.run(&["image", "export", "node", "-o", &archive]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().all(|line| line.contains("default/node")) && !said.contains('\x1b'), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
