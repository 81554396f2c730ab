//! Finding the disk of a label, and making sure that what is on it is ours, or nothing.

use std::fs::{File, OpenOptions, read_dir};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::layout::{HEAD, Head};
use crate::kernel_fs::attribute;

const DEVICES: &str = "/sys/class/block";
/// Devices that are no disks, by the beginnings of their names.
const NO_DISKS: [&str; 8] = ["loop", "ram", "nbd", "dm-", "sr", "fd", "zram", "md"];
/// What must be all zeroes at both ends of a blank disk: every file system, partition table, RAID and volume manager that
/// blkid(8) knows has its mark there.
const ENDS: u64 = 1 << 20;
/// In between, so many blocks are looked at: copies of superblocks, and data of a disk whose ends were wiped.
const SAMPLES: u64 = 1024;
/// Copies of superblocks are at multiples of this (ext4 with blocks of 4 KiB, btrfs).
const STEP: u64 = 64 << 20;
const BLOCK: usize = 4096;

/// A block device and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// Bytes.
    pub(super) size: u64,
    /// The GPT's name of a partition.
    partition: String,
    /// Serial number of a whole disk.
    serial: String,
    /// Whether it has partitions.
    divided: bool,
    /// What our own first block says.
    pub(super) head: Option<Head>,
}

/// All disks and partitions that are there.
pub(super) fn candidates() -> Vec<Candidate> {
    let entries = read_dir(DEVICES).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| !NO_DISKS.iter().any(|no| name.starts_with(no))).collect();
    names.sort();
    names.iter().filter_map(|name| candidate(name)).collect()
}

fn candidate(name: &str) -> Option<Candidate> {
    let about = Path::new(DEVICES).join(name);
    // In sectors of 512 bytes, whatever those of the disk are.
    let size = attribute(about.join("size")).parse::<u64>().ok()?.checked_mul(512).filter(|size| *size > 0)?;
    let uevent = attribute(about.join("uevent"));
    let partition = uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default().to_owned();
    let serials = ["serial", "device/serial"].map(|file| attribute(about.join(file)));
    let serial = serials.into_iter().find(|serial| !serial.is_empty()).unwrap_or_default();
    let parts = read_dir(&about).into_iter().flatten().flatten();
    let divided = parts.filter(|entry| entry.path().join("partition").exists()).count() > 0;
    let path = Path::new("/dev").join(name);
    let mut block = [0; HEAD];
    let read = File::open(&path).and_then(|file| file.read_exact_at(&mut block, 0));
    let head = read.ok().and_then(|()| Head::decode(&block)).filter(|head| head.end() <= size);
    Some(Candidate { path, size, partition, serial, divided, head })
}

/// The one disk of this label among them; none if there is none.
///
/// # Errors
/// If there are several: which one is meant is not for us to guess.
pub(super) fn labelled<'a>(candidates: &'a [Candidate], label: &str) -> Result<Option<&'a Candidate>> {
    let ours = |one: &&Candidate| one.head.as_ref().is_some_and(|head| head.label == label);
    let named = |one: &&Candidate| one.partition == label || one.serial == label;
    let found: Vec<_> = match candidates.iter().filter(ours).collect::<Vec<_>>() {
        none if none.is_empty() => candidates.iter().filter(named).collect(),
        ours => ours,
    };
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => {
            let paths: Vec<_> = found.iter().map(|one| one.path.display().to_string()).collect();
            bail!("several disks are called {label:?}: {}", paths.join(", "))
        }
    }
}

/// What the disks are called, for whoever looks for one that is not there.
pub(super) fn names(candidates: &[Candidate]) -> String {
    let name = |one: &Candidate| {
        let words = [one.partition.as_str(), one.serial.as_str(), one.head.as_ref().map_or("", |head| &head.label)];
        let word = words.into_iter().find(|word| !word.is_empty()).unwrap_or("without a name");
        format!("{} ({word})", one.path.display())
    };
    let names: Vec<_> = candidates.iter().map(name).collect();
    if names.is_empty() { "there is no disk".to_owned() } else { format!("there are {}", names.join(", ")) }
}

/// Opens a disk of ours, or makes a blank one ours.
///
/// # Errors
/// If there is anything else on it: then it is left as it is.
pub(super) fn open(candidate: &Candidate, label: &str) -> Result<(File, Head)> {
    let path = candidate.path.display();
    let file = OpenOptions::new().read(true).write(true).open(&candidate.path);
    let file = file.with_context(|| format!("could not open {path}"))?;
    if let Some(head) = &candidate.head {
        return Ok((file, head.clone()));
    }
    if candidate.divided {
        bail!("{path} has partitions, so it is not ours: call one of them {label:?}, or name an empty disk");
    }
    if let Some(offset) = first_mark(&file, candidate.size).with_context(|| format!("could not read {path}"))? {
        bail!(
            "{path} is called {label:?}, but it is neither blank nor ours (there is something at byte {offset}); it is left as \
             it is. If nothing of it is needed, wipe it: blkdiscard --zeroout {path}"
        );
    }
    let head = Head::new(label, candidate.size)?;
    file.write_all_at(&head.encode()?, 0)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("could not write to {path}"))?;
    Ok((file, head))
}

/// Where the first byte is that is not zero, of those that are looked at.
fn first_mark(file: &File, size: u64) -> std::io::Result<Option<u64>> {
    let ends = [0..ENDS.min(size), size.saturating_sub(ENDS)..size];
    for part in ends {
        let blocks = part.step_by(BLOCK);
        if let Some(mark) = mark_in(file, blocks, size)? {
            return Ok(Some(mark));
        }
    }
    let step = (size / SAMPLES).next_multiple_of(STEP).max(STEP);
    mark_in(file, (0..size).step_by(usize::try_from(step).unwrap_or(usize::MAX)), size)
}

fn mark_in(file: &File, blocks: impl Iterator<Item = u64>, size: u64) -> std::io::Result<Option<u64>> {
    let mut block = [0; BLOCK];
    for offset in blocks {
        let length = usize::try_from(size - offset).unwrap_or(BLOCK).min(BLOCK);
        let part = block.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, offset)?;
        if let Some(at) = part.iter().position(|byte| *byte != 0) {
            return Ok(Some(offset + at as u64));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &Path, size: u64, partition: &str, serial: &str) -> Candidate {
        let (partition, serial) = (partition.to_owned(), serial.to_owned());
        Candidate { path: path.to_owned(), size, partition, serial, divided: false, head: None }
    }

    fn blank(size: u64) -> (tempfile::NamedTempFile, Candidate) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let candidate = disk(file.path(), size, "root", "");
        (file, candidate)
    }

    #[test]
    fn a_partition_and_a_disk_are_found_by_name_and_ours_by_what_we_wrote() {
        let mut all = [disk(Path::new("/dev/a"), 1, "root", ""), disk(Path::new("/dev/b"), 1, "", "serial-1")];
        assert_eq!(labelled(&all, "root").unwrap(), Some(&all[0]));
        assert_eq!(labelled(&all, "serial-1").unwrap(), Some(&all[1]));
        assert_eq!(labelled(&all, "other").unwrap(), None);
        all[1].partition = "root".to_owned();
        assert!(labelled(&all, "root").unwrap_err().to_string().contains("/dev/a, /dev/b"));
        all[1].head = Head::new("root", 1 << 30).ok();
        assert_eq!(labelled(&all, "root").unwrap(), Some(&all[1]), "the other one may have been cloned");
    }

    #[test]
    fn a_blank_disk_becomes_ours_once() {
        let (_file, mut disk) = blank(64 << 20);
        let (_, head) = open(&disk, "root").unwrap();
        let mut block = [0; HEAD];
        File::open(&disk.path).unwrap().read_exact_at(&mut block, 0).unwrap();
        disk.head = Head::decode(&block);
        assert_eq!(disk.head, Some(head.clone()));
        assert_eq!(open(&disk, "root").unwrap().1, head);
    }

    #[test]
    fn anything_else_is_left_as_it_is() {
        // Marks of ext4, of RAID at the end, of a copy of a btrfs superblock.
        for offset in [0, 0x438, (1 << 30) - 1, 64 << 20, 128 << 20] {
            let (file, disk) = blank(1 << 30);
            file.as_file().write_all_at(&[0x53], offset).unwrap();
            let error = open(&disk, "root").unwrap_err().to_string();
            assert!(error.contains(&format!("at byte {offset})")), "{error}");
            let mut head = [0; 16];
            file.as_file().read_exact_at(&mut head, 0).unwrap();
            assert_eq!(head[1..], [0; 15], "nothing was written");
        }
        let (_file, mut disk) = blank(64 << 20);
        disk.divided = true;
        assert!(open(&disk, "root").unwrap_err().to_string().contains("has partitions"));
    }
}
