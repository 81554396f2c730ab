//! The roots as NBD exports, and what boots read of them.
//!
//! The first node that boots an image over NBD has its reads recorded until it is ready. They are kept on disk; from then on
//! the farm reads them ahead when a boot begins, and tells them to nodes (`Manifest::hot`).

pub(crate) mod tls;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoke_api::Digest;
use stoke_nbd::hot::{self, Range};
use stoke_nbd::image::Image;
use stoke_nbd::server::{Attachment, Handle};
use stoke_nbd::{Export, Exports};
use tracing::field::display;

use crate::config::Serving;
use crate::farm::Farm;
use crate::files::open_sized;
use crate::trace::Noted;

/// Block that reads of a root are best aligned to: the page, and the block of its dm-verity tree.
const BLOCK: u32 = 4096;
/// Boots that begin shortly after each other have one reading ahead.
const AGAIN: Duration = Duration::from_mins(1);
/// Longest list that is read from disk: several times what is ever written.
const LIST: u64 = 1 << 20;

/// Roots that are open, by digest. An image is opened once, whoever reads it.
#[derive(Debug)]
pub(crate) struct Images {
    /// Where the lists of what boots read are.
    folder: PathBuf,
    open: Mutex<HashMap<Digest, Known>>,
}

#[derive(Debug)]
struct Known {
    image: Arc<Image>,
    hot: Arc<Vec<Range>>,
    read_ahead: Option<Instant>,
}

impl Images {
    /// With lists in the farm's state folder.
    pub(crate) fn new(state: &Path) -> Self {
        Self { folder: state.join("hot"), open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image of a root that the configuration names.
    fn image(&self, serving: &Serving, digest: &Digest) -> Option<Arc<Image>> {
        let mut open = self.open();
        open.retain(|digest, _| serving.roots().any(|root| root.blob == *digest));
        if let Some(known) = open.get(digest) {
            return Some(known.image.clone());
        }
        let root = serving.roots().find(|root| root.blob == *digest)?;
        let (path, size) = serving.blob(&root.blob)?;
        let image = match open_sized(&path, size).and_then(Image::new) {
            Ok(image) => Arc::new(image),
            Err(error) => {
                tracing::error!(%digest, %error, "NBD: cannot export");
                return None;
            }
        };
        let hot = self.read(digest, size);
        if hot.is_empty() {
            image.hot.start();
        }
        open.insert(*digest, Known { image: image.clone(), hot: Arc::new(hot), read_ahead: None });
        Some(image)
    }

    /// A boot begins: what boots read of this root is fetched into memory. Returns it.
    pub(crate) fn boot(&self, serving: &Serving, digest: &Digest) -> Vec<Range> {
        let Some(image) = self.image(serving, digest) else { return Vec::new() };
        let mut open = self.open();
        let Some(known) = open.get_mut(digest) else { return Vec::new() };
        let hot = known.hot.clone();
        if !hot.is_empty() && known.read_ahead.is_none_or(|at| at.elapsed() > AGAIN) {
            known.read_ahead = Some(Instant::now());
            let ranges = hot.clone();
            tokio::task::spawn_blocking(move || image.read_ahead_all(&ranges));
        }
        hot.to_vec()
    }

    /// A node has booted over NBD: what was read until now is what boots read. Blocks for the disk.
    pub(crate) fn booted(&self, digest: &Digest) {
        let Some(image) = self.open().get(digest).map(|known| known.image.clone()) else { return };
        let Some(hot) = image.hot.finish().filter(|hot| !hot.is_empty()) else { return };
        let hot = hot::within(&hot, image.size());
        let bytes: u64 = hot.iter().map(|(_, length)| u64::from(*length)).sum();
        tracing::info!(%digest, ranges = hot.len(), bytes, "what a boot reads of this root is known now");
        if let Err(error) = self.write(digest, &hot) {
            tracing::warn!(%digest, "what a boot reads cannot be kept: {error:#}");
        }
        if let Some(known) = self.open().get_mut(digest) {
            known.hot = Arc::new(hot);
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.json", digest.hex()))
    }

    fn read(&self, digest: &Digest, size: u64) -> Vec<Range> {
        let path = self.path(digest);
        // None yet, or one that is of no use: it is recorded anew.
        let short = path.metadata().is_ok_and(|metadata| metadata.len() < LIST);
        let text = if short { fs_err::read(&path).ok() } else { None };
        let ranges: Vec<Range> = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        hot::within(ranges.get(..hot::RANGES.min(ranges.len())).unwrap_or_default(), size)
    }

    fn write(&self, digest: &Digest, hot: &[Range]) -> anyhow::Result<()> {
        fs_err::create_dir_all(&self.folder)?;
        let (path, new) = (self.path(digest), self.folder.join(format!("{}.new", digest.hex())));
        let mut file = fs_err::File::create(&new)?;
        std::io::Write::write_all(&mut file, &serde_json::to_vec(hot)?)?;
        file.sync_all()?;
        fs_err::rename(new, path)?;
        Ok(())
    }
}

impl Farm {
    /// A node has booted with this root over NBD: what it read is kept for those who come after it.
    pub(crate) fn booted_over_nbd(self: &Arc<Self>, root: Digest) {
        let farm = self.clone();
        tokio::task::spawn_blocking(move || farm.images.booted(&root));
    }

    /// A client has attached a root over NBD, or is gone.
    pub(crate) fn nbd(&self, attachment: &Attachment) {
        let Attachment { client, reads, bytes, ended } = *attachment;
        let noted = match ended {
            None => Noted::now("nbd", "root", "attached"),
            Some(took) => Noted::now("nbd", "root", format!("detached after {reads} reads")).took(took).bytes(bytes),
        };
        let mac = self.trace.client(client.ip(), noted).map(display);
        let state = if ended.is_some() { "detached" } else { "attached" };
        tracing::info!(mac, %client, reads, bytes, "NBD: {state}");
    }
}

/// The roots of a farm, named by digest.
#[derive(Debug)]
pub(crate) struct Roots(pub(crate) Arc<Farm>);

impl Exports for Roots {
    type Handle = Handle;

    fn find(&self, name: &str) -> Option<Export<Handle>> {
        let image = self.0.images.image(&self.0.serving(), &name.parse().ok()?)?;
        Some(Export { size: image.size(), holes: image.holes(), handle: image, preferred_block: BLOCK })
    }

    fn names(&self) -> Vec<String> {
        self.0.serving().roots().map(|root| root.blob.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_its_farm_and_a_broken_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest([7; 32]);
        let images = Images::new(folder.path());
        assert_eq!(images.read(&digest, 1 << 20), []);
        images.write(&digest, &[(0, 65_536), (131_072, 65_536)]).unwrap();
        assert_eq!(Images::new(folder.path()).read(&digest, 1 << 20), [(0, 65_536), (131_072, 65_536)]);
        assert_eq!(images.read(&digest, 100), [(0, 100)], "nothing beyond the end");
        std::fs::write(images.path(&digest), "[[0,").unwrap();
        assert_eq!(images.read(&digest, 1 << 20), []);
    }
}
