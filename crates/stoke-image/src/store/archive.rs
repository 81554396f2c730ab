//! Versions as files: OCI archives, which are image layouts as tar streams (OCI image specification, `image-layout.md`).
//!
//! An archive is read with suspicion: only the few names that a layout has, only plain files, each compared with its
//! digest; and nothing of it is in the store before all of it was.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use fs_err::File;
use stoke_api::Digest;
use stoke_api::report::BuiltImage;
use tar::{Archive, Builder, EntryType, Header};

use super::layout::{DERIVED_FROM, HANDED_OUT, INPUTS, KEPT, NAME, OCI_LAYOUT, PUBLISHED};
use super::{Descriptor, ImageSignature, Incoming, IncomingError, Index, Store, StoreError, media};

/// Bound of `index.json` and `oci-layout`.
const LARGEST_INDEX: u64 = 4 << 20;

/// Why an archive cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// What is in it.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// It cannot be read.
    #[error("cannot read the archive")]
    Unreadable(#[source] io::Error),
    /// It has something in it that has no place in an OCI archive.
    #[error("this is no OCI archive: it has {what} called {path:?}")]
    Foreign {
        /// What it is: `a link`, `a file`.
        what: &'static str,
        /// Its name.
        path: String,
    },
    /// It has no index, or one that cannot be read.
    #[error("this is no OCI archive: {0}")]
    NoIndex(String),
    /// None of what it holds is a netboot image.
    #[error("there is no netboot image of Stokehold in the archive; other images can be the source.oci of an Image")]
    NoImage,
    /// It does not say what its image is called, or says it of several.
    #[error("the archive holds {0} versions; import it without --name, or one by one")]
    Ambiguous(usize),
    /// The caller does not want it.
    #[error("{0}")]
    Refused(String),
    /// The image has no name.
    #[error("the archive does not say what its image is called; name it with --name")]
    Nameless,
}

/// Whether a version may be published with these signatures; if not, why.
pub type Accept<'a> = dyn FnMut(&Digest, &[ImageSignature]) -> Result<(), String> + 'a;

impl From<StoreError> for ArchiveError {
    fn from(error: StoreError) -> Self {
        Self::Incoming(error.into())
    }
}

impl Store {
    /// Writes a version and what is attached to it as an OCI archive. The same version makes the same archive. `written`
    /// is told of each blob's bytes.
    ///
    /// # Errors
    /// If there is no such version, or something cannot be read or written.
    pub fn export(
        &self,
        name: &str,
        version: &Digest,
        out: impl Write,
        written: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let whole = self.index()?;
        let missing = || StoreError::NoVersion { name: name.to_owned(), digest: *version };
        let mut own = whole.versions(name).find(|entry| entry.digest == *version).cloned().ok_or_else(missing)?;
        // What this store alone knows stays here.
        for local in [KEPT, HANDED_OUT, PUBLISHED, INPUTS, DERIVED_FROM] {
            own.annotations.remove(local);
        }
        let mut blobs = BTreeMap::new();
        for part in self.contents(version)? {
            blobs.insert(part.digest, part.size);
        }
        let mut index = Index { manifests: vec![own], ..Index::default() };
        for (entry, manifest) in self.attachments(&whole, version)? {
            blobs.insert(entry.digest, entry.size);
            blobs.extend(manifest.parts().map(|part| (part.digest, part.size)));
            index.manifests.push(entry);
        }
        let index = serde_json::to_vec(&index).unwrap_or_default();
        let mut archive = Builder::new(out);
        put(&mut archive, "oci-layout", OCI_LAYOUT.len() as u64, OCI_LAYOUT.as_bytes())?;
        put(&mut archive, "index.json", index.len() as u64, index.as_slice())?;
        for (digest, size) in blobs {
            let file = File::open(self.blob_path(&digest))?;
            put(&mut archive, &format!("blobs/sha256/{}", digest.hex()), size, file)?;
            written(size);
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }

    /// Takes in the versions of an OCI archive, each as the newest of its image: of the one that the archive names, or of
    /// `name`. `accept` is asked for each whether it may be published with its signatures; `read` is told of each blob's
    /// bytes.
    ///
    /// # Errors
    /// If it is no archive of netboot images, not what its digests say, or not accepted. Nothing is published then.
    pub fn import(
        &self,
        from: impl Read,
        name: Option<&str>,
        accept: &mut Accept<'_>,
        read: &mut dyn FnMut(u64),
    ) -> Result<Vec<(String, BuiltImage)>, ArchiveError> {
        let mut incoming = Incoming::begin(self)?;
        let index = unpack(from, &mut incoming, read)?;
        let versions: Vec<_> = index.manifests.iter().filter(|entry| is_netboot(entry, &incoming)).collect();
        if versions.is_empty() {
            return Err(ArchiveError::NoImage);
        }
        if name.is_some() && versions.len() > 1 {
            return Err(ArchiveError::Ambiguous(versions.len()));
        }
        let mut accepted = Vec::new();
        for entry in versions {
            let name = name.or_else(|| entry.annotation(NAME)).ok_or(ArchiveError::Nameless)?;
            let mut signatures = Vec::new();
            for other in index.manifests.iter().filter(|other| other.digest != entry.digest) {
                signatures.extend(incoming.signatures(&other.digest, &entry.digest)?);
            }
            accept(&entry.digest, &signatures).map_err(ArchiveError::Refused)?;
            accepted.push((name.to_owned(), entry.digest, signatures));
        }
        let mut published = Vec::new();
        for (name, version, signatures) in accepted {
            let image = incoming.publish(&name, &version)?;
            for signature in &signatures {
                self.add_signature(&version, signature)?;
            }
            published.push((name, image));
        }
        Ok(published)
    }
}

/// Whether an entry of the index is a netboot image; other tools drop the entry's own word for it.
fn is_netboot(entry: &Descriptor, incoming: &Incoming) -> bool {
    entry.artifact_type.as_deref() == Some(media::NETBOOT) || incoming.parts(&entry.digest).is_ok()
}

/// All blobs of an archive into the workspace; its index.
fn unpack(from: impl Read, incoming: &mut Incoming, read: &mut dyn FnMut(u64)) -> Result<Index, ArchiveError> {
    let mut archive = Archive::new(from);
    let mut index = None;
    for entry in archive.entries().map_err(ArchiveError::Unreadable)? {
        let mut entry = entry.map_err(ArchiveError::Unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/').to_owned();
        let size = entry.size();
        match entry.header().entry_type() {
            EntryType::Directory if ["", ".", "blobs", "blobs/sha256"].contains(&name.as_str()) => {}
            EntryType::Regular if name == "oci-layout" && size <= LARGEST_INDEX => {}
            EntryType::Regular if name == "index.json" && size <= LARGEST_INDEX => {
                let mut text = Vec::new();
                entry.read_to_end(&mut text).map_err(ArchiveError::Unreadable)?;
                let parsed = serde_json::from_slice(&text);
                index = Some(parsed.map_err(|error| ArchiveError::NoIndex(format!("index.json: {error}")))?);
            }
            EntryType::Regular => {
                let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
                let digest = digest.ok_or(ArchiveError::Foreign { what: "a file", path })?;
                incoming.add(&digest, &mut entry)?;
                read(size);
            }
            other => return Err(ArchiveError::Foreign { what: word(other), path }),
        }
    }
    index.ok_or_else(|| ArchiveError::NoIndex("it has no index.json".to_owned()))
}

fn word(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link | EntryType::Symlink => "a link",
        EntryType::Char | EntryType::Block | EntryType::Fifo => "a device",
        EntryType::Directory => "a folder",
        _ => "something",
    }
}

pub(super) fn put(archive: &mut Builder<impl Write>, name: &str, size: u64, content: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    archive.append_data(&mut header, Path::new(name), content.take(size))
}
