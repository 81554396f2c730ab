//! Keys and signatures, judged by other people's tools: sbverify (sbsigntool), efitools, openssl.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use stoke_secureboot::variables::Variable;
use stoke_secureboot::{KeyError, KeySet, authenticode, store};

/// systemd's stub: a PE program as they come from a linker.
const PROGRAM: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

fn run(program: &str, arguments: &[&Path]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}); is its Debian package installed?"))
}

fn verifies(certificate: &Path, program: &Path) -> bool {
    run("sbverify", &[Path::new("--cert"), certificate, program]).status.success()
}

#[test]
fn a_signed_program_is_verified_by_its_own_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ours = KeySet::create(&folder.path().join("ours"), "Lab").unwrap();
    let other = KeySet::create(&folder.path().join("other"), "Other").unwrap();
    let unsigned = std::fs::read(PROGRAM).unwrap();
    let signed = authenticode::sign(unsigned.clone(), &ours.signer().unwrap()).unwrap();
    assert_eq!(authenticode::sign(unsigned.clone(), &ours.signer().unwrap()).unwrap(), signed);
    let file = folder.path().join("signed.efi");
    std::fs::write(&file, &signed).unwrap();
    let certificate = |keys: &KeySet| keys.folder().join("db.crt");
    assert!(verifies(&certificate(&ours), &file));
    assert!(!verifies(&certificate(&other), &file));
    // Who signs twice would leave the first signature in what the second one covers.
    assert!(matches!(
        authenticode::sign(signed.clone(), &ours.signer().unwrap()),
        Err(authenticode::SignError::Signed)
    ));
    // A changed byte of a section, and of what was appended.
    for at in [unsigned.len() / 2, unsigned.len() - 1] {
        let mut changed = signed.clone();
        changed[at] ^= 1;
        std::fs::write(&file, &changed).unwrap();
        assert!(!verifies(&certificate(&ours), &file), "byte {at}");
    }
}

#[test]
fn a_program_that_a_second_tool_signs_hashes_alike() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeySet::create(&folder.path().join("keys"), "Lab").unwrap();
    let (key, certificate) = (keys.folder().join("db.key"), keys.folder().join("db.crt"));
    let theirs = folder.path().join("theirs.efi");
    let words = ["--key", "--cert", "--output"].map(Path::new);
    let output = run("sbsign", &[words[0], &key, words[1], &certificate, words[2], &theirs, Path::new(PROGRAM)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut unsigned = std::fs::read(PROGRAM).unwrap();
    unsigned.resize(unsigned.len().next_multiple_of(8), 0);
    let hash = authenticode::hash(&unsigned).unwrap();
    let theirs = std::fs::read(theirs).unwrap();
    assert!(theirs.windows(32).any(|window| window == hash), "sbsign signed another hash");
}

#[test]
fn keys_are_their_owners_alone_and_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    assert_eq!(KeySet::find(&path), None);
    let keys = KeySet::create(&path, "Lab").unwrap();
    assert!(matches!(KeySet::create(&path, "Lab"), Err(KeyError::Exists(_))));
    assert_eq!(KeySet::find(&path), Some(keys));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for name in ["PK.key", "KEK.key", "db.key"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
    let subject = run(
        "openssl",
        &["x509", "-noout", "-subject", "-in"]
            .map(Path::new)
            .iter()
            .copied()
            .chain([path.join("KEK.crt").as_path()])
            .collect::<Vec<_>>(),
    );
    assert!(String::from_utf8_lossy(&subject.stdout).contains("Lab KEK"), "{subject:?}");
}

#[test]
fn what_is_exported_is_what_efitools_make() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeySet::create(&folder.path().join("keys"), "Lab").unwrap();
    let at = jiff::civil::date(2026, 11, 21).at(12, 0, 0, 0);
    let exported = keys.export(at).unwrap();
    let names: Vec<_> = exported.iter().map(|file| file.name.as_str()).collect();
    let expected = ["db.cer", "db.esl", "db.auth", "KEK.cer", "KEK.esl", "KEK.auth", "PK.cer", "PK.esl", "PK.auth"];
    assert_eq!(names, expected);
    for file in &exported {
        std::fs::write(folder.path().join(&file.name), &file.content).unwrap();
        assert!(!file.content.windows(7).any(|window| window == b"PRIVATE"));
    }
    // The list is theirs to the byte, with the same owner.
    let owner = stoke_secureboot::variables::OWNER.to_string();
    let theirs = folder.path().join("theirs.esl");
    let arguments = [Path::new("-g"), Path::new(&owner), &keys.folder().join("db.crt"), &theirs];
    assert!(run("cert-to-efi-sig-list", &arguments).status.success());
    assert_eq!(std::fs::read(&theirs).unwrap(), std::fs::read(folder.path().join("db.esl")).unwrap());
    // The signature of an update is openssl's to judge: over name, vendor, attributes, time and content.
    let update = std::fs::read(folder.path().join("db.auth")).unwrap();
    let length = usize::try_from(u32::from_le_bytes(update[16..20].try_into().unwrap())).unwrap();
    let (signature, content) = (&update[40..16 + length], &update[16 + length..]);
    assert_eq!(content, std::fs::read(folder.path().join("db.esl")).unwrap());
    let signed =
        [b"d\0b\0", &Variable::Db.vendor().to_bytes_le()[..], &[0x27, 0, 0, 0], &update[..16], content].concat();
    std::fs::write(folder.path().join("signed"), signed).unwrap();
    // Firmware takes the bare form; openssl wants it wrapped, which it does itself when it is given the type.
    let wrapped = wrap(signature);
    std::fs::write(folder.path().join("signature"), wrapped).unwrap();
    let verify = |certificate: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(folder.path()).args(["smime", "-verify", "-inform", "DER", "-in", "signature"]);
        command.args(["-content", "signed", "-binary", "-noverify", "-nointern", "-certfile"]);
        command.arg(keys.folder().join(certificate)).output().expect("openssl").status.success()
    };
    assert!(verify("KEK.crt"));
    assert!(!verify("PK.crt"));
}

/// The content info around signed data (RFC 2315, section 7).
fn wrap(signed_data: &[u8]) -> Vec<u8> {
    let long = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    };
    let object = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    long(0x30, &[&object[..], &long(0xa0, signed_data)].concat())
}

#[test]
fn keys_go_into_the_flash_of_a_virtual_machine() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeySet::create(&folder.path().join("keys"), "Lab").unwrap();
    let at = jiff::civil::date(2026, 11, 21).at(12, 0, 0, 0);
    for template in ["/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"] {
        let mut flash = std::fs::read(template).unwrap();
        let lists = keys.lists().unwrap();
        store::enroll(&mut flash, &lists, at).unwrap();
        for (variable, list) in lists {
            assert_eq!(store::get(&flash, variable.name(), variable.vendor()).unwrap(), Some(list), "{template}");
        }
    }
}
