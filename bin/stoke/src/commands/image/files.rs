//! `stoke image export` and `stoke image import`: versions as OCI archives.

use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::Digest;
use stoke_image::ImageSignature;

use super::transfer::Transfer;
use super::{keys, shelf, sign};
use crate::cli::{ExportImage, ImportImage};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(super) fn export(folders: &Folders, export: &ExportImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let (name, image) = (export.image.key(), export.image.find(&store)?.image);
    let transfer = Transfer::new(&name, image.size);
    transfer.at(&format!("export {}", image.digest.short()));
    let mut tell = |bytes| transfer.add(bytes);
    if export.output == Path::new("-") {
        let mut out = BufWriter::new(std::io::stdout().lock());
        store.export(&name, &image.digest, &mut out, &mut tell)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    // Whoever looks for the archive finds all of it or none.
    let folder = export.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".stoke-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    store.export(&name, &image.digest, BufWriter::new(file.as_file_mut()), &mut tell)?;
    file.as_file().sync_all()?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(permissions)?;
    file.persist(&export.output).with_context(|| format!("cannot write {}", export.output.display()))?;
    drop(transfer);
    output::print(&format!("{name}@{} in {}\n", image.digest, export.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(folders: &Folders, import: &ImportImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open_or_make(folders)?;
    let name = import.name.as_ref().map(super::ImageName::key);
    if import.name.as_ref().is_some_and(super::ImageName::has_version) {
        return Err(Failure::usage("a version cannot be chosen: it is the content's digest", "--name NAME"));
    }
    let (from, size): (Box<dyn Read>, _) = if import.file == Path::new("-") {
        (Box::new(std::io::stdin().lock()), 0)
    } else {
        let file = fs_err::File::open(&import.file)?;
        let size = file.metadata()?.len();
        (Box::new(BufReader::new(file)), size)
    };
    let key = import.key.as_ref().map(|key| keys::public(folders, key)).transpose()?;
    let transfer = Transfer::new(name.as_deref().unwrap_or("archive"), size);
    transfer.at("import");
    let mut accept = |version: &Digest, signatures: &[ImageSignature]| match &key {
        Some(key) => sign::demand(key, signatures, version).map_err(|error| error.to_string()),
        None => Ok(()),
    };
    let published = store.import(from, name.as_deref(), &mut accept, &mut |bytes| transfer.add(bytes));
    drop(transfer);
    for (name, image) in published.with_context(|| format!("nothing of {} was taken in", import.file.display()))? {
        output::print(&format!("{name}@{}\n", image.digest))?;
    }
    Ok(ExitCode::SUCCESS)
}
