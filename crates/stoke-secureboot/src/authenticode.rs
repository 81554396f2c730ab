//! Authenticode: the signature that firmware looks for in a PE program (Microsoft, "Windows Authenticode Portable
//! Executable Signature Format", 2008; UEFI specification 2.10, section 32.5.3.3).

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::der::{no_bits, object, sequence, value};
use crate::keys::{KeyError, Signer};
use crate::signed;

/// 1.3.6.1.4.1.311.2.1.4, `SPC_INDIRECT_DATA_OBJID`.
const INDIRECT_DATA: [u8; 10] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
/// 1.3.6.1.4.1.311.2.1.15, `SPC_PE_IMAGE_DATA_OBJID`.
const PE_IMAGE_DATA: [u8; 10] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
/// An entry of the certificate table begins with its length, its revision (2.0) and its type (PKCS #7).
const ENTRY_HEADER: usize = 8;
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0x02, 0x00];
/// Entries of the certificate table begin at multiples of this.
const ALIGNMENT: usize = 8;

/// Why a program cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Not a PE program for 64 bit, or a damaged one.
    #[error("this is no 64-bit PE program")]
    NotPe,
    /// It has a signature.
    #[error("the program has a signature already")]
    Signed,
    /// It would be larger than an address in a PE program can express.
    #[error("the signed program would be over 4 GiB")]
    TooLarge,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Where in a PE program is what matters for its signature (Microsoft's PE format specification).
pub(crate) struct Layout {
    checksum: usize,
    /// The entry of the certificate table in the list of data directories.
    directory: usize,
    headers: usize,
    /// Content of the sections, in the order of the file.
    sections: Vec<Range<usize>>,
}

pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let field: [u8; N] = *bytes.get(at..)?.first_chunk()?;
    Some(field.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

impl Layout {
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let pe = number::<4>(bytes, 0x3c).filter(|at| *at < 1 << 20)?;
        let optional = pe + 24;
        let well_formed = bytes.get(pe..pe + 4)? == b"PE\0\0" && number::<2>(bytes, optional)? == 0x20b;
        // The certificate table is the fifth data directory, if there are so many.
        let directory =
            Some(optional + 112 + 4 * 8).filter(|_| well_formed && number::<4>(bytes, optional + 108) > Some(4))?;
        let table = optional + number::<2>(bytes, pe + 20)?;
        let section = |index: usize| {
            let at = table + index * 40;
            let (length, begin) = (number::<4>(bytes, at + 16)?, number::<4>(bytes, at + 20)?);
            Some(begin..begin.checked_add(length)?)
        };
        let count = number::<2>(bytes, pe + 6)?;
        let mut sections = (0..count).map(section).collect::<Option<Vec<_>>>()?;
        sections.retain(|section| !section.is_empty());
        sections.sort_by_key(|section| section.start);
        let fits = sections.iter().all(|section| section.end <= bytes.len());
        let headers =
            number::<4>(bytes, optional + 60).filter(|end| *end <= bytes.len() && directory + 8 <= *end && fits)?;
        Some(Self { checksum: optional + 64, directory, headers, sections })
    }

    /// The parts that are hashed, in order: all but the checksum, the certificate table and its entry. What is behind the
    /// sections counts, too; how much that is, firmware knows from the sum of what it has hashed before (`HashPeImage` in
    /// edk2's `DxeImageVerificationLib.c`).
    fn hashed(&self, file: usize) -> Vec<Range<usize>> {
        let mut parts = vec![0..self.checksum, self.checksum + 4..self.directory, self.directory + 8..self.headers];
        parts.extend(self.sections.iter().cloned());
        let sum = self.headers + self.sections.iter().map(Range::len).sum::<usize>();
        if sum < file {
            parts.push(sum..file);
        }
        parts
    }
}

/// SHA-256 of a program as Authenticode has it: the same before it is signed, if its length is a multiple of eight, and after.
/// `None` if it is none.
pub fn hash(program: &[u8]) -> Option<[u8; 32]> {
    let layout = Layout::of(program)?;
    let signature = number::<4>(program, layout.directory + 4)?;
    let mut hash = Sha256::new();
    for part in layout.hashed(program.len().checked_sub(signature)?) {
        hash.update(program.get(part)?);
    }
    Some(hash.finalize().into())
}

/// Signs a program. The same program and key give the same bytes.
///
/// # Errors
/// If it is no program, has a signature already, or the key cannot be used.
pub fn sign(mut program: Vec<u8>, signer: &Signer) -> Result<Vec<u8>, SignError> {
    let layout = Layout::of(&program).ok_or(SignError::NotPe)?;
    if number::<4>(&program, layout.directory + 4) != Some(0) {
        return Err(SignError::Signed);
    }
    program.resize(program.len().next_multiple_of(ALIGNMENT), 0);
    let digest = hash(&program).ok_or(SignError::NotPe)?;
    let signature = signed::enclosed(signer, &INDIRECT_DATA, &indirect_data(&digest))?;
    let length = (ENTRY_HEADER + signature.len()).next_multiple_of(ALIGNMENT);
    let place = u32::try_from(program.len()).map_err(|_| SignError::TooLarge)?;
    let size = u32::try_from(length).map_err(|_| SignError::TooLarge)?;
    let directory = [place.to_le_bytes(), size.to_le_bytes()].concat();
    let entry = program.get_mut(layout.directory..layout.directory + 8).ok_or(SignError::NotPe)?;
    entry.copy_from_slice(&directory);
    let end = program.len() + length;
    program.extend(size.to_le_bytes());
    program.extend(REVISION_AND_TYPE);
    program.extend(signature);
    program.resize(end, 0);
    Ok(program)
}

/// `SpcIndirectDataContent`: what is signed, and its digest. The file that it should name is empty, as all signers have it.
fn indirect_data(digest: &[u8]) -> Vec<u8> {
    let no_file = value(0xa0, &[&value(0xa2, &[&value(0x80, &[])])]);
    let image = sequence(&[&no_bits(), &no_file]);
    sequence(&[&sequence(&[&object(&PE_IMAGE_DATA), &image]), &signed::digest_info(digest)])
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn nothing_makes_the_reader_panic(mut bytes: Vec<u8>, at in 0_u32..200) {
            let _ = hash(&bytes);
            if bytes.len() > 0x40 {
                bytes[0x3c..0x40].copy_from_slice(&at.to_le_bytes());
                let at = usize::try_from(at).unwrap();
                bytes.resize(at.max(bytes.len()) + 400, 0x20);
                bytes[at..at + 4].copy_from_slice(b"PE\0\0");
                bytes[at + 24..at + 26].copy_from_slice(&[0x0b, 0x02]);
                let _ = hash(&bytes);
            }
        }
    }
}
