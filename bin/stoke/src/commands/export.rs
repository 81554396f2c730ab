//! `stoke export DIR`: an installation as files, and `stoke up DIR`, which brings them back.
//!
//! ```text
//! DIR/EXPORT                what this is
//! DIR/lans.yaml …           objects, one file a kind: what people wrote
//! DIR/keys/…                secrets
//! DIR/leases/….journal      who has which address
//! DIR/images/….tar          versions, as OCI archives, if asked for
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::{AnyObject, Kind, ObjectName};
use stoke_host::export::{self, Files, RestoreError};
use stoke_image::Store;
use stoke_kube::client::{Cluster, ClusterError, written};

use crate::cli::Export;
use crate::cluster::explained;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

/// The file that says that a folder is an export.
const MARK: &str = "EXPORT";
const ABOUT: &str = "\
stokehold-export 1

An installation of Stokehold: objects, keys and leases. This folder has SECRETS: whoever reads keys/ can be the farm, and
enter its nodes. Keep it as you keep those.

Run it on one host:      stoke up DIR
Bring it to a cluster:   stoke --target CONTEXT up DIR
";
const KEYS_ABOUT: &str = "\
SECRETS. With these, anybody can be the farm, sign images for it, and log in to its nodes.
";
const IMAGES: &str = "images";

/// Writes down the installation of this host.
pub(super) fn run(folders: &Folders, export: &Export) -> anyhow::Result<ExitCode> {
    if !folders.store().exists() {
        let message = format!("there is no installation at {}", folders.state.display());
        return Err(Failure::hinted(message, "name its folder with --state, or a cluster with --target"));
    }
    let objects = super::image::objects(folders)?;
    begin(&export.folder)?;
    let objects = write_objects(&export.folder, &objects)?;
    let (keys, leases) = (export::keys(folders)?, export::leases(folders)?);
    write_keys(&export.folder, &keys)?;
    export::write(&export.folder, &leases)?;
    let versions = if export.images { write_images(folders, &export.folder)? } else { 0 };
    finish(&export.folder)?;
    let counts = [(objects, "objects"), (keys.len(), "keys and certificates"), (leases.len(), "journals of leases")];
    told(&export.folder, &counts, versions)
}

/// Writes down a cluster: all objects that the person may see, the operator's keys, and leases.
pub(super) async fn of_cluster(cluster: &Cluster, export: &Export) -> anyhow::Result<ExitCode> {
    if export.images {
        return Err(Failure::usage("a cluster's image versions are on its own volume", "leave out --images"));
    }
    let keys = cluster.keys().await.map_err(explained)?;
    let leases = cluster.leases().await.map_err(explained)?;
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        let mut unreadable = None;
        let mut tell = |error: ClusterError| {
            unreadable.get_or_insert(error);
        };
        objects.extend(cluster.list(kind, None, &mut tell).await.map_err(explained)?);
        // An export that lacks something is worse than none.
        if let Some(error) = unreadable {
            return Err(explained(error));
        }
    }
    begin(&export.folder)?;
    let objects = write_objects(&export.folder, &objects)?;
    write_keys(&export.folder, &keys)?;
    export::write(&export.folder, &leases)?;
    finish(&export.folder)?;
    let counts = [(objects, "objects"), (keys.len(), "keys and certificates"), (leases.len(), "journals of leases")];
    told(&export.folder, &counts, 0)
}

/// Keys, and leases, of those of the paths that are exports.
pub(crate) fn of_exports(paths: &[PathBuf]) -> anyhow::Result<(Files, Files)> {
    Ok(files_of(paths)?.into_iter().partition(|(path, _)| path.starts_with("keys/")))
}

/// Fails if a running installation has other keys than the exports among the paths.
pub(super) fn check(folders: &Folders, paths: &[PathBuf]) -> anyhow::Result<()> {
    export::check(folders, &files_of(paths)?).map_err(foreign)
}

/// Brings back what is in exports and in no object, before anything runs.
pub(super) fn restore(folders: &Folders, paths: &[PathBuf]) -> anyhow::Result<()> {
    let files = files_of(paths)?;
    let written = export::restore(folders, &files).map_err(foreign)?;
    if !written.is_empty() {
        output::print(&format!("brought back {} keys and journals of leases\n", written.len()))?;
    }
    paths.iter().filter(|path| is_export(path)).try_for_each(|path| read_images(folders, path))
}

fn foreign(error: RestoreError) -> anyhow::Error {
    match &error {
        RestoreError::Foreign(_) => Failure::hinted(
            error.to_string(),
            "bring the export to another folder with --state, or forget this installation first: stoke down --purge",
        ),
        _ => error.into(),
    }
}

fn is_export(path: &Path) -> bool {
    path.join(MARK).is_file()
}

fn files_of(paths: &[PathBuf]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for path in paths.iter().filter(|path| is_export(path)) {
        files.extend(export::read(path).with_context(|| format!("cannot read the export {}", path.display()))?);
    }
    Ok(files)
}

fn begin(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() && fs_err::read_dir(folder)?.next().is_some() {
        let message = format!("{} is not empty", folder.display());
        return Err(Failure::hinted(message, "name a folder that is not there yet"));
    }
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    builder.create(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The mark is last: what has none is no whole export.
fn finish(folder: &Path) -> anyhow::Result<()> {
    Ok(export::write(folder, &Files::from([(MARK.to_owned(), ABOUT.into())]))?)
}

fn write_objects(folder: &Path, objects: &[AnyObject]) -> anyhow::Result<usize> {
    let mut kinds = BTreeMap::<Kind, Vec<String>>::new();
    // What another object makes is made again.
    for object in objects.iter().filter(|object| object.metadata().owner_references.is_empty()) {
        let namespace = object.reference().namespace;
        let value = written(object, namespace.as_ref().map_or("default", ObjectName::as_str));
        kinds.entry(object.kind()).or_default().push(output::yaml(&value)?);
    }
    let count = kinds.values().map(Vec::len).sum();
    let file = |(kind, texts): (Kind, Vec<String>)| (format!("{}.yaml", kind.plural()), texts.join("---\n").into());
    export::write(folder, &kinds.into_iter().map(file).collect())?;
    Ok(count)
}

fn write_keys(folder: &Path, keys: &Files) -> anyhow::Result<()> {
    export::write(folder, keys)?;
    Ok(export::write(folder, &Files::from([("keys/README".to_owned(), KEYS_ABOUT.into())]))?)
}

/// Versions in the order in which they are to be taken in: the one that is handed out last.
fn write_images(folders: &Folders, folder: &Path) -> anyhow::Result<usize> {
    let store = Store::open(folders.images())?;
    let mut count = 0;
    fs_err::create_dir_all(folder.join(IMAGES))?;
    for name in store.names()? {
        let mut versions = store.versions(&name)?;
        versions.reverse();
        versions.sort_by_key(|version| version.handed_out);
        for (order, version) in versions.iter().enumerate() {
            let digest = version.image.digest;
            let file = format!("{}.{order:03}.{}.tar", name.replace('/', "."), digest.hex());
            let file = fs_err::File::create(folder.join(IMAGES).join(file))?;
            let mut out = std::io::BufWriter::new(file);
            store.export(&name, &digest, &mut out, &mut |_| {})?;
            std::io::Write::flush(&mut out)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Takes in the versions of an export that are not here.
fn read_images(folders: &Folders, export: &Path) -> anyhow::Result<()> {
    let archives = export.join(IMAGES);
    if !archives.is_dir() {
        return Ok(());
    }
    let store = Store::open(folders.images())?;
    let mut here = Vec::new();
    for name in store.names()? {
        here.extend(store.versions(&name)?.into_iter().map(|version| version.image.digest.hex()));
    }
    let mut files = fs_err::read_dir(archives)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.extension().is_none_or(|extension| extension != "tar")
            || here.iter().any(|digest| name.ends_with(&format!(".{digest}.tar")))
        {
            continue;
        }
        let archive = std::io::BufReader::new(fs_err::File::open(&file)?);
        let taken = store.import(archive, None, &mut |_, _| Ok(()), &mut |_| {});
        for (name, image) in taken.with_context(|| format!("nothing of {} was taken in", file.display()))? {
            output::print(&format!("brought back {name}@{}\n", image.digest))?;
        }
    }
    Ok(())
}

fn told(folder: &Path, counts: &[(usize, &str)], versions: usize) -> anyhow::Result<ExitCode> {
    let versions = (versions > 0).then_some((versions, "versions of images"));
    let parts: Vec<_> = counts.iter().copied().chain(versions).map(|(count, what)| format!("{count} {what}")).collect();
    let folder = folder.display();
    output::print(&format!("{} in {folder}\n", parts.join(", ")))?;
    eprintln!("{folder}/keys has secrets; run the farm elsewhere with: stoke up {folder}");
    Ok(ExitCode::SUCCESS)
}
