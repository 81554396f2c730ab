//! Layers: the packages of an image, and our programs. Each is a tar archive that is the same for the same content:
//! in the order of names, without names of owners, with times that are those of the packages or [`EPOCH`].

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use fs_err::File;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_image::Store;
use stoke_image::store::Layer;
use tar::{Archive, Builder, Entry, EntryType, Header};
use testbed::cache;

use super::recipes::{ARCHIVES, NEVER, Packing, Recipe, USER};

/// The newest time of a file in an image; and when the images say that they were made: a day, so that it is the same on any.
pub(super) const EPOCH: u64 = 1_767_225_600;
pub(super) const CREATED: &str = "2026-01-01T00:00:00Z";
/// Small enough for a registry, quick enough for every change of a program.
const COMPRESSION: i32 = 9;
/// Makes dpkg's list for packages that dpkg did not install.
const LIST: &str = r#"for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --field "$deb" Package Source Version Architecture Maintainer Homepage && echo "Status: install ok installed" && echo || exit 1; done > "$1/var/lib/dpkg/status""#;

/// A layer as a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Layered {
    /// The compressed archive.
    file: PathBuf,
    /// Digest of the archive.
    diff: Digest,
    /// What dpkg says of its packages.
    pub(super) status: String,
    pub(super) os_release: Vec<u8>,
    /// The temporary folder that the file is in, if it is not in the cache.
    #[serde(skip)]
    _folder: Option<tempfile::TempDir>,
}

impl Layered {
    /// Puts it into a store.
    pub(super) fn layer(&self, store: &Store) -> Result<Layer> {
        Ok(Layer { blob: store.put_file(&self.file)?, diff: self.diff })
    }
}

/// The packages of an image: from the cache, or made now.
pub(super) fn base(recipe: &Recipe, fresh: bool) -> Result<Layered> {
    let folder = cache().join("container-trees").join(key(recipe));
    let note = folder.join("layer.json");
    let _lock = testbed::lock_cache()?;
    if !fresh && let Ok(text) = fs_err::read(&note) {
        return serde_json::from_slice(&text).with_context(|| format!("{} is damaged; delete it", note.display()));
    }
    fs_err::create_dir_all(&folder)?;
    let made = tempfile::tempdir_in(&folder).context("the cache cannot be written")?;
    let tree = made.path().join("tree.tar");
    install(recipe, &tree)?;
    let layer = folder.join("layer.tar.zst");
    let staged = made.path().join("layer.tar.zst");
    let found = sorted_out(recipe, File::open(&tree)?, &staged)?;
    fs_err::rename(&staged, &layer)?;
    let layered = Layered { file: layer, ..found };
    fs_err::write(&note, serde_json::to_vec(&layered)?)?;
    Ok(layered)
}

/// What a tree is known by: all that it is made from, this code among it. Not the state of the archives: `--fresh` is for that.
fn key(recipe: &Recipe) -> String {
    let mut hash = DefaultHasher::new();
    (include_str!("tree.rs"), format!("{recipe:?}"), ARCHIVES, NEVER).hash(&mut hash);
    for path in recipe.files {
        super::file(path).unwrap_or_default().hash(&mut hash);
    }
    format!("{}-{:016x}", recipe.name, hash.finish())
}

fn install(recipe: &Recipe, tree: &Path) -> Result<()> {
    eprintln!("\n== packages of {}", recipe.name);
    let mut command = Command::new("mmdebstrap");
    command.args(match recipe.packing {
        Packing::Extracted => ["--variant=extract", "--extract-hook", LIST].as_slice(),
        Packing::Installed => ["--variant=apt"].as_slice(),
    });
    command.arg(format!("--include={}", recipe.packages.join(",")));
    command.args(["--aptopt=APT::Install-Recommends \"false\"", "--format=tar", "bookworm"]);
    command.arg(tree).args(ARCHIVES).env("SOURCE_DATE_EPOCH", EPOCH.to_string()).stdin(Stdio::null());
    super::check("mmdebstrap", &command.output().context("cannot run mmdebstrap")?)
}

/// The tree without what nobody needs, with the files that are put over it.
fn sorted_out(recipe: &Recipe, tree: impl Read, to: &Path) -> Result<Layered> {
    let mut layer = LayerWriter::begin(to)?;
    let (mut status, mut os_release, mut authorities) = (String::new(), Vec::new(), Vec::new());
    let mut archive = Archive::new(io::BufReader::new(tree));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8(entry.path_bytes().into_owned()).context("a name that is no UTF-8")?;
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        let kind = entry.header().entry_type();
        if path.is_empty() || !is_wanted(recipe, &path, kind) {
            continue;
        }
        if kind == EntryType::Regular && is_read(&path) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            match path.as_str() {
                "var/lib/dpkg/status" => status = String::from_utf8_lossy(&content).into_owned(),
                "usr/lib/os-release" => os_release.clone_from(&content),
                _ => authorities.extend_from_slice(&content),
            }
            layer.file(&path, entry.header().mode()?, entry.header().mtime()?, &content)?;
        } else {
            layer.copy(&path, &mut entry)?;
        }
    }
    let bundle = "etc/ssl/certs/ca-certificates.crt";
    if recipe.packing == Packing::Extracted && !authorities.is_empty() {
        layer.file(bundle, 0o644, EPOCH, &authorities)?;
    }
    for path in recipe.files {
        layer.file(path, 0o644, EPOCH, &super::file(path)?)?;
    }
    if recipe.packing == Packing::Installed {
        let ids = format!("{USER}:100000:65536\nroot:200000:65536\n");
        for path in ["etc/subuid", "etc/subgid"] {
            layer.file(path, 0o644, EPOCH, ids.as_bytes())?;
        }
    }
    for (path, mode) in [("tmp", 0o1777), ("run", 0o755), ("var/lib/stokehold", 0o755), ("etc/stokehold", 0o755)] {
        layer.folder(path, mode)?;
    }
    let diff = layer.finish()?;
    Ok(Layered { file: to.to_owned(), diff, status, os_release, _folder: None })
}

/// Files whose content is looked at.
fn is_read(path: &str) -> bool {
    let authority =
        path.starts_with("usr/share/ca-certificates/") && Path::new(path).extension().is_some_and(|end| end == "crt");
    authority || ["var/lib/dpkg/status", "usr/lib/os-release"].contains(&path)
}

fn is_wanted(recipe: &Recipe, path: &str, kind: EntryType) -> bool {
    let folder = format!("{path}/");
    let below = |rules: &[&str]| rules.iter().any(|rule| path.starts_with(rule) || folder.starts_with(rule));
    let documentation = path.starts_with("usr/share/doc/") && kind != EntryType::Directory && {
        let name = path.rsplit('/').next().unwrap_or_default();
        // Some packages' whole folder is a link to another's.
        name != "copyright" && path.matches('/').count() > 3
    };
    let special = matches!(kind, EntryType::Char | EntryType::Block | EntryType::Fifo);
    let leads_to_kept = kind == EntryType::Directory && recipe.keep.iter().any(|keep| keep.starts_with(&folder));
    let kept = recipe.keep.is_empty() || leads_to_kept || below(recipe.keep);
    // People of the installed system have their own file, unless ours are put over it.
    let replaced = recipe.files.contains(&path) || (recipe.packing == Packing::Installed && is_ids(path));
    kept && !special && !documentation && !replaced && !below(NEVER) && !below(recipe.drop)
}

fn is_ids(path: &str) -> bool {
    ["etc/subuid", "etc/subgid"].contains(&path)
}

/// Our programs of an image.
pub(super) fn programs(recipe: &Recipe, folder: &Path) -> Result<Layered> {
    let made = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = made.path().join("layer.tar.zst");
    let mut layer = LayerWriter::begin(&file)?;
    for program in recipe.programs {
        let stripped = made.path().join(program);
        // Names for debuggers make a program five times as large, and name this machine's folders.
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("--output-file").arg(&stripped).arg(folder.join(program));
        super::check("strip", &strip.output().context("cannot run strip: install the package binutils")?)?;
        layer.file(&format!("usr/bin/{program}"), 0o755, EPOCH, &fs_err::read(&stripped)?)?;
        fs_err::remove_file(stripped)?;
    }
    let diff = layer.finish()?;
    Ok(Layered { file, diff, status: String::new(), os_release: Vec::new(), _folder: Some(made) })
}

/// An archive that is hashed and compressed while it is written.
struct LayerWriter {
    archive: Builder<Hashing>,
    /// Every name that is in it: a hard link to what was dropped would be a broken image.
    names: std::collections::BTreeSet<String>,
}

struct Hashing {
    hash: Sha256,
    to: zstd::Encoder<'static, std::fs::File>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl LayerWriter {
    fn begin(path: &Path) -> Result<Self> {
        let to = zstd::Encoder::new(File::create(path)?.into_file(), COMPRESSION)?;
        Ok(Self {
            archive: Builder::new(Hashing { hash: Sha256::new(), to }),
            names: std::collections::BTreeSet::new(),
        })
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(EntryType::Directory, mode, 0, 0, EPOCH);
        Ok(self.archive.append_data(&mut header, path, io::empty())?)
    }

    fn file(&mut self, path: &str, mode: u32, time: u64, content: &[u8]) -> Result<()> {
        let mut header = header(EntryType::Regular, mode, 0, 0, time.min(EPOCH));
        header.set_size(content.len() as u64);
        self.names.insert(path.to_owned());
        Ok(self.archive.append_data(&mut header, path, content)?)
    }

    /// An entry of another archive, without what differs from day to day.
    fn copy(&mut self, path: &str, entry: &mut Entry<'_, impl Read>) -> Result<()> {
        let old = entry.header();
        let (kind, mode) = (old.entry_type(), old.mode()? & 0o7777);
        let mut header = header(kind, mode, old.uid()?, old.gid()?, old.mtime()?.min(EPOCH));
        let attributes = attributes(entry)?;
        self.archive.append_pax_extensions(attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        self.names.insert(path.to_owned());
        if let Some(target) = entry.link_name_bytes() {
            let target = String::from_utf8(target.into_owned()).context("a link that is no UTF-8")?;
            if kind == EntryType::Link && !self.names.contains(target.trim_start_matches("./")) {
                bail!("{path} is another name of {target}, which is not in the image");
            }
            let target = if kind == EntryType::Link { target.trim_start_matches("./") } else { &target };
            return Ok(self.archive.append_link(&mut header, path, target)?);
        }
        header.set_size(entry.size());
        Ok(self.archive.append_data(&mut header, path, entry)?)
    }

    fn finish(self) -> Result<Digest> {
        let hashing = self.archive.into_inner()?;
        hashing.to.finish()?.sync_all()?;
        Ok(Digest(hashing.hash.finalize().into()))
    }
}

fn header(kind: EntryType, mode: u32, uid: u64, gid: u64, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(time);
    header.set_size(0);
    header
}

/// Capabilities of files and the like, in one order.
fn attributes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        if key.starts_with("SCHILY.xattr.") {
            found.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of packages as mmdebstrap writes one, made at some time.
    fn tree(time: u64) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let files = [
            ("./usr/bin/qemu", "emulator"),
            ("./usr/lib/qemu/helper", "dropped"),
            ("./usr/share/doc/qemu/changelog.gz", "dropped"),
            ("./usr/share/doc/qemu/copyright", "kept"),
            ("./usr/share/ca-certificates/mozilla/A.crt", "-A-\n"),
            ("./var/lib/dpkg/status", "Package: qemu\n"),
            ("./var/log/apt/history.log", "today"),
        ];
        for (path, content) in files {
            let mut header = header(EntryType::Regular, 0o644, 0, 0, time);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let mut device = header(EntryType::Char, 0o666, 0, 0, time);
        builder.append_data(&mut device, "./dev/null", io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    fn made(time: u64) -> (Layered, Vec<u8>) {
        let recipe = super::super::recipes::choose(&["vm".into()]).unwrap()[0];
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("layer");
        let layered = sorted_out(recipe, tree(time).as_slice(), &file).unwrap();
        let content = fs_err::read(&file).unwrap();
        (layered, content)
    }

    #[test]
    fn trees_that_were_made_on_two_days_are_one_layer() {
        let ((first, one), (second, two)) = (made(EPOCH + 5), made(EPOCH + 90_000));
        assert_eq!(first.diff, second.diff);
        assert_eq!(one, two);
        assert_eq!(Digest(Sha256::digest(zstd::decode_all(one.as_slice()).unwrap()).into()), first.diff);
    }

    #[test]
    fn a_layer_has_no_devices_no_logs_and_every_authority_in_one_file() {
        let (layered, content) = made(5);
        let plain = zstd::decode_all(content.as_slice()).unwrap();
        let mut archive = Archive::new(plain.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        let expected = [
            "usr/bin/qemu",
            "usr/share/doc/qemu/copyright",
            "usr/share/ca-certificates/mozilla/A.crt",
            "var/lib/dpkg/status",
            "etc/ssl/certs/ca-certificates.crt",
            "etc/passwd",
            "etc/group",
            "etc/nsswitch.conf",
            "tmp",
            "run",
            "var/lib/stokehold",
            "etc/stokehold",
        ];
        assert_eq!(names, expected);
        assert_eq!(layered.status, "Package: qemu\n");
    }
}
