//! What is where on a disk of ours. Pure.
//!
//! ```text
//!   0          what it is: label, places of the slots          4 KiB, with a checksum; written once
//!   64 KiB     record: what the slots have                     512 KiB, with a number and a checksum
//!   576 KiB    the same; the one with the higher number counts, the other one is written next
//!   2 MiB      slot A: table of chunks (16 MiB), then a root
//!   2 MiB + s  slot B
//! ```
//!
//! A power cut while a record is written leaves the one before it.

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stoke_api::names::Digest;
use stoke_api::node::Manifest;
use stoke_api::trust::Hex;

/// Bytes of the block that says what the disk is.
pub(super) const HEAD: usize = 4096;
/// Where the records are, and how long each may be.
const RECORDS: [u64; 2] = [64 << 10, 576 << 10];
pub(super) const RECORD: usize = 512 << 10;
const SLOTS: u64 = 2 << 20;
/// Room for the table of chunks at the beginning of each slot.
pub(super) const TABLE: u64 = 16 << 20;
const ALIGNMENT: u64 = 1 << 20;
const MAGIC: [u8; 16] = *b"stokehold disk 1";
/// Magic, number, length, checksum.
const ENVELOPE: usize = 16 + 8 + 8 + 32;

/// What a disk of ours is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) label: String,
    /// Bytes of a slot.
    slot: u64,
}

/// Which slot: A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Slot {
    A,
    B,
}

impl Slot {
    pub(super) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl Head {
    /// For a disk of so many bytes.
    pub(super) fn new(label: &str, size: u64) -> Result<Self> {
        let slot = size.saturating_sub(SLOTS) / 2 / ALIGNMENT * ALIGNMENT;
        if slot <= TABLE {
            bail!("a disk of {} MiB is too small for two images: 64 MiB and twice the size of an image", size >> 20);
        }
        Ok(Self { label: label.to_owned(), slot })
    }

    /// Where a slot begins, in bytes.
    pub(super) fn start(&self, slot: Slot) -> u64 {
        match slot {
            Slot::A => SLOTS,
            Slot::B => SLOTS + self.slot,
        }
    }

    /// Where the root of a slot begins, in bytes.
    pub(super) fn root(&self, slot: Slot) -> u64 {
        self.start(slot) + TABLE
    }

    /// Makes sure that a root of so many bytes fits.
    pub(super) fn check_room(&self, size: u64) -> Result<()> {
        let free = self.slot - TABLE;
        if size > free {
            let (size, free, label) = (size.div_ceil(1 << 20), free >> 20, &self.label);
            bail!("the root of {size} MiB does not fit into a slot of {free} MiB: make the disk {label:?} larger");
        }
        Ok(())
    }

    /// Bytes that a disk needs for these slots.
    pub(super) fn end(&self) -> u64 {
        SLOTS + 2 * self.slot
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        seal(0, self, HEAD)
    }

    /// What the first block says, if it is ours.
    pub(super) fn decode(block: &[u8]) -> Option<Self> {
        let (_, head): (u64, Self) = open(block)?;
        (head.slot > TABLE && head.slot.is_multiple_of(ALIGNMENT)).then_some(head)
    }
}

/// What a slot has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Content {
    /// Nothing that was written by us.
    #[default]
    Empty,
    /// Part of this root.
    Begun(Digest),
    /// All of this root, from which a system came up.
    Good(Digest),
    /// All of it, but no system came up from it yet: it is checked before it is used again.
    Untried(Digest),
}

/// What is remembered on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    a: Content,
    b: Content,
    /// The slot from which a system came up last.
    pub(super) good: Option<Slot>,
    /// What the farm said last, for a boot without it.
    #[serde(default)]
    pub(super) manifest: Option<Box<Manifest>>,
    /// The node's SSH host key, for the same.
    #[serde(default)]
    pub(super) host_key: Option<Hex>,
}

impl Memory {
    pub(super) fn content(&self, slot: Slot) -> &Content {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    pub(super) fn set(&mut self, slot: Slot, content: Content) {
        match slot {
            Slot::A => self.a = content,
            Slot::B => self.b = content,
        }
    }

    /// The slot for this root: the one that has it or a part of it, else the one from which the last system did not come up.
    pub(super) fn choose(&self, root: &Digest) -> Slot {
        let has = |slot: &Slot| match self.content(*slot) {
            Content::Empty => false,
            Content::Begun(digest) | Content::Good(digest) | Content::Untried(digest) => digest == root,
        };
        let found = [Slot::A, Slot::B].into_iter().find(has);
        found.unwrap_or_else(|| self.good.map_or(Slot::A, Slot::other))
    }
}

/// A record with its number, and where it is to be written.
pub(super) fn record(number: u64, memory: &Memory) -> Result<(u64, Vec<u8>)> {
    Ok((place(number), seal(number, memory, RECORD)?))
}

/// Where the record of a number is.
pub(super) fn place(number: u64) -> u64 {
    let [even, odd] = RECORDS;
    if number.is_multiple_of(2) { even } else { odd }
}

/// The newer one of both records, with its number.
pub(super) fn newest<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Option<(u64, Memory)> {
    records.into_iter().filter_map(open::<Memory>).max_by_key(|(number, _)| *number)
}

fn seal(number: u64, content: &impl Serialize, room: usize) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(content).context("what is remembered on the disk cannot be encoded")?;
    if text.len() > room - ENVELOPE {
        bail!("{} bytes are to be remembered on the disk, which has room for {}", text.len(), room - ENVELOPE);
    }
    let mut sealed =
        [&MAGIC[..], &number.to_le_bytes(), &(text.len() as u64).to_le_bytes(), &sum(number, &text), &text].concat();
    sealed.resize(sealed.len().next_multiple_of(HEAD), 0);
    Ok(sealed)
}

fn open<T: DeserializeOwned>(block: &[u8]) -> Option<(u64, T)> {
    let rest = block.strip_prefix(&MAGIC)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<32>()?;
    let number = u64::from_le_bytes(*number);
    let text = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    if sum(number, text) != checksum {
        return None;
    }
    Some((number, serde_json::from_slice(text).ok()?))
}

fn sum(number: u64, text: &[u8]) -> Vec<u8> {
    digest(&SHA256, &[&number.to_le_bytes()[..], text].concat()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Digest = Digest([1; 32]);
    const OTHER: Digest = Digest([2; 32]);

    #[test]
    fn slots_do_not_overlap_and_end_before_the_disk_does() {
        let head = Head::new("root", 1 << 30).unwrap();
        assert_eq!(head.start(Slot::A), 2 << 20);
        assert_eq!(head.start(Slot::B), head.root(Slot::A) - TABLE + head.slot);
        assert!(head.end() <= 1 << 30);
        assert!(head.check_room(400 << 20).is_ok());
        assert!(head.check_room(600 << 20).unwrap_err().to_string().contains("make the disk \"root\" larger"));
        assert!(Head::new("root", 30 << 20).is_err());
        assert_eq!(Head::decode(&head.encode().unwrap()), Some(head));
    }

    #[test]
    fn of_two_records_the_newer_whole_one_counts() {
        let with = |content| Memory { a: content, ..Memory::default() };
        let (first_at, first) = record(4, &with(Content::Begun(ROOT))).unwrap();
        let (second_at, mut second) = record(5, &with(Content::Good(ROOT))).unwrap();
        assert_ne!(first_at, second_at);
        assert_eq!(newest([&first[..], &second[..]]), Some((5, with(Content::Good(ROOT)))));
        // A power cut in the middle of writing it.
        second.truncate(100);
        assert_eq!(newest([&first[..], &second[..]]), Some((4, with(Content::Begun(ROOT)))));
        assert_eq!(newest([&[][..], &[0; 4096][..]]), None);
    }

    #[test]
    fn the_slot_of_the_running_system_is_never_chosen_for_another_root() {
        let mut memory = Memory::default();
        assert_eq!(memory.choose(&ROOT), Slot::A);
        memory.set(Slot::A, Content::Good(ROOT));
        memory.good = Some(Slot::A);
        assert_eq!((memory.choose(&ROOT), memory.choose(&OTHER)), (Slot::A, Slot::B));
        memory.set(Slot::B, Content::Untried(OTHER));
        assert_eq!((memory.choose(&OTHER), memory.choose(&Digest([3; 32]))), (Slot::B, Slot::B));
    }

    proptest::proptest! {
        #[test]
        fn no_block_panics(block: Vec<u8>) {
            let _ = Head::decode(&[&MAGIC[..], &block].concat());
            let _ = newest([&block[..]]);
        }
    }
}
