//! A tree that is just enough for a node's image, in every form in which people bring one. No mirror is asked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::objects::{ImageSource, ImageSpec, OciSource, TreeSource};
use stoke_api::report::BuiltImage;
use stoke_api::workload::ImageBuildConfig;
use stoke_image::{BuildError, Store, build};
use tar::{Builder, EntryType, Header};

use crate::builds::{config, tools};
use crate::world::{run, spec, text};

pub(crate) const KERNEL: &str = "6.1.0-test";
/// The newest time of a file that ships.
pub(crate) const NEWEST: u64 = 1_700_000_000;

/// What every node needs; built in, so that no module is.
const BUILTIN: &str = "kernel/net/packet/af_packet.ko\nkernel/drivers/md/dm-mod.ko\nkernel/drivers/md/dm-verity.ko\n\
                       kernel/drivers/block/loop.ko\nkernel/drivers/block/nbd.ko\nkernel/fs/overlayfs/overlay.ko\n";

/// A tar archive in the making, with entries as a packer writes them.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(NEWEST);
        header.set_size(size as u64);
        header
    }

    pub(crate) fn folder(mut self, path: &str) -> Self {
        let mut header = Self::header(EntryType::Directory, 0o755, 0);
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Self::header(EntryType::Regular, mode, content.len());
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub(crate) fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777, 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// A name that no honest packer writes.
    pub(crate) fn raw(mut self, kind: EntryType, path: &str, content: &[u8]) -> Self {
        let mut header = Self::header(kind, 0o644, content.len());
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_device_major(8).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The lower part of a tree that can boot: everything but what [`upper`] has.
pub(crate) fn lower() -> Tar {
    let modules = format!("usr/lib/modules/{KERNEL}");
    let folders = ["etc", "tmp", "usr", "usr/lib", "usr/lib/modules", &modules, "usr/lib/systemd", "usr/sbin", "var"];
    let tar = folders.into_iter().fold(Tar::new(), Tar::folder);
    tar.link(EntryType::Symlink, "lib", "usr/lib")
        .link(EntryType::Symlink, "sbin", "usr/sbin")
        .file(&format!("{modules}/modules.dep"), 0o644, b"kernel/x.ko:\n")
        .file(&format!("{modules}/modules.builtin"), 0o644, BUILTIN.as_bytes())
        .file("usr/lib/systemd/systemd", 0o755, b"an init")
        .file("usr/lib/os-release", 0o644, b"PRETTY_NAME=\"Test\"\nID=test\n")
        .file("etc/replaced", 0o644, b"old")
        .file("etc/removed", 0o644, b"old")
}

/// The upper layer of the tree. Its kernel is where images of containers have it.
pub(crate) fn upper() -> Tar {
    Tar::new()
        .file(&format!("lib/modules/{KERNEL}/vmlinuz"), 0o600, &[0x90; 5000])
        .file("etc/replaced", 0o640, b"new")
        .file("etc/linked", 0o644, b"linked")
        .link(EntryType::Link, "etc/also-linked", "etc/linked")
}

pub(crate) fn layers() -> [Vec<u8>; 2] {
    [lower().end(), upper().file("etc/.wh.removed", 0o644, b"").end()]
}

/// The same as one tree, without a trace of layers.
fn whole() -> Vec<u8> {
    let modules = format!("usr/lib/modules/{KERNEL}");
    let folders = ["etc", "tmp", "usr", "usr/lib", "usr/lib/modules", &modules, "usr/lib/systemd", "usr/sbin", "var"];
    let tar = folders.into_iter().fold(Tar::new(), Tar::folder);
    tar.link(EntryType::Symlink, "lib", "usr/lib")
        .link(EntryType::Symlink, "sbin", "usr/sbin")
        .file(&format!("{modules}/modules.dep"), 0o644, b"kernel/x.ko:\n")
        .file(&format!("{modules}/modules.builtin"), 0o644, BUILTIN.as_bytes())
        .file("usr/lib/systemd/systemd", 0o755, b"an init")
        .file("usr/lib/os-release", 0o644, b"PRETTY_NAME=\"Test\"\nID=test\n")
        .file(&format!("{modules}/vmlinuz"), 0o600, &[0x90; 5000])
        .file("etc/replaced", 0o640, b"new")
        .file("etc/linked", 0o644, b"linked")
        .link(EntryType::Link, "etc/also-linked", "etc/linked")
        .end()
}

pub(crate) fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

/// The configuration of an image of these layers.
fn image_config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer).to_string()).collect();
    let root = serde_json::json!({"type": "layers", "diff_ids": ids});
    serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": root}).to_string().into_bytes()
}

/// The files of an OCI layout of these layers, by name; layers are stored as gzip.
pub(crate) fn layout(layers: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())]);
    let mut put = |kind: &str, content: Vec<u8>| {
        let descriptor = serde_json::json!({"mediaType": kind, "digest": digest(&content), "size": content.len()});
        files.insert(format!("blobs/sha256/{}", digest(&content).hex()), content);
        descriptor
    };
    let config = put("application/vnd.oci.image.config.v1+json", image_config(layers));
    let stored: Vec<_> =
        layers.iter().map(|layer| put("application/vnd.oci.image.layer.v1.tar+gzip", gzip(layer))).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": stored}).to_string();
    let mut manifest = put("application/vnd.oci.image.manifest.v1+json", manifest.into_bytes());
    manifest["platform"] = serde_json::json!({"architecture": "amd64", "os": "linux"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    files.insert("index.json".to_owned(), index.into_bytes());
    files
}

/// What `docker save` writes of these layers.
fn docker_archive(layers: &[Vec<u8>]) -> Vec<u8> {
    let config = image_config(layers);
    let name = format!("{}.json", digest(&config).hex());
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": name, "RepoTags": ["node:1"], "Layers": names}]).to_string();
    let mut tar = Tar::new().file(&name, 0o644, &config);
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, 0o644, layer);
    }
    tar.file("manifest.json", 0o644, manifest.as_bytes()).end()
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn write_layout(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

pub(crate) fn from(source: ImageSource) -> ImageSpec {
    ImageSpec { source, ..spec(&[]) }
}

pub(crate) fn from_tree(path: impl Into<PathBuf>) -> ImageSpec {
    from(ImageSource { tree: Some(TreeSource { path: path.into() }), ..ImageSource::default() })
}

fn from_layout(path: &Path) -> ImageSpec {
    let oci = OciSource { layout: Some(path.to_owned()), ..OciSource::default() };
    from(ImageSource { oci: Some(oci), ..ImageSource::default() })
}

fn from_archive(path: &Path) -> ImageSpec {
    let oci = OciSource { archive: Some(path.to_owned()), ..OciSource::default() };
    from(ImageSource { oci: Some(oci), ..ImageSource::default() })
}

pub(crate) fn from_registry(reference: &str) -> ImageSpec {
    let oci = OciSource { reference: Some(reference.to_owned()), ..OciSource::default() };
    from(ImageSource { oci: Some(oci), ..ImageSource::default() })
}

/// Somewhere to build, whose store must be clean when something was wrong.
pub(crate) struct Yard {
    pub(crate) dir: tempfile::TempDir,
}

impl Yard {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn config(&self, spec: ImageSpec) -> ImageBuildConfig {
        config(&self.path("images"), spec)
    }

    pub(crate) fn build(&self, config: &ImageBuildConfig) -> Result<BuiltImage, BuildError> {
        build(config, &tools(self.dir.path()), &mut |_| {})
    }

    pub(crate) fn built(&self, spec: ImageSpec) -> BuiltImage {
        self.build(&self.config(spec)).unwrap()
    }

    /// What is said of a source that cannot be used; the field is checked, and that nothing is left behind.
    pub(crate) fn refused(&self, spec: ImageSpec, field: &str) -> String {
        self.refused_config(&self.config(spec), field)
    }

    pub(crate) fn refused_config(&self, config: &ImageBuildConfig, field: &str) -> String {
        let error = self.build(config).unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
        let images = self.path("images");
        assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0, "half-done work is left");
        let trees = fs::read_dir(images.join("cache/trees")).map_or(0, Iterator::count);
        assert_eq!(trees, 0, "a tree of a bad source is in the cache");
        assert!(Store::open(&images).unwrap().list().unwrap().is_empty(), "something was published");
        error.to_string()
    }

    /// Path, mode, owner of everything in a root.
    pub(crate) fn listing(&self, image: &BuiltImage) -> BTreeMap<String, (String, String)> {
        let path = Store::open(self.path("images")).unwrap().blob_path(&image.root.blob);
        let listed = run("unsquashfs", &["-lln", text(&path)]);
        let rows = listed.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let path = words.get(5)?.strip_prefix("squashfs-root/")?;
            Some((path.to_owned(), (words[0].to_owned(), words[1].to_owned())))
        });
        rows.collect()
    }

    pub(crate) fn content(&self, image: &BuiltImage, path: &str) -> String {
        let root = Store::open(self.path("images")).unwrap().blob_path(&image.root.blob);
        run("unsquashfs", &["-cat", text(&root), path])
    }
}

#[test]
fn one_tree_is_one_root_in_whatever_it_is_brought() {
    let yard = Yard::new();
    let tar = yard.write("tree.tar", &whole());
    let image = yard.built(from_tree(&tar));
    assert_eq!(image.kernel_version, KERNEL);
    let listing = yard.listing(&image);
    assert_eq!(listing["etc/replaced"], ("-rw-r-----".to_owned(), "0/0".to_owned()));
    assert_eq!(listing.get("etc/removed"), None);
    assert_eq!(listing.get(&format!("usr/lib/modules/{KERNEL}/vmlinuz")), None, "the kernel is a part of its own");
    assert_eq!(yard.content(&image, "etc/also-linked"), "linked");

    let zipped = yard.write("tree.tar.gz", &gzip(&whole()));
    assert_eq!(yard.built(from_tree(zipped)).root, image.root);
    let folder = yard.path("folder");
    fs::create_dir(&folder).unwrap();
    run("tar", &["-xpf", text(&tar), "-C", text(&folder)]);
    // The archive that is made of a folder is sorted, and a root has its files in the order of the archive.
    let of_folder = yard.built(from_tree(&folder));
    assert_eq!(yard.listing(&of_folder), listing);
    assert_eq!(yard.content(&of_folder, "etc/also-linked"), "linked");

    let layers = layers();
    let layout_folder = yard.path("layout");
    write_layout(&layout_folder, &layout(&layers));
    let of_layers = yard.built(from_layout(&layout_folder));
    assert_eq!(yard.listing(&of_layers), listing);
    // The layers have their files in another order; everything made of them is the same in any form.
    let archive = layout(&layers).iter().fold(Tar::new(), |tar, (name, content)| tar.file(name, 0o644, content)).end();
    let oci = yard.write("oci.tar", &archive);
    assert_eq!(yard.built(from_archive(&oci)).digest, of_layers.digest);
    let docker = yard.write("docker.tar", &docker_archive(&layers));
    assert_eq!(yard.built(from_archive(&docker)).digest, of_layers.digest);
    let zipped = yard.write("docker.tar.gz", &gzip(&docker_archive(&layers)));
    assert_eq!(yard.built(from_archive(&zipped)).digest, of_layers.digest);
    assert_eq!(fs::read_dir(yard.path("images/tmp")).unwrap().count(), 0);
}

#[test]
fn archives_that_reach_out_are_refused_and_nothing_is_left() {
    let yard = Yard::new();
    let field = "spec.source.tree.path";
    let evil = |tar: Tar| yard.write("evil.tar", &tar.end());
    let said = yard.refused(from_tree(evil(lower().raw(EntryType::Regular, "../../outside", b"x"))), field);
    assert!(said.contains("evil.tar cannot be used") && said.contains("leads out of the tree"), "{said}");
    let said = yard.refused(from_tree(evil(lower().raw(EntryType::Regular, "/etc/shadow", b"x"))), field);
    assert!(said.contains("leads out of the tree"), "{said}");
    let said = yard.refused(from_tree(evil(lower().raw(EntryType::Block, "srv/disk", b""))), field);
    assert!(said.contains("\"srv/disk\" is a device node (8:0)"), "{said}");
    let circle = lower().link(EntryType::Symlink, "a", "b").link(EntryType::Symlink, "b", "a").file("a/x", 0o644, b"");
    assert!(yard.refused(from_tree(evil(circle)), field).contains("circle"));
    let through = lower().link(EntryType::Symlink, "out", text(yard.dir.path())).file("out/stolen", 0o644, b"x");
    // It leads into the tree; the tree has no kernel, and this host has no such file.
    assert!(!yard.path("stolen").exists());
    let error = yard.build(&yard.config(from_tree(evil(through)))).unwrap_err();
    assert!(matches!(error, BuildError::Tree { .. }), "{error}");
    assert!(!yard.path("stolen").exists());
}

#[test]
fn sources_that_cannot_be_read_name_their_field() {
    let yard = Yard::new();
    let nowhere = yard.path("nowhere");
    let said = yard.refused(from_tree(&nowhere), "spec.source.tree.path");
    assert!(said.contains("nowhere") && said.to_lowercase().contains("no such file"), "{said}");
    let said = yard.refused(from_layout(&nowhere), "spec.source.oci.layout");
    assert!(said.to_lowercase().contains("no such file"), "{said}");
    let rubbish = yard.write("rubbish.tar", b"this is no archive at all");
    assert!(yard.refused(from_tree(&rubbish), "spec.source.tree.path").contains("rubbish.tar cannot be used"));
    let said = yard.refused(from_archive(&yard.write("tree.tar", &whole())), "spec.source.oci.archive");
    assert!(said.contains("neither an index.json nor a manifest.json"), "{said}");
    let xz = yard.write("tree.tar.xz", b"\xfd7zXZ\0\0\x04");
    assert!(yard.refused(from_tree(&xz), "spec.source.tree.path").contains("compressed by xz"));
}

#[test]
fn a_tampered_image_is_refused_wherever_it_was_changed() {
    let field = "spec.source.oci.layout";
    let layers = layers();
    // A layer, the manifest, the configuration: each under its old name.
    for victim in ["layer", "manifest", "config"] {
        let yard = Yard::new();
        let mut files = layout(&layers);
        let has = |content: &[u8], word: &str| content.windows(word.len()).any(|part| part == word.as_bytes());
        let is_victim = |content: &[u8]| match victim {
            "layer" => content == gzip(&layers[1]),
            "manifest" => has(content, "schemaVersion"),
            _ => has(content, "rootfs"),
        };
        let mut blobs = files.iter().filter(|(name, _)| name.starts_with("blobs/"));
        let name = blobs.find(|(_, content)| is_victim(content)).unwrap().0.clone();
        let changed = match victim {
            "layer" => gzip(&Tar::new().file("etc/evil", 0o644, b"x").end()),
            _ => [files[&name].as_slice(), b" "].concat(),
        };
        files.insert(name, changed);
        let folder = yard.path("layout");
        write_layout(&folder, &files);
        let said = yard.refused(from_layout(&folder), field);
        assert!(said.contains("has been tampered with"), "{victim}: {said}");
    }
    let yard = Yard::new();
    let mut archive = docker_archive(&layers);
    let at = archive.windows(3).position(|part| part == b"new").unwrap();
    archive[at] = b'N';
    let said = yard.refused(from_archive(&yard.write("docker.tar", &archive)), "spec.source.oci.archive");
    assert!(said.contains("has been tampered with"), "{said}");
}

#[test]
fn a_bomb_is_stopped_before_it_fills_anything() {
    let yard = Yard::new();
    let path = yard.path("bomb.tar.zst");
    let mut encoder = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
    let mut header = Tar::header(EntryType::Regular, 0o644, 2 << 30);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1100 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    let said = yard.refused(from_tree(&path), "spec.source.tree.path");
    assert!(said.contains("more than 200 times"), "{said}");
}

#[test]
fn an_image_for_another_machine_is_told() {
    let yard = Yard::new();
    let layers = layers();
    let mut files = layout(&layers);
    let index = String::from_utf8(files["index.json"].clone()).unwrap().replace("amd64", "arm64");
    files.insert("index.json".to_owned(), index.into_bytes());
    write_layout(&yard.path("layout"), &files);
    let said = yard.refused(from_layout(&yard.path("layout")), "spec.source.oci.layout");
    assert!(said.contains("it has no image for amd64"), "{said}");
}

#[test]
fn a_tree_that_cannot_boot_says_what_to_do_in_the_words_of_its_source() {
    let yard = Yard::new();
    let path = yard.write("tree.tar", &lower().end());
    let error = yard.build(&yard.config(from_tree(path))).unwrap_err();
    assert_eq!(error.field(), Some("spec.source.tree.path"));
    assert!(error.to_string().contains("it has no kernel; install one in the tree"), "{error}");
}
