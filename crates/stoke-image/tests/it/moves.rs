//! Versions that are kept, handed out, signed, checked, pruned, and moved as archives.

use std::io::{Cursor, Read as _};
use std::path::Path;

use fs_err as fs;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::report::BuiltImage;
use stoke_image::store::{ArchiveError, Fault, Incoming, IncomingError, payload};
use stoke_image::{ImageSignature, Store, verity};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

const NAME: &str = "default/node";

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

/// The parts of a small version: its manifest first.
fn parts(word: &str) -> Vec<Vec<u8>> {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::write(&root, word.repeat(5000)).unwrap();
    let verity = verity::append(&root).unwrap();
    let root = fs::read(root).unwrap();
    let info = json!({"format": "Squashfs", "blob": digest(&root), "size": root.len(), "verity": verity});
    let config = json!({
        "architecture": "amd64", "kernelVersion": format!("6.1-{word}"), "kernelArguments": ["quiet"], "root": info,
    });
    let config = config.to_string().into_bytes();
    let packages = json!([{"name": word, "version": "1", "architecture": "amd64"}]).to_string().into_bytes();
    let (kernel, initramfs) = (b"kernel".to_vec(), format!("initramfs {word}").into_bytes());
    let layer = |media: &str, content: &[u8]| json!({"mediaType": format!("application/vnd.stokehold.{media}"), "digest": digest(content), "size": content.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.stokehold.netboot.v1",
        "config": layer("netboot.config.v1+json", &config),
        "layers": [
            layer("kernel", &kernel), layer("initramfs", &initramfs), layer("root.verity", &root),
            layer("packages.v1+json", &packages),
        ],
    });
    vec![manifest.to_string().into_bytes(), config, kernel, initramfs, root, packages]
}

/// Publishes a small version.
fn publish(store: &Store, name: &str, word: &str) -> BuiltImage {
    let mut incoming = Incoming::begin(store).unwrap();
    let parts = parts(word);
    for part in &parts {
        incoming.add(&digest(part), part.as_slice()).unwrap();
    }
    incoming.publish(name, &digest(&parts[0])).unwrap()
}

fn store(dir: &TempDir) -> Store {
    Store::open(dir.path()).unwrap()
}

fn kernels(store: &Store, name: &str) -> Vec<String> {
    let words = |kernel: String| kernel.trim_start_matches("6.1-").to_owned();
    store.versions(name).unwrap().into_iter().map(|version| words(version.image.kernel_version)).collect()
}

fn handed_out(store: &Store) -> String {
    let versions = store.versions(NAME).unwrap();
    let mut found = versions.iter().filter(|version| version.handed_out);
    let only = found.next().unwrap().image.kernel_version.clone();
    assert!(found.next().is_none());
    only
}

fn signature(version: &Digest) -> ImageSignature {
    ImageSignature { payload: payload("registry.example.org/farm/node", version), signature: b"signature".to_vec() }
}

/// Bytes below the store's `blobs`, and what is left in `tmp`.
fn weight(store: &Store) -> (usize, usize) {
    let count = |path: &Path| fs::read_dir(path).unwrap().count();
    (count(&store.blobs().join("sha256")), count(&store.path().join("tmp")))
}

#[test]
fn a_version_is_chosen_until_a_newer_one_comes() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let one = publish(&store, NAME, "one");
    let before = store.generation().unwrap();
    publish(&store, NAME, "two");
    assert_ne!(store.generation().unwrap(), before);
    assert_eq!(handed_out(&store), "6.1-two");
    assert!(store.hand_out(NAME, &one.digest).unwrap());
    assert!(!store.hand_out(NAME, &one.digest).unwrap());
    assert_eq!((handed_out(&store), kernels(&store, NAME)), ("6.1-one".to_owned(), vec!["two".into(), "one".into()]));
    publish(&store, NAME, "two");
    assert_eq!(handed_out(&store), "6.1-one", "the same again is no newer one");
    publish(&store, NAME, "three");
    assert_eq!(handed_out(&store), "6.1-three");
    assert!(store.make_newest(NAME, &one.digest).unwrap());
    assert_eq!((handed_out(&store), kernels(&store, NAME)[0].as_str()), ("6.1-one".to_owned(), "one"));
    let error = store.hand_out(NAME, &Digest([9; 32])).unwrap_err().to_string();
    assert!(error.contains("default/node has no version sha256:0909"), "{error}");
}

#[test]
fn a_prune_spares_what_is_kept_handed_out_or_used() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let versions = ["one", "two", "three", "four", "five"].map(|word| publish(&store, NAME, word).digest);
    let other = publish(&store, "default/other", "one").digest;
    assert_eq!(other, versions[0]);
    store.add_signature(&versions[1], &signature(&versions[1])).unwrap();
    assert!(store.keep(NAME, &versions[2], true).unwrap());
    assert!(!store.keep(NAME, &versions[2], true).unwrap());
    store.hand_out(NAME, &versions[3]).unwrap();
    assert_eq!(store.prunable(NAME, 1, &[]).unwrap(), [versions[1]]);
    assert!(store.prunable(NAME, 1, &[versions[1]]).unwrap().is_empty());
    let (before, _) = weight(&store);
    let pruned = store.prune(NAME, 1, &[]).unwrap();
    assert_eq!(pruned.versions, [versions[1]]);
    // Manifest, configuration, initramfs, root and packages of its own; manifest, configuration and document of the signature.
    assert_eq!((pruned.blobs, weight(&store).0), (8, before - 8));
    assert_eq!(kernels(&store, NAME), ["five", "four", "three", "one"]);
    assert_eq!(kernels(&store, "default/other"), ["one"]);
    store.keep(NAME, &versions[2], false).unwrap();
    assert_eq!(store.prune(NAME, 1, &[]).unwrap().versions, [versions[2]]);
}

#[test]
fn what_was_changed_is_found() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let image = publish(&store, NAME, "one");
    let mut read = 0;
    assert_eq!(store.check(&image, &mut |bytes| read += bytes).unwrap(), []);
    let manifest = fs::metadata(store.blob_path(&image.digest)).unwrap().len();
    assert_eq!(read, image.size + manifest + image.root.size);
    let initramfs = store.blob_path(&image.initramfs.digest);
    let content = fs::read(&initramfs).unwrap();
    fs::write(&initramfs, b"another").unwrap();
    let faults = store.check(&image, &mut |_| ()).unwrap();
    assert!(matches!(&faults[..], [Fault::Changed { part, .. }] if part == "initramfs"), "{faults:?}");
    fs::remove_file(&initramfs).unwrap();
    let faults = store.check(&image, &mut |_| ()).unwrap();
    assert!(matches!(&faults[..], [Fault::Missing { part, .. }] if part == "initramfs"), "{faults:?}");
    fs::write(&initramfs, content).unwrap();
    let mut other = image.clone();
    other.root.verity.root_hash = "0".repeat(64);
    assert_eq!(store.check(&other, &mut |_| ()).unwrap(), [Fault::RootHash("0".repeat(64))]);
}

#[test]
fn a_hash_tree_that_was_changed_is_found() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("root");
    for blocks in [1, 2, 129] {
        fs::write(&path, vec![7; 4096 * blocks]).unwrap();
        let found = verity::append(&path).unwrap();
        let mut content = fs::read(&path).unwrap();
        assert!(verity::is_intact(content.as_slice(), &found).unwrap());
        *content.last_mut().unwrap() ^= 1;
        assert!(!verity::is_intact(content.as_slice(), &found).unwrap(), "{blocks}");
        *content.last_mut().unwrap() ^= 1;
        content.push(0);
        assert!(!verity::is_intact(content.as_slice(), &found).unwrap(), "{blocks}");
    }
}

#[test]
fn signatures_are_beside_a_version_and_no_part_of_it() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let image = publish(&store, NAME, "one");
    assert!(store.signatures(&image.digest).unwrap().is_empty());
    let (one, mut two) = (signature(&image.digest), signature(&image.digest));
    two.signature = b"another".to_vec();
    assert!(store.add_signature(&image.digest, &one).unwrap());
    assert!(!store.add_signature(&image.digest, &one).unwrap());
    assert!(store.add_signature(&image.digest, &two).unwrap());
    let mut found = store.signatures(&image.digest).unwrap();
    found.sort();
    let mut wanted = vec![one, two];
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(store.versions(NAME).unwrap()[0].image, image);
    assert_eq!(store.list().unwrap().len(), 1);
}

fn exported(store: &Store, image: &BuiltImage) -> Vec<u8> {
    let mut archive = Vec::new();
    store.export(NAME, &image.digest, &mut archive, &mut |_| ()).unwrap();
    archive
}

#[test]
fn an_archive_brings_a_version_and_its_signatures_elsewhere() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (here, there) = (store(&here), store(&there));
    let image = publish(&here, NAME, "one");
    here.add_signature(&image.digest, &signature(&image.digest)).unwrap();
    here.keep(NAME, &image.digest, true).unwrap();
    let archive = exported(&here, &image);
    assert_eq!(exported(&here, &image), archive, "the same version makes the same archive");
    let mut read = 0;
    let published = there.import(archive.as_slice(), None, &mut |_, _| Ok(()), &mut |bytes| read += bytes).unwrap();
    assert_eq!(
        published.iter().map(|(name, image)| (name.as_str(), image.digest)).collect::<Vec<_>>(),
        [(NAME, image.digest)]
    );
    assert!(read > image.size);
    assert_eq!(there.signatures(&image.digest).unwrap(), [signature(&image.digest)]);
    assert!(there.check(&published[0].1, &mut |_| ()).unwrap().is_empty());
    assert!(!there.versions(NAME).unwrap()[0].kept, "what people decided elsewhere does not travel");
    there.import(archive.as_slice(), Some("default/copy"), &mut |_, _| Ok(()), &mut |_| ()).unwrap();
    assert_eq!(there.names().unwrap().into_iter().collect::<Vec<_>>(), ["default/copy", NAME]);
    assert_eq!(weight(&there).1, 0);
}

#[test]
fn other_tools_read_our_archives() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let image = publish(&store, NAME, "one");
    let file = dir.path().join("node.tar");
    fs::write(&file, exported(&store, &image)).unwrap();
    let path = format!("oci-archive:{}:{NAME}:{}", file.display(), image.digest.short());
    let raw = crate::world::run("skopeo", &["inspect", "--raw", &path]);
    assert_eq!(digest(raw.as_bytes()), image.digest);
}

/// Kind, name and content.
type Entry<'a> = (EntryType, &'a str, &'a [u8]);

/// An archive with these entries.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        // Names that the library would refuse to write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn an_archive_with_anything_else_in_it_is_refused_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let blob = format!("blobs/sha256/{}", digest(b"other").hex());
    let bad: [(&[Entry<'_>], &str); 9] = [
        (&[(EntryType::Regular, "../../escaped", b"x")], "a file called \"../../escaped\""),
        (&[(EntryType::Regular, "/etc/stokehold-escaped", b"x")], "a file called \"/etc/stokehold-escaped\""),
        (&[(EntryType::Regular, "blobs/sha256/../../index.json", b"x")], "a file called"),
        (&[(EntryType::Symlink, "blobs/sha256", b"")], "a link called"),
        (&[(EntryType::Link, "index.json", b"")], "a link called"),
        (&[(EntryType::Char, "blobs/sha256/tty", b"")], "a device called"),
        (&[(EntryType::Directory, "etc", b"")], "a folder called"),
        (&[(EntryType::Regular, &blob, b"tampered")], "was changed on its way"),
        (&[(EntryType::Regular, "oci-layout", b"{}")], "it has no index.json"),
    ];
    for (entries, wanted) in bad {
        let error =
            store.import(archive(entries).as_slice(), None, &mut |_, _| Ok(()), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}: {wanted}");
    }
    for broken in [&b"not a tar"[..], &[0xff; 2048]] {
        assert!(store.import(broken, None, &mut |_, _| Ok(()), &mut |_| ()).is_err());
    }
    assert_eq!(weight(&store), (0, 0));
    assert!(store.names().unwrap().is_empty());
    assert!(!Path::new("/etc/stokehold-escaped").exists());
}

#[test]
fn an_archive_that_is_cut_or_changed_publishes_nothing() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (here, there) = (store(&here), store(&there));
    let whole = exported(&here, &publish(&here, NAME, "one"));
    let cut = whole.get(..whole.len() / 2).unwrap();
    assert!(there.import(cut, None, &mut |_, _| Ok(()), &mut |_| ()).is_err());
    let at = whole.windows(9).position(|window| window == b"initramfs").unwrap();
    // The last one: names of media types come first, in the manifest.
    let at = whole.windows(13).rposition(|window| window == b"initramfs one").unwrap_or(at);
    let mut changed = whole.clone();
    changed[at] ^= 1;
    let error = there.import(changed.as_slice(), None, &mut |_, _| Ok(()), &mut |_| ()).unwrap_err();
    assert!(matches!(error, ArchiveError::Incoming(IncomingError::Tampered { .. })), "{error}");
    assert_eq!((weight(&there), there.names().unwrap().len()), ((0, 0), 0));
}

#[test]
fn what_is_no_netboot_image_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir);
    let mut incoming = Incoming::begin(&store).unwrap();
    let whole = parts("one");
    for part in &whole[..5] {
        incoming.add(&digest(part), part.as_slice()).unwrap();
    }
    let error = incoming.publish(NAME, &digest(&whole[0])).unwrap_err();
    assert!(matches!(error, IncomingError::Missing(missing) if missing == digest(&whole[5])), "{error}");
    let edited = |from: &str, to: &str| String::from_utf8(whole[0].clone()).unwrap().replace(from, to).into_bytes();
    let manifests = [
        edited("vnd.stokehold.netboot.v1", "vnd.example.v1"),
        edited("application/vnd.stokehold.kernel", "application/x"),
        edited(&digest(&whole[4]).to_string(), &digest(&whole[3]).to_string()),
        b"{}".to_vec(),
        b"no json".to_vec(),
    ];
    incoming.add(&digest(&whole[5]), whole[5].as_slice()).unwrap();
    for manifest in manifests {
        incoming.add(&digest(&manifest), manifest.as_slice()).unwrap();
        let error = incoming.publish(NAME, &digest(&manifest)).unwrap_err();
        assert!(!matches!(error, IncomingError::Store(_)), "{error}");
    }
    drop(incoming);
    assert_eq!((weight(&store), store.names().unwrap().len()), ((0, 0), 0));
}

#[test]
fn an_archive_without_a_name_needs_one() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (here, there) = (store(&here), store(&there));
    let image = publish(&here, NAME, "one");
    let mut archive = tar::Archive::new(Cursor::new(exported(&here, &image)));
    let mut nameless = Builder::new(Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (path, mut content) = (entry.path().unwrap().into_owned(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        if path == Path::new("index.json") {
            // As a tool leaves it that knows only standard annotations.
            let manifests = json!([{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.digest,
                "size": fs::metadata(here.blob_path(&image.digest)).unwrap().len(),
            }]);
            content = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
                .to_string()
                .into_bytes();
        }
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        nameless.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    let nameless = nameless.into_inner().unwrap();
    let error = there.import(nameless.as_slice(), None, &mut |_, _| Ok(()), &mut |_| ()).unwrap_err();
    assert!(matches!(error, ArchiveError::Nameless), "{error}");
    there.import(nameless.as_slice(), Some("default/named"), &mut |_, _| Ok(()), &mut |_| ()).unwrap();
    assert_eq!(there.versions("default/named").unwrap()[0].image.digest, image.digest);
}
