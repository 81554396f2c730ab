//! What a node asks of its TPM. The device (or a simulator) is a [`Transport`]: one command in, one answer out.
//!
//! Both keys are made anew each time, from the TPM's own seed, and are therefore the same each time as long as the TPM is
//! not cleared: nothing of them is stored anywhere.

use std::io;

use crate::command::{Auth, Code, decode, encode};
use crate::credential::Credential;
use crate::key::{ECC, NULL, Point, SHA256, Template};
use crate::quote::{Quote, Registers, selection};
use crate::wire::{Reader, Writer};

/// TPM_RH_NULL and TPM_RH_ENDORSEMENT (part 2, section 7.4).
const NOBODY: u32 = 0x4000_0007;
const ENDORSEMENT: u32 = 0x4000_000b;
/// TPM_SE_POLICY (part 2, section 6.11).
const POLICY: u8 = 1;
/// Where makers put the certificate of an endorsement key of this template (EK Credential Profile, section 2.2.1.4).
const CERTIFICATE: u32 = 0x01c0_000a;
/// Longest part of it that is read at once: what every TPM can (TPM_PT_NV_BUFFER_MAX of PC Client TPMs).
const NV_PART: u16 = 512;
/// Longest certificate.
const NV_MOST: u16 = 8 << 10;
/// Registers that one answer has room for.
const REGISTERS_AT_ONCE: usize = 8;

/// The way to a TPM.
pub trait Transport {
    /// Sends a command and waits for the whole answer.
    ///
    /// # Errors
    /// If the device does not take it or does not answer.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// Why a TPM did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// No way to it.
    #[error("the TPM does not answer")]
    Transport(#[from] io::Error),
    /// It says no.
    #[error("the TPM refuses command {command:#x} with {result:#x}")]
    Refused {
        /// TPM_CC_….
        command: u32,
        /// TPM_RC_….
        result: u32,
    },
    /// Its answer cannot be read.
    #[error("the TPM's answer to command {0:#x} makes no sense")]
    Broken(u32),
    /// It calls a key otherwise than the farm would.
    #[error("the TPM makes keys of another kind than those of the profile")]
    OtherKey,
}

/// A TPM.
#[derive(Debug)]
pub struct Tpm<T>(T);

/// A key in a TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    handle: u32,
    /// Its public half.
    pub point: Point,
}

impl<T: Transport> Tpm<T> {
    /// The TPM behind a transport.
    pub fn new(transport: T) -> Self {
        Self(transport)
    }

    fn run(&mut self, code: Code, handles: &[u32], auth: &[Auth], parameters: &[u8]) -> Result<Vec<u8>, TpmError> {
        let answer = self.0.exchange(&encode(code, handles, auth, parameters))?;
        decode(code, &answer, false).map(|(_, parameters)| parameters.to_vec())
    }

    /// Makes a key of this kind: a primary key of the endorsement hierarchy.
    ///
    /// # Errors
    /// If the TPM does not, or if it is of another kind.
    pub fn create(&mut self, template: Template) -> Result<Key, TpmError> {
        let nothing = Writer::default().sized(&[]).sized(&[]).done();
        let public = template.public(None);
        let parameters = Writer::default().sized(&nothing).sized(&public).sized(&[]).u32(0).done();
        let command = encode(Code::CreatePrimary, &[ENDORSEMENT], &[Auth::Empty], &parameters);
        let answer = self.0.exchange(&command)?;
        let (handle, parameters) = decode(Code::CreatePrimary, &answer, true)?;
        let created = Created::parse(parameters).ok_or(TpmError::Broken(Code::CreatePrimary as u32))?;
        if created.name != template.name(&created.point) {
            return Err(TpmError::OtherKey);
        }
        Ok(Key { handle, point: created.point })
    }

    /// Forgets a key: a TPM has room for few.
    ///
    /// # Errors
    /// If it has no such key.
    pub fn flush(&mut self, key: Key) -> Result<(), TpmError> {
        self.run(Code::FlushContext, &[], &[], &key.handle.to_be_bytes()).map(drop)
    }

    /// Opens a credential that was made for these two keys: its secret.
    ///
    /// # Errors
    /// If it was made for others, or the endorsement hierarchy has a password.
    pub fn activate(&mut self, endorsement: Key, attestation: Key, made: &Credential) -> Result<Vec<u8>, TpmError> {
        let session = self.policy_session()?;
        let nothing = Writer::default().sized(&[]).sized(&[]).sized(&[]).u32(0).done();
        self.run(Code::PolicySecret, &[ENDORSEMENT, session], &[Auth::Empty], &nothing)?;
        let handles = [attestation.handle, endorsement.handle];
        let auth = [Auth::Empty, Auth::Policy(session)];
        let parameters = Writer::default().sized(&made.blob).sized(&made.seed).done();
        let activated = self.run(Code::ActivateCredential, &handles, &auth, &parameters);
        self.run(Code::FlushContext, &[], &[], &session.to_be_bytes())?;
        let secret = Reader::new(&activated?).sized().map(<[u8]>::to_vec);
        secret.ok_or(TpmError::Broken(Code::ActivateCredential as u32))
    }

    fn policy_session(&mut self) -> Result<u32, TpmError> {
        // No secret depends on the nonce: nothing in this session is encrypted or signed.
        let parameters = Writer::default().sized(&[0; 16]).sized(&[]).u8(POLICY).u16(NULL).u16(SHA256).done();
        let answer = self.0.exchange(&encode(Code::StartAuthSession, &[NOBODY, NOBODY], &[], &parameters))?;
        decode(Code::StartAuthSession, &answer, true).map(|(session, _)| session)
    }

    /// Has the TPM sign the values of registers, and a nonce.
    ///
    /// # Errors
    /// If it does not.
    pub fn quote(&mut self, key: Key, nonce: &[u8], registers: &[u32]) -> Result<Quote, TpmError> {
        let selection = selection(registers.iter().copied());
        let parameters = Writer::default().sized(nonce).u16(NULL).raw(&selection).done();
        let answer = self.run(Code::Quote, &[key.handle], &[Auth::Empty], &parameters)?;
        let mut reader = Reader::new(&answer);
        let statement = reader.sized().ok_or(TpmError::Broken(Code::Quote as u32))?.to_vec();
        Ok(Quote { statement, signature: reader.rest().to_vec() })
    }

    /// Values of registers of the SHA-256 bank.
    ///
    /// # Errors
    /// If the TPM has no such bank.
    pub fn registers(&mut self, numbers: &[u32]) -> Result<Registers, TpmError> {
        let mut values = Registers::new();
        for numbers in numbers.chunks(REGISTERS_AT_ONCE) {
            let answer = self.run(Code::PcrRead, &[], &[], &selection(numbers.iter().copied()))?;
            let read = read_registers(&answer).filter(|read| read.len() == numbers.len());
            let read = read.ok_or(TpmError::Broken(Code::PcrRead as u32))?;
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            values.extend(numbers.into_iter().zip(read));
        }
        Ok(values)
    }

    /// The certificate that the TPM's maker has put in for its endorsement key, in DER; `None` if there is none.
    ///
    /// # Errors
    /// If the TPM does not answer.
    pub fn certificate(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        let public = match self.run(Code::NvReadPublic, &[], &[], &CERTIFICATE.to_be_bytes()) {
            Err(TpmError::Refused { .. }) => return Ok(None),
            answer => answer?,
        };
        let size = nv_size(&public).ok_or(TpmError::Broken(Code::NvReadPublic as u32))?.min(NV_MOST);
        let mut certificate = Vec::new();
        for offset in (0..size).step_by(usize::from(NV_PART)) {
            let parameters = Writer::default().u16(NV_PART.min(size - offset)).u16(offset).done();
            let answer = self.run(Code::NvRead, &[CERTIFICATE, CERTIFICATE], &[Auth::Empty], &parameters)?;
            let part = Reader::new(&answer).sized().map(<[u8]>::to_vec);
            certificate.extend(part.ok_or(TpmError::Broken(Code::NvRead as u32))?);
        }
        Ok(Some(certificate))
    }
}

/// `dataSize`, last of a `TPMS_NV_PUBLIC` (part 2, section 13.5).
fn nv_size(answer: &[u8]) -> Option<u16> {
    let public = Reader::new(answer).sized()?;
    let (_, size) = public.split_last_chunk()?;
    Some(u16::from_be_bytes(*size))
}

/// Counter of changes, selection, then the digests.
fn read_registers(answer: &[u8]) -> Option<Vec<crate::Hash>> {
    let mut reader = Reader::new(answer);
    let _changes = reader.u32()?;
    let banks = reader.u32()?;
    for _ in 0..banks {
        reader.u16()?;
        let length = usize::from(reader.u8()?);
        reader.take(length)?;
    }
    let count = reader.u32()?;
    (0..count).map(|_| reader.sized()?.first_chunk().copied()).collect()
}

/// What of the answer to `TPM2_CreatePrimary` matters.
struct Created {
    point: Point,
    name: Vec<u8>,
}

impl Created {
    fn parse(parameters: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(parameters);
        let point = point_of(reader.sized()?)?;
        let _data = reader.sized()?;
        let _hash = reader.sized()?;
        // The ticket: tag, hierarchy, digest.
        reader.take(6)?;
        reader.sized()?;
        Some(Self { point, name: reader.sized()?.to_vec() })
    }
}

/// The point at the end of a `TPMT_PUBLIC`.
fn point_of(public: &[u8]) -> Option<Point> {
    let mut reader = Reader::new(public);
    let kind = reader.u16()?;
    reader.take(2 + 4)?;
    reader.sized()?;
    let symmetric = reader.u16()?;
    if symmetric != NULL {
        reader.take(4)?;
    }
    if reader.u16()? != NULL {
        reader.take(2)?;
    }
    // Curve and key derivation.
    reader.take(4)?;
    let (x, y) = (reader.sized()?, reader.sized()?);
    Point::padded(x, y).filter(|_| kind == ECC && reader.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_point_of_either_template_is_found() {
        let point = Point { x: [7; 32], y: [9; 32] };
        for template in [Template::Endorsement, Template::Attestation] {
            assert_eq!(point_of(&template.public(Some(&point))), Some(point));
        }
    }

    /// Answers everything with the same bytes.
    struct Same(Vec<u8>);

    impl Transport for Same {
        fn exchange(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            Ok(self.0.clone())
        }
    }

    proptest::proptest! {
        #[test]
        fn a_tpm_that_talks_nonsense_is_an_error(rest: Vec<u8>, session: bool) {
            let tag = if session { 0x8002_u16 } else { 0x8001 };
            let mut answer = [&tag.to_be_bytes()[..], &[0; 8]].concat();
            answer.extend(rest);
            let mut tpm = Tpm::new(Same(answer));
            proptest::prop_assert!(tpm.create(Template::Endorsement).is_err());
            let _ = tpm.registers(&[1, 2]);
            let _ = tpm.certificate();
        }
    }
}
