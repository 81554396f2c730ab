//! What is measured of a unified kernel image, by systemd's own tool.

use std::path::Path;
use std::process::Command;

use stoke_secureboot::measured::Measured;
use stoke_secureboot::{KeySet, authenticode};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const MEASURE: &str = "/lib/systemd/systemd-measure";

fn output(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().unwrap_or_else(|error| panic!("{program}: {error}; is its Debian package installed?"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The stub with these sections, each behind the one before; a stub is a program and can stand for a kernel.
fn unified(folder: &Path, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut command = Command::new("objcopy");
    let mut address = 0x1_0000_0000_u64;
    for (name, content) in sections {
        let file = folder.join(&name[1..]);
        std::fs::write(&file, content).unwrap();
        address += 0x10_0000;
        command.args(["--add-section", &format!("{name}={}", file.display())]);
        command.args(["--change-section-vma", &format!("{name}={address:#x}")]);
    }
    let image = folder.join("image.efi");
    output(command.arg(STUB).arg(&image));
    std::fs::read(image).unwrap()
}

#[test]
fn register_11_is_what_systemd_measure_says() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = std::fs::read(STUB).unwrap();
    let initramfs: Vec<u8> =
        (0..100_003_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let sections = [
        (".osrel", &b"ID=debian\n"[..]),
        (".cmdline", &b"console=ttyS0 quiet\0"[..]),
        (".uname", &b"6.1.0\0"[..]),
        (".initrd", &initramfs),
        (".linux", &kernel),
    ];
    let image = unified(folder.path(), &sections);
    let file = |name: &str| format!("--{name}={}", folder.path().join(name).display());
    let words = ["linux", "osrel", "cmdline", "initrd"].map(file);
    let text = output(Command::new(MEASURE).arg("calculate").args(words).args(["--bank=sha256", "--phase=:"]));
    let expected = text.lines().find_map(|line| line.strip_prefix("11:sha256=")).unwrap().to_owned();
    let measured = Measured::of(&image).unwrap();
    let hex = measured.register_11.map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(hex, expected);
    assert_eq!(measured.kernel, authenticode::hash(&kernel).unwrap());
    let mut other = sections;
    other[1].1 = b"console=ttyS0 init=/bin/sh\0";
    let other = Measured::of(&unified(folder.path(), &other)).unwrap();
    assert!(other.register_11 != measured.register_11 && other.program != measured.program);
}

#[test]
fn a_signature_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = std::fs::read(STUB).unwrap();
    let mut image = unified(folder.path(), &[(".linux", &kernel)]);
    image.resize(image.len().next_multiple_of(8), 0);
    let keys = KeySet::create(&folder.path().join("keys"), "Lab").unwrap();
    let signed = authenticode::sign(image.clone(), &keys.signer().unwrap()).unwrap();
    assert_ne!(image, signed);
    assert_eq!(Measured::of(&image), Measured::of(&signed));
}

#[test]
fn what_is_no_unified_kernel_image_is_not_measured() {
    assert_eq!(Measured::of(&std::fs::read(STUB).unwrap()), None);
    assert_eq!(Measured::of(b"MZ"), None);
}
