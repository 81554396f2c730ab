//! Files that objects name: what these say is part of the object, so their content is named in it, too.

use std::path::{Path, PathBuf};

use stoke_api::AnyObject;
use stoke_api::load::Loaded;

/// Names the content of lock files beside their paths: another content is another recipe. One that is not there is told
/// by whoever needs it.
pub(super) fn pin(loaded: &mut [Loaded]) {
    for lock in loaded.iter_mut().flat_map(|loaded| &mut loaded.objects).filter_map(|(object, _)| lock_of(object)) {
        if let Ok(pinned) = stoke_image::lock::pin(&plain_path(lock)) {
            *lock = pinned;
        }
    }
}

/// Files beside the ones that were loaded whose edits change objects.
pub(super) fn files(loaded: &[Loaded]) -> Vec<PathBuf> {
    let objects = loaded.iter().flat_map(|loaded| &loaded.objects);
    let lock = |object: &AnyObject| match object {
        AnyObject::Image(image) => Some(plain_path(image.spec.source.debian.as_ref()?.lock.as_ref()?)),
        _ => None,
    };
    let referenced = loaded.iter().flat_map(|loaded| loaded.referenced.iter().cloned());
    objects.filter_map(|(object, _)| lock(object)).chain(referenced).collect()
}

fn lock_of(object: &mut AnyObject) -> Option<&mut String> {
    match object {
        AnyObject::Image(image) => image.spec.source.debian.as_mut()?.lock.as_mut(),
        _ => None,
    }
}

/// The path of a lock file, without the content that is meant.
pub(super) fn plain_path(lock: &str) -> PathBuf {
    Path::new(lock.split("@sha256:").next().unwrap_or_default()).to_owned()
}
