//! The store: what it keeps, what it removes, and what a killed writer leaves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use fs_err as fs;
use stoke_image::Store;
use tempfile::TempDir;

use crate::world::text;

#[test]
fn the_same_bytes_are_one_blob() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    let blob = store.put_bytes(b"kernel").unwrap();
    fs::write(dir.path().join("file"), b"kernel").unwrap();
    assert_eq!(store.put_file(dir.path().join("file")).unwrap(), blob);
    assert_eq!(fs::read(store.blob_path(&blob.digest)).unwrap(), b"kernel");
    assert_eq!(fs::read_dir(store.blobs().join("sha256")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_new_store_is_an_oci_layout_without_images() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    assert!(store.list().unwrap().is_empty());
    assert!(store.find("default/node").unwrap().is_none());
}

#[test]
fn a_damaged_index_is_told_by_its_path() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    fs::write(dir.path().join("index.json"), b"{").unwrap();
    let error = store.find("default/node").unwrap_err().to_string();
    assert!(error.contains("index.json of the image store is damaged"), "{error}");
}

/// Not a test of its own: what [`a_killed_builder_leaves_nothing`] kills. It works in a store until it is killed.
#[test]
#[ignore = "run by a_killed_builder_leaves_nothing"]
fn helper_that_is_killed_at_work() {
    let Ok(dir) = std::env::var("STOKE_IMAGE_TEST_STORE") else { return };
    let store = Store::open(dir).unwrap();
    // A named pipe without a writer: the copy into the store cannot end.
    println!("AT WORK");
    let _ = store.put_file(store.path().join("endless"));
}

#[test]
fn a_killed_builder_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    crate::world::run("mkfifo", &[text(&dir.path().join("endless"))]);
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args(["--exact", "store::helper_that_is_killed_at_work", "--ignored", "--nocapture"]);
    let mut helper = helper.env("STOKE_IMAGE_TEST_STORE", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(helper.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("AT WORK")));
    // A writer on the pipe lets the helper open it: from then on it has a workspace with half a blob.
    let mut writer = fs::OpenOptions::new().write(true).open(dir.path().join("endless")).unwrap();
    std::io::Write::write_all(&mut writer, b"half").unwrap();
    let busy = || fs::read_dir(store.path().join("tmp")).unwrap().count();
    assert_eq!(busy(), 1);
    // Another process opens the store meanwhile: the living owner's work stays.
    Store::open(dir.path()).unwrap();
    assert_eq!(busy(), 1);
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert_eq!(busy(), 1);
    Store::open(dir.path()).unwrap();
    assert_eq!(busy(), 0);
    assert_eq!(fs::read_dir(store.blobs().join("sha256")).unwrap().count(), 0);
}
