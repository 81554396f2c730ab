//! What this crate writes, read by others.

use std::io::Write;
use std::process::{Command, Stdio};

use fs_err as fs;
use proptest::prelude::*;
use stoke_image::{cpio, uki, verity};
use tempfile::TempDir;

use crate::world::{run, text};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

#[test]
fn gnu_cpio_lists_an_initramfs() {
    let mut writer = cpio::Writer::new(Vec::new());
    writer.file("etc/stokehold/image.json", 0o644, b"{}").unwrap();
    writer.file("init", 0o755, &[7; 4097]).unwrap();
    writer.character_device("dev/console", 0o600, 5, 1).unwrap();
    writer.symlink("bin", "usr/bin").unwrap();
    let archive = writer.finish().unwrap();
    let mut cpio = Command::new("cpio");
    let cpio = cpio.args(["-tv", "--quiet", "--numeric-uid-gid"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cpio = cpio.spawn().expect("cpio must be installed for this test");
    cpio.stdin.take().unwrap().write_all(&archive).unwrap();
    let output = cpio.wait_with_output().unwrap();
    assert!(output.status.success());
    let listing = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = rows.iter().map(|row| (row[0], *row.last().unwrap())).collect();
    let expected = [
        ("drwxr-xr-x", "etc"),
        ("drwxr-xr-x", "etc/stokehold"),
        ("-rw-r--r--", "etc/stokehold/image.json"),
        ("-rwxr-xr-x", "init"),
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/console"),
        ("lrwxrwxrwx", "usr/bin"),
    ];
    assert_eq!(names, expected);
}

fn veritysetup_accepts(path: &std::path::Path, found: &stoke_api::node::Verity) {
    let blocks = found.data_blocks.to_string();
    let (offset, salt) = (format!("--hash-offset={}", found.hash_offset), format!("--salt={}", found.salt));
    let blocks = format!("--data-blocks={blocks}");
    let fixed = ["--no-superblock", "--data-block-size=4096", "--hash-block-size=4096", "--hash=sha256"];
    let mut arguments = vec!["verify", text(path), text(path), &found.root_hash, &offset, &salt, &blocks];
    arguments.extend(fixed);
    run("veritysetup", &arguments);
}

#[test]
fn veritysetup_agrees_with_every_depth_of_tree() {
    let dir = TempDir::new().unwrap();
    // One block; one hash block filled and overfilled; two levels filled and overfilled.
    for (number, bytes) in
        [100, 4096, 4097, 4096 * 128, 4096 * 129, 4096 * 128 * 128, 4096 * 128 * 128 + 1].iter().enumerate()
    {
        let path = dir.path().join(format!("image{number}"));
        let content: Vec<u8> = (0..*bytes).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(&path, content).unwrap();
        let verity = verity::append(&path).unwrap();
        assert_eq!(verity.hash_offset, u64::from(*bytes).next_multiple_of(4096));
        veritysetup_accepts(&path, &verity);
    }
}

#[test]
fn a_changed_block_has_another_root_hash() {
    let dir = TempDir::new().unwrap();
    let hash = |content: &[u8]| {
        let path = dir.path().join("image");
        fs::write(&path, content).unwrap();
        verity::append(&path).unwrap().root_hash
    };
    let mut content = vec![1; 4096 * 300];
    let before = hash(&content);
    content[4096 * 299 + 5] = 2;
    assert_ne!(hash(&content), before);
}

fn parts(initramfs: Vec<u8>) -> uki::Parts {
    uki::Parts {
        os_release: b"ID=debian\n".to_vec(),
        arguments: "console=ttyS0 quiet".to_owned(),
        kernel_version: "6.1.0-1-amd64".to_owned(),
        initramfs,
        kernel: vec![0x90; 5000],
    }
}

#[test]
fn objdump_sees_sections_that_do_not_overlap() {
    let dir = TempDir::new().unwrap();
    let stub = fs::read(STUB).expect("systemd-boot-efi must be installed for this test");
    let path = dir.path().join("uki.efi");
    fs::write(&path, uki::assemble(&stub, &parts(vec![7; 123_457])).unwrap()).unwrap();
    let listing = run("objdump", &["-h", text(&path)]);
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let rows = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.first().is_some_and(|first| first.parse::<u32>().is_ok()));
    let sections: Vec<_> = rows.map(|row| (row[1].to_owned(), hex(row[2]), hex(row[3]))).collect();
    let names: Vec<_> = sections.iter().map(|(name, ..)| name.as_str()).collect();
    assert!(names.ends_with(&[".osrel", ".cmdline", ".uname", ".initrd", ".linux"]), "{names:?}");
    for pair in sections.windows(2) {
        assert!(pair[0].2 + pair[0].1 <= pair[1].2, "{} runs into {}", pair[0].0, pair[1].0);
    }
    let arguments = dir.path().join("cmdline");
    let only = format!(".cmdline={}", text(&arguments));
    run("objcopy", &["-O", "binary", "--dump-section", &only, text(&path), "/dev/null"]);
    assert!(fs::read(&arguments).unwrap().starts_with(b"console=ttyS0 quiet\0"));
}

#[test]
fn taken_apart_and_put_together_a_uki_is_the_same() {
    let stub = fs::read(STUB).expect("systemd-boot-efi must be installed for this test");
    let made = uki::assemble(&stub, &parts(vec![1; 700])).unwrap();
    let (stub_again, mut found) = uki::take_apart(&made).unwrap();
    assert_eq!(found, parts(vec![1; 700]));
    assert_eq!(uki::assemble(&stub_again, &found).unwrap(), made);
    found.initramfs.extend([2; 9000]);
    let direct = uki::assemble(&stub, &found).unwrap();
    assert_eq!(uki::assemble(&stub_again, &found).unwrap(), direct);
}

proptest! {
    #[test]
    fn no_bytes_panic_as_a_uki(bytes: Vec<u8>, at in 0_usize..2048, value: u8) {
        let _ = uki::take_apart(&bytes);
        let mut stub = fs::read(STUB).expect("systemd-boot-efi must be installed for this test");
        stub[at] = value;
        if let Ok(uki) = uki::assemble(&stub, &parts(vec![1])) {
            let _ = uki::take_apart(&uki);
        }
    }
}
