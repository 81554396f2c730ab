//! An image of containers in a folder or an archive: which layers it has, and what each must be.
//!
//! Two forms: an OCI image layout (OCI image specification, `image-layout.md`) and what `docker save` writes (`manifest.json`
//! with a configuration and layers). Both may lie in a folder or, unpacked only where that is needed, in a tar archive.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::File;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stoke_api::Digest;

use super::{SourceError, digest_of};
use crate::layers::{Layer, LayerError};

/// Bound of a document that describes an image.
const LARGEST_DOCUMENT: u64 = 8 << 20;
/// How many indexes may lead to an image.
const MOST_INDEXES: u32 = 4;
/// How many layers an image may have: ten times what a container runtime takes.
const MOST_LAYERS: usize = 1280;
/// How many files the archive of an image may have.
const MOST_FILES: usize = 20_000;

/// Where the files of an image are.
#[derive(Debug)]
enum Shelf {
    Folder(PathBuf),
    /// Places in a tar archive, by name.
    Archive(PathBuf, BTreeMap<String, (u64, u64)>),
}

/// An image whose description has been read and checked, its layers not yet.
#[derive(Debug)]
pub(crate) struct ContainerImage {
    shelf: Shelf,
    layers: Vec<StoredLayer>,
    /// Knows the content: the configuration names every layer by what is in it.
    pub(crate) digest: Digest,
}

#[derive(Debug)]
struct StoredLayer {
    name: String,
    stored: Option<Digest>,
    archive: Digest,
    made: Made,
}

/// How a layer came to be, by the image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// What it is known by.
    pub(crate) archive: Option<Digest>,
    /// When, in RFC 3339.
    pub(crate) created: String,
    /// By which step.
    pub(crate) by: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Pointer>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Pointer,
    #[serde(default)]
    layers: Vec<Pointer>,
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    layers: Vec<String>,
}

/// The configuration of an image, as far as it is about its layers (`config.md`).
#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
    os: Option<String>,
    rootfs: Option<RootFs>,
    #[serde(default)]
    history: Vec<History>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

impl ContainerImage {
    /// Reads the description of the image in a folder.
    pub(crate) fn in_folder(path: &Path, architecture: &str) -> Result<Self, SourceError> {
        let there = fs::metadata(path)?.is_dir();
        if !there {
            return Err(SourceError::Image("it is no folder; name an archive as archive".to_owned()));
        }
        Self::read(Shelf::Folder(path.to_owned()), architecture)
    }

    /// Reads the description of the image in an archive that is not compressed.
    pub(crate) fn in_archive(path: &Path, architecture: &str) -> Result<Self, SourceError> {
        Self::read(Shelf::Archive(path.to_owned(), contents(path)?), architecture)
    }

    fn read(shelf: Shelf, architecture: &str) -> Result<Self, SourceError> {
        let (config, stored) = match (shelf.find("index.json")?, shelf.find("manifest.json")?) {
            (Some(index), _) => shelf.of_layout(&index, architecture)?,
            (None, Some(manifest)) => shelf.of_docker(&manifest)?,
            (None, None) => {
                let message = "it is no image: it has neither an index.json nor a manifest.json";
                return Err(SourceError::Image(message.to_owned()));
            }
        };
        let digest = digest_of(&config);
        let config: Config = parse("configuration", &config)?;
        check_platform(&config, architecture)?;
        let layers = with_promises(stored, config)?;
        Ok(Self { shelf, layers, digest })
    }

    /// How each layer was made, lowest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = &Made> {
        self.layers.iter().map(|layer| &layer.made)
    }

    /// The layers, lowest first. `built_from` says from which time on a layer's times mean nothing.
    pub(crate) fn layers(&self, built_from: impl Fn(&Made) -> u64) -> Result<Vec<Layer>, SourceError> {
        let layer = |layer: &StoredLayer| {
            let missing = || SourceError::Image(format!("its layer {} is not there", layer.name));
            let (path, offset, size) = self.shelf.place(&layer.name)?.ok_or_else(missing)?;
            let open = move || -> io::Result<Box<dyn Read>> {
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(io::BufReader::with_capacity(1 << 17, file.take(size))))
            };
            let (stored, archive) = (layer.stored, Some(layer.archive));
            Ok(Layer { open: Box::new(open), stored, archive, size, built_from: built_from(&layer.made) })
        };
        self.layers.iter().map(layer).collect()
    }
}

/// What a manifest leads to.
pub(super) enum Instance {
    /// An image: the digest of its configuration.
    Config(Digest),
    /// A list: the manifest for the architecture that was asked for.
    Manifest(Digest),
}

/// Reads a manifest of a registry.
pub(super) fn instance(manifest: &[u8], architecture: &str) -> Result<Instance, SourceError> {
    if serde_json::from_slice::<Index>(manifest).is_ok_and(|index| !index.manifests.is_empty()) {
        return Ok(Instance::Manifest(choose(manifest, architecture)?.digest));
    }
    let manifest: Manifest = parse("manifest", manifest)?;
    Ok(Instance::Config(manifest.config.digest))
}

/// Layers by their stored names, with the digest of the stored form if the image promises one.
type Stored = Vec<(String, Option<Digest>)>;

impl Shelf {
    /// Where a file is: its file on disk, the place in it, its size.
    fn place(&self, name: &str) -> Result<Option<(PathBuf, u64, u64)>, SourceError> {
        match self {
            Self::Archive(path, contents) => {
                Ok(contents.get(name).map(|(offset, size)| (path.clone(), *offset, *size)))
            }
            Self::Folder(folder) => {
                let leaves = name.starts_with('/') || name.split('/').any(|part| part == "..");
                if leaves {
                    return Err(LayerError::NameLeaves(name.to_owned()).into());
                }
                let path = folder.join(name);
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => Ok(Some((path, 0, metadata.len()))),
                    Ok(_) => Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// A document, if it is there.
    fn find(&self, name: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let Some((path, offset, size)) = self.place(name)? else { return Ok(None) };
        if size > LARGEST_DOCUMENT {
            return Err(SourceError::Image(format!("its {name} is larger than {LARGEST_DOCUMENT} bytes")));
        }
        let mut content = Vec::new();
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(size).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// A document that is named by its digest.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, SourceError> {
        let name = blob_name(digest);
        let content = self.find(&name)?.ok_or_else(|| SourceError::Image(format!("its {name} is not there")))?;
        checked(*digest, &content)?;
        Ok(content)
    }

    /// Configuration and layers of the one image of a layout.
    fn of_layout(&self, index: &[u8], architecture: &str) -> Result<(Vec<u8>, Stored), SourceError> {
        let mut manifest = choose(index, architecture)?;
        for _ in 0..MOST_INDEXES {
            let content = self.blob(&manifest.digest)?;
            if !is_index(&manifest, &content) {
                let manifest: Manifest = parse("manifest", &content)?;
                let layers = manifest.layers.iter().map(|layer| (blob_name(&layer.digest), Some(layer.digest)));
                return Ok((self.blob(&manifest.config.digest)?, layers.collect()));
            }
            manifest = choose(&content, architecture)?;
        }
        Err(SourceError::Image(format!("its index leads through more than {MOST_INDEXES} others")))
    }

    /// Configuration and layers of what `docker save` wrote.
    fn of_docker(&self, manifest: &[u8]) -> Result<(Vec<u8>, Stored), SourceError> {
        let saved: Vec<Saved> = parse("manifest.json", manifest)?;
        let [one] = saved.as_slice() else {
            let message = format!("it has {} images; save a single one", saved.len());
            return Err(SourceError::Image(message));
        };
        let missing = || SourceError::Image(format!("its {} is not there", one.config));
        let config = self.find(&one.config)?.ok_or_else(missing)?;
        let name = one.config.rsplit('/').next().unwrap_or_default();
        let promised = format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse::<Digest>().ok();
        if let Some(promised) = promised {
            checked(promised, &config)?;
        }
        Ok((config, one.layers.iter().map(|layer| (layer.clone(), None)).collect()))
    }
}

/// The image of an index that is for this architecture.
fn choose(index: &[u8], architecture: &str) -> Result<Pointer, SourceError> {
    let index: Index = parse("index", index)?;
    let fits = |pointer: &&Pointer| match &pointer.platform {
        Some(platform) => platform.architecture == architecture && platform.os == "linux",
        None => true,
    };
    let named = index.manifests.iter().filter(|pointer| pointer.platform.is_some()).find(fits);
    let fitting: Vec<&Pointer> = index.manifests.iter().filter(fits).collect();
    match (fitting.as_slice(), named) {
        ([], _) => Err(SourceError::Image(format!("it has no image for {architecture}"))),
        ([one], _) => Ok((*one).clone()),
        (several, Some(named)) if several.iter().all(|one| one.platform.is_none() || one.digest == named.digest) => {
            Ok(named.clone())
        }
        (several, _) => {
            Err(SourceError::Image(format!("it has {} images; name one that holds a single one", several.len())))
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn checked(promised: Digest, content: &[u8]) -> Result<(), SourceError> {
    let found = digest_of(content);
    if promised == found { Ok(()) } else { Err(LayerError::Tampered { promised, found }.into()) }
}

fn parse<T: DeserializeOwned>(what: &str, content: &[u8]) -> Result<T, SourceError> {
    serde_json::from_slice(content).map_err(|error| SourceError::Image(format!("its {what} cannot be read: {error}")))
}

/// An index may come without a media type (`image-index.md`); it has manifests then.
fn is_index(pointer: &Pointer, content: &[u8]) -> bool {
    let named = pointer.media_type.contains("image.index") || pointer.media_type.contains("manifest.list");
    let looks = || serde_json::from_slice::<Index>(content).is_ok_and(|index| !index.manifests.is_empty());
    named || (pointer.media_type.is_empty() && looks())
}

fn check_platform(config: &Config, architecture: &str) -> Result<(), SourceError> {
    let wrong = |found: &Option<String>, wanted: &str| found.clone().filter(|found| found != wanted);
    match wrong(&config.os, "linux").or_else(|| wrong(&config.architecture, architecture)) {
        Some(found) => Err(SourceError::Image(format!("it is for {found}, not for linux on {architecture}"))),
        None => Ok(()),
    }
}

/// The layers with what the configuration promises of each.
fn with_promises(stored: Stored, config: Config) -> Result<Vec<StoredLayer>, SourceError> {
    let root = config.rootfs.ok_or_else(|| SourceError::Image("it has no root file system".to_owned()))?;
    if root.diff_ids.len() != stored.len() || stored.len() > MOST_LAYERS {
        let (promised, found) = (root.diff_ids.len(), stored.len());
        return Err(SourceError::Image(format!("its configuration speaks of {promised} layers, and it has {found}")));
    }
    let steps: Vec<History> = config.history.into_iter().filter(|step| !step.empty_layer).collect();
    let known = steps.len() == stored.len();
    let mut steps = steps.into_iter();
    let mut layers = Vec::new();
    for ((name, stored), archive) in stored.into_iter().zip(root.diff_ids) {
        let step = steps.next().filter(|_| known);
        let made = step.map(|step| Made {
            archive: Some(archive),
            created: step.created.unwrap_or_default(),
            by: step.created_by.unwrap_or_default(),
        });
        layers.push(StoredLayer { name, stored, archive, made: made.unwrap_or_default() });
    }
    Ok(layers)
}

/// What is in a tar archive, by name; links among it, which `docker save` makes of layers that are there twice, followed.
fn contents(path: &Path) -> Result<BTreeMap<String, (u64, u64)>, SourceError> {
    let mut archive = tar::Archive::new(File::open(path)?.into_file());
    let (mut contents, mut links) = (BTreeMap::new(), Vec::new());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Err(LayerError::NameLeaves(name).into());
        }
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                contents.insert(name, (entry.raw_file_position(), entry.size()));
            }
            tar::EntryType::Symlink => {
                let target = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
                links.push((name, target));
            }
            _ => {}
        }
        if contents.len() + links.len() > MOST_FILES {
            return Err(SourceError::Image("it has more files than any image".to_owned()));
        }
    }
    for (name, target) in links {
        let found = contents.get(&beside(&name, &target)).copied();
        found.map(|place| contents.insert(name, place));
    }
    Ok(contents)
}

/// `ID/layer.tar` -> `../OTHER/layer.tar` is `OTHER/layer.tar`.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_layers_are_followed_within_the_archive() {
        assert_eq!(beside("one/layer.tar", "../two/layer.tar"), "two/layer.tar");
        assert_eq!(beside("one/layer.tar", "../../../../etc/passwd"), "etc/passwd");
    }

    #[test]
    fn a_history_that_does_not_fit_is_no_history() {
        let digest = Digest([7; 32]);
        let history = |empty_layer| History { created: Some("x".into()), created_by: None, empty_layer };
        let config =
            |history| Config { architecture: None, os: None, rootfs: Some(RootFs { diff_ids: vec![digest] }), history };
        let made = |history| with_promises(vec![("a".into(), None)], config(history)).unwrap().remove(0).made;
        assert_eq!(made(vec![history(true), history(false)]).created, "x");
        assert_eq!(made(vec![history(false), history(false)]), Made::default());
    }
}
