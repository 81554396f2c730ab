//! How records are written down: an append-only file of checksummed records behind a header with a version.
//!
//! ```text
//! file   = "STKLEASE" version:u16 record*
//! record = 0xA5 length:u8 body[length] crc32c(length, body):u32        all numbers big-endian
//! body   = kind:u8 …                                                   see `encode_body`
//! ```
//!
//! A crash may cut the last record; a bad disk may spoil one in the middle. [`replay`] reads what is whole, goes on
//! behind what is not, and says how much that was. The driver syncs, cuts and renames files.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;

use crate::lease::{Lease, Record};

const MAGIC: &[u8; 8] = b"STKLEASE";
const VERSION: u16 = 1;
const MARK: u8 = 0xA5;

const LEASED: u8 = 1;
const DECLINED: u8 = 2;
const FORGOTTEN: u8 = 3;

/// What a new journal begins with.
pub fn header() -> Vec<u8> {
    [MAGIC.as_slice(), &VERSION.to_be_bytes()].concat()
}

/// Why a file is no journal that this program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Some other file.
    #[error("it is no journal of leases")]
    Foreign,
    /// Written by a newer program.
    #[error("it has version {0}, this program reads up to {VERSION}")]
    Version(u16),
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// Length of the file up to the end of its last whole record: where the next one is appended.
    pub end: usize,
    /// Bytes between whole records that are none: damage, not a cut.
    pub damaged: usize,
}

/// Reads a journal. An empty file, and one whose header was cut by a crash, is an empty journal with `end` 0.
///
/// # Errors
/// If it is another kind of file or a newer version.
pub fn replay(file: &[u8]) -> Result<Replay, JournalError> {
    let header = header();
    if file.len() < header.len() && header.starts_with(file) {
        return Ok(Replay::default());
    }
    let rest = file.strip_prefix(MAGIC).ok_or(JournalError::Foreign)?;
    let (version, mut rest) = rest.split_first_chunk::<2>().ok_or(JournalError::Foreign)?;
    let version = u16::from_be_bytes(*version);
    if version > VERSION {
        return Err(JournalError::Version(version));
    }
    let mut replay = Replay { end: header.len(), ..Replay::default() };
    while !rest.is_empty() {
        if let Some((record, after)) = decode(rest) {
            let at = file.len() - rest.len();
            replay.damaged += at - replay.end;
            replay.end = file.len() - after.len();
            replay.records.push(record);
            rest = after;
        } else {
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    Ok(replay)
}

/// The bytes of one record.
pub fn encode(record: &Record) -> Vec<u8> {
    let body = encode_body(record);
    let mut bytes = vec![MARK, u8::try_from(body.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(&body);
    let checksum = crc32c(bytes.get(1..).unwrap_or_default());
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

fn encode_body(record: &Record) -> Vec<u8> {
    match record {
        Record::Leased(lease) => {
            let mut body = vec![LEASED];
            body.extend_from_slice(&lease.address.octets());
            body.extend_from_slice(&lease.mac.0);
            body.extend_from_slice(&lease.expires.to_be_bytes());
            body.push(u8::from(lease.reserved));
            // A label, so far below the 235 bytes that are left.
            body.extend_from_slice(lease.hostname.as_deref().unwrap_or_default().as_bytes());
            body
        }
        Record::Declined { address, until } => {
            [[DECLINED].as_slice(), &address.octets(), &until.to_be_bytes()].concat()
        }
        Record::Forgotten(address) => [[FORGOTTEN].as_slice(), &address.octets()].concat(),
    }
}

/// The record that the bytes begin with, and what follows it.
fn decode(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let rest = bytes.strip_prefix(&[MARK])?;
    let length = usize::from(*rest.first()?);
    let (checked, after) = rest.split_at_checked(1 + length)?;
    let (checksum, after) = after.split_first_chunk::<4>()?;
    if crc32c(checked) != u32::from_be_bytes(*checksum) {
        return None;
    }
    Some((decode_body(checked.get(1..)?)?, after))
}

fn decode_body(body: &[u8]) -> Option<Record> {
    let (kind, rest) = body.split_first()?;
    let (address, rest) = rest.split_first_chunk::<4>()?;
    let address = Ipv4Addr::from(*address);
    match *kind {
        LEASED => {
            let (mac, rest) = rest.split_first_chunk::<6>()?;
            let (expires, rest) = rest.split_first_chunk::<8>()?;
            let (reserved, name) = rest.split_first()?;
            let hostname = (!name.is_empty()).then(|| String::from_utf8(name.to_vec())).transpose().ok()?;
            let (mac, expires) = (MacAddr(*mac), u64::from_be_bytes(*expires));
            Some(Record::Leased(Lease { address, mac, expires, reserved: *reserved != 0, hostname }))
        }
        DECLINED => Some(Record::Declined { address, until: u64::from_be_bytes(rest.try_into().ok()?) }),
        FORGOTTEN => rest.is_empty().then_some(Record::Forgotten(address)),
        _ => None,
    }
}

/// CRC-32C (Castagnoli), bit by bit: records are short and few.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Leases;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        let address = any::<u32>().prop_map(Ipv4Addr::from);
        let lease =
            (address.clone(), any::<[u8; 6]>(), any::<u64>(), any::<bool>(), proptest::option::of("[a-z]{1,63}"));
        let leased = lease.prop_map(|(address, mac, expires, reserved, hostname)| {
            Record::Leased(Lease { address, mac: MacAddr(mac), expires, reserved, hostname })
        });
        let declined = (address.clone(), any::<u64>()).prop_map(|(address, until)| Record::Declined { address, until });
        prop_oneof![4 => leased, 1 => declined, 1 => address.prop_map(Record::Forgotten)]
    }

    fn written(records: &[Record]) -> Vec<u8> {
        header().into_iter().chain(records.iter().flat_map(encode)).collect()
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn other_files_and_newer_versions_are_refused() {
        assert_eq!(replay(b"#!/bin/sh\nexit 0\n"), Err(JournalError::Foreign));
        assert_eq!(replay(b"STKLEASE\x00\x09"), Err(JournalError::Version(9)));
        assert_eq!(replay(b""), Ok(Replay::default()));
        assert_eq!(replay(b"STKL"), Ok(Replay::default()));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in proptest::collection::vec(record(), 0..40)) {
            let file = written(&records);
            let replayed = replay(&file).unwrap();
            prop_assert_eq!((replayed.end, replayed.damaged), (file.len(), 0));
            prop_assert_eq!(replayed.records, records);
        }

        #[test]
        fn a_cut_loses_the_last_record_at_most(records in proptest::collection::vec(record(), 1..20), cut in 1..15_usize) {
            let file = written(&records);
            let whole = file.len() - encode(records.last().unwrap()).len();
            let replayed = replay(&file[..file.len() - cut.min(file.len() - whole)]).unwrap();
            prop_assert_eq!(replayed.end, whole);
            prop_assert_eq!(&replayed.records[..], &records[..records.len() - 1]);
        }

        #[test]
        fn damage_in_the_middle_spoils_one_record(
            records in proptest::collection::vec(record(), 3..20), at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let mut file = written(&records);
            let at = header().len() + at.index(file.len() - header().len());
            file[at] ^= 1 << bit;
            let replayed = replay(&file).unwrap();
            prop_assert_eq!(replayed.records.len(), records.len() - 1);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = replay(&bytes);
            let _ = replay(&[header(), bytes].concat());
        }

        #[test]
        fn a_table_is_made_again_from_its_own_records(records in proptest::collection::vec(record(), 0..40)) {
            let mut table = Leases::default();
            for record in records {
                table.apply(record);
            }
            let mut again = Leases::default();
            for record in table.records() {
                again.apply(record);
            }
            prop_assert_eq!(table, again);
        }
    }
}
