//! The two kinds of key.
//!
//! Each has one template, and the public half of a key is that template with a point of P-256 in it. So a key is told by its
//! point alone, and a key with other rights (one that may be duplicated, one that signs what it is given) has another name:
//! a credential that was made for this name is of no use to it.

use crate::wire::Writer;
use crate::{Hash, sha256};

/// TPM_ALG_ECC, _SHA256, _NULL, _AES, _CFB, _ECDSA (part 2, section 6.3).
pub(crate) const ECC: u16 = 0x0023;
pub(crate) const SHA256: u16 = 0x000b;
pub(crate) const NULL: u16 = 0x0010;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
pub(crate) const ECDSA: u16 = 0x0018;
/// TPM_ECC_NIST_P256 (part 2, section 6.4).
const P256: u16 = 0x0003;

/// Bytes of a coordinate.
pub(crate) const COORDINATE: usize = 32;

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt (part 2, section 8.3).
const ENDORSEMENT: u32 = 0x0003_00b2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTESTATION: u32 = 0x0005_0472;

/// PolicySecret of the endorsement hierarchy: who may use an endorsement key (TCG, "EK Credential Profile", revision 2.5,
/// section B.3.2).
const ENDORSEMENT_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// The TPM's identity, for decryption: template L-2 of the EK Credential Profile. It never changes, and never leaves.
    Endorsement,
    /// Signs what the TPM itself says, and nothing else.
    Attestation,
}

/// A point of P-256: the public half of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its first coordinate, big-endian.
    pub x: [u8; COORDINATE],
    /// Its second one.
    pub y: [u8; COORDINATE],
}

impl std::fmt::Debug for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no public key: 128 hexadecimal digits are wanted")]
pub struct NoPoint;

impl std::str::FromStr for Point {
    type Err = NoPoint;

    fn from_str(text: &str) -> Result<Self, NoPoint> {
        let mut bytes = [0; 2 * COORDINATE];
        let plain = text.len() == 4 * COORDINATE && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (byte, at) in bytes.iter_mut().zip((0..text.len()).step_by(2)).filter(|_| plain) {
            let digits = text.get(at..at + 2).ok_or(NoPoint)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoPoint)?;
        }
        let (x, y) = bytes.split_at(COORDINATE);
        let half = |half: &[u8]| half.first_chunk().copied().filter(|_| plain).ok_or(NoPoint);
        Ok(Self { x: half(x)?, y: half(y)? })
    }
}

impl Point {
    /// Of both coordinates behind each other. `None` if those are not 64 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (x, y) = bytes.split_at_checked(COORDINATE)?;
        Some(Self { x: x.first_chunk().copied()?, y: y.first_chunk().copied().filter(|_| y.len() == COORDINATE)? })
    }

    /// Both coordinates, each padded to its length.
    pub(crate) fn padded(x: &[u8], y: &[u8]) -> Option<Self> {
        Some(Self { x: pad(x)?, y: pad(y)? })
    }

    /// First coordinate, then second.
    pub fn bytes(&self) -> [u8; 2 * COORDINATE] {
        let mut bytes = [0; 2 * COORDINATE];
        bytes.iter_mut().zip(self.x.iter().chain(&self.y)).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// As X9.62 has it, uncompressed.
    pub(crate) fn uncompressed(&self) -> Vec<u8> {
        [&[4][..], &self.x, &self.y].concat()
    }
}

/// Some TPMs leave zeroes in front away.
pub(crate) fn pad(number: &[u8]) -> Option<[u8; COORDINATE]> {
    let mut padded = [0; COORDINATE];
    let place = padded.get_mut(COORDINATE.checked_sub(number.len())?..)?;
    place.copy_from_slice(number);
    Some(padded)
}

impl Template {
    /// `TPMT_PUBLIC` of this kind (part 2, section 12.2.4). Without a point, as it is asked for.
    pub(crate) fn public(self, point: Option<&Point>) -> Vec<u8> {
        let writer = match self {
            Self::Endorsement => {
                let public = Writer::default().u16(ECC).u16(SHA256).u32(ENDORSEMENT).sized(&ENDORSEMENT_POLICY);
                public.u16(AES).u16(128).u16(CFB).u16(NULL)
            }
            Self::Attestation => {
                let public = Writer::default().u16(ECC).u16(SHA256).u32(ATTESTATION).sized(&[]);
                public.u16(NULL).u16(ECDSA).u16(SHA256)
            }
        };
        let writer = writer.u16(P256).u16(NULL);
        // The profile asks for the endorsement key with zeroes in the place of the point; it is made from them, too.
        let asked: &[u8] = if self == Self::Endorsement { &[0; COORDINATE] } else { &[] };
        match point {
            Some(point) => writer.sized(&point.x).sized(&point.y),
            None => writer.sized(asked).sized(asked),
        }
        .done()
    }

    /// The name that a TPM gives such a key (part 1, section 16): hash algorithm, then digest.
    pub(crate) fn name(self, point: &Point) -> Vec<u8> {
        Writer::default().u16(SHA256).raw(&self.fingerprint(point)).done()
    }

    /// What tells such a key apart.
    pub fn fingerprint(self, point: &Point) -> Hash {
        sha256(&self.public(Some(point)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_written_and_read() {
        let point = Point { x: [0x0a; 32], y: [0xf0; 32] };
        assert_eq!(point.to_string().parse(), Ok(point));
        let wrong = [&"0a".repeat(63), &"zz".repeat(64), "", &"+1".repeat(64)];
        assert!(wrong.iter().all(|text| text.parse::<Point>() == Err(NoPoint)));
    }

    #[test]
    fn numbers_without_their_zeroes_are_padded_and_longer_ones_refused() {
        assert_eq!(pad(&[1, 2]).map(|padded| padded[29..].to_vec()), Some(vec![0, 1, 2]));
        assert_eq!(pad(&[1; 33]), None);
    }
}
