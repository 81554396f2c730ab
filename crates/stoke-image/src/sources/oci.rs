//! An OCI or Docker image: from a registry by skopeo, a layout or an archive.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::File;
use stoke_api::Digest;
use stoke_api::objects::OciSource;

use super::contained::Containment;
use super::container_image::{ContainerImage, Instance, instance};
use super::{Bench, Making, SourceError, about, layers_digest, write_tree};
use crate::BuildError;
use crate::layers::{self, ANY_TIME, Bounded, HeaderBudget, Limits};
use crate::store::Workspace;

const SKOPEO: &str = "skopeo";
const STAGE: &str = "unpack layers";

/// An image of containers as a source.
pub(crate) struct Oci<'a> {
    bench: Bench<'a>,
    place: Place,
    /// For people: the reference or the path.
    name: String,
    field: &'static str,
    digest: Digest,
}

enum Place {
    /// What is here, and the workspace that keeps it if it had to be unpacked.
    Here { image: ContainerImage, _unpacked: Option<Workspace> },
    /// The image of a registry, by its digest: `docker://NAME@sha256:…`.
    Registry { url: String, loopback: bool },
}

impl<'a> Oci<'a> {
    /// Reads what the image says of itself. A registry is asked for that alone.
    pub(crate) fn prepare(source: &'a OciSource, bench: &Bench<'a>) -> Result<Self, BuildError> {
        if let Some(reference) = &source.reference {
            return Self::of_registry(reference, bench);
        }
        let (field, path) = match (&source.layout, &source.archive) {
            (Some(layout), _) => ("spec.source.oci.layout", layout),
            (None, Some(archive)) => ("spec.source.oci.archive", archive),
            (None, None) => {
                let message = "name a reference, a layout or an archive".to_owned();
                return Err(BuildError::Recipe { field: "spec.source.oci".to_owned(), message });
            }
        };
        let name = path.display().to_string();
        let read = if source.layout.is_some() {
            ContainerImage::in_folder(path, bench.architecture).map(|image| (image, None))
        } else {
            open_archive(path, bench)
        };
        let (image, unpacked) = read.map_err(|error| about(field, &name, &error))?;
        let digest = layers_digest("image", &image.digest);
        Ok(Self { bench: *bench, place: Place::Here { image, _unpacked: unpacked }, name, field, digest })
    }

    fn of_registry(reference: &str, bench: &Bench<'a>) -> Result<Self, BuildError> {
        let field = "spec.source.oci.reference";
        let workspace = bench.store.workspace()?;
        let registry = Registry::of(reference, bench, &workspace);
        let (url, config) = registry.resolve().map_err(|error| error.about(field, reference))?;
        let place = Place::Registry { url, loopback: registry.loopback };
        let digest = layers_digest("image", &config);
        Ok(Self { bench: *bench, place, name: reference.to_owned(), field, digest })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn make(&self, making: &mut Making<'_>) -> Result<(), BuildError> {
        let pulled;
        let image = match &self.place {
            Place::Here { image, .. } => image,
            Place::Registry { url, loopback } => {
                making.at("pull", 0);
                pulled = self.pull(url, *loopback, making)?;
                &pulled
            }
        };
        making.at(STAGE, 0);
        let layers = image.layers(|_| ANY_TIME).map_err(|error| about(self.field, &self.name, &error))?;
        write_tree(&layers, making, STAGE, self.field, &self.name)
    }

    fn pull(&self, url: &str, loopback: bool, making: &mut Making<'_>) -> Result<ContainerImage, BuildError> {
        let layout = making.workspace.path().join("pulled");
        let mut arguments = platform(self.bench.architecture);
        arguments.push("copy".to_owned());
        arguments.extend(loopback.then(|| "--src-tls-verify=false".to_owned()));
        arguments.extend([url.to_owned(), "oci:pulled:image".to_owned()]);
        let containment = containment(&self.bench, making.workspace.path());
        let mut blobs = 0;
        let ended = containment.run(OsStr::new(SKOPEO), &arguments, |line| {
            if line.starts_with("Copying blob") {
                blobs += 1;
                making.at(&format!("pull layer {blobs}"), 0);
            }
        })?;
        if ended.disk_was_full() {
            return Err(making.space.exhausted());
        }
        if !ended.status.success() {
            return Err(Failed::Said(ended.last_words()).about(self.field, &self.name));
        }
        ContainerImage::in_folder(&layout, self.bench.architecture)
            .map_err(|error| about(self.field, &self.name, &error))
    }
}

fn containment<'b>(bench: &Bench<'_>, workspace: &'b Path) -> Containment<'b> {
    Containment { privilege: bench.privilege, folder: bench.store.cache().join("containers"), workspace }
}

fn platform(architecture: &str) -> Vec<String> {
    ["--override-os", "linux", "--override-arch", architecture].map(str::to_owned).into()
}

/// An archive; one that is compressed is unpacked first, since its parts are not read in their order.
fn open_archive(path: &Path, bench: &Bench<'_>) -> Result<(ContainerImage, Option<Workspace>), SourceError> {
    let mut magic = [0; 4];
    let known = io::Read::read(&mut File::open(path)?, &mut magic)? == magic.len();
    let compressed = known && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]);
    if !compressed {
        return Ok((ContainerImage::in_archive(path, bench.architecture)?, None));
    }
    let workspace = bench.store.workspace().map_err(io::Error::other)?;
    let plain = workspace.path().join("archive.tar");
    let size = fs::metadata(path)?.len();
    let mut content =
        Bounded::new(layers::decompressed(File::open(path)?)?, &Limits::default(), size, HeaderBudget::default());
    io::copy(&mut content, &mut File::create(&plain)?).map_err(layers::read_error)?;
    Ok((ContainerImage::in_archive(&plain, bench.architecture)?, Some(workspace)))
}

/// Why a registry gave nothing.
enum Failed {
    Build(BuildError),
    Image(SourceError),
    /// What skopeo said last.
    Said(String),
}

impl Failed {
    fn about(self, field: &str, name: &str) -> BuildError {
        match self {
            Self::Build(error) => error,
            Self::Image(error) => about(field, name, &error),
            Self::Said(words) => about(field, name, &SourceError::Image(format!("it cannot be pulled: {words}"))),
        }
    }
}

/// A registry, asked for one image.
struct Registry<'b> {
    architecture: &'b str,
    /// `HOST/PATH` with tag or digest, not both: the digest is enough.
    reference: String,
    loopback: bool,
    containment: Containment<'b>,
    /// Manifests by their digest: what has a digest is asked for once.
    known: PathBuf,
}

impl<'b> Registry<'b> {
    fn of(reference: &str, bench: &Bench<'b>, workspace: &'b Workspace) -> Self {
        let containment = containment(bench, workspace.path());
        let known = bench.store.cache().join("manifests");
        let (architecture, loopback) = (bench.architecture, is_loopback(reference));
        Self { architecture, reference: without_tag(reference), loopback, containment, known }
    }

    /// The address of the image for this architecture, and the digest of its configuration.
    fn resolve(&self) -> Result<(String, Digest), Failed> {
        let name = self.reference.split('@').next().unwrap_or_default();
        let name = if self.reference.contains('@') { name } else { untagged(name) };
        let (mut digest, mut manifest) = self.manifest(&self.reference)?;
        for _ in 0..2 {
            match instance(&manifest, self.architecture).map_err(Failed::Image)? {
                Instance::Config(config) => return Ok((format!("docker://{name}@{digest}"), config)),
                Instance::Manifest(next) => (digest, manifest) = self.manifest(&format!("{name}@{next}"))?,
            }
        }
        Err(Failed::Image(SourceError::Image("its index names no image but other indexes".to_owned())))
    }

    fn manifest(&self, reference: &str) -> Result<(Digest, Vec<u8>), Failed> {
        let file = |digest: &Digest| self.known.join(digest.hex());
        let promised: Option<Digest> = reference.split_once('@').and_then(|(_, digest)| digest.parse().ok());
        let known = promised.and_then(|digest| Some((digest, fs::read(file(&digest)).ok()?)));
        if let Some((digest, content)) = known.filter(|(digest, content)| super::digest_of(content) == *digest) {
            return Ok((digest, content));
        }
        let content = self.ask(reference)?;
        let digest = super::digest_of(&content);
        if let Some(promised) = promised.filter(|promised| *promised != digest) {
            let tampered = layers::LayerError::Tampered { promised, found: digest };
            return Err(Failed::Image(tampered.into()));
        }
        let kept = fs::create_dir_all(&self.known).and_then(|()| fs::write(file(&digest), &content));
        kept.map_err(|error| Failed::Build(error.into()))?;
        Ok((digest, content))
    }

    fn ask(&self, reference: &str) -> Result<Vec<u8>, Failed> {
        let mut arguments = platform(self.architecture);
        arguments.extend(["inspect", "--raw"].map(str::to_owned));
        arguments.extend(self.loopback.then(|| "--tls-verify=false".to_owned()));
        arguments.push(format!("docker://{reference}"));
        self.containment.ask(OsStr::new(SKOPEO), &arguments).map_err(Failed::Build)?.map_err(Failed::Said)
    }
}

/// Plain HTTP only where nobody else can listen.
fn is_loopback(reference: &str) -> bool {
    let host = reference.split('/').next().unwrap_or_default();
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    reference.contains('/') && (bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// `NAME:TAG@DIGEST` is `NAME@DIGEST`.
fn without_tag(reference: &str) -> String {
    match reference.split_once('@') {
        Some((name, digest)) => format!("{}@{digest}", untagged(name)),
        None => reference.to_owned(),
    }
}

/// A name without its tag; a port is no tag.
fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(without_tag("registry.lan:5000/node"), "registry.lan:5000/node");
        assert_eq!(without_tag("registry.lan:5000/node:1@sha256:ab"), "registry.lan:5000/node@sha256:ab");
        assert_eq!(untagged("registry.lan:5000/node:1"), "registry.lan:5000/node");
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for near in ["localhost/a", "127.0.0.1:5000/a", "[::1]:5000/a", "localhost:1/a/b:c"] {
            assert!(is_loopback(near), "{near}");
        }
        for far in ["localhost.example/a", "10.0.0.1:5000/a", "busybox", "localhost", "docker.io/127.0.0.1"] {
            assert!(!is_loopback(far), "{far}");
        }
    }
}
