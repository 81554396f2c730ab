//! More versions of an image, made of its newest one in no time: the same parts, other kernel arguments.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sha2::Digest as _;

/// Publishes a version in an installation's image store whose kernel gets these arguments, too. Returns its digest, written
/// `sha256:…`. It has no unified kernel image, which has its arguments inside: machines with a BIOS boot it, and kexec.
///
/// # Errors
/// If the store cannot be read or written.
pub fn publish_variant(images: &Path, image: &str, arguments: &[&str]) -> Result<String> {
    let mut entry =
        change_index(images, |all| newest(all, image).and_then(|newest| all.get(newest).cloned().context("no entry")))?;
    let mut manifest: Value = blob(images, entry.pointer("/digest"))?;
    let mut config: Value = blob(images, manifest.pointer("/config/digest"))?;
    let list = config.pointer_mut("/kernelArguments").and_then(Value::as_array_mut).context("no arguments")?;
    list.extend(arguments.iter().map(|argument| Value::from(*argument)));
    let layers = manifest.pointer_mut("/layers").and_then(Value::as_array_mut).context("no parts")?;
    layers.retain(|layer| layer.pointer("/mediaType") != Some(&"application/vnd.stokehold.uki".into()));
    let (digest, size) = put(images, &config)?;
    set(&mut manifest, "/config", [("digest", digest.into()), ("size", size.into())]);
    let (digest, size) = put(images, &manifest)?;
    set(&mut entry, "", [("digest", digest.as_str().into()), ("size", size.into())]);
    let tag = format!("{image}:{}", digest.get(7..19).unwrap_or_default());
    let marks =
        [("org.opencontainers.image.ref.name", tag.into()), ("dev.stokehold.image.inputs", digest.as_str().into())];
    set(&mut entry, "/annotations", marks);
    publish(images, entry)?;
    Ok(digest)
}

/// Takes the newest version of an image out of the index; its parts stay. Returns what [`publish`] takes.
///
/// # Errors
/// If there is none, or the store cannot be written.
pub fn withdraw_newest(images: &Path, image: &str) -> Result<Value> {
    change_index(images, |all| newest(all, image).map(|newest| all.remove(newest)))
}

/// Puts a version into the index, as the newest.
///
/// # Errors
/// If the store cannot be written.
pub fn publish(images: &Path, entry: Value) -> Result<()> {
    change_index(images, |all| {
        all.push(entry);
        Ok(())
    })
}

fn newest(all: &[Value], image: &str) -> Result<usize> {
    let name = |entry: &Value| entry.pointer("/annotations/dev.stokehold.image.name").cloned();
    all.iter().rposition(|entry| name(entry) == Some(image.into())).context("there is no such image")
}

/// Changes the list of versions and parts. The store is taken meanwhile, as everybody takes it who writes there.
fn change_index<T>(images: &Path, change: impl FnOnce(&mut Vec<Value>) -> Result<T>) -> Result<T> {
    let lock = fs_err::File::create(images.join("lock"))?.into_file();
    lock.lock()?;
    let path = images.join("index.json");
    let mut index: Value = read(&path)?;
    let all = index.pointer_mut("/manifests").and_then(Value::as_array_mut).context("the index names nothing")?;
    let changed = change(all)?;
    write(&path, &serde_json::to_vec(&index)?)?;
    Ok(changed)
}

fn set<const N: usize>(value: &mut Value, at: &str, fields: [(&str, Value); N]) {
    let object = if at.is_empty() { Some(value) } else { value.pointer_mut(at) };
    if let Some(object) = object.and_then(Value::as_object_mut) {
        object.extend(fields.map(|(name, field)| (name.to_owned(), field)));
    }
}

fn read(path: &Path) -> Result<Value> {
    serde_json::from_slice(&fs_err::read(path)?).with_context(|| format!("{} cannot be read", path.display()))
}

fn blob(images: &Path, digest: Option<&Value>) -> Result<Value> {
    let hex = digest.and_then(Value::as_str).and_then(|digest| digest.strip_prefix("sha256:")).context("no digest")?;
    read(&images.join("blobs/sha256").join(hex))
}

fn put(images: &Path, value: &Value) -> Result<(String, usize)> {
    let text = serde_json::to_vec(value)?;
    let digest = stoke_api::Digest(sha2::Sha256::digest(&text).into());
    write(&images.join("blobs/sha256").join(digest.hex()), &text)?;
    Ok((digest.to_string(), text.len()))
}

/// A new file takes the old one's place, which may be a link to that of another store.
fn write(path: &Path, text: &[u8]) -> Result<()> {
    let staged = path.with_extension("staged");
    fs_err::write(&staged, text)?;
    Ok(fs_err::rename(staged, path)?)
}
