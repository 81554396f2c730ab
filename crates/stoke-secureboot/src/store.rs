//! The variables of a virtual machine's firmware, in the file that is its flash (edk2:
//! `MdeModulePkg/Include/Guid/VariableFormat.h`, `MdePkg/Include/Pi/PiFirmwareVolume.h`).
//!
//! A firmware volume holds a store; the store is a row of variables, each with a header and a state. To change one, firmware
//! takes its old value's state back bit by bit and puts the new one at the end; so does this module. Flash that was written
//! holds zeroes where a bit was cleared; what was never written is 0xff.

use uuid::Uuid;

use crate::variables::{self, Variable, wide};

/// `gEfiAuthenticatedVariableGuid`: a store whose variables carry the time of their last signed change.
const AUTHENTICATED: Uuid = Uuid::from_u128(0xaaf3_2c78_947b_439a_a180_2e14_4ec3_7792);
/// `gEfiSecureBootEnableDisableGuid`: edk2's own switch, for whoever has the machine's console.
const ENABLE: Uuid = Uuid::from_u128(0xf0a3_0bc7_af08_4556_99c4_0010_09c9_3a44);
/// Kept when the power is off, not seen by systems.
const BOOT_ONLY: u32 = 0x3;
/// Begins a variable.
const START: [u8; 2] = [0xaa, 0x55];
/// State of a variable that counts.
const ADDED: u8 = 0x3f;
/// Cleared when a variable no longer counts (`VAR_DELETED`).
const DELETED: u8 = 0xfd;
/// Header of the store, and of a variable, in bytes.
const STORE_HEADER: usize = 28;
const HEADER: usize = 60;

/// Why variables cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not the flash of a UEFI with authenticated variables.
    #[error("this is no store of UEFI variables")]
    NotAStore,
    /// No room.
    #[error("there is no room for more variables; let the firmware tidy up by starting the machine once")]
    Full,
}

struct Found {
    at: usize,
    name: Vec<u8>,
    vendor: Vec<u8>,
    data: std::ops::Range<usize>,
    counts: bool,
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// Where variables may be: behind the store's header, up to its end.
fn room(flash: &[u8]) -> Option<std::ops::Range<usize>> {
    let volume = usize::from(u16::from_le_bytes(*flash.get(0x30..)?.first_chunk()?));
    let is_volume = flash.get(0x28..0x2c)? == b"_FVH";
    let is_store = flash.get(volume..volume + 16)? == AUTHENTICATED.to_bytes_le();
    let end = volume.checked_add(number(flash, volume + 16)?)?;
    (is_volume && is_store && end <= flash.len()).then_some(volume + STORE_HEADER..end)
}

fn variable(flash: &[u8], at: usize) -> Option<(Found, usize)> {
    let header = flash.get(at..at + HEADER).filter(|header| header.starts_with(&START))?;
    let (name, data) = (number(header, 36)?, number(header, 40)?);
    let names_end = (at + HEADER).checked_add(name)?;
    let end = names_end.checked_add(data)?;
    flash.get(..end)?;
    let found = Found {
        at,
        name: flash.get(at + HEADER..names_end)?.to_vec(),
        vendor: header.get(44..60)?.to_vec(),
        data: names_end..end,
        counts: *header.get(2)? == ADDED,
    };
    Some((found, end.next_multiple_of(4)))
}

/// All variables, and where the next one goes.
fn variables(flash: &[u8]) -> Result<(Vec<Found>, usize), StoreError> {
    let room = room(flash).ok_or(StoreError::NotAStore)?;
    let (mut found, mut at) = (Vec::new(), room.start);
    while let Some((variable, next)) = variable(flash, at).filter(|(_, next)| *next <= room.end) {
        found.push(variable);
        at = next;
    }
    Ok((found, at))
}

/// The content of a variable that counts.
///
/// # Errors
/// If this is no store.
pub fn get(flash: &[u8], name: &str, vendor: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
    let wanted = [wide(name), vec![0, 0]].concat();
    let (all, _) = variables(flash)?;
    let found = all.iter().find(|v| v.counts && v.name == wanted && v.vendor == vendor.to_bytes_le());
    Ok(found.and_then(|variable| flash.get(variable.data.clone())).map(<[u8]>::to_vec))
}

/// Puts keys into a machine that is off and switches Secure Boot on: `lists` are the contents of PK, KEK and db.
///
/// # Errors
/// If this is no store, or it is full.
pub fn enroll(flash: &mut [u8], lists: &[(Variable, Vec<u8>)], at: jiff::civil::DateTime) -> Result<(), StoreError> {
    let time = variables::time(at);
    for (variable, list) in lists {
        set(flash, variable.name(), variable.vendor(), variables::ATTRIBUTES, time, list)?;
    }
    set(flash, "SecureBootEnable", ENABLE, BOOT_ONLY, [0; 16], &[1])
}

fn set(
    flash: &mut [u8],
    name: &str,
    vendor: Uuid,
    attributes: u32,
    time: [u8; 16],
    data: &[u8],
) -> Result<(), StoreError> {
    let (all, end) = variables(flash)?;
    let name = [wide(name), vec![0, 0]].concat();
    let vendor = vendor.to_bytes_le();
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let header = [&START[..], &[ADDED, 0], &attributes.to_le_bytes(), &[0; 8], &time, &[0; 4]].concat();
    let whole = [&header[..], &size(name.len()), &size(data.len()), &vendor, &name, data].concat();
    let limit = room(flash).ok_or(StoreError::NotAStore)?.end;
    let place = flash.get_mut(end..limit).and_then(|free| free.get_mut(..whole.len())).ok_or(StoreError::Full)?;
    if place.iter().any(|byte| *byte != 0xff) {
        return Err(StoreError::NotAStore);
    }
    place.copy_from_slice(&whole);
    for old in all.iter().filter(|old| old.counts && old.name == name && old.vendor == vendor) {
        if let Some(state) = flash.get_mut(old.at + 2) {
            *state &= DELETED;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> jiff::civil::DateTime {
        jiff::civil::date(2026, 1, 2).at(3, 4, 5, 0)
    }

    /// A volume whose store has room for so many bytes of variables.
    fn flash(room: usize) -> Vec<u8> {
        let mut flash = vec![0; 0x48];
        flash[0x28..0x2c].copy_from_slice(b"_FVH");
        flash[0x30] = 0x48;
        flash.extend(AUTHENTICATED.to_bytes_le());
        flash.extend(u32::try_from(STORE_HEADER + room).unwrap().to_le_bytes());
        flash.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
        flash.extend(vec![0xff; room]);
        flash
    }

    #[test]
    fn the_newest_content_counts_and_others_stay() {
        let mut flash = flash(2000);
        enroll(&mut flash, &[(Variable::Pk, vec![1; 33]), (Variable::Db, vec![2; 5])], at()).unwrap();
        enroll(&mut flash, &[(Variable::Pk, vec![3; 7])], at()).unwrap();
        let get = |variable: Variable| get(&flash, variable.name(), variable.vendor()).unwrap();
        assert_eq!(get(Variable::Pk), Some(vec![3; 7]));
        assert_eq!((get(Variable::Db), get(Variable::Kek)), (Some(vec![2; 5]), None));
        assert_eq!(super::get(&flash, "SecureBootEnable", ENABLE).unwrap(), Some(vec![1]));
    }

    #[test]
    fn what_is_full_or_no_store_is_left_alone() {
        let mut small = flash(100);
        let before = small.clone();
        assert_eq!(enroll(&mut small, &[(Variable::Pk, vec![1; 90])], at()), Err(StoreError::Full));
        assert_eq!(small, before);
        assert_eq!(enroll(&mut [0; 4096], &[], at()), Err(StoreError::NotAStore));
        assert_eq!(enroll(&mut [], &[], at()), Err(StoreError::NotAStore));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_the_reader_panic(bytes: Vec<u8>) {
            let mut flash = flash(bytes.len());
            let begin = flash.len() - bytes.len();
            flash[begin..].copy_from_slice(&bytes);
            if bytes.len() > 2 {
                flash[begin..begin + 2].copy_from_slice(&START);
            }
            let _ = get(&flash, "PK", Variable::Pk.vendor());
        }
    }
}
