//! The hash tree of dm-verity, written behind the file system in the same file.
//!
//! Layout of the kernel's version 1 (`Documentation/admin-guide/device-mapper/verity.rst`, `drivers/md/dm-verity-target.c`):
//! a block of hashes holds the SHA-256 of salt and block for 128 blocks of the level below, padded with zeroes; the level
//! next to the root comes first in the hash area, the one over the data last. There is no superblock: what it would say
//! is in [`Verity`], which travels in the initramfs.

use std::io::{self, Read, Seek, Write};
use std::path::Path;

use fs_err::OpenOptions;
use sha2::{Digest as _, Sha256};
use stoke_api::node::Verity;

/// Bytes in a block of data and of hashes.
pub const BLOCK: usize = 4096;
const HASH: usize = 32;
const HASHES_PER_BLOCK: usize = BLOCK / HASH;

/// The salt of all our trees. It is not secret; a fixed one makes equal file systems have equal trees.
const SALT: [u8; 32] = *b"stokehold dm-verity salt, fixed.";

/// Pads a file to whole blocks and appends its hash tree.
///
/// # Errors
/// If the file cannot be read or written, or is empty.
pub fn append(path: &Path) -> io::Result<Verity> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let length = pad(&mut file)?;
    let (root_hash, tree) = hash_tree(&mut file, &SALT)?;
    file.write_all(&tree)?;
    file.sync_all()?;
    let data_blocks = length / BLOCK as u64;
    Ok(Verity { root_hash, salt: hexadecimal(&SALT), data_blocks, hash_offset: length })
}

/// Whether data and hash tree, read from their beginning to their end, are those that the root hash stands for.
///
/// # Errors
/// If they cannot be read.
pub fn is_intact(mut from: impl Read, verity: &Verity) -> io::Result<bool> {
    let length = verity.data_blocks.saturating_mul(BLOCK as u64);
    let Some(salt) = bytes(&verity.salt).filter(|_| length == verity.hash_offset) else { return Ok(false) };
    let (root_hash, tree) = hash_tree(&mut (&mut from).take(length), &salt)?;
    if root_hash != verity.root_hash {
        return Ok(false);
    }
    // One byte more than expected is read, if there is one.
    let mut found = Vec::new();
    from.take(tree.len() as u64 + 1).read_to_end(&mut found)?;
    Ok(found == tree)
}

/// The root hash of data, and the tree below it as it lies behind the data.
fn hash_tree(data: &mut impl Read, salt: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let mut level = hash_blocks(data, salt)?;
    let mut levels = Vec::new();
    // The root hash is the hash of a single block: even one block of data gets a level of its own only if it must
    // (verity_ctr stops adding levels when one block is left).
    while level.len() > HASH {
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        let above = hash_blocks(&mut level.as_slice(), salt)?;
        levels.push(std::mem::replace(&mut level, above));
    }
    levels.reverse();
    Ok((hexadecimal(&level), levels.concat()))
}

fn pad(file: &mut fs_err::File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an empty file system cannot be verified"));
    }
    let padded = length.next_multiple_of(BLOCK as u64);
    let missing = usize::try_from(padded - length).unwrap_or_default();
    file.write_all(vec![0; missing].as_slice())?;
    // Appending moved to the end.
    file.rewind()?;
    Ok(padded)
}

/// The hashes of all blocks, behind each other.
fn hash_blocks(blocks: &mut impl Read, salt: &[u8]) -> io::Result<Vec<u8>> {
    let (mut hashes, mut buffer) = (Vec::new(), vec![0; BLOCK * HASHES_PER_BLOCK]);
    let salted = Sha256::new_with_prefix(salt);
    loop {
        let filled = fill(blocks, &mut buffer)?;
        let chunk = buffer.get(..filled).unwrap_or_default();
        for block in chunk.chunks(BLOCK) {
            hashes.extend_from_slice(&salted.clone().chain_update(block).finalize());
        }
        if filled < buffer.len() {
            return Ok(hashes);
        }
    }
}

/// Reads until the buffer is full or the end is reached.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What [`hexadecimal`] wrote.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
