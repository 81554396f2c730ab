//! Whether a node runs what its farm handed out: its TPM's statement against what the farm knows of its own images. Pure.
//!
//! What is checked, in this order: both keys are in one TPM, which is the enrolled one; that TPM said just now what its
//! registers are; register 11 is that of the unified kernel image of the node's version, and nothing was added to its arguments;
//! the firmware's log adds up, and all programs that it says were started are the farm's; Secure Boot is as it was when the
//! TPM was enrolled.

use stoke_api::Digest;
use stoke_api::trust::{Challenge, Evidence};
use stoke_secureboot::measured::Measured;
use stoke_tpm::log::{self, Entry, LogError, PROGRAMS, SECURE_BOOT};
use stoke_tpm::quote::{QuoteError, Registers};
use stoke_tpm::{Hash, Point, Quote};

/// What a node is asked for: firmware and its settings, programs, Secure Boot, the unified kernel image, its arguments, its
/// additions.
pub const REGISTERS: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13];
/// What systemd's stub takes its own sections into.
const UNIFIED: u32 = 11;
/// What it takes arguments and additions into that are not its own; nothing of that should be.
const ADDED: [u32; 2] = [12, 13];

/// What was asked of a node, until it answers.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    /// The session.
    pub session: String,
    /// In the credential; only the right TPM knows it.
    pub secret: [u8; 32],
    /// What the quote must be over.
    pub nonce: [u8; 32],
    /// The key that must have signed it.
    pub attestation: Point,
}

/// What a node of a version is expected to have been measured as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The version's unified kernel image.
    pub image: Measured,
    /// Other programs of the farm that may have been started before it.
    pub programs: Vec<Hash>,
    /// Register 7, if it is known.
    pub secure_boot: Option<Digest>,
}

/// What is proven besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Register 7.
    pub secure_boot: Digest,
    /// Whether the firmware starts only what is signed.
    pub secure_boot_is_on: bool,
}

/// Why a node's proof is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// The credential was not opened.
    #[error("its attestation key is not in the TPM of its endorsement key")]
    Secret,
    /// The TPM's statement is of no use.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// Not all registers that were asked for.
    #[error("it does not show the registers that were asked for")]
    Registers,
    /// Another unified kernel image.
    #[error(
        "register 11 is not that of this version's unified kernel image: another kernel, initramfs or command line runs, or it \
         was not started as one (BIOS, or kernel and initramfs by a boot loader)"
    )]
    Image,
    /// Something was added to it.
    #[error("register {0} is not empty: kernel arguments or files were added at boot")]
    Added(u32),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log is not of this boot.
    #[error("the firmware's log does not add up to register {0}")]
    Sum(u32),
    /// A program of somebody else's.
    #[error("a program was started that is none of this farm's: {0}")]
    Program(Digest),
    /// The log does not mention the image.
    #[error("the firmware has not started this version's unified kernel image")]
    NotStarted,
    /// Other settings than at enrolment.
    #[error("Secure Boot is not as it was when its TPM was enrolled: other settings, or other keys")]
    SecureBoot,
}

impl Asked {
    /// What the node is told.
    pub fn challenge(&self, credential: stoke_tpm::credential::Credential) -> Challenge {
        Challenge {
            credential: stoke_api::trust::Hex(credential.blob),
            seed: stoke_api::trust::Hex(credential.seed),
            nonce: stoke_api::trust::Hex(self.nonce.to_vec()),
            registers: REGISTERS.to_vec(),
        }
    }

    /// Checks the answer.
    ///
    /// # Errors
    /// With the first thing that is not as it should be.
    pub fn verify(&self, evidence: &Evidence, expected: &Expected) -> Result<Proof, Unproven> {
        let right = evidence.secret.0.iter().zip(&self.secret).fold(0, |all, (one, other)| all | (one ^ other)) == 0;
        if !right || evidence.secret.0.len() != self.secret.len() {
            return Err(Unproven::Secret);
        }
        let registers = registers(evidence).ok_or(Unproven::Registers)?;
        let quote = Quote { statement: evidence.statement.0.clone(), signature: evidence.signature.0.clone() };
        quote.verify(&self.attestation, &self.nonce, &registers)?;
        if registers.get(&UNIFIED) != Some(&expected.image.register_11) {
            return Err(Unproven::Image);
        }
        if let Some(number) = ADDED.into_iter().find(|number| registers.get(number) != Some(&[0; 32])) {
            return Err(Unproven::Added(number));
        }
        let entries = log::parse(&evidence.log.0)?;
        if let Some(number) = [PROGRAMS, SECURE_BOOT].into_iter().find(|n| !log::adds_up(&entries, &registers, *n)) {
            return Err(Unproven::Sum(number));
        }
        expected.started(&entries)?;
        let secure_boot = Digest(registers.get(&SECURE_BOOT).copied().unwrap_or_default());
        if expected.secure_boot.is_some_and(|known| known != secure_boot) {
            return Err(Unproven::SecureBoot);
        }
        let in_policy = |entry: &&Entry| entry.register == SECURE_BOOT;
        let on = entries.iter().filter(in_policy).any(|entry| entry.variable("SecureBoot") == Some(&[1]));
        Ok(Proof { secure_boot, secure_boot_is_on: on })
    }
}

impl Expected {
    /// Checks that the firmware started the farm's programs and no others.
    fn started(&self, entries: &[Entry]) -> Result<(), Unproven> {
        let ours = |digest: &Hash| {
            *digest == self.image.program || *digest == self.image.kernel || self.programs.contains(digest)
        };
        let started = || entries.iter().filter(|entry| entry.register == PROGRAMS);
        // The kind is what the log says, and nobody has to believe that: a program may be called a text.
        let strange = started().find(|entry| !(entry.is_short_text() || entry.is_program() && ours(&entry.digest)));
        if let Some(entry) = strange {
            return Err(Unproven::Program(Digest(entry.digest)));
        }
        let image = started().any(|entry| entry.is_program() && entry.digest == self.image.program);
        if image { Ok(()) } else { Err(Unproven::NotStarted) }
    }
}

/// The registers, if they are those that were asked for.
fn registers(evidence: &Evidence) -> Option<Registers> {
    let value = |(number, value): (&u32, &stoke_api::trust::Hex)| {
        Some((*number, value.0.first_chunk().copied().filter(|_| value.0.len() == 32)?))
    };
    let registers = evidence.registers.iter().map(value).collect::<Option<Registers>>()?;
    registers.keys().copied().eq(REGISTERS).then_some(registers)
}
