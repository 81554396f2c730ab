//! dm-verity over the root: every block that is read is checked against the root hash that the initramfs knows.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail};
use rustix::fs::OFlags;
use stoke_api::names::Digest;
use stoke_api::node::Verity;
use stoke_sys::dm::{DeviceMapper, Target};

/// The name of the mapped device.
pub(crate) const NAME: &str = "root";
/// Bytes of a data block and of a hash block.
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
/// Bytes that are read at once when all are.
const READ: usize = 256 << 10;
const SECTORS_PER_BLOCK: u64 = BLOCK / 512;

/// Maps the root on this block device. What can be read of the result is what was built.
pub(crate) fn open(device: &Path, verity: &Verity) -> Result<PathBuf> {
    let target = target(device, verity)?;
    let mapper = DeviceMapper::open()?;
    let minor = mapper.create(NAME)?;
    mapper.load(NAME, &target).with_context(|| format!("dm-verity over {}", device.display()))?;
    mapper.resume(NAME)?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

/// Reads the first block, so that a root which is another one is noticed before anything depends on it.
pub(crate) fn probe(mapped: &Path) -> Result<()> {
    let mut block = [0; 4096];
    let result = File::open(mapped).and_then(|mut file| file.read_exact(&mut block));
    result.with_context(|| format!("dm-verity refuses the first block of {}", mapped.display()))
}

/// Reads every block once, so that a wrong one is found before it is needed. Past the page cache, whose pages the system
/// has better use for.
pub(crate) fn read_all(mapped: &Path) -> Result<()> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).context("O_DIRECT")?;
    let mut device = OpenOptions::new().read(true).custom_flags(direct).open(mapped)?;
    // A direct read wants memory that is aligned like a block.
    let mut memory = vec![0; READ + BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let buffer = memory.get_mut(start..start + READ).context("memory that is aligned like a block")?;
    while device.read(buffer).with_context(|| format!("dm-verity refuses a block of {}", mapped.display()))? > 0 {}
    Ok(())
}

/// Whatever failed on a root with wrong blocks, they are the reason.
pub(crate) fn explain(error: Error, root: &Digest) -> Error {
    if !found_corruption() {
        return error;
    }
    error.context(format!("dm-verity: the root {root} is corrupted"))
}

/// Whether anything that was read did not have the hash that it should have.
pub(crate) fn found_corruption() -> bool {
    // `verity_status` in Linux' drivers/md/dm-verity-target.c.
    let status = DeviceMapper::open().and_then(|mapper| mapper.status(NAME));
    status.is_ok_and(|status| status.starts_with('C'))
}

/// Removes the mapping, for another attempt.
pub(crate) fn close() -> Result<()> {
    DeviceMapper::open()?.remove(NAME).map_err(Into::into)
}

/// Linux' Documentation/admin-guide/device-mapper/verity.rst.
fn target(device: &Path, verity: &Verity) -> Result<Target> {
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if verity.root_hash.len() != 64 || !hexadecimal(&verity.root_hash) || !hexadecimal(&verity.salt) {
        bail!("{:?} with salt {:?} is no root hash", verity.root_hash, verity.salt);
    }
    if !verity.hash_offset.is_multiple_of(BLOCK) || verity.data_blocks == 0 {
        bail!("a hash tree at {} over {} blocks cannot be", verity.hash_offset, verity.data_blocks);
    }
    let salt = if verity.salt.is_empty() { "-" } else { &verity.salt };
    let (device, tree) = (device.display(), verity.hash_offset / BLOCK);
    Ok(Target {
        sectors: verity.data_blocks * SECTORS_PER_BLOCK,
        kind: "verity".to_owned(),
        parameters: format!(
            "1 {device} {device} {BLOCK} {BLOCK} {} {tree} sha256 {} {salt}",
            verity.data_blocks, verity.root_hash
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verity() -> Verity {
        Verity { root_hash: "ab".repeat(32), salt: String::new(), data_blocks: 10, hash_offset: 40960 }
    }

    #[test]
    fn the_table_is_the_kernels() {
        let target = target(Path::new("/dev/nbd0"), &verity()).unwrap();
        assert_eq!(target.sectors, 80);
        let expected = format!("1 /dev/nbd0 /dev/nbd0 4096 4096 10 10 sha256 {} -", "ab".repeat(32));
        assert_eq!(target.parameters, expected);
    }

    #[test]
    fn what_could_break_the_line_is_refused() {
        let space = Verity { salt: "ab 1".into(), ..verity() };
        assert!(target(Path::new("/dev/nbd0"), &space).is_err());
        let odd = Verity { hash_offset: 100, ..verity() };
        assert!(target(Path::new("/dev/nbd0"), &odd).is_err());
    }
}
