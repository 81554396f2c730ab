//! What `stoke up` knows of the image store, which belongs to other processes as well.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stoke_api::{AnyObject, Digest};
use stoke_host::authority::Authority;
use stoke_host::images::Images;
use stoke_host::{Folders, LocalStore};
use stoke_image::store::{Incoming, payload, signed_digest};
use stoke_image::{ImageSignature, Store, verity};
use stoke_signing::{PublicKey, SigningKey};
use tempfile::TempDir;

const NAME: &str = "default/node";

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

/// Publishes a small version.
fn publish(images: &Store, number: u8) -> Digest {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    std::fs::write(&root, [number; 5000]).unwrap();
    let verity = verity::append(&root).unwrap();
    let root = std::fs::read(root).unwrap();
    let info = json!({"format": "Squashfs", "blob": digest(&root), "size": root.len(), "verity": verity});
    let config = json!({"architecture": "amd64", "kernelVersion": "6.1", "kernelArguments": [], "root": info});
    let (config, kernel, initramfs) = (config.to_string().into_bytes(), b"kernel".to_vec(), b"initramfs".to_vec());
    let layer = |media: &str, content: &[u8]| -> Value {
        let media = format!("application/vnd.stokehold.{media}");
        json!({"mediaType": media, "digest": digest(content), "size": content.len()})
    };
    let layers = [layer("kernel", &kernel), layer("initramfs", &initramfs), layer("root.verity", &root)];
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": layers,
        "artifactType": "application/vnd.stokehold.netboot.v1", "config": layer("netboot.config.v1+json", &config),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut incoming = Incoming::begin(images).unwrap();
    for content in [&manifest, &config, &kernel, &initramfs, &root] {
        incoming.add(&digest(content), content.as_slice()).unwrap();
    }
    incoming.publish(NAME, &digest(&manifest)).unwrap().digest
}

fn farm(keys: &[&str]) -> AnyObject {
    let spec = json!({"lan": "lab", "image": "node", "imageKeys": keys});
    serde_json::from_value(json!({"kind": "Farm", "metadata": {"name": "lab", "namespace": "default"}, "spec": spec}))
        .unwrap()
}

struct World {
    folders: Folders,
    store: Store,
    images: Images,
    _state: TempDir,
}

fn world() -> World {
    let state = TempDir::new().unwrap();
    let folders = Folders { state: state.path().to_owned(), run: state.path().join("run") };
    let notes = Arc::new(LocalStore::open(&folders.store()).unwrap());
    let authority = Arc::new(Authority::open(&folders).unwrap());
    let store = Store::open(folders.images()).unwrap();
    let images = Images::open(notes, store.clone(), authority, "1".to_owned(), folders.image_keys(), &[]).unwrap();
    World { folders, store, images, _state: state }
}

fn versions(images: &Images) -> Vec<Digest> {
    images.known().get(NAME).map(|known| known.versions.iter().map(|one| one.digest).collect()).unwrap_or_default()
}

#[test]
fn what_others_do_with_the_store_is_seen() {
    let mut world = world();
    assert!(versions(&world.images).is_empty());
    let (one, two) = (publish(&world.store, 1), publish(&world.store, 2));
    world.images.look(&[]);
    assert_eq!(versions(&world.images), [two, one]);
    world.store.hand_out(NAME, &one).unwrap();
    world.store.keep(NAME, &two, true).unwrap();
    world.images.look(&[]);
    assert_eq!(versions(&world.images), [one, two], "the one that is handed out comes first");
    let notes = &world.images.known()[NAME].notes;
    assert_eq!(notes.iter().map(|note| (note.digest, note.kept)).collect::<Vec<_>>(), [(two, true), (one, false)]);
    assert!(notes[0].published.parse::<jiff::Timestamp>().is_ok(), "{}", notes[0].published);
}

#[test]
fn a_store_that_cannot_be_read_takes_nothing_away() {
    let mut world = world();
    let one = publish(&world.store, 1);
    world.images.look(&[]);
    let index = world.folders.images().join("index.json");
    let good = std::fs::read(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    std::fs::write(&index, b"{").unwrap();
    world.images.look(&[]);
    assert_eq!(versions(&world.images), [one]);
    std::fs::remove_file(&index).unwrap();
    std::fs::write(&index, good).unwrap();
    let two = publish(&world.store, 2);
    world.images.look(&[]);
    assert_eq!(versions(&world.images), [two, one]);
}

#[test]
fn signatures_are_verified_with_the_keys_of_farms_and_of_the_installation() {
    let mut world = world();
    let one = publish(&world.store, 1);
    let keys = TempDir::new().unwrap();
    let [release, stranger] = ["release", "stranger"].map(|name| SigningKey::create(&keys.path().join(name)).unwrap());
    let sign = |key: &SigningKey, about: &Digest| {
        let payload = payload("node", about);
        ImageSignature { signature: key.sign(&payload).unwrap(), payload }
    };
    let release_pem = release.public().to_pem();
    let objects = [farm(&[&release_pem, "no key"])];
    let signed = |world: &World| world.images.signed()[&release_pem].clone().unwrap().contains(&one);

    world.images.look(&objects);
    assert!(!signed(&world));
    assert!(world.images.signed()["no key"].is_err());
    // A stranger's signature; one of the right key about another version; one that was changed.
    world.store.add_signature(&one, &sign(&stranger, &one)).unwrap();
    world.store.add_signature(&one, &sign(&release, &Digest([9; 32]))).unwrap();
    let mut changed = sign(&release, &one);
    changed.payload = payload("other", &one);
    world.store.add_signature(&one, &changed).unwrap();
    world.images.look(&objects);
    assert!(!signed(&world));
    assert!(world.images.known()[NAME].notes[0].signed_by.is_empty());

    world.store.add_signature(&one, &sign(&release, &one)).unwrap();
    world.images.look(&objects);
    assert!(signed(&world));
    let by = |world: &World| world.images.known()[NAME].notes[0].signed_by.clone();
    assert_eq!(by(&world), [release.public().fingerprint().to_string()]);
    // Keys of the installation are shown, and are no farm's.
    std::fs::create_dir_all(world.folders.image_keys()).unwrap();
    std::fs::write(world.folders.image_keys().join("stranger.pub"), stranger.public().to_pem()).unwrap();
    world.images.look(&objects);
    assert_eq!(by(&world).len(), 2);
}

/// A manifest of signatures that cosign 2.6.5 wrote beside ours, the document that it signed, and its key.
#[test]
fn what_cosign_signed_is_signed() {
    let manifest = include_bytes!("../cosign/manifest.json");
    let document = include_bytes!("../cosign/payload.json");
    let key = PublicKey::parse(include_str!("../cosign/key.pub")).unwrap();
    let version = signed_digest(document).unwrap();
    let layers = ImageSignature::layers(manifest);
    assert_eq!(layers.len(), 2);
    let (blob, signature) = layers.iter().find(|(blob, _)| blob.digest == digest(document)).unwrap();
    assert_eq!(blob.size, document.len() as u64);
    assert!(key.verifies(document, signature));
    assert!(version.to_string().starts_with("sha256:3de29ecdd8df"));
}
