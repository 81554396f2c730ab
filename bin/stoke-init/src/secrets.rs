//! This node's secrets: asked for at the beginning of its boot, if need be after its TPM has said what runs.
//!
//! The TPM's own keys are made anew each time from its seed and are the same each time; nothing of them is kept here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use stoke_api::trust::{Challenge, Evidence, Hex, Presented, SecretsRequest, TrustTerms};
use stoke_tpm::credential::Credential;
use stoke_tpm::{Template, Tpm, Transport};

use crate::configure::Secrets;
use crate::farm::{Farm, FarmError};
use crate::journal::Journal;

/// The kernel's TPM, with room for more keys than the TPM itself has.
const DEVICE: &str = "/dev/tpmrm0";
/// Longest answer of a TPM of a PC (TCG, "PC Client Platform TPM Profile", section 4.4).
const ANSWER: usize = 4096;
/// Where the kernel shows the firmware's log.
const SECURITY: &str = "/sys/kernel/security";
const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// The device as a way to the TPM.
struct Device(File);

impl Transport for Device {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut answer = vec![0; ANSWER];
        let length = self.0.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Asks for the secrets, as often as the farm says that it will have them later. Where there are none to be had, what goes
/// wrong with the proof is told and no more.
pub(crate) fn fetch(farm: &Farm, session: &str, terms: TrustTerms, journal: &Journal) -> Result<Secrets> {
    if terms == TrustTerms::default() {
        return Ok(Secrets::new());
    }
    let mut said = String::new();
    loop {
        let error = match attempt(farm, session, terms) {
            Ok(secrets) => {
                if terms.secrets {
                    journal.say(&format!("{} secrets from the farm", secrets.len()));
                }
                return Ok(secrets);
            }
            Err(error) if !terms.secrets => {
                journal.say(&format!("no proof of what runs: {error:#}"));
                return Ok(Secrets::new());
            }
            Err(error) => error,
        };
        let Some(FarmError::Wait { after, message }) = error.downcast_ref() else {
            return Err(error.context("the node's secrets"));
        };
        if said != *message {
            journal.say(&format!("waiting for secrets: {message}"));
            said.clone_from(message);
        }
        std::thread::sleep(*after);
    }
}

fn attempt(farm: &Farm, session: &str, terms: TrustTerms) -> Result<Secrets> {
    let evidence = terms.proof.then(|| prove(farm, session)).transpose()?;
    let given = farm.secrets(&SecretsRequest { session: session.to_owned(), evidence })?;
    Ok(given.secrets.into_iter().map(|(name, content)| (name, content.0)).collect())
}

/// Shows the TPM, and has it answer what the farm asks.
fn prove(farm: &Farm, session: &str) -> Result<Evidence> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = device.with_context(|| format!("this machine has no TPM 2.0 that Linux drives ({DEVICE})"))?;
    let mut tpm = Tpm::new(Device(device));
    let endorsement = tpm.create(Template::Endorsement).context("no endorsement key")?;
    let attestation = tpm.create(Template::Attestation).context("no attestation key")?;
    let presented = Presented {
        session: session.to_owned(),
        endorsement: Hex(endorsement.point.bytes().to_vec()),
        attestation: Hex(attestation.point.bytes().to_vec()),
        certificate: Hex(tpm.certificate()?.unwrap_or_default()),
    };
    let Challenge { credential, seed, nonce, registers } = farm.attest(&presented)?;
    let made = Credential { blob: credential.0, seed: seed.0 };
    let secret = tpm.activate(endorsement, attestation, &made).context("the farm's credential does not open")?;
    let values = tpm.registers(&registers)?;
    let quote = tpm.quote(attestation, &nonce.0, &registers)?;
    // The kernel forgets the keys when the device is closed.
    Ok(Evidence {
        secret: Hex(secret),
        statement: Hex(quote.statement),
        signature: Hex(quote.signature),
        registers: values.into_iter().map(|(number, value)| (number, Hex(value.to_vec()))).collect(),
        log: Hex(firmware_log()),
    })
}

/// The firmware's log; empty if there is none, which the farm will not like.
fn firmware_log() -> Vec<u8> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    let mounted = mount("securityfs", SECURITY, "securityfs", flags, None).is_ok();
    let log = std::fs::read(LOG).unwrap_or_default();
    if mounted {
        // The system mounts it for itself.
        let _ = unmount(SECURITY, UnmountFlags::DETACH);
    }
    log
}
