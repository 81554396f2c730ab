//! Images of containers in the store: the programs' own (OCI image specification, `config.md`, `manifest.md`).
//!
//! Their entries in the index have a name that other tools know, and none that a farm would hand out. An archive of one
//! is both an OCI archive and what `docker save` writes: every runtime and registry tool reads one of the two.

use std::collections::BTreeMap;
use std::io::{self, Write};

use fs_err::File;
use serde_json::json;
use stoke_api::Digest;
use stoke_api::workload::BlobRef;
use tar::Builder;

use super::archive::put;
use super::layout::{MANIFEST, OCI_LAYOUT, REF_NAME};
use super::publish::{entry, manifest};
use super::{Descriptor, Index, Manifest, Store, StoreError, media};

/// Media type of a container's configuration.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of its layers.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The annotation by which containerd finds an image's whole name; the common one has only a tag by the specification.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A layer that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The layer, compressed by Zstandard.
    pub blob: BlobRef,
    /// Digest of what it is uncompressed.
    pub diff: Digest,
}

/// An image of containers.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its whole name: `registry/path/name:tag`.
    pub name: String,
    /// As OCI names it: `amd64`.
    pub architecture: String,
    /// When it was made, for people: RFC 3339. Part of its digest.
    pub created: String,
    /// What is run.
    pub entrypoint: Vec<String>,
    /// As whom: `65532:65532`.
    pub user: String,
    /// Environment variables: `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Its bill of materials: SPDX in JSON.
    pub bill: Vec<u8>,
}

impl Store {
    /// Puts an image into the index, in place of an older one of its name, and its bill of materials beside it. Its digest.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn publish_container(&self, container: &Container) -> Result<Digest, StoreError> {
        let _lock = self.lock()?;
        let config = json!({
            "architecture": container.architecture,
            "config": {
                "Entrypoint": container.entrypoint,
                "Env": container.environment,
                "Labels": container.labels,
                "User": container.user,
                "WorkingDir": "/",
            },
            "created": container.created,
            "history": container.layers.iter().map(|_| json!({"created": container.created})).collect::<Vec<_>>(),
            "os": "linux",
            "rootfs": {"diff_ids": container.layers.iter().map(|layer| layer.diff).collect::<Vec<_>>(), "type": "layers"},
        });
        let config = Descriptor::new(CONFIG, &self.put_json(&config)?);
        let layers = container.layers.iter().map(|layer| Descriptor::new(LAYER, &layer.blob)).collect();
        let image = self.put_json(&manifest("", config, layers, None))?;
        let mut named = Descriptor::new(MANIFEST, &image);
        for key in [REF_NAME, CONTAINERD_NAME] {
            named.annotations.insert(key.to_owned(), container.name.clone());
        }
        let old = self.container(&container.name)?;
        self.append(named, |entry| entry.annotation(CONTAINERD_NAME) == Some(&container.name))?;
        self.describe(old.as_ref(), &image, &container.bill)?;
        Ok(image.digest)
    }

    /// Attaches the bill of materials, by which tools find it: a manifest whose subject is the image.
    fn describe(&self, old: Option<&Descriptor>, image: &BlobRef, bill: &[u8]) -> Result<(), StoreError> {
        let config = Descriptor::new(media::EMPTY, &self.put_bytes(b"{}")?);
        let bill = vec![Descriptor::new(media::SBOM, &self.put_bytes(bill)?)];
        let subject = Some(Descriptor::new(MANIFEST, image));
        let attached = self.put_json(&manifest(media::SBOM, config, bill, subject))?;
        let replaced = |of: &Descriptor| self.bill_of(of).ok().flatten();
        let stale = old.and_then(replaced);
        self.append(entry(media::SBOM, &attached), |entry| {
            entry.digest == attached.digest || stale.as_ref().is_some_and(|stale| stale.digest == entry.digest)
        })
    }

    /// The entry of the bill of materials of an image.
    fn bill_of(&self, image: &Descriptor) -> Result<Option<Descriptor>, StoreError> {
        for entry in self.index()?.manifests {
            if entry.artifact_type.as_deref() == Some(media::SBOM) {
                let found: Manifest = self.json(&self.blob_path(&entry.digest))?;
                if found.subject.is_some_and(|subject| subject.digest == image.digest) {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    fn container(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let named = |entry: &Descriptor| entry.annotation(CONTAINERD_NAME) == Some(name);
        Ok(self.index()?.manifests.into_iter().find(named))
    }

    /// Writes an image as one archive: an OCI layout, and `manifest.json` as `docker load` wants it. The same image makes
    /// the same archive.
    ///
    /// # Errors
    /// If there is no such image, or something cannot be read or written.
    pub fn export_container(&self, name: &str, out: impl Write) -> Result<(), StoreError> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no image {name} in the store"));
        let image = self.container(name)?.ok_or_else(missing)?;
        let manifest: Manifest = self.json(&self.blob_path(&image.digest))?;
        let file = |descriptor: &Descriptor| format!("blobs/sha256/{}", descriptor.digest.hex());
        let layers: Vec<_> = manifest.layers.iter().map(file).collect();
        let docker = json!([{"Config": file(&manifest.config), "RepoTags": [name], "Layers": layers}]).to_string();
        let mut blobs: BTreeMap<_, _> = manifest.parts().map(|part| (part.digest, part.size)).collect();
        blobs.insert(image.digest, image.size);
        let index = serde_json::to_vec(&Index { manifests: vec![image], ..Index::default() }).unwrap_or_default();
        let mut archive = Builder::new(out);
        for (name, content) in
            [("oci-layout", OCI_LAYOUT.as_bytes()), ("index.json", &index), ("manifest.json", docker.as_bytes())]
        {
            put(&mut archive, name, content.len() as u64, content)?;
        }
        for (digest, size) in blobs {
            put(&mut archive, &format!("blobs/sha256/{}", digest.hex()), size, File::open(self.blob_path(&digest))?)?;
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(store: &Store, content: &[u8]) -> Container {
        let blob = store.put_bytes(content).unwrap();
        Container {
            name: "localhost/stokehold/test:1".into(),
            architecture: "amd64".into(),
            created: "2026-01-01T00:00:00Z".into(),
            entrypoint: vec!["/usr/bin/stoke".into()],
            user: "65532:65532".into(),
            environment: vec![],
            labels: BTreeMap::from([("a".into(), "b".into())]),
            layers: vec![Layer { blob, diff: Digest([7; 32]) }],
            bill: content.to_vec(),
        }
    }

    #[test]
    fn the_same_image_in_two_stores_is_the_same_archive() {
        let archive = || {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let container = container(&store, b"layer");
            let digest = store.publish_container(&container).unwrap();
            let mut out = Vec::new();
            store.export_container(&container.name, &mut out).unwrap();
            (digest, out)
        };
        assert_eq!(archive(), archive());
    }

    #[test]
    fn a_newer_image_of_a_name_replaces_the_older_one_and_its_bill() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = store.publish_container(&container(&store, b"one")).unwrap();
        assert_eq!(store.publish_container(&container(&store, b"one")).unwrap(), first);
        let second = store.publish_container(&container(&store, b"two")).unwrap();
        let manifests = store.index().unwrap().manifests;
        assert_eq!(manifests.len(), 2);
        assert_eq!(manifests[0].digest, second);
        assert!(store.list().unwrap().is_empty(), "no farm hands out an image of containers");
    }

    #[test]
    fn an_archive_is_one_for_oci_and_for_docker() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let container = container(&store, b"layer");
        store.publish_container(&container).unwrap();
        let mut out = Vec::new();
        store.export_container(&container.name, &mut out).unwrap();
        let mut archive = tar::Archive::new(out.as_slice());
        let mut names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        names.truncate(3);
        assert_eq!(names, ["oci-layout", "index.json", "manifest.json"]);
    }
}
