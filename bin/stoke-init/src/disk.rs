//! The root on a disk of the node: two slots, so that the version that works is never written to, and only what has changed
//! is fetched.
//!
//! ```text
//!   find the disk by its label ── not blank, not ours ──> the boot fails, nothing is written
//!     │
//!   the slot with this root, else the one that the last good system does not use
//!     │
//!   fill it, chunk by chunk ──> remember ──> linear mapping ──> dm-verity ──> … up: the slot is good
//! ```
//!
//! - [`layout`]: what is where on the disk, pure.
//! - [`find`]: which disk it is, and whether it is blank.
//! - [`fill`]: what is there, what the other slot has, what must be fetched.
//!
//! What this never does: write to a disk whose first bytes are not ours and not all zero. Whatever is on the disk, blocks
//! reach the system through dm-verity alone.

mod fill;
mod find;
mod layout;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use stoke_api::chunks::{ChunkTable, LONGEST_TABLE};
use stoke_api::names::Digest;
use stoke_api::node::{Manifest, RootInfo};
use stoke_api::objects::DiskRoot;
use stoke_api::trust::Hex;
use stoke_sys::dm::{DeviceMapper, Target};

use crate::journal::Journal;
use crate::modules::Loader;
use crate::ram::{self, Sources};
use fill::Filled;
use find::Candidate;
pub(crate) use layout::Slot;
use layout::{Content, Head, Memory, RECORD};

/// How long a disk may take to appear after its driver.
const APPEARS: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);
/// Name of the mapping over a slot.
const NAME: &str = "slot";
const SECTOR: u64 = 512;

/// A disk of ours, with what is remembered on it.
#[derive(Debug)]
struct Disk {
    file: File,
    head: Head,
    number: u64,
    memory: Memory,
}

/// A root in a slot.
#[derive(Debug)]
pub(crate) struct SlotRoot {
    disk: Disk,
    slot: Slot,
    root: Digest,
    /// The mapping over the slot.
    pub(crate) device: PathBuf,
    /// For whoever inherits it.
    descriptor: OwnedFd,
}

/// What is wanted on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) disk: &'a DiskRoot,
    pub(crate) root: &'a RootInfo,
    /// URLs of the root, and of its table of chunks.
    pub(crate) http: &'a [String],
    pub(crate) chunks: &'a [String],
}

/// Finds the disk, fills a slot with the root, and makes a block device of it.
pub(crate) fn attach(wanted: &Wanted<'_>, loader: &mut Loader, journal: &Journal) -> Result<SlotRoot> {
    let mut disk = Disk::find(&wanted.disk.label, loader)?;
    let root = wanted.root.blob;
    disk.head.check_room(wanted.root.size)?;
    let slot = disk.memory.choose(&root);
    if *disk.memory.content(slot) == Content::Good(root) {
        journal.say(&format!("slot {slot:?} has this root"));
    } else {
        let filled = disk.fill(slot, wanted)?;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let Filled { there, copied, fetched } = filled;
        journal.say(&format!(
            "slot {slot:?}: {} MiB were there, {} MiB copied from the other slot, {} MiB ({fetched} bytes) fetched",
            mib(there),
            mib(copied),
            mib(fetched)
        ));
        disk.remember(|memory| memory.set(slot, Content::Untried(root)))?;
    }
    let device = map(&disk, slot, wanted.root.size)?;
    let descriptor = disk.file.try_clone().context("could not copy a descriptor")?.into();
    Ok(SlotRoot { disk, slot, root, device, descriptor })
}

/// What the farm said last to a node whose disk has this root whole and may be booted without a farm, and the node's SSH host
/// key.
pub(crate) fn last_manifest(root: &Digest, loader: &mut Loader) -> Option<(Manifest, Option<String>)> {
    loader.load_for_disks();
    let ours = |candidates: Vec<Candidate>| candidates.into_iter().find(|candidate| candidate.head.is_some());
    let candidate = wait(|| Ok(ours(find::candidates()))).ok()??;
    let label = candidate.head.as_ref()?.label.clone();
    let disk = Disk::open(&candidate, &label).ok()?;
    let whole = [Slot::A, Slot::B].iter().any(|slot| *disk.memory.content(*slot) == Content::Good(*root));
    let may =
        |manifest: &Manifest| manifest.root.blob == *root && manifest.disk.as_ref().is_some_and(|disk| disk.offline);
    let host_key = disk.memory.host_key.and_then(|key| String::from_utf8(key.0).ok());
    disk.memory.manifest.filter(|manifest| whole && may(manifest)).map(|manifest| (*manifest, host_key))
}

/// Looks until there is something or the patience is over.
fn wait<T>(look: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
    let until = Instant::now() + APPEARS;
    loop {
        match look()? {
            None if Instant::now() < until => std::thread::sleep(LOOK),
            found => return Ok(found),
        }
    }
}

impl Disk {
    fn find(label: &str, loader: &mut Loader) -> Result<Self> {
        loader.load_for_disks();
        let found = wait(|| Ok(find::labelled(&find::candidates(), label)?.cloned()))?;
        match found {
            Some(candidate) => Self::open(&candidate, label),
            None => bail!("no disk is called {label:?}; {}", find::names(&find::candidates())),
        }
    }

    fn open(candidate: &Candidate, label: &str) -> Result<Self> {
        let (file, head) = find::open(candidate, label)?;
        Self::of(file, head)
    }

    fn of(file: File, head: Head) -> Result<Self> {
        let mut records = [vec![0; RECORD], vec![0; RECORD]];
        for (number, record) in (0..).zip(&mut records) {
            file.read_exact_at(record, layout::place(number))
                .context("could not read what is remembered on the disk")?;
        }
        let (number, memory) = layout::newest(records.iter().map(Vec::as_slice)).unwrap_or_default();
        Ok(Self { file, head, number, memory })
    }

    /// Changes what is remembered. It is on the disk when this returns.
    fn remember(&mut self, change: impl FnOnce(&mut Memory)) -> Result<()> {
        let mut memory = self.memory.clone();
        change(&mut memory);
        if memory == self.memory {
            return Ok(());
        }
        let (at, record) = layout::record(self.number + 1, &memory)?;
        let written = self.file.write_all_at(&record, at).and_then(|()| self.file.sync_all());
        written.context("could not remember on the disk what is there")?;
        (self.number, self.memory) = (self.number + 1, memory);
        Ok(())
    }

    fn fill(&mut self, slot: Slot, wanted: &Wanted<'_>) -> Result<Filled> {
        let root = wanted.root.blob;
        let table = self.table(slot, wanted)?;
        let other = self.stored_table(slot.other()).map(|table| fill::known(&table, self.head.root(slot.other())));
        let written = *self.memory.content(slot) != Content::Empty;
        self.remember(|memory| memory.set(slot, Content::Begun(root)))?;
        self.store_table(slot, &table)?;
        let target = fill::Target { disk: &self.file, start: self.head.root(slot), written };
        fill::fill(target, &table, &other.unwrap_or_default(), &Sources::new(wanted.http))
    }

    /// The table of the root: that of the slot if it has this root, else the farm's.
    fn table(&self, slot: Slot, wanted: &Wanted<'_>) -> Result<ChunkTable> {
        let root = wanted.root.blob;
        if [Content::Begun(root), Content::Untried(root)].contains(self.memory.content(slot))
            && let Some(table) = self.stored_table(slot).filter(|table| table.size() == wanted.root.size)
        {
            return Ok(table);
        }
        let agent = ram::agent();
        Sources::new(wanted.chunks).try_each(|url| {
            let mut response = agent.get(url).call()?;
            let mut bytes = Vec::new();
            response.body_mut().as_reader().take(LONGEST_TABLE as u64 + 1).read_to_end(&mut bytes)?;
            Ok(ChunkTable::decode(&bytes, wanted.root.size)?)
        })
    }

    /// What a slot's root is made of, as far as we wrote it down. Its content is not checked here.
    fn stored_table(&self, slot: Slot) -> Option<ChunkTable> {
        let mut about = [0; 16];
        self.file.read_exact_at(&mut about, self.head.start(slot)).ok()?;
        let (length, size) = about.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= LONGEST_TABLE)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.head.start(slot) + 16).ok()?;
        ChunkTable::decode(&bytes, u64::from_le_bytes(size.try_into().ok()?)).ok()
    }

    fn store_table(&self, slot: Slot, table: &ChunkTable) -> Result<()> {
        let bytes = table.encode();
        let stored = [&(bytes.len() as u64).to_le_bytes()[..], &table.size().to_le_bytes(), &bytes].concat();
        let written = self.file.write_all_at(&stored, self.head.start(slot)).and_then(|()| self.file.sync_all());
        written.context("could not write the table of chunks to the disk")
    }
}

impl SlotRoot {
    /// Keeps what a boot without the farm needs: what the farm said, and the SSH host key. Nothing is kept without a manifest.
    pub(crate) fn keep(&mut self, manifest: Option<&Manifest>, host_key: Option<&str>) -> Result<()> {
        self.disk.remember(|memory| {
            memory.manifest = manifest.map(|manifest| Box::new(manifest.clone()));
            memory.host_key = host_key.filter(|_| manifest.is_some()).map(|key| Hex(key.into()));
        })
    }

    /// For the resident: the disk, which it must inherit.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// The slot and what is in it.
    pub(crate) fn place(&self) -> (Slot, Digest) {
        (self.slot, self.root)
    }

    /// For another attempt. A root with wrong blocks is checked and repaired then.
    pub(crate) fn give_back(mut self, corrupted: bool) {
        unmap();
        if corrupted {
            let (slot, root) = self.place();
            // If this cannot be remembered, the next attempt finds out again.
            let _ = self.disk.remember(|memory| memory.set(slot, Content::Begun(root)));
        }
    }
}

/// What the resident found out about the slot that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The system is up.
    Good,
    /// Blocks are not what was built: the next boot checks all of them.
    Corrupted,
}

/// Remembers it on the disk.
pub(crate) fn judge(disk: OwnedFd, (slot, root): (Slot, Digest), verdict: Verdict) -> Result<()> {
    let file = File::from(disk);
    let mut block = [0; layout::HEAD];
    file.read_exact_at(&mut block, 0).context("could not read the disk")?;
    let head = Head::decode(&block).context("the disk is not ours any more")?;
    Disk::of(file, head)?.remember(|memory| match verdict {
        Verdict::Good => {
            memory.set(slot, Content::Good(root));
            memory.good = Some(slot);
        }
        Verdict::Corrupted => memory.set(slot, Content::Begun(root)),
    })
}

/// A read-only block device of so many bytes of the slot's root (Linux' Documentation/admin-guide/device-mapper/linear.rst).
fn map(disk: &Disk, slot: Slot, size: u64) -> Result<PathBuf> {
    let device = device_of(&disk.file)?;
    let parameters = format!("{} {}", device.display(), disk.head.root(slot) / SECTOR);
    let target = Target { sectors: size / SECTOR, kind: "linear".to_owned(), parameters };
    let mapper = DeviceMapper::open()?;
    let minor = mapper.create(NAME)?;
    mapper.load(NAME, &target).with_context(|| format!("slot {slot:?} of {}", device.display()))?;
    mapper.resume(NAME)?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

/// Removes the mapping over the slot. What is not there is not missed.
pub(crate) fn unmap() {
    let _ = DeviceMapper::open().map(|mapper| mapper.remove(NAME));
}

/// The device node of an open disk, in the kernel's words: `MAJOR:MINOR`.
fn device_of(file: &File) -> Result<PathBuf> {
    let device = rustix::fs::fstat(file).context("could not look at the disk")?.st_rdev;
    Ok(Path::new(&format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::chunks::Chunk;

    const ROOT: Digest = Digest([1; 32]);

    fn disk() -> (tempfile::NamedTempFile, Disk) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(128 << 20).unwrap();
        let head = Head::new("root", 128 << 20).unwrap();
        file.as_file().write_all_at(&head.encode().unwrap(), 0).unwrap();
        let disk = Disk::of(file.reopen().unwrap(), head).unwrap();
        (file, disk)
    }

    fn again(file: &tempfile::NamedTempFile, disk: &Disk) -> Memory {
        Disk::of(file.reopen().unwrap(), disk.head.clone()).unwrap().memory
    }

    #[test]
    fn what_is_remembered_is_there_the_next_time() {
        let (file, mut disk) = disk();
        assert_eq!(disk.memory, Memory::default());
        for content in [Content::Begun(ROOT), Content::Untried(ROOT), Content::Good(ROOT)] {
            disk.remember(|memory| memory.set(Slot::B, content.clone())).unwrap();
            assert_eq!(*again(&file, &disk).content(Slot::B), content);
        }
    }

    #[test]
    fn a_slot_is_good_when_the_system_was_up_and_checked_again_when_it_had_wrong_blocks() {
        let (file, disk) = disk();
        let judge = |verdict| judge(file.reopen().unwrap().into(), (Slot::A, ROOT), verdict).unwrap();
        judge(Verdict::Good);
        let memory = again(&file, &disk);
        assert_eq!((memory.content(Slot::A), memory.good), (&Content::Good(ROOT), Some(Slot::A)));
        judge(Verdict::Corrupted);
        assert_eq!(*again(&file, &disk).content(Slot::A), Content::Begun(ROOT));
        file.as_file().write_all_at(&[0; 16], 0).unwrap();
        assert!(super::judge(file.reopen().unwrap().into(), (Slot::A, ROOT), Verdict::Good).is_err());
    }

    #[test]
    fn the_table_of_a_slot_is_kept_beside_it() {
        let (_file, disk) = disk();
        assert_eq!(disk.stored_table(Slot::A), None);
        let table = ChunkTable::new(vec![Chunk { length: 5, digest: ROOT }; 3]);
        disk.store_table(Slot::A, &table).unwrap();
        assert_eq!(disk.stored_table(Slot::A), Some(table));
        assert_eq!(disk.stored_table(Slot::B), None);
    }
}
