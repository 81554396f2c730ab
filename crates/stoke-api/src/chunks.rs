//! What a root is made of, chunk by chunk: so that a node which has another version on its disk fetches only what is new.
//!
//! Cut by content, not by position: what is inserted into an image moves what follows, and that is found all the same. The
//! table is a hint. Whoever uses it checks what it got by the root's own hash tree in the end.
//!
//! ```text
//!   "stkchnk1"   8 bytes
//!   length       4 bytes, little-endian   \  for each chunk, in the order of the root
//!   SHA-256     32 bytes                  /
//! ```

use crate::names::Digest;

const MAGIC: [u8; 8] = *b"stkchnk1";
const ENTRY: usize = 36;
/// More chunks than any table has: the larger a root, the larger its chunks.
pub const MOST_CHUNKS: usize = 1 << 18;
/// The longest chunk in bytes that a node takes at once.
pub const LONGEST_CHUNK: u32 = 64 << 20;
/// Bytes of the longest table.
pub const LONGEST_TABLE: usize = MAGIC.len() + MOST_CHUNKS * ENTRY;

/// A part of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in bytes, at least 1.
    pub length: u32,
    /// Its content.
    pub digest: Digest,
}

/// All chunks of a root, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkTable {
    chunks: Vec<Chunk>,
}

/// Why these bytes are no table of that root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkTableError {
    /// They are something else.
    #[error("this is no chunk table")]
    NotOne,
    /// A chunk or the number of chunks is beyond all bounds.
    #[error("this chunk table has a chunk of {0} bytes, or too many chunks")]
    Bounds(u32),
    /// The chunks together are not as long as the root.
    #[error("the chunks have {found} bytes together, the root has {wanted}")]
    Size {
        /// Of the chunks.
        found: u64,
        /// Of the root.
        wanted: u64,
    },
}

impl ChunkTable {
    /// A table of these chunks.
    pub fn new(chunks: Vec<Chunk>) -> Self {
        Self { chunks }
    }

    /// Each chunk with its offset in bytes.
    pub fn with_offsets(&self) -> impl Iterator<Item = (u64, Chunk)> {
        let mut at = 0;
        self.chunks.iter().map(move |chunk| {
            let offset = at;
            at += u64::from(chunk.length);
            (offset, *chunk)
        })
    }

    /// Bytes of all chunks together.
    pub fn size(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
    }

    /// As bytes, see the module's description.
    pub fn encode(&self) -> Vec<u8> {
        let entry = |chunk: &Chunk| [&chunk.length.to_le_bytes()[..], &chunk.digest.0].concat();
        MAGIC.into_iter().chain(self.chunks.iter().flat_map(entry)).collect()
    }

    /// Reads the table of a root of `size` bytes.
    ///
    /// # Errors
    /// If it is none, or of another root.
    pub fn decode(bytes: &[u8], size: u64) -> Result<Self, ChunkTableError> {
        let entries = bytes.strip_prefix(&MAGIC).filter(|rest| rest.len().is_multiple_of(ENTRY));
        let entries = entries.ok_or(ChunkTableError::NotOne)?;
        if entries.len() / ENTRY > MOST_CHUNKS {
            return Err(ChunkTableError::Bounds(0));
        }
        let entry = |entry: &[u8]| {
            let (length, digest) = entry.split_first_chunk::<4>()?;
            Some(Chunk { length: u32::from_le_bytes(*length), digest: Digest(digest.try_into().ok()?) })
        };
        let chunks: Option<Vec<_>> = entries.chunks(ENTRY).map(entry).collect();
        let table = Self { chunks: chunks.ok_or(ChunkTableError::NotOne)? };
        let wrong = |chunk: &&Chunk| chunk.length == 0 || chunk.length > LONGEST_CHUNK;
        if let Some(chunk) = table.chunks.iter().find(wrong) {
            return Err(ChunkTableError::Bounds(chunk.length));
        }
        match table.size() {
            found if found == size => Ok(table),
            found => Err(ChunkTableError::Size { found, wanted: size }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lengths: &[u32]) -> ChunkTable {
        ChunkTable::new(lengths.iter().map(|length| Chunk { length: *length, digest: Digest([7; 32]) }).collect())
    }

    #[test]
    fn a_table_reads_back_and_belongs_to_one_size() {
        let (table, bytes) = (table(&[5, 1, 9]), table(&[5, 1, 9]).encode());
        assert_eq!(ChunkTable::decode(&bytes, 15), Ok(table.clone()));
        assert_eq!(ChunkTable::decode(&bytes, 16), Err(ChunkTableError::Size { found: 15, wanted: 16 }));
        assert_eq!(table.with_offsets().map(|(offset, _)| offset).collect::<Vec<_>>(), [0, 5, 6]);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let bytes = table(&[5]).encode();
        assert_eq!(ChunkTable::decode(b"", 0), Err(ChunkTableError::NotOne));
        assert_eq!(ChunkTable::decode(&bytes[..bytes.len() - 1], 5), Err(ChunkTableError::NotOne));
        assert_eq!(ChunkTable::decode(&table(&[0, 5]).encode(), 5), Err(ChunkTableError::Bounds(0)));
        assert_eq!(ChunkTable::decode(&table(&[u32::MAX]).encode(), 5), Err(ChunkTableError::Bounds(u32::MAX)));
    }
}
