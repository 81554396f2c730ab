//! A store that has an image already: building it takes minutes, and other tests have done it.

use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Whom the chart's pods run as.
const USER: u32 = 65532;

/// Copies the newest version of an image of the namespace `default` into a store's volume.
pub(crate) fn fill(volume: &Path, images: &Path, name: &str) -> Result<()> {
    let (store, name) = (volume.join("images"), format!("default/{name}"));
    fs_err::create_dir_all(store.join("blobs/sha256"))?;
    let mut index: Value = serde_json::from_slice(&fs_err::read(images.join("index.json"))?)?;
    let all = index.pointer_mut("/manifests").and_then(Value::as_array_mut).context("the index names nothing")?;
    all.retain(|entry| entry.pointer("/annotations/dev.stokehold.image.name") == Some(&name.clone().into()));
    let newest = all.pop().with_context(|| format!("the image {name} was not built"))?;
    let manifest: Value = serde_json::from_slice(&fs_err::read(copy(&newest, images, &store)?)?)?;
    copy(manifest.get("config").context("no configuration")?, images, &store)?;
    for layer in manifest.get("layers").and_then(Value::as_array).context("no parts")? {
        copy(layer, images, &store)?;
    }
    *all = vec![newest];
    fs_err::write(store.join("index.json"), serde_json::to_vec(&index)?)?;
    fs_err::copy(images.join("oci-layout"), store.join("oci-layout"))?;
    give(volume)
}

fn copy(descriptor: &Value, from: &Path, to: &Path) -> Result<std::path::PathBuf> {
    let digest = descriptor.get("digest").and_then(Value::as_str).context("no digest")?;
    let file = Path::new("blobs").join(digest.replace(':', "/"));
    fs_err::copy(from.join(&file), to.join(&file))?;
    Ok(to.join(file))
}

/// Makes it theirs.
pub(crate) fn give(path: &Path) -> Result<()> {
    chown(path, Some(USER), Some(USER))?;
    if path.is_dir() {
        for entry in fs_err::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}
