//! A Containerfile, built by buildah in a storage of the store's own cache.
//!
//! ```text
//!  bases (trees of other images) ── imported once ─┐
//!  Containerfile, context ─────────────────────────┴─ buildah ── layers ── layers::flatten ── tree
//! ```
//!
//! buildah's layer cache stays: a build that changes one file does again what is behind that file. Times that the steps
//! themselves wrote are taken out, so that a step that is done again makes the same layer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::File;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::objects::ContainerfileSource;

use super::cache::{Tree, lock};
use super::contained::{Containment, Ended};
use super::container_image::{ContainerImage, Made};
use super::context;
use super::{Bench, Making, Source, SourceError, about, base, write_tree};
use crate::BuildError;
use crate::debian::now;
use crate::layers::ANY_TIME;
use crate::process::Space;

const BUILDAH: &str = "buildah";
const FIELD: &str = "spec.source.containerfile.path";
/// Version of how buildah is run: part of what a cached tree is known by.
const VERSION: u32 = 1;
/// More images than this in the storage, and it is begun anew: nothing there is worth more than the time to make it.
const MOST_IMAGES: usize = 400;
/// How long the text of a step may be in a line of progress.
const SHOWN: usize = 60;

/// A Containerfile with all that it is built from.
pub(crate) struct Containerfile<'a> {
    source: &'a ContainerfileSource,
    /// By the names behind `FROM`.
    bases: BTreeMap<&'a str, Source<'a>>,
    digest: Digest,
}

impl<'a> Containerfile<'a> {
    /// Reads the Containerfile, all of its context, and what its bases are made of.
    pub(crate) fn prepare(source: &'a ContainerfileSource, bench: &Bench<'a>) -> Result<Self, BuildError> {
        let name = source.path.display().to_string();
        let text = fs::read(&source.path).map_err(|error| about(FIELD, &name, &error.into()))?;
        let folder = source.context();
        let field = if source.context.is_some() { "spec.source.containerfile.context" } else { FIELD };
        let context = context::digest(folder, bench.store.path())
            .map_err(|error| about(field, &folder.display().to_string(), &error.into()))?;
        let mut bases = BTreeMap::new();
        for (name, image) in &source.bases {
            bases.insert(name.as_str(), prepare_base(name, image.as_str(), bench)?);
        }
        let mut hash = Sha256::new();
        hash.update(format!("containerfile {VERSION}\0{context}\0{:?}\0{:?}\0", source.build_args, source.target));
        hash.update(Sha256::digest(text));
        for (name, base) in &bases {
            hash.update(format!("{name} {}\0", base.digest()));
        }
        Ok(Self { source, bases, digest: Digest(hash.finalize().into()) })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn make(&self, making: &mut Making<'_>) -> Result<(), BuildError> {
        let trees = self.base_trees(making)?;
        let workshop = Workshop::enter(making)?;
        let mut contexts = Vec::new();
        for (name, (tree, digest)) in &trees {
            making.at("import the base", 0);
            contexts.push((*name, workshop.import(tree, digest, making.space)?));
        }
        let began = now();
        workshop.build(self.source, &contexts, making)?;
        making.at("unpack layers", 0);
        let name = self.source.path.display().to_string();
        let blame = |error: SourceError| about(FIELD, &name, &error);
        let image = ContainerImage::in_archive(&making.workspace.path().join("built.tar"), making.bench.architecture);
        let image = image.map_err(blame)?;
        for made in image.history() {
            workshop.remember(made, began)?;
        }
        let layers = image.layers(|made| workshop.built_from(made)).map_err(blame)?;
        write_tree(&layers, making, "unpack layers", FIELD, &name)?;
        workshop.leave()
    }

    fn base_trees(&self, making: &mut Making<'_>) -> Result<BTreeMap<&'a str, (Tree, Digest)>, BuildError> {
        let mut trees = BTreeMap::new();
        for (name, base) in &self.bases {
            let _only_one = lock(making.bench.store, &base.digest())?;
            let Making { bench, workspace, ref mut space, ref mut progress, .. } = *making;
            let mut own = Space { path: space.path.clone(), needed: space.needed };
            let mut tell = |stage: &str, percent: u8| progress(&format!("base {name}: {stage}"), percent);
            let tree = Tree::of(base, &bench, workspace, &mut own, &mut tell);
            trees.insert(*name, (tree.map_err(|error| of_base(name, &error))?, base.digest()));
        }
        Ok(trees)
    }
}

/// The source of another image. A base that leads back to the image itself was refused by whoever gathered them.
fn prepare_base<'a>(name: &str, image: &str, bench: &Bench<'a>) -> Result<Source<'a>, BuildError> {
    let namespace = bench.name.split_once('/').map_or("default", |(namespace, _)| namespace);
    let key = format!("{namespace}/{image}");
    let missing = || BuildError::Recipe {
        field: format!("spec.source.containerfile.bases.{name}"),
        message: format!("there is no image {key}"),
    };
    let (own, spec) = bench.bases.get_key_value(&key).ok_or_else(missing)?;
    let bench = Bench { name: own, ..*bench };
    Source::prepare(&spec.source, &bench).map_err(|error| of_base(name, &error))
}

/// The error of another image at the field that names it.
fn of_base(name: &str, error: &BuildError) -> BuildError {
    let field = format!("spec.source.containerfile.bases.{name}");
    let inner = error.field().map(|field| format!("{field}: ")).unwrap_or_default();
    BuildError::Source { field, name: format!("base {name}"), why: format!("{inner}{error}") }
}

/// buildah with its storage. One build at a time: what a killed one left there is removed by the next.
struct Workshop<'a> {
    containment: Containment<'a>,
    driver: &'static str,
    _only_one: std::fs::File,
}

impl<'a> Workshop<'a> {
    fn enter(making: &Making<'a>) -> Result<Self, BuildError> {
        let folder = making.bench.store.cache().join("containers");
        fs::create_dir_all(folder.join("layers"))?;
        let lock = File::create(folder.join("lock"))?.into_file();
        lock.lock()?;
        let containment = Containment { privilege: making.bench.privilege, folder, workspace: making.workspace.path() };
        let mut workshop = Self { containment, driver: "overlay", _only_one: lock };
        workshop.choose_driver()?;
        workshop.buildah(&["rm", "--all"].map(str::to_owned), |_| {})?;
        Ok(workshop)
    }

    fn folder(&self) -> &Path {
        &self.containment.folder
    }

    /// Overlay where the kernel and the file system below can do it: a layer is then what it changes. Else whole copies.
    fn choose_driver(&mut self) -> Result<(), BuildError> {
        let file = self.folder().join("driver");
        let known = fs::read_to_string(&file).unwrap_or_default();
        if known.is_empty() && self.buildah(&["info".to_owned()], |_| {})?.status.success() {
            return Ok(fs::write(file, self.driver)?);
        }
        if known != self.driver {
            self.driver = "vfs";
            fs::write(file, self.driver)?;
        }
        Ok(())
    }

    fn buildah(&self, arguments: &[String], hear: impl FnMut(&str)) -> Result<Ended, BuildError> {
        let path = |name: &str| self.folder().join(name).to_string_lossy().into_owned();
        let mut all = vec!["--root".to_owned(), path("storage"), "--runroot".to_owned(), path("run")];
        all.extend(["--storage-driver".to_owned(), self.driver.to_owned()]);
        all.extend(arguments.iter().cloned());
        self.containment.run(OsStr::new(BUILDAH), &all, hear)
    }

    /// Makes a tree an image that buildah can start from, and says its name.
    fn import(&self, tree: &Tree, digest: &Digest, space: &Space) -> Result<String, BuildError> {
        let name = format!("localhost/stokehold-base:{}", digest.hex());
        let there = ["inspect", "--type", "image", &name].map(str::to_owned);
        if self.buildah(&there, |_| {})?.status.success() {
            return Ok(name);
        }
        let layers = base::layout(&tree.path, &self.containment.workspace.join("base"))?;
        for (layer, built_from) in layers.iter().zip([tree.epoch, ANY_TIME]) {
            fs::write(self.layer(layer), built_from.to_string())?;
        }
        let mut id = String::new();
        let pull = ["pull", "--quiet", "oci:base:base"].map(str::to_owned);
        let pulled = self.buildah(&pull, |line| line.trim().clone_into(&mut id))?;
        let tagged = self.buildah(&["tag".to_owned(), id, name.clone()], |_| {})?;
        match [pulled, tagged].into_iter().find(|ended| !ended.status.success()) {
            Some(failed) => Err(tool_failed(&failed, space)),
            None => Ok(name),
        }
    }

    fn build(
        &self,
        source: &ContainerfileSource,
        bases: &[(&str, String)],
        making: &mut Making<'_>,
    ) -> Result<(), BuildError> {
        making.at("containerfile", 0);
        let ended = self.buildah(&arguments(source, bases), |line| {
            if let Some((stage, percent)) = step(line) {
                making.at(&stage, percent);
            }
        })?;
        if !ended.status.success() {
            return Err(explain(&ended, source, making.space));
        }
        // In this form layers are not compressed: they are read at once, and thrown away.
        let push = ["push", "--quiet", "localhost/stokehold-built", "docker-archive:built.tar"];
        let pushed = self.buildah(&push.map(str::to_owned), |_| {})?;
        if pushed.status.success() { Ok(()) } else { Err(tool_failed(&pushed, making.space)) }
    }

    /// Where it is noted from which time on a layer's times are those of its build.
    fn layer(&self, layer: &Digest) -> PathBuf {
        self.folder().join("layers").join(layer.hex())
    }

    /// Notes a layer that came into being since `began`.
    fn remember(&self, made: &Made, began: u64) -> Result<(), BuildError> {
        let Some(file) = made.archive.map(|layer| self.layer(&layer)) else { return Ok(()) };
        let created = made.created.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
        let fresh = u64::try_from(created).is_ok_and(|created| created >= began);
        if fresh && !file.exists() {
            // Files that were copied have the time at which somebody checked them out.
            fs::write(file, if copies(&made.by) { 0 } else { began }.to_string())?;
        }
        Ok(())
    }

    fn built_from(&self, made: &Made) -> u64 {
        let noted = made.archive.and_then(|layer| fs::read_to_string(self.layer(&layer)).ok());
        noted.and_then(|text| text.parse().ok()).unwrap_or(ANY_TIME)
    }

    /// Begins the storage anew when it has become too much.
    fn leave(self) -> Result<(), BuildError> {
        let images = self.folder().join("storage").join(format!("{}-images", self.driver));
        if fs::read_dir(images).map_or(0, Iterator::count) > MOST_IMAGES {
            self.buildah(&["rmi", "--all", "--force"].map(str::to_owned), |_| {})?;
            fs::remove_dir_all(self.folder().join("layers"))?;
        }
        Ok(())
    }
}

fn arguments(source: &ContainerfileSource, bases: &[(&str, String)]) -> Vec<String> {
    // As Docker writes images: the other format forgets SHELL.
    let fixed =
        ["bud", "--isolation", "chroot", "--layers", "--format", "docker", "--tag", "localhost/stokehold-built"];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    // The initramfs is ours: without this a kernel's package makes one that is thrown away.
    arguments.extend(["--env", "INITRD=No"].map(str::to_owned));
    for (name, image) in bases {
        arguments.extend(["--build-context".to_owned(), format!("{name}=container-image://{image}")]);
    }
    for (name, value) in &source.build_args {
        // buildah looks behind FROM for the names of contexts before it puts arguments in.
        let base = bases.iter().find(|(base, _)| base == value).map(|(_, image)| image);
        arguments.extend(["--build-arg".to_owned(), format!("{name}={}", base.unwrap_or(value))]);
    }
    arguments.extend(source.target.iter().flat_map(|target| ["--target".to_owned(), target.clone()]));
    arguments.extend(["--file".to_owned(), source.path.to_string_lossy().into_owned()]);
    arguments.push(source.context().to_string_lossy().into_owned());
    arguments
}

/// `[1/2] STEP 2/3: RUN make` as a stage and how far it is.
fn step(line: &str) -> Option<(String, u8)> {
    let (before, rest) = line.split_once("STEP ")?;
    let stage = before.trim();
    let outer = stage.is_empty() || (stage.starts_with('[') && stage.ends_with(']'));
    let (place, text) = rest.split_once(": ").filter(|_| outer)?;
    let (number, of) = place.split_once('/')?;
    let (number, of): (u32, u32) = (number.parse().ok()?, of.parse().ok()?);
    let percent = (number.saturating_sub(1) * 100).checked_div(of)?.min(99);
    let text: String = text.chars().take(SHOWN).collect();
    let stage = if stage.is_empty() { String::new() } else { format!("{stage} ") };
    Some((format!("{stage}step {place}: {text}"), u8::try_from(percent).ok()?))
}

/// Whether a step only copies files.
fn copies(by: &str) -> bool {
    let instruction = by.rsplit("#(nop) ").next().unwrap_or_default().trim_start();
    by.contains("#(nop)") && ["COPY ", "ADD "].iter().any(|word| instruction.starts_with(word))
}

fn tool_failed(ended: &Ended, space: &Space) -> BuildError {
    if ended.disk_was_full() {
        return space.exhausted();
    }
    let (tool, status) = (BUILDAH.to_owned(), ended.status.to_string());
    BuildError::Tool { tool, status, output: ended.last_words() }
}

/// The error of a build that failed: which step, and what it said last.
fn explain(ended: &Ended, source: &ContainerfileSource, space: &Space) -> BuildError {
    if ended.disk_was_full() {
        return space.exhausted();
    }
    let name = source.path.display().to_string();
    let step = ended.said.iter().rev().find_map(|line| {
        let (_, rest) = line.split_once("building at STEP \"")?;
        rest.rsplit_once("\": ").map(|(step, how)| (step.to_owned(), how.to_owned()))
    });
    let why = match step {
        Some((step, how)) => format!("step {step:?} failed ({how}): {}", own_words(ended)),
        None => ended.last_words(),
    };
    BuildError::Source { field: FIELD.to_owned(), name, why }
}

/// What the step said, without what buildah says about it.
fn own_words(ended: &Ended) -> String {
    let buildah = |line: &&String| {
        step(line).is_some() || line.contains("building at STEP") || line.starts_with("subprocess exited")
    };
    let said: Vec<&str> = ended.said.iter().filter(|line| !buildah(line)).map(String::as_str).collect();
    let words = crate::process::last_lines(&said.join("\n"));
    if words.is_empty() { "it said nothing".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_and_what_looks_like_one_is_not() {
        assert_eq!(step("STEP 1/4: FROM node"), Some(("step 1/4: FROM node".to_owned(), 0)));
        assert_eq!(step("[2/2] STEP 3/4: RUN make"), Some(("[2/2] step 3/4: RUN make".to_owned(), 50)));
        assert_eq!(step("my program: STEP 1/4: x"), None);
        assert_eq!(step("STEP 1/0: x"), None);
    }

    #[test]
    fn only_copies_lose_all_their_times() {
        assert!(copies("/bin/sh -c #(nop) COPY file:ab in /f "));
        assert!(copies("/bin/sh -c #(nop) ADD dir:ab in / "));
        assert!(!copies("/bin/sh -c echo COPY this"));
        assert!(!copies("/bin/sh -c #(nop) WORKDIR /COPY "));
    }

    #[test]
    fn an_argument_that_names_a_base_means_it() {
        let args = [("BASE", "node"), ("OTHER", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let source = ContainerfileSource { build_args: args.into(), ..ContainerfileSource::default() };
        let made = arguments(&source, &[("node", "localhost/stokehold-base:ab".to_owned())]);
        assert!(made.contains(&"BASE=localhost/stokehold-base:ab".to_owned()));
        assert!(made.contains(&"OTHER=x".to_owned()));
    }
}
