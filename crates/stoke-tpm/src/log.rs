//! The firmware's log of what it measured (TCG, "PC Client Platform Firmware Profile", section 10).
//!
//! Nobody has to believe a log: it counts only if its entries add up to the registers of a quote. And of an entry only the
//! digest is certain; its kind and its data are what the log says. So where they matter they are checked, too: see
//! [`Entry::is_short_text`].

use crate::quote::Registers;
use crate::wire::Reader;
use crate::{Hash, extend, sha256};

/// TPM_ALG_SHA256.
const SHA256: u16 = crate::key::SHA256;
/// Most algorithms that a log may have.
const ALGORITHMS: u32 = 16;

/// EV_NO_ACTION: not measured at all.
const NO_ACTION: u32 = 3;
/// EV_SEPARATOR.
const SEPARATOR: u32 = 4;
/// EV_EFI_BOOT_SERVICES_APPLICATION.
const APPLICATION: u32 = 0x8000_0003;
/// EV_EFI_VARIABLE_DRIVER_CONFIG.
const VARIABLE: u32 = 0x8000_0001;
/// EV_EFI_ACTION.
const ACTION: u32 = 0x8000_0007;
/// What is hashed of a program is longer than this: its headers alone are.
const SHORT: usize = 96;

/// Register of the programs that firmware started from boot options.
pub const PROGRAMS: u32 = 4;
/// Register of the Secure Boot policy.
pub const SECURE_BOOT: u32 = 7;

/// A measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The register that took it in.
    pub register: u32,
    /// Its kind, as the log says.
    pub kind: u32,
    /// What was taken in.
    pub digest: Hash,
    /// What the log says of it.
    pub data: Vec<u8>,
}

impl Entry {
    /// Whether the log says that a program was started.
    pub fn is_program(&self) -> bool {
        self.kind == APPLICATION
    }

    /// Whether what was measured is certainly a short text of the firmware's, and no program: the data is what was measured,
    /// and shorter than the headers of any program.
    pub fn is_short_text(&self) -> bool {
        matches!(self.kind, ACTION | SEPARATOR) && self.data.len() < SHORT && sha256(&self.data) == self.digest
    }

    /// The value of a variable that this measured, if its name is this one and the data is what was measured.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        if self.kind != VARIABLE || sha256(&self.data) != self.digest {
            return None;
        }
        // UEFI_VARIABLE_DATA: vendor, length of the name in characters, length of the value (section 10.4.5).
        let mut reader = Reader::new(&self.data);
        reader.take(16)?;
        let (characters, high) = (reader.u32_le()?, reader.u32_le()?);
        let (length, _) = (reader.u32_le()?, reader.u32_le()?);
        let found = reader.take(usize::try_from(characters).ok()?.checked_mul(2)?)?;
        let wanted: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let value = reader.take(usize::try_from(length).ok()?)?;
        (high == 0 && found == wanted).then_some(value)
    }
}

/// Why bytes are no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not in the form that every TPM 2.0 firmware writes.
    #[error("this is no log of measurements, or one without SHA-256")]
    NoLog,
    /// It ends in an entry.
    #[error("the log of measurements ends in the middle")]
    Short,
}

/// Reads a log.
///
/// # Errors
/// If it is none.
pub fn parse(log: &[u8]) -> Result<Vec<Entry>, LogError> {
    let mut reader = Reader::new(log);
    let sizes = algorithms(&mut reader).filter(|sizes| sizes.contains(&(SHA256, 32))).ok_or(LogError::NoLog)?;
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let entry = entry(&mut reader, &sizes).ok_or(LogError::Short)?;
        entries.extend((entry.kind != NO_ACTION).then_some(entry));
    }
    Ok(entries)
}

/// The first entry, which has the old form: which digests the others have, and how long each is (section 10.4.5.1).
fn algorithms(reader: &mut Reader<'_>) -> Option<Vec<(u16, u16)>> {
    // Register, kind, SHA-1.
    reader.take(4 + 4 + 20)?;
    let length = usize::try_from(reader.u32_le()?).ok()?;
    let mut data = Reader::new(reader.take(length)?);
    if data.take(16)? != b"Spec ID Event03\0" {
        return None;
    }
    // Class of the platform, version of the profile, size of a word.
    data.take(4 + 4)?;
    let count = data.u32_le().filter(|count| *count <= ALGORITHMS)?;
    (0..count).map(|_| Some((data.u16_le()?, data.u16_le()?))).collect()
}

fn entry(reader: &mut Reader<'_>, sizes: &[(u16, u16)]) -> Option<Entry> {
    let (register, kind) = (reader.u32_le()?, reader.u32_le()?);
    let count = reader.u32_le().filter(|count| *count <= ALGORITHMS)?;
    let mut digest = None;
    for _ in 0..count {
        let algorithm = reader.u16_le()?;
        let (_, size) = sizes.iter().find(|(known, _)| *known == algorithm)?;
        let bytes = reader.take(usize::from(*size))?;
        if algorithm == SHA256 {
            digest = bytes.first_chunk().copied();
        }
    }
    let length = usize::try_from(reader.u32_le()?).ok()?;
    Some(Entry { register, kind, digest: digest?, data: reader.take(length)?.to_vec() })
}

/// What a register must contain after these entries.
pub fn replay(entries: &[Entry], register: u32) -> Hash {
    let ours = entries.iter().filter(|entry| entry.register == register);
    ours.fold([0; 32], |value, entry| extend(&value, &entry.digest))
}

/// Whether the entries of a register add up to its value.
pub fn adds_up(entries: &[Entry], registers: &Registers, register: u32) -> bool {
    registers.get(&register) == Some(&replay(entries, register))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of one algorithm, with these entries.
    fn log(entries: &[(u32, u32, Hash, &[u8])]) -> Vec<u8> {
        let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes().to_vec();
        let mut first = b"Spec ID Event03\0".to_vec();
        first.extend([0; 8]);
        first.extend(number(1));
        first.extend([0x0b, 0, 32, 0, 0]);
        let mut log = [number(0), number(3), vec![0; 20], number(first.len()), first].concat();
        for (register, kind, digest, data) in entries {
            log.extend(register.to_le_bytes());
            log.extend(kind.to_le_bytes());
            log.extend(number(1));
            log.extend([0x0b, 0]);
            log.extend(digest);
            log.extend(number(data.len()));
            log.extend(*data);
        }
        log
    }

    #[test]
    fn entries_add_up_to_their_register() {
        let (program, text) = ([7; 32], b"Calling EFI Application from Boot Option");
        let log =
            log(&[(4, ACTION, sha256(text), text), (4, APPLICATION, program, b"path"), (5, ACTION, [1; 32], b"")]);
        let entries = parse(&log).unwrap();
        assert_eq!(entries.len(), 3);
        let expected = extend(&extend(&[0; 32], &sha256(text)), &program);
        assert!(adds_up(&entries, &Registers::from([(4, expected)]), 4));
        assert!(!adds_up(&entries, &Registers::from([(4, [0; 32])]), 4));
        assert!(entries[0].is_short_text() && entries[1].is_program() && !entries[2].is_short_text());
    }

    #[test]
    fn a_program_that_is_said_to_be_a_text_is_none() {
        let program = [0x4d; 200];
        let log = log(&[(4, ACTION, sha256(&program), &program), (4, ACTION, sha256(&program), b"a text")]);
        assert!(parse(&log).unwrap().iter().all(|entry| !entry.is_short_text()));
    }

    #[test]
    fn a_variable_has_its_value() {
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let data = [&[0; 16][..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[1]].concat();
        let entry = Entry { register: 7, kind: VARIABLE, digest: sha256(&data), data };
        assert_eq!(entry.variable("SecureBoot"), Some(&[1][..]));
        assert_eq!(entry.variable("PK"), None);
        assert_eq!(Entry { digest: [0; 32], ..entry }.variable("SecureBoot"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(rest: Vec<u8>) {
            let _ = parse(&rest);
            let mut whole = log(&[]);
            whole.extend(rest);
            let _ = parse(&whole).map(|entries| entries.iter().filter(|entry| entry.variable("x").is_some()).count());
        }
    }
}
