//! `Image`: wants a build for each new recipe, and says which version there is.

use std::collections::BTreeMap;

use stoke_api::objects::{Access, ImageSpec, ImageStatus, ImageVersion, image_bases};
use stoke_api::report::BuiltImage;
use stoke_api::workload::{ImageBuildConfig, Role, Workload};
use stoke_api::{Condition, Digest, ObjectRef};

use crate::names::key;
use crate::observed::{Desired, FinishedBuild, KnownImage};
use crate::status::{Status, Waiting, condition, push, ready_condition};
use crate::view::{Image, View};
use crate::{places, publish};

/// A failed build is tried again after this; twice as long after each failure more.
const RETRY_MS: u64 = 60_000;
/// The longest pause between two tries.
const RETRY_LIMIT_MS: u64 = 30 * 60_000;

pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, image: &Image, desired: &mut Desired) {
    let build = build(view, reference, image);
    let wanted = view.valid(reference).is_ok() && (view.kept(&build.name()) || is_due(view, reference, image));
    let mut status = status(view, reference, image, wanted.then_some(&build));
    status.conditions.extend(publish::desire(view, reference, &image.spec, desired));
    push(desired, reference, &image.status.conditions, Status::Image(status));
    if wanted {
        desired.workloads.push(build);
    }
}

fn build(view: &View<'_>, reference: &ObjectRef, image: &Image) -> Workload {
    let store = places::images(view);
    let bases = bases(view, reference, image).unwrap_or_default();
    let config = ImageBuildConfig { name: key(reference), spec: built(&image.spec), store, bases };
    Workload { owner: reference.clone(), role: Role::ImageBuild(config) }
}

/// The images that it starts from. Where one is missing the image is not built at all ([`crate::check`]).
fn bases(view: &View<'_>, reference: &ObjectRef, image: &Image) -> Option<BTreeMap<String, ImageSpec>> {
    let namespace = reference.namespace.as_ref()?;
    let find = |name: &str| Some(&view.image(&ObjectRef { name: name.parse().ok()?, ..reference.clone() })?.spec);
    let bases = image_bases(namespace.as_str(), reference.name.as_str(), &image.spec, &find).ok()?;
    Some(bases.into_iter().map(|(name, spec)| (name, built(&spec))).collect())
}

/// What of an image decides what is built: who may use it and where else it goes does not.
fn built(spec: &ImageSpec) -> ImageSpec {
    ImageSpec { access: Access::default(), publish: Vec::new(), ..spec.clone() }
}

fn known<'a>(view: &View<'a>, reference: &ObjectRef) -> Option<&'a KnownImage> {
    view.environment().images.get(&key(reference))
}

/// The last build, if it was of what is wanted now.
fn last_build<'a>(view: &View<'a>, reference: &ObjectRef, image: &Image) -> Option<&'a FinishedBuild> {
    let build = known(view, reference)?.last_build.as_ref()?;
    let bases = bases(view, reference, image).unwrap_or_default();
    let same = build.spec == built(&image.spec) && build.bases == bases && build.tools == view.environment().tools;
    same.then_some(build)
}

fn is_due(view: &View<'_>, reference: &ObjectRef, image: &Image) -> bool {
    match last_build(view, reference, image) {
        None => true,
        Some(FinishedBuild { failure: None, .. }) => newest(view, reference).is_none(),
        Some(build) => view.environment().now_ms >= retry_at(build),
    }
}

fn retry_at(build: &FinishedBuild) -> u64 {
    let doublings = build.attempts.saturating_sub(1).min(10);
    build.finished_ms.saturating_add((RETRY_MS << doublings).min(RETRY_LIMIT_MS))
}

fn newest<'a>(view: &View<'a>, reference: &ObjectRef) -> Option<&'a BuiltImage> {
    known(view, reference)?.versions.first()
}

/// The versions that a farm may hand out, newest first; or what is waited for.
pub(crate) fn versions<'a>(view: &View<'a>, reference: &ObjectRef) -> Result<&'a [BuiltImage], Waiting> {
    let versions = known(view, reference).map(|known| known.versions.as_slice()).unwrap_or_default();
    if !versions.is_empty() {
        return Ok(versions);
    }
    let Some(image) = view.image(reference) else {
        return Err(Waiting::new("ImageMissing", format!("there is no {reference}")));
    };
    let why = progress(view, reference, image, true).unwrap_err_or("it has not been built");
    Err(Waiting::new("WaitingForImage", format!("waiting for {reference}: {why}")))
}

/// Fingerprints of the keys that are known here and have signed a version.
pub(crate) fn signers(view: &View<'_>, reference: &ObjectRef, version: &Digest) -> Vec<String> {
    let notes = known(view, reference).map(|known| known.notes.as_slice()).unwrap_or_default();
    notes.iter().find(|note| note.digest == *version).map(|note| note.signed_by.clone()).unwrap_or_default()
}

/// Why no newer version is there.
fn progress(view: &View<'_>, reference: &ObjectRef, image: &Image, wanted: bool) -> Result<(), Waiting> {
    view.valid(reference)?;
    let workload = build(view, reference, image).name();
    let result = view.build_report(&workload).and_then(|report| report.image.as_ref());
    if result.is_some_and(|result| newest(view, reference).is_some_and(|newest| newest.digest == result.digest)) {
        // What is left of the build is its end.
        return Ok(());
    }
    if view.runs(&workload) {
        let report = view.build_report(&workload).filter(|report| report.image.is_none() && !report.stage.is_empty());
        let message = report.map_or_else(|| "starting".to_owned(), |r| format!("{} {} %", r.stage, r.percent));
        return Err(Waiting::new("Building", message));
    }
    if let Some(failure) = last_build(view, reference, image).and_then(|build| build.failure.as_ref()) {
        return Err(Waiting::new("BuildFailed", failure.clone()));
    }
    if let Some(failure) = view.workload(&workload).and_then(|seen| seen.failure.as_ref()) {
        return Err(Waiting::new("BuildFailed", failure.clone()));
    }
    if wanted { Err(Waiting::new("Building", "starting")) } else { Ok(()) }
}

trait UnwrapErrOr {
    fn unwrap_err_or(self, otherwise: &str) -> String;
}

impl UnwrapErrOr for Result<(), Waiting> {
    fn unwrap_err_or(self, otherwise: &str) -> String {
        self.err().map_or_else(|| otherwise.to_owned(), |waiting| waiting.message)
    }
}

fn status(view: &View<'_>, reference: &ObjectRef, image: &Image, build: Option<&Workload>) -> ImageStatus {
    let newest = newest(view, reference);
    let progress = progress(view, reference, image, build.is_some());
    ImageStatus {
        conditions: conditions(newest, &progress).into_iter().chain(rolled_back(view, reference)).collect(),
        observed_generation: image.metadata.generation.unwrap_or_default(),
        digest: newest.map(|version| version.digest),
        size: newest.map_or(0, |version| version.size),
        kernel: newest.map(|version| version.kernel_version.clone()).unwrap_or_default(),
        versions: known(view, reference).map(listed).unwrap_or_default(),
    }
}

/// All versions for people, newest first.
fn listed(known: &KnownImage) -> Vec<ImageVersion> {
    let listed = known.notes.iter().filter_map(|note| {
        let version = known.versions.iter().find(|version| version.digest == note.digest)?;
        Some(ImageVersion {
            digest: note.digest,
            built_at: note.published.clone(),
            size: version.size,
            kernel: version.kernel_version.clone(),
            kept: note.kept,
            signed_by: note.signed_by.clone(),
        })
    });
    listed.collect()
}

/// That people chose another version than the newest, if they did.
fn rolled_back(view: &View<'_>, reference: &ObjectRef) -> Option<Condition> {
    let (chosen, newest) = (newest(view, reference)?.digest, known(view, reference)?.notes.first()?.digest);
    let message = format!(
        "{chosen} is handed out; {newest} is newer, and comes back with a newer build, or with: \
                           stoke image rollback {} --to {}",
        reference.name,
        newest.short()
    );
    (chosen != newest).then(|| condition("RolledBack", true, "Chosen", message))
}

fn conditions(newest: Option<&BuiltImage>, progress: &Result<(), Waiting>) -> Vec<Condition> {
    let state = match (newest, progress) {
        (Some(version), Ok(())) => Ok(("Built", version.digest.to_string())),
        // An older version goes on being used while a newer one is made, or cannot be.
        (Some(version), Err(why)) if why.reason == "Building" => {
            Ok(("Built", format!("{}; a newer one is being built", version.digest)))
        }
        (Some(version), Err(why)) => Ok(("Built", format!("{}; no newer one: {}", version.digest, why.message))),
        (None, Err(why)) => Err(why.clone()),
        (None, Ok(())) => Err(Waiting::new("Building", "not built yet")),
    };
    let (building, reason, message) = match progress {
        Ok(()) => (false, "UpToDate", String::new()),
        Err(why) => (why.reason == "Building", why.reason, why.message.clone()),
    };
    vec![ready_condition(&state), condition("Progressing", building, reason, message)]
}
