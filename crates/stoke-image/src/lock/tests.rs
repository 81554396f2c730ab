use stoke_api::objects::Hooks;

use super::*;
use crate::store::Package;

fn package(name: &str, required: bool) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: "1:2~x".to_owned(),
        architecture: "amd64".to_owned(),
        digest: Digest([7; 32]),
        size: 9,
        uri: format!("http://m/{name}.deb"),
        required,
    }
}

fn lock() -> Lock {
    Lock {
        format: FORMAT,
        suite: "bookworm".to_owned(),
        architecture: "amd64".to_owned(),
        created: 5,
        sources: vec!["deb http://m bookworm main".to_owned()],
        wanted: vec!["udev".to_owned()],
        packages: vec![package("udev", false), package("base-files", true)],
    }
}

fn recipe(packages: &[&str]) -> DebianSource {
    DebianSource {
        suite: "bookworm".to_owned(),
        mirror: None,
        components: vec!["main".to_owned()],
        keyring: None,
        packages: packages.iter().map(|&name| name.to_owned()).collect(),
        lock: None,
        files: Vec::new(),
        hooks: Hooks::default(),
    }
}

#[test]
fn a_package_is_a_line() {
    let text = lock().text();
    assert!(text.contains("\n    {\"name\":\"udev\",\"version\":\"1:2~x\""), "{text}");
    assert_eq!(serde_json::from_str::<Lock>(&text).unwrap(), lock());
    let empty = Lock { packages: Vec::new(), ..lock() };
    assert_eq!(serde_json::from_str::<Lock>(&empty.text()).unwrap(), empty);
}

#[test]
fn a_lock_of_another_recipe_is_told_by_the_difference() {
    assert_eq!(lock().fits(&recipe(&["udev"]), "amd64"), Ok(()));
    let told = lock().fits(&recipe(&["kmod"]), "amd64").unwrap_err();
    assert_eq!(told, "has no kmod, has udev, which the recipe does not name");
    let told = lock().fits(&DebianSource { suite: "trixie".to_owned(), ..recipe(&["udev"]) }, "amd64").unwrap_err();
    assert_eq!(told, "was made for the suite bookworm, and the recipe wants trixie");
    assert!(Lock { format: 9, ..lock() }.fits(&recipe(&["udev"]), "amd64").unwrap_err().contains("format 9"));
}

#[test]
fn what_is_installed_beside_the_lock_is_told() {
    let installed = |name: &str| {
        let (name, version, architecture) = (name.to_owned(), "1:2~x".to_owned(), "amd64".to_owned());
        Described { package: Package { name, version, architecture }, source: None, maintainer: None, homepage: None }
    };
    let both = [installed("udev"), installed("base-files")];
    lock().check_installed("/l", &both).unwrap();
    let error = lock().check_installed("/l", &[installed("udev"), installed("extra")]).unwrap_err().to_string();
    assert!(error.starts_with("/l: base-files 1:2~x is not installed, extra 1:2~x is, and is not locked"), "{error}");
}

#[test]
fn a_file_that_changed_meanwhile_is_not_read() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("lock.json");
    fs::write(&path, lock().text()).unwrap();
    let pinned = pin(&path).unwrap();
    let read = |reference: &str| Lock::of_recipe(reference, &recipe(&["udev"]), "amd64").map(|(lock, _)| lock);
    assert_eq!(read(&pinned).unwrap(), lock());
    assert_eq!(read(path.to_str().unwrap()).unwrap(), lock());
    fs::write(&path, Lock { created: 6, ..lock() }.text()).unwrap();
    assert!(read(&pinned).unwrap_err().to_string().contains("changed while"));
    fs::write(&path, Lock { created: u64::MAX, ..lock() }.text()).unwrap();
    assert!(read(path.to_str().unwrap()).unwrap_err().to_string().contains("clock"));
    fs::write(&path, "{}").unwrap();
    let error = read(path.to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("lock again: stoke image lock FILE"), "{error}");
    assert_eq!(error.field(), Some("spec.source.debian.lock"));
}
