//! Chunk tables of the roots, for nodes that keep theirs on a disk ([`stoke_api::chunks`]): made when somebody asks for the
//! first time, then kept in the state folder.
//!
//! The cuts are where a rolling hash of the content says so (the gear hash of Xia et al., "FastCDC", USENIX ATC 2016), so
//! equal content is cut equally wherever it is.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use stoke_api::Digest;
use stoke_api::chunks::{Chunk, ChunkTable};
use tokio::sync::Mutex;

use crate::config::Serving;
use crate::farm::Farm;
use crate::files::open_sized;

/// Where tables are, by digest of the root.
pub(crate) const FOLDER: &str = "/v1/chunks/sha256/";
/// Length of a chunk, on average, of roots of up to 4 GiB.
const AVERAGE: u64 = 64 << 10;
/// Chunks of larger roots are so much larger that there are about so many.
const CHUNKS: u64 = 1 << 16;

/// Tables on disk.
#[derive(Debug)]
pub(crate) struct Tables {
    folder: PathBuf,
    /// One is made at a time: it reads a whole image.
    making: Mutex<()>,
}

impl Tables {
    /// In the farm's state folder.
    pub(crate) fn new(state: &Path) -> Self {
        Self { folder: state.join("chunks"), making: Mutex::default() }
    }

    /// The table of a root that the configuration names, encoded.
    async fn of(&self, serving: &Serving, root: &Digest) -> anyhow::Result<Option<Vec<u8>>> {
        let Some((blob, size)) = serving.roots().find(|one| one.blob == *root).and_then(|one| serving.blob(&one.blob))
        else {
            return Ok(None);
        };
        let path = self.folder.join(root.hex());
        let _one_at_a_time = self.making.lock().await;
        if let Some(known) = fs_err::read(&path).ok().filter(|bytes| ChunkTable::decode(bytes, size).is_ok()) {
            return Ok(Some(known));
        }
        self.forget_others(serving);
        let folder = self.folder.clone();
        let made = tokio::task::spawn_blocking(move || make(&blob, size, &folder, &path)).await;
        made.context("the chunk table was not made")?.map(Some)
    }

    /// Tables of roots that no image has any more.
    fn forget_others(&self, serving: &Serving) {
        for entry in fs_err::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !serving.roots().any(|root| *root.blob.hex() == *name.to_string_lossy()) {
                // Whatever it is, it is of no use to anybody.
                let _ = fs_err::remove_file(entry.path());
            }
        }
    }
}

fn make(blob: &Path, size: u64, folder: &Path, path: &Path) -> anyhow::Result<Vec<u8>> {
    let begin = std::time::Instant::now();
    let chunks = cut(open_sized(blob, size)?, Rule::of(size))?;
    let count = chunks.len();
    let table = ChunkTable::new(chunks).encode();
    fs_err::create_dir_all(folder)?;
    let new = path.with_extension("new");
    fs_err::write(&new, &table)?;
    fs_err::rename(new, path)?;
    tracing::info!(blob = %blob.display(), count, took = ?begin.elapsed(), "chunk table made");
    Ok(table)
}

impl Farm {
    /// A node will ask for the table of this root.
    pub(crate) fn will_need_chunks(self: &Arc<Self>, root: Digest) {
        let farm = self.clone();
        tokio::spawn(async move {
            if let Err(error) = farm.tables.of(&farm.serving(), &root).await {
                tracing::warn!(%root, "no chunk table: {error:#}");
            }
        });
    }
}

/// The route.
pub(crate) fn router(farm: Arc<Farm>) -> Router {
    Router::new().route(&format!("{FOLDER}{{hex}}"), get(table)).with_state(farm)
}

async fn table(State(farm): State<Arc<Farm>>, UrlPath(hex): UrlPath<String>) -> Response {
    let Ok(root) = Digest::from_hex(&hex) else {
        return (StatusCode::NOT_FOUND, "this is no digest\n").into_response();
    };
    match farm.tables.of(&farm.serving(), &root).await {
        Ok(Some(table)) => ([(header::CONTENT_TYPE, "application/octet-stream")], table).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "no image of this farm has this root\n").into_response(),
        Err(error) => {
            tracing::error!(%root, "no chunk table: {error:#}");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], format!("{error:#}\n")).into_response()
        }
    }
}

/// Where to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    shortest: usize,
    longest: usize,
    /// A cut is where these bits of the rolling hash are zero.
    mask: u64,
}

impl Rule {
    /// For a root of so many bytes.
    fn of(size: u64) -> Self {
        let average = (size / CHUNKS).next_power_of_two().max(AVERAGE);
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // The highest bits of the hash have seen the most bytes.
        let mask = u64::MAX << (64 - average.trailing_zeros());
        Self { shortest: bytes(average / 4), longest: bytes(average * 4), mask }
    }

    /// Length of the first chunk of what begins so; all of it if it ends before a cut.
    fn length(self, bytes: &[u8]) -> usize {
        let end = bytes.len().min(self.longest);
        let mut hash = 0_u64;
        for (index, byte) in bytes.iter().enumerate().take(end).skip(self.shortest) {
            let gear = GEAR.get(usize::from(*byte)).copied().unwrap_or_default();
            hash = (hash << 1).wrapping_add(gear);
            if hash & self.mask == 0 {
                return index + 1;
            }
        }
        end
    }
}

/// Numbers that look like chance and are always the same: SplitMix64.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let (mut table, mut state) = ([0; 256], 0x7374_6f6b_6568_6f6c_u64);
    let mut index = 0;
    while index < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[expect(clippy::indexing_slicing, reason = "within the bound of the loop; const code has no other way")]
        {
            table[index] = mixed ^ (mixed >> 31);
        }
        index += 1;
    }
    table
}

/// All chunks of what is read.
fn cut(mut from: impl Read, rule: Rule) -> std::io::Result<Vec<Chunk>> {
    let (mut chunks, mut window) = (Vec::new(), Vec::new());
    let mut ended = false;
    loop {
        if !ended && window.len() < rule.longest {
            let room = (4 * rule.longest) as u64;
            ended = from.by_ref().take(room).read_to_end(&mut window)? < 4 * rule.longest;
        }
        let mut start = 0;
        while let Some(rest) = window.get(start..).filter(|rest| !rest.is_empty()) {
            if !ended && rest.len() < rule.longest {
                break;
            }
            let length = rule.length(rest);
            let content = rest.get(..length).unwrap_or_default();
            let hash = digest(&SHA256, content).as_ref().try_into().map_err(std::io::Error::other)?;
            chunks.push(Chunk { length: u32::try_from(length).unwrap_or(u32::MAX), digest: Digest(hash) });
            start += length;
        }
        window.drain(..start);
        if ended {
            return Ok(chunks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Bytes that look like chance, from a seed.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn chunks(bytes: &[u8]) -> Vec<Chunk> {
        cut(bytes, Rule::of(bytes.len() as u64)).unwrap()
    }

    #[test]
    fn chunks_are_the_whole_and_their_lengths_are_within_bounds() {
        let bytes = noise(3 << 20, 1);
        let chunks = chunks(&bytes);
        assert_eq!(ChunkTable::new(chunks.clone()).size(), bytes.len() as u64);
        let (_, all_but_last) = chunks.split_last().unwrap();
        assert!(all_but_last.iter().all(|chunk| (16 << 10..=256 << 10).contains(&chunk.length)));
        assert!((20..120).contains(&chunks.len()), "{} chunks", chunks.len());
    }

    #[test]
    fn what_is_inserted_changes_few_chunks() {
        let before = noise(3 << 20, 2);
        let mut after = before.clone();
        after.splice(1 << 20..1 << 20, noise(1001, 3));
        let known: BTreeSet<_> = chunks(&before).iter().map(|chunk| chunk.digest.0).collect();
        let new = chunks(&after).iter().filter(|chunk| !known.contains(&chunk.digest.0)).count();
        assert!((1..=4).contains(&new), "{new} new chunks");
    }

    #[test]
    fn content_without_cuts_is_cut_at_the_bound() {
        let lengths: Vec<_> = chunks(&vec![0; 600 << 10]).iter().map(|chunk| chunk.length).collect();
        assert_eq!(lengths.iter().sum::<u32>(), 600 << 10);
        assert!(lengths.iter().all(|length| *length <= 256 << 10));
        assert_eq!(cut(&[][..], Rule::of(0)).unwrap(), []);
    }

    #[test]
    fn larger_roots_have_larger_chunks_not_more() {
        assert_eq!(Rule::of(1 << 30).longest, 256 << 10);
        assert_eq!(Rule::of(64 << 30).longest, 4 << 20);
    }
}
