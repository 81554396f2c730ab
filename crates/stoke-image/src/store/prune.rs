//! Removing old versions: what a version alone needs goes with it, what anything else needs stays.

use std::collections::BTreeSet;

use fs_err as fs;
use stoke_api::Digest;

use super::layout::{KEPT, NAME};
use super::{Index, Manifest, Store, StoreError};

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Versions.
    pub versions: Vec<Digest>,
    /// Blobs of theirs that nothing else needs.
    pub blobs: usize,
    /// Bytes of these blobs.
    pub bytes: u64,
}

impl Store {
    /// What [`Store::prune`] would remove now; changes nothing.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn prunable(&self, name: &str, keep: usize, also_keep: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let index = self.index()?;
        let going = self.superfluous(&index, name, keep, also_keep)?;
        let versions = index.versions(name).map(|entry| entry.digest);
        Ok(versions.filter(|digest| going.contains(digest)).collect())
    }

    /// Removes all but the newest `keep` versions of an image, and what is attached to the ones that go: signatures,
    /// farms' parts. The version that is handed out stays, and so do those that are marked as kept, those named in
    /// `also_keep`, and blobs named there: what running nodes still read.
    ///
    /// # Errors
    /// If the store is damaged or cannot be written.
    pub fn prune(&self, name: &str, keep: usize, also_keep: &[Digest]) -> Result<Pruned, StoreError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let going = self.superfluous(&index, name, keep, also_keep)?;
        if going.is_empty() {
            return Ok(Pruned::default());
        }
        let (gone, stays): (Vec<_>, Vec<_>) = index.manifests.into_iter().partition(|e| going.contains(&e.digest));
        index.manifests = stays;
        self.write_index(&index)?;
        let needed = self.needed_by(index.manifests.iter().map(|entry| entry.digest))?;
        let candidates = self.needed_by(gone.iter().map(|entry| entry.digest))?;
        let mut pruned = Pruned::default();
        pruned.versions.extend(gone.iter().filter(|e| e.annotation(NAME).is_some()).map(|e| e.digest));
        for digest in candidates.difference(&needed).filter(|digest| !also_keep.contains(digest)) {
            let path = self.blob_path(digest);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            fs::remove_file(&path)?;
            pruned.blobs += 1;
            pruned.bytes += metadata.len();
        }
        Ok(pruned)
    }

    /// Manifests that go: old versions, and what is attached to nothing else.
    fn superfluous(
        &self,
        index: &Index,
        name: &str,
        keep: usize,
        also_keep: &[Digest],
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let handed_out = index.handed_out(name).map(|entry| entry.digest);
        let prunable = index.versions(name).rev().filter(|entry| entry.annotation(KEPT).is_none());
        let old = prunable.skip(keep).map(|entry| entry.digest);
        let mut going: BTreeSet<_> =
            old.filter(|digest| !also_keep.contains(digest) && Some(*digest) != handed_out).collect();
        // The same content under another name stays, whole.
        for entry in index.manifests.iter().filter(|e| e.annotation(NAME).is_some_and(|other| other != name)) {
            going.remove(&entry.digest);
        }
        let attached = index.manifests.iter().filter(|entry| entry.annotation(NAME).is_none());
        for entry in attached {
            let manifest: Manifest = self.json(&self.blob_path(&entry.digest))?;
            if manifest.subject.is_some_and(|subject| going.contains(&subject.digest)) {
                going.insert(entry.digest);
            }
        }
        Ok(going)
    }

    /// Manifests and all their parts.
    fn needed_by(&self, manifests: impl Iterator<Item = Digest>) -> Result<BTreeSet<Digest>, StoreError> {
        let mut needed = BTreeSet::new();
        for digest in manifests {
            let manifest: Manifest = self.json(&self.blob_path(&digest))?;
            needed.insert(digest);
            needed.extend(manifest.parts().map(|part| part.digest));
        }
        Ok(needed)
    }
}
