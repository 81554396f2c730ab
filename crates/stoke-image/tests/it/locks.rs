//! Locked builds: the same digest from another user, path, time and number of processors, without a network, and what is
//! told when the packages are not what was locked. They need a mirror once, by network or on this host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use stoke_api::objects::ImageSpec;
use stoke_api::report::BuiltImage;
use stoke_image::{BuildError, Lock, Progress, Store, build, lock};
use tempfile::TempDir;

use crate::builds::{User, config, silent, smallest, tools};
use crate::world::{run, text};

/// What the recipe of all these tests has beside the smallest: packages whose scripts make files (caches of Python, of
/// certificates, of the linker; databases of users and of services).
const MORE: [&str; 4] = ["openssh-server", "python3-minimal", "ca-certificates", "dbus"];

fn recipe() -> ImageSpec {
    let mut spec = smallest();
    let debian = spec.source.debian.as_mut().unwrap();
    debian.packages.extend(MORE.map(str::to_owned));
    // An own account: its password's day and its own files are of the build.
    debian.hooks.customize.push("useradd --create-home somebody; date > /home/somebody/.cache || true".to_owned());
    debian.hooks.customize.push("rm /home/somebody/.cache".to_owned());
    spec
}

fn locked(path: &Path) -> ImageSpec {
    let mut spec = recipe();
    spec.source.debian.as_mut().unwrap().lock = Some(lock::pin(path).unwrap());
    spec
}

/// Resolves the recipe into a file.
fn resolve(dir: &Path) -> PathBuf {
    let (path, store) = (dir.join("node.lock.json"), Store::open(dir.join("resolver")).unwrap());
    let lock = Lock::resolve(recipe().source.debian.as_ref().unwrap(), "amd64", &store).unwrap();
    fs::write(&path, lock.text()).unwrap();
    assert_eq!(Lock::find(&path), Some(lock));
    assert_eq!(fs::read_dir(dir.join("resolver/tmp")).unwrap().count(), 0);
    path
}

#[test]
fn a_lock_makes_one_digest() {
    let dir = TempDir::new().unwrap();
    let (tools, lock) = (tools(dir.path()), resolve(dir.path()));
    let first = dir.path().join("first");
    let mut stages = Vec::new();
    let mut hear = |progress: Progress| {
        if stages.last() != Some(&progress.stage) {
            stages.push(progress.stage);
        }
    };
    let image = build(&config(&first, locked(&lock)), &tools, &mut hear).unwrap();
    assert_eq!(stages[1..3], ["fetch packages", "install packages"]);
    let store = Store::open(&first).unwrap();
    exactly_the_locked_packages_are_there(&store, &image, &lock);
    the_archives_are_those_of_the_lock(&store, &image, &lock);
    somebody_else_builds_the_same_elsewhere(dir.path(), &first, &store, &image);
    a_package_that_is_gone_is_told(dir.path(), &lock);
    a_changed_package_is_refused(dir.path(), &first, &lock);
    a_recipe_that_was_changed_says_that_it_must_be_locked_again(dir.path(), &lock);
}

fn exactly_the_locked_packages_are_there(store: &Store, image: &BuiltImage, lock: &Path) {
    let lock = Lock::find(lock).unwrap();
    let locked: Vec<_> = lock.packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect();
    let installed = store.packages(image).unwrap();
    let installed: Vec<_> = installed.iter().map(|package| (package.name.clone(), package.version.clone())).collect();
    assert_eq!(installed, locked);
    let bill: serde_json::Value = serde_json::from_slice(&store.sbom(image).unwrap().unwrap()).unwrap();
    let listed: Vec<_> =
        bill["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(listed[0], "default/node");
    assert_eq!(listed[1..], locked.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
}

fn the_archives_are_those_of_the_lock(store: &Store, image: &BuiltImage, lock: &Path) {
    let lists = run("unsquashfs", &["-cat", text(&store.blob_path(&image.root.blob)), "etc/apt/sources.list"]);
    let lock = Lock::find(lock).unwrap();
    let lines: Vec<_> = lists.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, lock.sources);
    let names = run("unsquashfs", &["-ls", text(&store.blob_path(&image.root.blob))]);
    assert!(!names.contains("stokehold-packages"), "the locked packages themselves ship");
}

/// Without a network: the packages are copied along.
fn somebody_else_builds_the_same_elsewhere(dir: &Path, first: &Path, store: &Store, image: &BuiltImage) {
    let user = User::make("lock");
    let home = dir.join("another").join("much longer path");
    fs::create_dir_all(home.join("images/cache")).unwrap();
    run("cp", &["-r", text(&first.join("cache/packages")), text(&home.join("images/cache"))]);
    run("cp", &[text(&dir.join("node.lock.json")), text(&dir.join("stoke-init")), text(&home)]);
    let test = home.join("test");
    run("cp", &[text(&std::env::current_exe().unwrap()), text(&test)]);
    run("chown", &["-R", &user.name, text(&home)]);
    run("chmod", &["700", text(&home)]);
    run("chmod", &["755", text(dir)]);
    // One processor, no network but a loopback that is down, another umask.
    let script = "umask 077; exec taskset -c 0 setpriv --reuid \"$1\" --regid \"$1\" --init-groups \"$2\" --exact \
                  locks::helper_that_builds_from_the_lock --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh", &user.name])
        .arg(&test)
        .env("STOKE_IMAGE_TEST_DIR", &home)
        .current_dir(&home)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let theirs = Store::open(home.join("images")).unwrap().find("default/node").unwrap().unwrap();
    if theirs.digest != image.digest {
        let other = Store::open(home.join("images")).unwrap();
        panic!("{}", differences(dir, (store, image), (&other, &theirs)));
    }
}

/// Not a test of its own: what [`somebody_else_builds_the_same_elsewhere`] runs as somebody else.
#[test]
#[ignore = "run by a_lock_makes_one_digest"]
fn helper_that_builds_from_the_lock() {
    let Ok(dir) = std::env::var("STOKE_IMAGE_TEST_DIR").map(PathBuf::from) else { return };
    let spec = locked(&dir.join("node.lock.json"));
    let tools = stoke_image::Tools::of_host(dir.join("stoke-init"));
    build(&config(&dir.join("images"), spec), &tools, &mut silent).unwrap();
}

/// What differs between two images that should be one: parts first, then files of the roots.
fn differences(dir: &Path, ours: (&Store, &BuiltImage), theirs: (&Store, &BuiltImage)) -> String {
    let mut told = format!("{:#?}\n{:#?}\n", ours.1, theirs.1);
    let (ours, theirs) = (files_of(&dir.join("ours"), ours), files_of(&dir.join("theirs"), theirs));
    let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for name in names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)) {
        told.extend([format!("{name}\n  {:?}\n  {:?}\n", ours.get(name), theirs.get(name))]);
    }
    told
}

/// Each file of a root: its line in a listing, and the hash of its content.
fn files_of(folder: &Path, (store, image): (&Store, &BuiltImage)) -> BTreeMap<String, String> {
    let root = store.blob_path(&image.root.blob);
    run("unsquashfs", &["-quiet", "-no-progress", "-dest", text(folder), text(&root)]);
    let mut files = BTreeMap::new();
    for line in run("unsquashfs", &["-lln", text(&root)]).lines() {
        if let Some((attributes, path)) = line.split_once("squashfs-root") {
            files.insert(path.to_owned(), attributes.to_owned());
        }
    }
    let sums = run("sh", &["-c", "cd \"$0\" && find . -type f -print0 | xargs -0 sha256sum", text(folder)]);
    for (sum, path) in sums.lines().filter_map(|line| line.split_once("  .")) {
        files.entry(path.to_owned()).or_default().push_str(sum);
    }
    files
}

/// Edits one package of a lock into a new file.
fn edited(dir: &Path, lock: &Path, name: &str, edit: impl FnOnce(&mut lock::LockedPackage)) -> PathBuf {
    let mut lock = Lock::find(lock).unwrap();
    edit(lock.packages.iter_mut().find(|package| package.name == "kmod").unwrap());
    let path = dir.join(name);
    fs::write(&path, lock.text()).unwrap();
    path
}

fn refused(dir: &Path, store: &Path, lock: &Path) -> BuildError {
    let error = build(&config(store, locked(lock)), &tools(dir), &mut silent).unwrap_err();
    assert_eq!(error.field(), Some("spec.source.debian.lock"), "{error}");
    assert_eq!(fs::read_dir(store.join("tmp")).unwrap().count(), 0);
    error
}

fn a_package_that_is_gone_is_told(dir: &Path, lock: &Path) {
    let gone = edited(dir, lock, "gone.json", |package| {
        package.uri = package.uri.replace("/kmod_", "/kmod-that-never-was_");
    });
    let store = dir.join("empty");
    let error = refused(dir, &store, &gone).to_string();
    assert!(error.starts_with("the archive no longer has kmod "), "{error}");
    assert!(error.contains("404") && error.contains("lock again"), "{error}");
    assert!(Store::open(&store).unwrap().list().unwrap().is_empty());
}

fn a_changed_package_is_refused(dir: &Path, first: &Path, lock: &Path) {
    // What is in the archive is not what was locked.
    let other = edited(dir, lock, "other.json", |package| package.digest = stoke_api::Digest([9; 32]));
    let store = dir.join("other");
    fs::create_dir_all(store.join("cache")).unwrap();
    run("cp", &["-r", text(&first.join("cache/packages")), text(&store.join("cache"))]);
    let error = refused(dir, &store, &other).to_string();
    assert!(error.contains("kmod"), "{error}");
    assert!(Store::open(&store).unwrap().list().unwrap().is_empty());
}

fn a_recipe_that_was_changed_says_that_it_must_be_locked_again(dir: &Path, lock: &Path) {
    let store = dir.join("changed");
    let mut spec = locked(lock);
    spec.source.debian.as_mut().unwrap().packages.push("iproute2".to_owned());
    let error = build(&config(&store, spec), &tools(dir), &mut silent).unwrap_err();
    assert!(error.to_string().ends_with("has no iproute2; lock again: stoke image lock FILE"), "{error}");
}

#[test]
fn a_lock_needs_an_archive_and_names_that_exist() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut spec = recipe();
    let debian = spec.source.debian.as_mut().unwrap();
    debian.packages.push("no-such-package".to_owned());
    let error = Lock::resolve(debian, "amd64", &store).unwrap_err();
    let last = debian.packages.len() - 1;
    assert_eq!(error.field(), Some(&*format!("spec.source.debian.packages[{last}]")));
    debian.suite = "no-such-suite".to_owned();
    let error = Lock::resolve(debian, "amd64", &store).unwrap_err();
    assert_eq!(error.field(), Some("spec.source.debian.mirror"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}
