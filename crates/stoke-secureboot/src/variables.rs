//! What firmware keeps of keys: signature lists (UEFI specification 2.10, section 32.4.1), and updates of its variables that
//! carry the signature of the key above (section 8.2.2).

use jiff::civil::DateTime;
use uuid::Uuid;

use crate::keys::{KeyError, Signer};
use crate::signed;

/// Who put a key into a list: this program.
pub const OWNER: Uuid = Uuid::from_u128(0x8a1f_2b6c_53d4_4e0f_9c1d_7d5b_0e53_7401);
/// `EFI_CERT_X509_GUID`.
const X509: Uuid = Uuid::from_u128(0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072);
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const PKCS7: Uuid = Uuid::from_u128(0x4aaf_d29d_68df_49ee_8aa9_347d_3756_65a7);
/// `EFI_GLOBAL_VARIABLE`.
const GLOBAL: Uuid = Uuid::from_u128(0x8be4_df61_93ca_11d2_aa0d_00e0_9803_2b8c);
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`.
const SECURITY: Uuid = Uuid::from_u128(0xd719_b2cb_3d3a_4596_a3bc_dad0_0e67_656f);
/// Kept when the power is off, seen by boot programs and by systems, changed only by who signs the change.
pub const ATTRIBUTES: u32 = 0x27;

/// A variable of firmware that holds keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The platform key.
    Pk,
    /// Key exchange keys.
    Kek,
    /// The signature database.
    Db,
}

impl Variable {
    /// All, in the order in which they are put into a machine: the platform key ends the set-up mode, so it is the last.
    pub const ALL: [Self; 3] = [Self::Db, Self::Kek, Self::Pk];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
        }
    }

    /// The name space of its name.
    pub fn vendor(self) -> Uuid {
        match self {
            Self::Pk | Self::Kek => GLOBAL,
            Self::Db => SECURITY,
        }
    }
}

/// A signature list with one certificate.
pub fn signature_list(certificate: &[u8]) -> Vec<u8> {
    let signature = 16 + certificate.len();
    let size = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let (list, none, signature) = (size(28 + signature), size(0), size(signature));
    [&X509.to_bytes_le()[..], &list, &none, &signature, &OWNER.to_bytes_le(), certificate].concat()
}

/// The name as firmware has it: UTF-16 without an end.
pub(crate) fn wide(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `EFI_TIME` in UTC, without what an update must leave zero.
pub(crate) fn time(at: DateTime) -> [u8; 16] {
    let year = at.year().to_le_bytes();
    let parts = [at.month(), at.day(), at.hour(), at.minute(), at.second()].map(i8::unsigned_abs);
    let mut time = [0; 16];
    for (place, byte) in time.iter_mut().zip(year.into_iter().chain(parts)) {
        *place = byte;
    }
    time
}

/// An update that sets a variable to this content: what firmware's set-up and tools of systems take as an `.auth` file.
/// Firmware takes none that is not later than the last one.
///
/// # Errors
/// If the key cannot be used.
pub fn update(variable: Variable, content: &[u8], signer: &Signer, at: DateTime) -> Result<Vec<u8>, KeyError> {
    let (name, vendor, time) = (wide(variable.name()), variable.vendor().to_bytes_le(), time(at));
    let message = [&name[..], &vendor, &ATTRIBUTES.to_le_bytes(), &time, content].concat();
    let signature = signed::detached(signer, &message)?;
    // WIN_CERTIFICATE_UEFI_GUID: length, revision 2.0, type, then whose format the rest has.
    let length = u32::try_from(24 + signature.len()).unwrap_or(u32::MAX).to_le_bytes();
    Ok([&time[..], &length, &[0x00, 0x02, 0xf1, 0x0e], &PKCS7.to_bytes_le(), &signature, content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_its_own_length() {
        let list = signature_list(&[7; 100]);
        assert_eq!(list.len(), 144);
        assert_eq!(list[16..28], [144, 0, 0, 0, 0, 0, 0, 0, 116, 0, 0, 0]);
        assert_eq!(list[..4], [0xa1, 0x59, 0xc0, 0xa5]);
    }

    #[test]
    fn times_are_as_firmware_counts_them() {
        let at = jiff::civil::date(2026, 11, 21).at(12, 34, 56, 789);
        assert_eq!(time(at), [0xea, 0x07, 11, 21, 12, 34, 56, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
