//! Builds from the archive, as root and as an ordinary user. They need a mirror, by network or on this host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use stoke_api::Digest;
use stoke_api::node::{BAKED_PATH, Baked, CA_PATH};
use stoke_api::objects::{ImageSpec, RecipeFile, RootFormat};
use stoke_api::report::BuiltImage;
use stoke_api::workload::ImageBuildConfig;
use stoke_image::{BuildError, Progress, Store, Tools, build, cpio, farm_initramfs, farm_uki, uki};
use tempfile::TempDir;

use crate::world::{run, spec, text};

/// A kernel that installs in seconds, and what it needs to boot.
const SMALLEST: [&str; 3] = ["systemd-sysv", "kmod", "linux-image-cloud-amd64"];

pub(crate) fn tools(dir: &Path) -> Tools {
    let init = dir.join("stoke-init");
    fs::write(&init, b"a stand-in for stoke-init").unwrap();
    Tools::of_host(init)
}

pub(crate) fn config(store: &Path, spec: ImageSpec) -> ImageBuildConfig {
    ImageBuildConfig { name: "default/node".to_owned(), spec, store: store.to_owned(), bases: BTreeMap::new() }
}

pub(crate) fn smallest() -> ImageSpec {
    let mut spec = spec(&SMALLEST);
    let debian = spec.source.debian.as_mut().unwrap();
    let file = |path: &str, content: &str, mode: &str| RecipeFile {
        path: path.to_owned(),
        content: content.to_owned(),
        mode: mode.to_owned(),
    };
    debian.files = vec![file("/etc/motd", "welcome\n", "0600"), file("/lib/stokehold-test", "x", "0755")];
    debian.hooks.customize = vec!["echo 'it'\"'\"'s done' > /etc/hooked; chown daemon /etc/hooked".to_owned()];
    spec
}

pub(crate) fn silent(_: Progress) {}

/// Uncompressed archives of an initramfs, all of them.
fn unpacked(initramfs: &[u8]) -> Vec<cpio::Found> {
    cpio::read(&zstd::decode_all(initramfs).unwrap()).unwrap()
}

fn listing(store: &Store, image: &BuiltImage) -> Vec<(String, String, String)> {
    let text = run("unsquashfs", &["-lln", text(&store.blob_path(&image.root.blob))]);
    let rows = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = words.get(5)?.strip_prefix("squashfs-root")?;
        Some((path.to_owned(), words[0].to_owned(), words[1].to_owned()))
    });
    rows.collect()
}

fn assert_clean(rows: &[(String, String, String)]) {
    let find = |path: &str| rows.iter().find(|row| row.0 == path).map(|row| (row.1.as_str(), row.2.as_str()));
    assert_eq!(find("/etc/motd"), Some(("-rw-------", "0/0")));
    assert_eq!(find("/usr/lib/stokehold-test"), Some(("-rwxr-xr-x", "0/0")));
    assert_eq!(find("/lib"), Some(("lrwxrwxrwx", "0/0")));
    assert_eq!(find("/etc/hooked"), Some(("-rw-r--r--", "1/0")));
    assert_eq!(find("/etc/shadow"), Some(("-rw-r-----", "0/42")));
    assert_eq!(find("/etc/machine-id"), Some(("-rw-r--r--", "0/0")));
    assert_eq!(find("/tmp"), Some(("drwxrwxrwt", "0/0")));
    for gone in ["/etc/hostname", "/etc/shadow-", "/dev/null", "/var/log/dpkg.log", "/var/lib/dpkg/status-old"] {
        assert_eq!(find(gone), None, "{gone}");
    }
    let below = |folder: &str| rows.iter().filter(|row| row.0.starts_with(folder)).count();
    assert_eq!((below("/var/lib/apt/lists/"), below("/dev/"), below("/boot/vmlinuz")), (0, 0, 0));
}

fn assert_boots(store: &Store, image: &BuiltImage) {
    let blob = |digest: &Digest| fs::read(store.blob_path(digest)).unwrap();
    let initramfs = blob(&image.initramfs.digest);
    let entries = unpacked(&initramfs);
    let entry = |path: &str| entries.iter().find(|entry| entry.path == path.trim_start_matches('/'));
    assert_eq!(entry("/init").unwrap().content, b"a stand-in for stoke-init");
    let baked: Baked = serde_json::from_slice(&entry(BAKED_PATH).unwrap().content).unwrap();
    assert_eq!((&baked.root, &baked.kernel), (&image.root, &image.kernel_version));
    let folder = format!("lib/modules/{}", image.kernel_version);
    let dep = String::from_utf8(entry(&format!("{folder}/modules.dep")).unwrap().content.clone()).unwrap();
    for path in dep.lines().flat_map(|line| line.split([':', ' ']).filter(|path| !path.is_empty())) {
        assert!(entry(&format!("{folder}/{path}")).is_some(), "{path} is in modules.dep only");
    }
    assert!(dep.contains("virtio_net.ko") && dep.contains("dm-verity.ko") && dep.contains("nbd.ko"));
    let (_, parts) = uki::take_apart(&blob(&image.uki.unwrap().digest)).unwrap();
    assert!(parts.initramfs == initramfs, "another initramfs is in the unified kernel image");
    // The last section's length is what the kernel needs in memory: its end in the file is not known to the byte.
    let (kernel, rest) = parts.kernel.split_at(usize::try_from(image.kernel.size).unwrap());
    assert!(kernel == blob(&image.kernel.digest) && rest.iter().all(|byte| *byte == 0), "another kernel is in it");
    assert_eq!(parts.arguments, image.kernel_arguments.join(" "));
    assert!(parts.os_release.starts_with(b"PRETTY_NAME"));
}

fn assert_verified(store: &Store, image: &BuiltImage) {
    let (path, verity) = (store.blob_path(&image.root.blob), &image.root.verity);
    let (offset, salt) = (format!("--hash-offset={}", verity.hash_offset), format!("--salt={}", verity.salt));
    let blocks = format!("--data-blocks={}", verity.data_blocks);
    run(
        "veritysetup",
        &["verify", text(&path), text(&path), &verity.root_hash, "--no-superblock", &offset, &salt, &blocks],
    );
}

#[test]
fn the_smallest_image_and_everything_that_is_made_of_it() {
    let dir = TempDir::new().unwrap();
    let tools = tools(dir.path());
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let mut stages = Vec::new();
    let mut hear = |progress: Progress| {
        if stages.last() != Some(&progress.stage) {
            stages.push(progress.stage);
        }
    };
    let image = build(&config(&first, smallest()), &tools, &mut hear).unwrap();
    let expected = ["prepare", "install packages", "inspect", "root", "verity", "initramfs", "publish"];
    assert_eq!(stages, expected);
    let store = Store::open(&first).unwrap();
    assert_eq!(store.find("default/node").unwrap().as_ref(), Some(&image));
    assert_clean(&listing(&store, &image));
    assert_verified(&store, &image);
    assert_boots(&store, &image);
    let packages = store.packages(&image).unwrap();
    assert!(packages.iter().any(|package| package.name == "systemd-sysv"));
    // Perl's modules come only with the package that merges /usr afterwards.
    assert!(!packages.iter().any(|package| package.name == "usrmerge"));

    known_inputs_are_not_built_again(&first, &tools, &image);
    farms_add_their_part(&store, &image);
    another_store_gets_the_same_digest(&second, &tools, &image);
    a_changed_init_is_another_version_of_the_same_tree(&first, dir.path(), &image);
    erofs_of_the_same_tree(&first, &tools);
    an_ordinary_user_builds_the_same(dir.path(), &image);
}

fn known_inputs_are_not_built_again(store: &Path, tools: &Tools, image: &BuiltImage) {
    let mut stages = Vec::new();
    let again = build(&config(store, smallest()), tools, &mut |progress| stages.push(progress.stage)).unwrap();
    assert_eq!((&again, stages), (image, vec!["prepare".to_owned()]));
}

fn farms_add_their_part(store: &Store, image: &BuiltImage) {
    let farm = farm_initramfs(store, "certificate").unwrap();
    assert_eq!(farm, farm_initramfs(store, "certificate").unwrap());
    let made = farm_uki(store, image, &farm, None).unwrap();
    let before = fs::metadata(store.blob_path(&made.digest)).unwrap().modified().unwrap();
    assert_eq!(farm_uki(store, image, &farm, None).unwrap(), made);
    // Signed, it is another one, by another key yet another, and each is made once.
    let signed = |fingerprint: &str, mark: &'static [u8]| {
        let sign = |program: Vec<u8>| Ok([&program[..], mark].concat());
        farm_uki(store, image, &farm, Some(&stoke_image::Signature { fingerprint, sign: &sign })).unwrap()
    };
    let (one, other) = (signed("one", b"1"), signed("other", b"2"));
    assert!(one != made && other != made && one != other);
    assert_eq!(signed("one", b"made anew"), one);
    assert_eq!(fs::metadata(store.blob_path(&made.digest)).unwrap().modified().unwrap(), before);
    let (_, parts) = uki::take_apart(&fs::read(store.blob_path(&made.digest)).unwrap()).unwrap();
    let size = usize::try_from(image.initramfs.size).unwrap();
    let own = cpio::read(&parts.initramfs[size..]).unwrap();
    let ca = own.iter().find(|entry| format!("/{}", entry.path) == CA_PATH).unwrap();
    assert_eq!(ca.content, b"certificate");
}

fn another_store_gets_the_same_digest(path: &Path, tools: &Tools, image: &BuiltImage) {
    let again = build(&config(path, smallest()), tools, &mut silent).unwrap();
    assert_eq!(again.digest, image.digest);
}

fn a_changed_init_is_another_version_of_the_same_tree(path: &Path, dir: &Path, old: &BuiltImage) {
    let (init, mut stages) = (dir.join("newer-init"), Vec::new());
    fs::write(&init, b"newer").unwrap();
    let mut hear = |progress: Progress| stages.push(progress.stage);
    let newer = build(&config(path, smallest()), &Tools::of_host(&init), &mut hear).unwrap();
    assert_ne!(newer.digest, old.digest);
    assert_eq!(newer.root, old.root);
    assert!(!stages.contains(&"install packages".to_owned()));
    pruning_spares_what_is_shared(path, old, &newer);
}

fn pruning_spares_what_is_shared(path: &Path, old: &BuiltImage, newer: &BuiltImage) {
    let store = Store::open(path).unwrap();
    let there = |digest: &Digest| store.blob_path(digest).exists();
    assert!(store.prune("default/other", 0, &[]).unwrap().versions.is_empty());
    assert!(store.prune("default/node", 1, &[old.digest]).unwrap().versions.is_empty());
    let pruned = store.prune("default/node", 1, &[old.initramfs.digest]).unwrap();
    assert_eq!(pruned.versions, [old.digest]);
    assert!(there(&old.initramfs.digest), "a blob that was to be kept");
    assert!(!there(&old.uki.unwrap().digest) && !there(&old.digest));
    assert!(there(&newer.root.blob) && there(&newer.kernel.digest) && there(&newer.initramfs.digest));
    assert_eq!(store.list().unwrap(), [("default/node".to_owned(), newer.clone())]);
}

fn erofs_of_the_same_tree(path: &Path, tools: &Tools) {
    let mut spec = smallest();
    spec.forms.netboot.as_mut().unwrap().root.format = RootFormat::Erofs;
    let image = build(&config(path, spec), tools, &mut silent).unwrap();
    let store = Store::open(path).unwrap();
    assert_eq!(image.root.format, RootFormat::Erofs);
    assert_verified(&store, &image);
    // The tree behind the file system is none of fsck's business.
    let alone = path.join("alone");
    let bytes = fs::read(store.blob_path(&image.root.blob)).unwrap();
    fs::write(&alone, &bytes[..usize::try_from(image.root.verity.hash_offset).unwrap()]).unwrap();
    run("fsck.erofs", &[text(&alone)]);
}

/// Not a test of its own: what [`an_ordinary_user_builds_the_same`] runs as somebody else.
#[test]
#[ignore = "run by the_smallest_image_and_everything_that_is_made_of_it"]
fn helper_that_builds_as_somebody_else() {
    let Ok(dir) = std::env::var("STOKE_IMAGE_TEST_DIR").map(PathBuf::from) else { return };
    let image = build(&config(&dir.join("images"), smallest()), &Tools::of_host(dir.join("stoke-init")), &mut silent);
    println!("DIGEST {}", image.unwrap().digest);
}

fn an_ordinary_user_builds_the_same(dir: &Path, image: &BuiltImage) {
    let user = User::make("b");
    // A place that the user's subordinate ids cannot reach, as a home folder is.
    let home = dir.join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("stoke-init"), b"a stand-in for stoke-init").unwrap();
    let test = home.join("test");
    // By a program of its own: what a process writes cannot be executed while a child that it has forked still has it open.
    run("cp", &[text(&std::env::current_exe().unwrap()), text(&test)]);
    run("chown", &["-R", &user.name, text(&home)]);
    run("chmod", &["700", text(&home)]);
    run("chmod", &["755", text(dir)]);
    let output = Command::new("setpriv")
        .args(["--reuid", &user.name, "--regid", &user.name, "--init-groups"])
        .arg(&test)
        .args(["--exact", "builds::helper_that_builds_as_somebody_else", "--ignored", "--nocapture"])
        .env("STOKE_IMAGE_TEST_DIR", &home)
        .current_dir(&home)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("DIGEST {}", image.digest)), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(home.join("images/tmp")).unwrap().count(), 0);
}

/// A user of this host for the time of a test.
pub(crate) struct User {
    pub(crate) name: String,
}

impl User {
    /// `purpose` tells the users of one process apart.
    pub(crate) fn make(purpose: &str) -> Self {
        let name = format!("stokeimg{purpose}{}", std::process::id());
        run("useradd", &["--no-create-home", "--user-group", &name]);
        let user = Self { name };
        let subids = fs::read_to_string("/etc/subuid").unwrap_or_default();
        assert!(subids.contains(&user.name), "useradd gives subordinate ids (uidmap must be installed)");
        user
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.name).status();
    }
}

#[test]
fn a_package_that_nobody_has_is_told_once_and_by_its_field() {
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("images");
    let error = build(&config(&store, spec(&["systemd-sysv", "no-such-package"])), &tools(dir.path()), &mut silent);
    let error = error.unwrap_err();
    let said =
        r#"package "no-such-package" is not in bookworm main; correct its name, or name the component that has it"#;
    assert_eq!(error.to_string(), said);
    assert_eq!(error.field(), Some("spec.source.debian.packages[1]"));
    assert_eq!(fs::read_dir(store.join("tmp")).unwrap().count(), 0);
    assert!(Store::open(&store).unwrap().list().unwrap().is_empty());
}

#[test]
fn a_mirror_that_is_not_there_is_told_by_what_apt_said() {
    let dir = TempDir::new().unwrap();
    let mut spec = spec(&["systemd-sysv"]);
    spec.source.debian.as_mut().unwrap().mirror = Some("http://127.0.0.1:9/debian".to_owned());
    let error = build(&config(&dir.path().join("images"), spec), &tools(dir.path()), &mut silent).unwrap_err();
    assert!(matches!(&error, BuildError::Archive { message, .. } if message.contains("127.0.0.1")), "{error}");
    assert_eq!(error.field(), Some("spec.source.debian.suite"));
}

#[test]
fn a_tool_that_is_missing_names_its_package() {
    let dir = TempDir::new().unwrap();
    let tools = Tools { mksquashfs: "/nowhere/mksquashfs".into(), ..tools(dir.path()) };
    let error = build(&config(&dir.path().join("images"), spec(&SMALLEST)), &tools, &mut silent).unwrap_err();
    assert_eq!(error.to_string(), "mksquashfs is not installed; install the Debian package squashfs-tools");
}
