//! The versions of an image: which there are, which one farms hand out, which ones stay whatever is pruned.
//!
//! ```text
//!  v1 ── v2 ── v3            the newest is handed out …
//!         ^ handed-out       … unless an older one was chosen
//!  v1 ── v2 ── v3 ── v4      a new version ends the choice
//! ```

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err as fs;
use stoke_api::Digest;
use stoke_api::report::BuiltImage;

use super::layout::{HANDED_OUT, KEPT, NAME, PUBLISHED};
use super::{Descriptor, Index, Store, StoreError};

/// A version of an image, and what this store knows of it beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its content.
    pub image: BuiltImage,
    /// When it came into this store, in seconds since 1970; `None` if nobody took note.
    pub published: Option<u64>,
    /// Whether it stays whatever is pruned.
    pub kept: bool,
    /// Whether farms hand it out: exactly one version of an image.
    pub handed_out: bool,
}

impl Store {
    /// The names of all images: `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn names(&self) -> Result<BTreeSet<String>, StoreError> {
        let index = self.index()?;
        Ok(index.manifests.iter().filter_map(|entry| entry.annotation(NAME)).map(str::to_owned).collect())
    }

    /// The versions of an image, newest first.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn versions(&self, name: &str) -> Result<Vec<Version>, StoreError> {
        let index = self.index()?;
        let handed_out = index.handed_out(name).map(|entry| entry.digest);
        let version = |entry: &Descriptor| {
            Ok(Version {
                image: self.image(entry)?,
                published: entry.annotation(PUBLISHED).and_then(|seconds| seconds.parse().ok()),
                kept: entry.annotation(KEPT).is_some(),
                handed_out: Some(entry.digest) == handed_out,
            })
        };
        index.versions(name).rev().map(version).collect()
    }

    /// Marks a version as one that stays whatever is pruned, or takes the mark away. Whether that changed anything.
    ///
    /// # Errors
    /// If there is no such version, or the store is damaged or cannot be written.
    pub fn keep(&self, name: &str, digest: &Digest, kept: bool) -> Result<bool, StoreError> {
        self.change(name, digest, |index| {
            for entry in versions_mut(index, name).filter(|entry| entry.digest == *digest) {
                mark(entry, KEPT, kept);
            }
        })
    }

    /// Makes farms hand out a version until a newer one is published. Whether that changed anything.
    ///
    /// # Errors
    /// If there is no such version, or the store is damaged or cannot be written.
    pub fn hand_out(&self, name: &str, digest: &Digest) -> Result<bool, StoreError> {
        self.change(name, digest, |index| {
            let newest = index.versions(name).next_back().map(|entry| entry.digest);
            for entry in versions_mut(index, name) {
                // The newest needs no choice.
                mark(entry, HANDED_OUT, entry.digest == *digest && newest != Some(*digest));
            }
        })
    }

    /// Makes a version that is there the newest, as if it had been published now: its recipe is wanted again. One that
    /// is the newest already stays as it is, and so does the choice of an older one.
    ///
    /// # Errors
    /// If there is no such version, or the store is damaged or cannot be written.
    pub fn make_newest(&self, name: &str, digest: &Digest) -> Result<bool, StoreError> {
        self.change(name, digest, |index| {
            let newest = index.versions(name).next_back().map(|entry| entry.digest);
            let found = index.versions(name).find(|entry| entry.digest == *digest).cloned();
            if let Some(entry) = found.filter(|_| newest != Some(*digest)) {
                put_last(index, name, entry);
            }
        })
    }

    /// What changes when any version or signature comes, goes or is marked.
    ///
    /// # Errors
    /// If the index cannot be looked at.
    pub fn generation(&self) -> Result<Option<(SystemTime, u64)>, StoreError> {
        use std::os::unix::fs::MetadataExt as _;
        match fs::metadata(self.root.join("index.json")) {
            // Each change is a new file.
            Ok(metadata) => Ok(Some((metadata.modified()?, metadata.ino()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a version at the end of the index, which ends the choice of an older one unless it was the newest already.
    /// The caller holds the lock.
    pub(super) fn append_version(&self, name: &str, entry: Descriptor) -> Result<(), StoreError> {
        let mut index = self.index()?;
        put_last(&mut index, name, entry);
        self.write_index(&index)
    }

    fn change(&self, name: &str, digest: &Digest, edit: impl FnOnce(&mut Index)) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let before = self.index()?;
        if !before.versions(name).any(|entry| entry.digest == *digest) {
            return Err(StoreError::NoVersion { name: name.to_owned(), digest: *digest });
        }
        let mut after = before.clone();
        edit(&mut after);
        let changed = after.manifests != before.manifests;
        if changed {
            self.write_index(&after)?;
        }
        Ok(changed)
    }
}

/// Puts a version behind all others. What people decided about it stays.
fn put_last(index: &mut Index, name: &str, mut entry: Descriptor) {
    let newest = index.versions(name).next_back().map(|entry| entry.digest);
    let was = index.versions(name).find(|old| old.digest == entry.digest).cloned();
    mark(&mut entry, KEPT, was.as_ref().is_some_and(|was| was.annotation(KEPT).is_some()));
    if newest == Some(entry.digest) {
        mark(&mut entry, HANDED_OUT, was.is_some_and(|was| was.annotation(HANDED_OUT).is_some()));
    } else {
        versions_mut(index, name).for_each(|old| mark(old, HANDED_OUT, false));
        mark(&mut entry, HANDED_OUT, false);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    entry.annotations.insert(PUBLISHED.to_owned(), now.to_string());
    index.manifests.retain(|old| old.digest != entry.digest || old.annotation(NAME) != Some(name));
    index.manifests.push(entry);
}

fn versions_mut<'a>(index: &'a mut Index, name: &'a str) -> impl Iterator<Item = &'a mut Descriptor> {
    index.manifests.iter_mut().filter(move |entry| entry.annotation(NAME) == Some(name))
}

fn mark(entry: &mut Descriptor, key: &str, on: bool) {
    if on {
        entry.annotations.insert(key.to_owned(), "true".to_owned());
    } else {
        entry.annotations.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use stoke_api::workload::BlobRef;

    use super::*;

    fn entry(number: u8) -> Descriptor {
        let blob = BlobRef { digest: Digest([number; 32]), size: 1 };
        let mut entry = Descriptor::new("m", &blob);
        entry.annotations.insert(NAME.to_owned(), "default/node".to_owned());
        entry
    }

    fn index(numbers: &[u8]) -> Index {
        let mut index = Index::default();
        for number in numbers {
            put_last(&mut index, "default/node", entry(*number));
        }
        index
    }

    fn order(index: &Index) -> Vec<u8> {
        index.versions("default/node").map(|entry| entry.digest.0[0]).collect()
    }

    fn choose(index: &mut Index, number: u8) {
        for entry in versions_mut(index, "default/node").filter(|entry| entry.digest.0[0] == number) {
            mark(entry, HANDED_OUT, true);
        }
    }

    fn handed_out(index: &Index) -> u8 {
        index.handed_out("default/node").unwrap().digest.0[0]
    }

    #[test]
    fn a_new_version_ends_the_choice_of_an_old_one() {
        let mut index = index(&[1, 2, 3]);
        assert_eq!(handed_out(&index), 3);
        choose(&mut index, 2);
        assert_eq!(handed_out(&index), 2);
        put_last(&mut index, "default/node", entry(4));
        assert_eq!((handed_out(&index), order(&index)), (4, vec![1, 2, 3, 4]));
    }

    #[test]
    fn the_newest_built_again_leaves_the_choice_alone() {
        let mut index = index(&[1, 2]);
        choose(&mut index, 1);
        put_last(&mut index, "default/node", entry(2));
        assert_eq!((handed_out(&index), order(&index)), (1, vec![1, 2]));
    }

    #[test]
    fn an_old_one_that_is_wanted_again_is_the_newest_and_stays_kept() {
        let mut index = index(&[1, 2, 3]);
        choose(&mut index, 2);
        versions_mut(&mut index, "default/node").for_each(|entry| mark(entry, KEPT, entry.digest.0[0] == 1));
        put_last(&mut index, "default/node", entry(1));
        assert_eq!((handed_out(&index), order(&index)), (1, vec![2, 3, 1]));
        assert!(index.handed_out("default/node").unwrap().annotation(KEPT).is_some());
    }
}
