//! `stoke image push` and `stoke image pull`: versions in OCI registries.

use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::Digest;
use stoke_host::registry;
use stoke_image::Store;
use stoke_image::store::Incoming;
use stoke_registry::{Fetched, Options, Registry};

use super::transfer::Transfer;
use super::{ImageName, keys, shelf, sign};
use crate::cli::{PullImage, PushImage, RegistryAccess};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

fn options(access: &RegistryAccess) -> Options {
    Options { auth_file: access.auth_file.clone(), ca_file: access.ca_file.clone() }
}

pub(super) fn push(folders: &Folders, push: &PushImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let image = push.image.find(&store)?.image;
    let mut reference = push.reference.clone();
    if reference.digest.is_some_and(|digest| digest != image.digest) {
        return Err(Failure::usage("a digest cannot be chosen: it is the content's", "HOST/REPOSITORY:TAG"));
    }
    reference.tag.get_or_insert_with(|| image.digest.short());
    reference.digest = None;
    let registry = Registry::open(&reference, &options(&push.access))?;
    let transfer = Transfer::new(&push.image.key(), image.size);
    registry::push(&store, &image.digest, &reference, &registry, &transfer)?;
    drop(transfer);
    output::print(&format!("{reference}@{}\n", image.digest))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pull(folders: &Folders, pull: &PullImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open_or_make(folders)?;
    let key = pull.key.as_ref().map(|key| keys::public(folders, key)).transpose()?;
    let name = name(pull)?;
    let registry = Registry::open(&pull.reference, &options(&pull.access))?;
    let found = registry.manifest(&pull.reference.wanted())?;
    let found = found.ok_or_else(|| {
        Failure::hinted(format!("there is no {}", pull.reference), "look for another tag, or push it there first")
    })?;
    let signatures = registry::signatures(&registry, &found.digest)?;
    if let Some(key) = &key {
        sign::demand(key, &signatures, &found.digest)?;
    }
    let image = download(&store, &registry, &found, &name)?;
    for signature in &signatures {
        store.add_signature(&image, signature)?;
    }
    output::print(&format!("{name}@{image}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// What the image is called here.
fn name(pull: &PullImage) -> anyhow::Result<String> {
    if let Some(name) = &pull.name {
        let plain = || Failure::usage("a version cannot be chosen: it is the content's digest", "--name NAME");
        return if name.has_version() { Err(plain()) } else { Ok(name.key()) };
    }
    let last = pull.reference.repository.rsplit('/').next().unwrap_or_default();
    let parsed = last.parse::<ImageName>();
    parsed.map(|name| name.key()).map_err(|why| Failure::usage(why, "say what the image is called here: --name NAME"))
}

/// Takes a version in: all parts that are not here already, then the version in one step.
fn download(store: &Store, registry: &Registry, found: &Fetched, name: &str) -> anyhow::Result<Digest> {
    let mut incoming = Incoming::begin(store)?;
    incoming.add(&found.digest, found.content.as_slice())?;
    let parts = incoming.parts(&found.digest).with_context(|| format!("nothing of {name} was taken in"))?;
    let transfer = Transfer::new(name, parts.iter().map(|part| part.size).sum());
    for part in &parts {
        if incoming.has(part) {
            transfer.add(part.size);
            continue;
        }
        transfer.at(&format!("pull {}, {}", part.digest.short(), output::size(part.size)));
        let mut file = fs_err::File::create(incoming.path(&part.digest))?;
        registry.get_blob(part, &mut file, &mut |bytes| transfer.add(bytes))?;
        drop(file);
        incoming.adopt(&part.digest)?;
    }
    Ok(incoming.publish(name, &found.digest)?.digest)
}
