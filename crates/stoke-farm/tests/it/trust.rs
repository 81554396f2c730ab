//! Who is given secrets. The node's TPM is real but for its hardware; what would have been measured is taken into it here.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::node::{Hello, Manifest};
use stoke_api::objects::{Enrolment, FileEntry, NodeTpm, SecretRef, Trust, Verdict};
use stoke_api::trust::{Challenge, Evidence, FarmSecrets, Hex, Presented, Secrets, SecretsRequest, TrustTerms};
use stoke_api::workload::BlobRef;
use stoke_secureboot::authenticode;
use stoke_tpm::credential::Credential;
use stoke_tpm::{Hash, Template};
use testbed::tpm::Simulator;

use crate::bed::{Bed, MAC, blob_path, must};
use crate::nodes::{begin, hello, post};

const SECRET: &str = "correct horse battery staple";
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const ACTION: u32 = 0x8000_0007;
const APPLICATION: u32 = 0x8000_0003;
const VARIABLE: u32 = 0x8000_0001;

fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// A unified kernel image, and the sections that are measured of it, in that order. A stub stands for a kernel.
struct Image {
    content: Vec<u8>,
    sections: Vec<(&'static str, Vec<u8>)>,
}

impl Image {
    fn new(folder: &Path, arguments: &str) -> Self {
        let kernel = std::fs::read(STUB).unwrap();
        let sections = vec![
            (".linux", kernel),
            (".osrel", b"ID=test\n".to_vec()),
            (".cmdline", arguments.as_bytes().to_vec()),
            (".initrd", vec![7; 3000]),
        ];
        let (mut command, mut address) = (Command::new("objcopy"), 0x1_0000_0000_u64);
        for (name, content) in &sections {
            let file = folder.join(&name[1..]);
            std::fs::write(&file, content).unwrap();
            address += 0x10_0000;
            command.args(["--add-section", &format!("{name}={}", file.display())]);
            command.args(["--change-section-vma", &format!("{name}={address:#x}")]);
        }
        let path = folder.join("image.efi");
        assert!(command.arg(STUB).arg(&path).status().unwrap().success());
        Self { content: std::fs::read(path).unwrap(), sections }
    }

    fn program(&self) -> Hash {
        authenticode::hash(&self.content).unwrap()
    }

    fn kernel(&self) -> Hash {
        authenticode::hash(&self.sections[0].1).unwrap()
    }
}

/// A machine that was switched on: its TPM, and its firmware's log.
struct Machine {
    tpm: Simulator,
    log: Vec<u8>,
}

impl Machine {
    fn off() -> Self {
        let mut first = b"Spec ID Event03\0".to_vec();
        first.extend([0; 8]);
        first.extend(1_u32.to_le_bytes());
        first.extend([0x0b, 0, 32, 0, 0]);
        let length = u32::try_from(first.len()).unwrap().to_le_bytes();
        let log = [&0_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), &[0; 20], &length, &first].concat();
        Self { tpm: Simulator::start().unwrap(), log }
    }

    /// Takes in a measurement and logs it.
    fn measures(&mut self, register: u32, kind: u32, digest: Hash, data: &[u8]) {
        self.tpm.extend(register, &digest).unwrap();
        for number in [register, kind, 1] {
            self.log.extend(number.to_le_bytes());
        }
        self.log.extend([0x0b, 0]);
        self.log.extend(digest);
        self.log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.log.extend(data);
    }

    /// As firmware and systemd's stub start an image.
    fn boots(&mut self, image: &Image) {
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let variable = [&[0; 16][..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[1]].concat();
        self.measures(7, VARIABLE, sha256(&variable), &variable);
        let text = b"Calling EFI Application from Boot Option";
        self.measures(4, ACTION, sha256(text), text);
        self.measures(4, 4, sha256(&[0; 4]), &[0; 4]);
        self.measures(4, APPLICATION, image.program(), b"a path");
        for (name, content) in &image.sections {
            self.tpm.extend(11, &sha256(&[name.as_bytes(), &[0]].concat())).unwrap();
            self.tpm.extend(11, &sha256(content)).unwrap();
        }
        self.measures(4, APPLICATION, image.kernel(), b"another path");
    }

    fn presented(&self, session: &str) -> Presented {
        let mut tpm = self.tpm.connect().unwrap();
        let mut point = |template| {
            let key = tpm.create(template).unwrap();
            tpm.flush(key).unwrap();
            Hex(key.point.bytes().to_vec())
        };
        let (endorsement, attestation) = (point(Template::Endorsement), point(Template::Attestation));
        Presented { session: session.to_owned(), endorsement, attestation, certificate: Hex::default() }
    }

    /// What `stoke farm enroll` would write down.
    fn enrolment(&self) -> Enrolment {
        let point = stoke_tpm::Point::from_bytes(&self.presented("").endorsement.0).unwrap();
        Enrolment { key: Digest(Template::Endorsement.fingerprint(&point)), secure_boot: None }
    }

    fn evidence(&self, asked: &Challenge) -> Evidence {
        let mut tpm = self.tpm.connect().unwrap();
        let endorsement = tpm.create(Template::Endorsement).unwrap();
        let attestation = tpm.create(Template::Attestation).unwrap();
        let made = Credential { blob: asked.credential.0.clone(), seed: asked.seed.0.clone() };
        let secret = tpm.activate(endorsement, attestation, &made).unwrap();
        let registers = tpm.registers(&asked.registers).unwrap();
        let quote = tpm.quote(attestation, &asked.nonce.0, &asked.registers).unwrap();
        tpm.flush(endorsement).unwrap();
        tpm.flush(attestation).unwrap();
        Evidence {
            secret: Hex(secret),
            statement: Hex(quote.statement),
            signature: Hex(quote.signature),
            registers: registers.into_iter().map(|(number, value)| (number, Hex(value.to_vec()))).collect(),
            log: Hex(self.log.clone()),
        }
    }
}

/// A farm whose node has a secret, and whose image has a unified kernel image.
fn bed(trust: Trust) -> (Bed, Image) {
    let mut bed = Bed::stopped();
    let image = Image::new(bed.folder.path(), "quiet");
    let digest = Digest(sha256(&image.content));
    std::fs::write(bed.config.blobs.join("sha256").join(digest.hex()), &image.content).unwrap();
    bed.config.images[0].uki = Some(BlobRef { digest, size: u64::try_from(image.content.len()).unwrap() });
    bed.config.trust = trust;
    let secret = SecretRef { file: Some("/etc/lab/token".into()), ..SecretRef::default() };
    let file = FileEntry { path: "/etc/token".into(), secret: Some(secret), ..FileEntry::default() };
    bed.config.nodes[0].config.files.push(file);
    bed.start();
    (bed, image)
}

/// Gives the farm its secrets, as `stoke up` does.
fn give(bed: &Bed) {
    let content = Hex(SECRET.as_bytes().to_vec());
    let secrets = Secrets { secrets: [("/etc/lab/token".to_owned(), content)].into() };
    let body = serde_json::to_string(&FarmSecrets { id: "first".into(), secrets }).unwrap();
    let mut stream = UnixStream::connect(bed.path("admin.sock")).unwrap();
    let length = body.len();
    let head = "POST /secrets HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    bed.wait("the farm to have its secrets", |bed| bed.report().secrets == "first");
}

fn ask(bed: &Bed, session: &str, evidence: Option<Evidence>) -> (String, String) {
    // More than fits into an argument.
    let body = serde_json::to_vec(&SecretsRequest { session: session.to_owned(), evidence }).unwrap();
    let file = bed.path("request.json");
    std::fs::write(&file, body).unwrap();
    let url = format!("https://{}:{}/v1/node/secrets", bed.config.address, bed.config.node_port);
    let (ca, body) = (bed.config.certificate.to_str().unwrap(), format!("@{}", file.display()));
    let words =
        ["-sS", "--cacert", ca, "-H", "content-type: application/json", "-d", &body, "-w", "\n%{http_code}", &url];
    let answer = must("curl", &words);
    let (text, status) = answer.rsplit_once('\n').unwrap();
    (text.to_owned(), status.to_owned())
}

fn challenge(bed: &Bed, machine: &Machine, session: &str) -> Challenge {
    let (text, status) = post(bed, "/v1/node/attest", &machine.presented(session));
    assert_eq!(status, "200", "{text}");
    serde_json::from_str(&text).unwrap()
}

fn tpm(bed: &Bed) -> NodeTpm {
    bed.report().nodes[0].state.tpm.clone().unwrap()
}

/// Tries to prove, and returns what is told then.
fn proof(bed: &Bed, machine: &Machine) -> (String, String) {
    let manifest: Manifest = begin(bed, MAC);
    let asked = challenge(bed, machine, &manifest.session);
    ask(bed, &manifest.session, Some(machine.evidence(&asked)))
}

fn is_the_secret(text: &str) -> bool {
    let secrets: Secrets = serde_json::from_str(text).unwrap();
    secrets.secrets["/etc/lab/token"].0 == SECRET.as_bytes()
}

#[test]
fn on_a_trusted_network_secrets_are_given_once_at_the_beginning_of_a_boot() {
    let (mut bed, _) = bed(Trust::Network);
    let manifest = begin(&bed, MAC);
    assert_eq!(manifest.trust, TrustTerms { proof: false, secrets: true });
    let (text, status) = ask(&bed, &manifest.session, None);
    assert!(status == "503" && text.contains("/etc/lab/token"), "{status} {text}");
    give(&bed);
    let (text, status) = ask(&bed, &manifest.session, None);
    assert_eq!(status, "200", "{text}");
    assert!(is_the_secret(&text));
    assert!(!bed.report().nodes[0].state.secrets_given.is_empty());
    assert_eq!(ask(&bed, &manifest.session, None).1, "410", "twice in one session");
    assert_eq!(ask(&bed, "another session", None).1, "410");
    // A node that runs has what it was given.
    let (text, _) = post(&bed, "/v1/node/hello", &Hello { orders_seen: Some(0), ..hello(&bed, MAC) });
    let running: Manifest = serde_json::from_str(&text).unwrap();
    assert_eq!(running.trust, TrustTerms::default());
    assert_eq!(ask(&bed, &running.session, None).1, "410");
    // It is nowhere on disk, nor in a log; and a farm that was killed has it no more.
    let again = begin(&bed, MAC);
    bed.kill();
    let found = Command::new("grep").args(["-rlaF", SECRET]).arg(bed.folder.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    bed.start();
    assert_eq!(ask(&bed, &again.session, None).1, "503");
    give(&bed);
    assert_eq!(ask(&bed, &again.session, None).1, "200");
}

#[test]
fn a_tpm_that_is_enrolled_and_proves_what_runs_is_given_secrets() {
    let (mut bed, image) = bed(Trust::Tpm);
    give(&bed);
    let mut machine = Machine::off();
    machine.boots(&image);
    let manifest = begin(&bed, MAC);
    assert_eq!(manifest.trust, TrustTerms { proof: true, secrets: true });
    assert_eq!(ask(&bed, &manifest.session, None).1, "409", "without a proof");
    let (text, status) = post(&bed, "/v1/node/attest", &machine.presented(&manifest.session));
    let key = machine.enrolment().key;
    assert!(status == "503" && text.contains("stoke farm enroll server/rack1-07"), "{status} {text}");
    assert!(text.contains(&key.to_string()), "{text}");
    assert_eq!((tpm(&bed).key, tpm(&bed).verdict), (key, Verdict::NotEnrolled));
    bed.config.nodes[0].enrolment = Some(machine.enrolment());
    bed.reload();
    let asked = challenge(&bed, &machine, &manifest.session);
    assert_eq!(tpm(&bed).verdict, Verdict::Asked);
    let evidence = machine.evidence(&asked);
    let (text, status) = ask(&bed, &manifest.session, Some(evidence.clone()));
    assert_eq!(status, "200", "{text}");
    assert!(is_the_secret(&text));
    let proven = tpm(&bed);
    assert!(proven.verdict == Verdict::Proven && proven.secure_boot_is_on, "{proven:?}");
    assert_eq!(ask(&bed, &manifest.session, Some(evidence.clone())).1, "410");
    // An old proof is of no use in another session, and neither is one in which a question was answered before.
    let next = begin(&bed, MAC);
    challenge(&bed, &machine, &next.session);
    let (text, status) = ask(&bed, &next.session, Some(evidence));
    assert!(status == "403" && text.contains("its attestation key is not in the TPM"), "{status} {text}");
    // Known from now on: Secure Boot as it was.
    let enrolment = Enrolment { secure_boot: proven.secure_boot, ..machine.enrolment() };
    bed.config.nodes[0].enrolment = Some(enrolment);
    bed.reload();
    assert_eq!(proof(&bed, &machine).1, "200");
    machine.measures(7, 1, [1; 32], b"");
    let (text, status) = proof(&bed, &machine);
    assert!(status == "403" && text.contains("Secure Boot is not as it was"), "{status} {text}");
}

#[test]
fn what_was_measured_otherwise_is_refused() {
    let (mut bed, image) = bed(Trust::Tpm);
    give(&bed);
    let refused = |bed: &mut Bed, machine: &Machine, why: &str| {
        bed.config.nodes[0].enrolment = Some(machine.enrolment());
        bed.reload();
        let (text, status) = proof(bed, machine);
        assert!(status == "403" && text.contains(why), "{why}: {status} {text}");
        assert_eq!(tpm(bed).verdict, Verdict::Refused);
        assert_eq!(bed.report().nodes[0].state.secrets_given, "");
    };
    let mut other = Machine::off();
    other.boots(&Image::new(bed.folder.path(), "init=/bin/sh"));
    refused(&mut bed, &other, "register 11 is not that of this version's unified kernel image");
    let mut before = Machine::off();
    before.measures(4, APPLICATION, [9; 32], b"a boot loader");
    before.boots(&image);
    refused(&mut bed, &before, "a program was started that is none of this farm's");
    // The same, with a log that calls it otherwise.
    let mut disguised = Machine::off();
    disguised.measures(4, ACTION, [9; 32], b"Calling EFI Application from Boot Option");
    disguised.boots(&image);
    refused(&mut bed, &disguised, "a program was started that is none of this farm's");
    let mut hidden = Machine::off();
    hidden.tpm.extend(4, &[9; 32]).unwrap();
    hidden.boots(&image);
    refused(&mut bed, &hidden, "the firmware's log does not add up to register 4");
    let mut added = Machine::off();
    added.boots(&image);
    added.tpm.extend(12, &[9; 32]).unwrap();
    refused(&mut bed, &added, "register 12 is not empty");
    let mut off = Machine::off();
    off.boots(&image);
    off.log.truncate(30);
    refused(&mut bed, &off, "this is no log of measurements");
}

#[test]
fn another_tpm_and_no_tpm_are_given_nothing() {
    let (mut bed, image) = bed(Trust::Tpm);
    give(&bed);
    let (mut machine, mut thief) = (Machine::off(), Machine::off());
    machine.boots(&image);
    thief.boots(&image);
    bed.config.nodes[0].enrolment = Some(machine.enrolment());
    bed.reload();
    let manifest = begin(&bed, MAC);
    let (text, status) = post(&bed, "/v1/node/attest", &thief.presented(&manifest.session));
    assert!(
        status == "403" && text.contains("if it was replaced: stoke farm enroll server/rack1-07"),
        "{status} {text}"
    );
    // The right endorsement key, and an attestation key of another TPM.
    let mixed = Presented { attestation: thief.presented("").attestation, ..machine.presented(&manifest.session) };
    let (text, status) = post(&bed, "/v1/node/attest", &mixed);
    assert_eq!(status, "200", "{text}");
    let asked: Challenge = serde_json::from_str(&text).unwrap();
    let mut tpm = machine.tpm.connect().unwrap();
    let endorsement = tpm.create(Template::Endorsement).unwrap();
    let attestation = tpm.create(Template::Attestation).unwrap();
    let made = Credential { blob: asked.credential.0.clone(), seed: asked.seed.0.clone() };
    assert!(tpm.activate(endorsement, attestation, &made).is_err());
    let presented = Presented { endorsement: Hex(vec![1; 64]), ..thief.presented(&manifest.session) };
    assert_eq!(post(&bed, "/v1/node/attest", &presented).1, "403");
}

#[test]
fn a_version_below_the_minimum_is_refused_unless_it_runs_already() {
    let (mut bed, _) = bed(Trust::Network);
    bed.config.minimum_built_at = bed.config.images[0].built_at;
    bed.reload();
    assert_eq!(begin(&bed, MAC).minimum_built_at, bed.config.minimum_built_at);
    bed.config.minimum_built_at += 1;
    bed.reload();
    let (text, status) = post(&bed, "/v1/node/hello", &hello(&bed, MAC));
    assert!(status == "409" && text.contains("below this farm's minimum"), "{status} {text}");
    let (text, status) = post(&bed, "/v1/node/hello", &Hello { orders_seen: Some(0), ..hello(&bed, MAC) });
    assert_eq!(status, "200", "{text}");
}

#[test]
fn an_image_that_was_changed_where_it_lies_is_not_what_is_expected() {
    let (mut bed, image) = bed(Trust::Tpm);
    give(&bed);
    let mut machine = Machine::off();
    machine.boots(&image);
    bed.config.nodes[0].enrolment = Some(machine.enrolment());
    bed.reload();
    let digest = bed.config.images[0].uki.unwrap().digest;
    let path = bed.config.blobs.join("sha256").join(digest.hex());
    let mut changed = image.content;
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(path, changed).unwrap();
    let (text, status) = proof(&bed, &machine);
    assert!(status == "503" && text.contains("is damaged"), "{status} {text}");
    assert!(must("curl", &["-sS", &bed.http(&blob_path(&digest))]).len() > 1);
}
