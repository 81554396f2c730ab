//! Filling a slot: what is there already is left, what the other slot has is copied, the rest is fetched.
//!
//! Every chunk is checked before it counts, so a slot may be filled on from wherever a power cut has stopped it.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use aws_lc_rs::digest::{SHA256, digest};
use stoke_api::chunks::{Chunk, ChunkTable};
use stoke_api::names::Digest;

use crate::ram::{self, Sources};

const FETCHERS: usize = 4;
/// Bytes that are fetched with one request, if a chunk is not longer.
const PIECE: u64 = 4 << 20;

/// Where equal content is on this disk, in bytes from its beginning.
pub(super) type Known = HashMap<Digest, u64>;

/// A chunk and where it belongs in the root.
type Placed = (u64, Chunk);

/// How many bytes came from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// They were in their place.
    pub(super) there: u64,
    /// They were elsewhere on the disk.
    pub(super) copied: u64,
    /// They came over the network.
    pub(super) fetched: u64,
}

/// What is filled.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) disk: &'a File,
    /// Where the root begins on the disk, in bytes.
    pub(super) start: u64,
    /// Whether there may be something in place.
    pub(super) written: bool,
}

/// What chunks of this table are elsewhere on the disk, if the root begins there.
pub(super) fn known(table: &ChunkTable, start: u64) -> Known {
    table.with_offsets().map(|(offset, chunk)| (chunk.digest, start + offset)).collect()
}

/// Makes the target what the table says.
pub(super) fn fill(target: Target<'_>, table: &ChunkTable, known: &Known, sources: &Sources<'_>) -> Result<Filled> {
    let (mut filled, mut missing) = (Filled::default(), Vec::new());
    for (offset, chunk) in table.with_offsets() {
        let length = u64::from(chunk.length);
        if target.written && target.has(target.start + offset, chunk)?.is_some() {
            filled.there += length;
        } else if target.copy(known, offset, chunk)? {
            filled.copied += length;
        } else {
            missing.push((offset, chunk));
            filled.fetched += length;
        }
    }
    fetch(target, &pieces(&missing), sources)?;
    target.disk.sync_all().context("could not write to the disk")?;
    Ok(filled)
}

impl Target<'_> {
    /// The chunk, if it is there.
    fn has(&self, at: u64, chunk: Chunk) -> Result<Option<Vec<u8>>> {
        let mut content = vec![0; usize::try_from(chunk.length)?];
        match self.disk.read_exact_at(&mut content, at) {
            Ok(()) => Ok(is(&content, chunk).then_some(content)),
            // A bad sector may be written anew.
            Err(_) => Ok(None),
        }
    }

    fn copy(&self, known: &Known, offset: u64, chunk: Chunk) -> Result<bool> {
        let Some(at) = known.get(&chunk.digest) else { return Ok(false) };
        let Some(content) = self.has(*at, chunk)? else { return Ok(false) };
        self.write(offset, &content)?;
        Ok(true)
    }

    fn write(&self, offset: u64, content: &[u8]) -> Result<()> {
        self.disk.write_all_at(content, self.start + offset).context("could not write to the disk")
    }
}

fn is(content: &[u8], chunk: Chunk) -> bool {
    digest(&SHA256, content).as_ref() == chunk.digest.0
}

/// Neighbours together, up to [`PIECE`] bytes.
fn pieces(missing: &[Placed]) -> Vec<&[Placed]> {
    let (mut pieces, mut begin) = (Vec::new(), 0);
    for (index, (offset, chunk)) in missing.iter().enumerate() {
        let first = missing.get(begin).map_or(*offset, |(offset, _)| *offset);
        let before = index.checked_sub(1).and_then(|before| missing.get(before));
        let neighbour = before.is_none_or(|(at, one)| at + u64::from(one.length) == *offset);
        if !neighbour || offset + u64::from(chunk.length) - first > PIECE {
            pieces.extend(missing.get(begin..index).filter(|piece| !piece.is_empty()));
            begin = index;
        }
    }
    pieces.extend(missing.get(begin..).filter(|piece| !piece.is_empty()));
    pieces
}

/// Fetches them, several at a time.
fn fetch(target: Target<'_>, pieces: &[&[Placed]], sources: &Sources<'_>) -> Result<()> {
    let agent = ram::agent();
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let worker = || {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = fetch_piece(target, piece, &agent, sources) {
                // The others find nothing left to do.
                next.store(pieces.len(), Ordering::Relaxed);
                if let Ok(mut failure) = failure.lock() {
                    failure.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..FETCHERS.min(pieces.len()) {
            scope.spawn(worker);
        }
    });
    let failure = failure.into_inner().map_err(|_| anyhow!("fetching the root failed"))?;
    failure.map_or(Ok(()), Err)
}

fn fetch_piece(target: Target<'_>, piece: &[Placed], agent: &ureq::Agent, sources: &Sources<'_>) -> Result<()> {
    let Some((start, _)) = piece.first() else { return Ok(()) };
    let length = piece.iter().map(|(_, chunk)| u64::from(chunk.length)).sum();
    let content = sources.try_each(|url| {
        let content = ram::read_range(agent, url, *start, length)?;
        check(&content, piece)?;
        Ok(content)
    })?;
    target.write(*start, &content)
}

/// Whether it is what the table says.
fn check(content: &[u8], piece: &[Placed]) -> Result<()> {
    let mut rest = content;
    for (offset, chunk) in piece {
        let length = usize::try_from(chunk.length)?;
        let (one, after) = rest.split_at_checked(length).context("it ends too early")?;
        if !is(one, *chunk) {
            bail!("what it sends for the {length} bytes at {offset} is something else");
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    const START: u64 = 1 << 20;

    fn content(seed: u8) -> Vec<u8> {
        (0..200_000_u32)
            .map(|at| u8::try_from(at * 31 % 251).unwrap() ^ u8::try_from(at / 10_000).unwrap() ^ seed)
            .collect()
    }

    fn table(content: &[u8]) -> ChunkTable {
        let chunk = |part: &[u8]| Chunk {
            length: u32::try_from(part.len()).unwrap(),
            digest: Digest(digest(&SHA256, part).as_ref().try_into().unwrap()),
        };
        ChunkTable::new(content.chunks(10_000).map(chunk).collect())
    }

    /// A server of ranges of this content, and the bytes that it has sent.
    fn server(content: Vec<u8>) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (url, sent) = (format!("http://{}/root", listener.local_addr().unwrap()), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&sent);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines: Vec<_> =
                    BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let range = lines.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
                let (first, last) = range.split_once('-').unwrap();
                let part = &content[first.parse().unwrap()..=last.parse().unwrap()];
                count.fetch_add(part.len() as u64, Ordering::SeqCst);
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    part.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), part].concat());
            }
        });
        (url, sent)
    }

    fn filled(disk: &File, written: bool, table: &ChunkTable, known: &Known, url: &str) -> Result<Filled> {
        let urls = [url.to_owned()];
        fill(Target { disk, start: START, written }, table, known, &Sources::new(&urls))
    }

    fn on(disk: &File) -> Vec<u8> {
        let mut found = vec![0; 200_000];
        disk.read_exact_at(&mut found, START).unwrap();
        found
    }

    #[test]
    fn an_empty_slot_is_fetched_and_a_part_of_one_is_completed() {
        let (disk, content) = (tempfile::tempfile().unwrap(), content(1));
        let ((url, sent), table) = (server(content.clone()), table(&content));
        let all = filled(&disk, false, &table, &Known::new(), &url).unwrap();
        assert_eq!(all, Filled { fetched: 200_000, ..Filled::default() });
        assert!(on(&disk) == content);
        disk.write_all_at(&[0; 5], START + 15_000).unwrap();
        let repaired = filled(&disk, true, &table, &Known::new(), &url).unwrap();
        assert_eq!(repaired, Filled { there: 190_000, copied: 0, fetched: 10_000 });
        assert!(on(&disk) == content);
        assert_eq!(sent.load(Ordering::SeqCst), 210_000);
    }

    #[test]
    fn what_the_other_slot_has_is_copied_wherever_it_is_there() {
        let (disk, old) = (tempfile::tempfile().unwrap(), content(1));
        let mut new = old.clone();
        // Four whole chunks go elsewhere, and one is new.
        new.rotate_left(40_000);
        new[50_000] ^= 1;
        disk.write_all_at(&old, 0).unwrap();
        let (url, sent) = server(new.clone());
        let other = filled(&disk, false, &table(&new), &known(&table(&old), 0), &url).unwrap();
        assert_eq!((other.copied, other.fetched), (190_000, 10_000));
        assert!(on(&disk) == new);
        assert_eq!(sent.load(Ordering::SeqCst), 10_000);
    }

    #[test]
    fn what_a_server_sends_wrongly_is_not_written() {
        let (disk, content) = (tempfile::tempfile().unwrap(), content(1));
        let table = table(&content);
        let (url, _) = server(self::content(2));
        let error = filled(&disk, false, &table, &Known::new(), &url).unwrap_err();
        assert!(format!("{error:#}").contains("is something else"), "{error:#}");
        assert_eq!(disk.metadata().unwrap().len(), 0);
    }

    #[test]
    fn neighbours_are_fetched_together_up_to_a_bound() {
        let chunk = |length| Chunk { length, digest: Digest([0; 32]) };
        let mib = 1 << 20;
        let missing = [(0, chunk(mib)), (1 << 20, chunk(mib)), (5 << 20, chunk(mib)), (6 << 20, chunk(4 * mib))];
        let lengths: Vec<_> = pieces(&missing).iter().map(|piece| piece.len()).collect();
        assert_eq!(lengths, [2, 1, 1]);
        let many: Vec<_> = (0..10).map(|at| (at << 20, chunk(mib))).collect();
        assert_eq!(pieces(&many).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [4, 4, 2]);
    }
}
