//! What a TPM says of its registers, signed: made by the node's, checked by the farm.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::key::{ECDSA, Point, SHA256, pad};
use crate::wire::{Reader, Writer};
use crate::{Hash, sha256};

/// TPM_GENERATED_VALUE: what a TPM signs and nobody could have given it to sign (part 2, section 6.2).
const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE (part 2, section 6.9).
const ATTEST_QUOTE: u16 = 0x8018;
/// Registers of a PC.
const REGISTERS: u32 = 24;

/// The values of some registers of the SHA-256 bank, by number.
pub type Registers = BTreeMap<u32, Hash>;

/// A signed statement on registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub statement: Vec<u8>,
    /// `TPMT_SIGNATURE` over it.
    pub signature: Vec<u8>,
}

/// Why a quote proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Not a statement, or of another kind.
    #[error("this is no quote of a TPM")]
    NoQuote,
    /// Another key, or changed on the way.
    #[error("the quote's signature is not by the attestation key")]
    Signature,
    /// A quote of another time.
    #[error("the quote answers another question")]
    Nonce,
    /// Other registers than those that came with it.
    #[error("the quote is not about the registers that came with it")]
    Registers,
}

impl Quote {
    /// Checks that the TPM with this key said just now that its registers have these values.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self, key: &Point, nonce: &[u8], registers: &Registers) -> Result<(), QuoteError> {
        let signature = raw_signature(&self.signature).ok_or(QuoteError::NoQuote)?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.uncompressed());
        key.verify(&self.statement, &signature).map_err(|_| QuoteError::Signature)?;
        let statement = Statement::parse(&self.statement).ok_or(QuoteError::NoQuote)?;
        if statement.nonce != nonce {
            return Err(QuoteError::Nonce);
        }
        let values: Vec<u8> = registers.values().flatten().copied().collect();
        let about = statement.selection == selection(registers.keys().copied()) && statement.digest == sha256(&values);
        if about { Ok(()) } else { Err(QuoteError::Registers) }
    }
}

/// `TPML_PCR_SELECTION` of registers of the SHA-256 bank (part 2, section 10.9.7).
pub(crate) fn selection(registers: impl Iterator<Item = u32>) -> Vec<u8> {
    let bits = registers.filter(|number| *number < REGISTERS).fold(0_u32, |bits, number| bits | 1 << number);
    let [first, second, third, _] = bits.to_le_bytes();
    Writer::default().u32(1).u16(SHA256).u8(3).raw(&[first, second, third]).done()
}

/// `r` and `s` behind each other, from a `TPMT_SIGNATURE`.
fn raw_signature(signature: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(signature);
    let kind = (reader.u16()?, reader.u16()?);
    let (r, s) = (pad(reader.sized()?)?, pad(reader.sized()?)?);
    (kind == (ECDSA, SHA256) && reader.is_empty()).then(|| [r, s].concat())
}

/// The parts of a `TPMS_ATTEST` (part 2, section 10.12.12) that matter here.
struct Statement<'a> {
    nonce: &'a [u8],
    selection: &'a [u8],
    digest: &'a [u8],
}

impl<'a> Statement<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let kind = (reader.u32()?, reader.u16()?);
        let _signer = reader.sized()?;
        let nonce = reader.sized()?;
        // Clock, resets, restarts, whether they are safe; version of the firmware.
        reader.take(8 + 4 + 4 + 1 + 8)?;
        // One bank of three bytes: what we ask for.
        let selection = reader.take(10)?;
        let digest = reader.sized()?;
        (kind == (GENERATED, ATTEST_QUOTE) && reader.is_empty()).then_some(Self { nonce, selection, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_selected_by_bits() {
        assert_eq!(selection([0, 4, 7, 11, 23, 24].into_iter()), [0, 0, 0, 1, 0, 11, 3, 0x91, 0x08, 0x80]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_quote(statement: Vec<u8>, signature: Vec<u8>) {
            let _ = Statement::parse(&statement);
            let quote = Quote { statement, signature };
            let key = Point { x: [1; 32], y: [2; 32] };
            proptest::prop_assert!(quote.verify(&key, b"", &Registers::new()).is_err());
        }
    }
}
