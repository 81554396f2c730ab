//! Sessions on disk: one file of lines, synchronised before anybody is answered.
//!
//! A thread of its own appends. What came while the disk was busy goes to it together, with one `fdatasync(2)` for all: a
//! thousand nodes that boot at once wait for the disk a few times, not a thousand times. When most of the file is of the
//! past, it is written anew beside the old one and takes its place.
//!
//! A line that cannot be read costs its node a new session, no more; a last line without an end is what a process that was
//! killed had not finished, and nobody was answered for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::sessions::{Node, NodeKey};

/// Version of the lines' format.
const VERSION: u32 = 1;
/// The file.
const NAME: &str = "sessions.journal";
/// Changes that may wait for the disk; who comes after waits for room.
const WAITING: usize = 1024;
/// The file is written anew when it has more than this and four times what is of use.
const COMPACT_ABOVE: u64 = 1 << 20;

/// What is written down.
#[derive(Debug)]
pub(crate) enum Entry {
    /// What is known of a node now.
    Save(Box<Node>),
    /// A node is forgotten.
    Forget(NodeKey),
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Node>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget: Option<String>,
}

/// Entries that belong together, and who waits for them.
struct Batch {
    entries: Vec<Entry>,
    done: oneshot::Sender<Result<(), String>>,
}

/// The way to the file.
#[derive(Debug)]
pub(crate) struct Journal {
    writer: mpsc::Sender<Batch>,
}

/// A place in the file's queue: what is put there is written in the order of the places.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Batch>);

/// Tells when it is on disk.
#[must_use]
pub(crate) struct Written(oneshot::Receiver<Result<(), String>>);

impl Journal {
    /// Opens the folder, making it if need be, and reads what is there.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<(Self, Vec<Node>)> {
        fs_err::create_dir_all(folder)?;
        let store = Store::open(folder)?;
        let nodes = store.live.values().filter_map(|line| serde_json::from_slice::<Line>(line).ok()?.node).collect();
        let (writer, queue) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("sessions".to_owned());
        thread.spawn(move || write_all(store, queue)).context("cannot start the thread that writes sessions down")?;
        Ok((Self { writer }, nodes))
    }

    /// Waits for room in the queue.
    pub(crate) async fn place(&self) -> anyhow::Result<Place<'_>> {
        self.writer.reserve().await.map(Place).map_err(|_| ended())
    }
}

impl Place<'_> {
    /// Hands entries over. Waits for nothing, so that the caller can do it while it holds what the entries are about.
    pub(crate) fn put(self, entries: Vec<Entry>) -> Written {
        let (done, written) = oneshot::channel();
        self.0.send(Batch { entries, done });
        Written(written)
    }
}

impl Written {
    /// Waits until it is on disk.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) async fn done(self) -> anyhow::Result<()> {
        self.0.await.map_err(|_| ended())?.map_err(|text| anyhow!(text))
    }
}

fn ended() -> anyhow::Error {
    anyhow!("the thread that writes sessions down has ended")
}

/// The thread: takes what has come, writes it, answers.
fn write_all(mut store: Store, mut queue: mpsc::Receiver<Batch>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batches = vec![first];
        while let Ok(next) = queue.try_recv() {
            batches.push(next);
        }
        let entries = batches.iter_mut().flat_map(|batch| std::mem::take(&mut batch.entries)).collect();
        let result = store.write(entries).map_err(|error| format!("{error:#}"));
        for batch in batches {
            // Who does not wait any more has hung up.
            let _ = batch.done.send(result.clone());
        }
    }
}

/// The file, and what of it is of use.
#[derive(Debug)]
struct Store {
    folder: PathBuf,
    file: File,
    length: u64,
    /// By node, its last line.
    live: BTreeMap<String, Vec<u8>>,
}

impl Store {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(NAME);
        let mut file = fs_err::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        let text = fs_err::read(&path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut live = BTreeMap::new();
        for line in text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            take(&mut live, line, &path);
        }
        let length = u64::try_from(whole)?;
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        let mut store = Self { folder: folder.to_owned(), file: file.into_parts().0, length, live };
        store.take_over_old_files()?;
        store.synchronise_folder()?;
        Ok(store)
    }

    /// Before this file, each node had one of its own.
    fn take_over_old_files(&mut self) -> anyhow::Result<()> {
        let (mut entries, mut old) = (Vec::new(), Vec::new());
        for entry in fs_err::read_dir(&self.folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let line = fs_err::read(&path)?;
                    if let Ok(Line { version: VERSION, node: Some(node), .. }) = serde_json::from_slice(&line) {
                        entries.push(Entry::Save(Box::new(node)));
                        old.push(path);
                    } else {
                        tracing::warn!(path = %path.display(), "an unreadable session is left alone");
                    }
                }
                // What a process that was killed had not finished.
                Some("new") => old.push(path),
                _ => {}
            }
        }
        entries.retain(|entry| matches!(entry, Entry::Save(node) if !self.live.contains_key(&name(&node.key()))));
        self.write(entries)?;
        old.iter().try_for_each(|path| Ok(fs_err::remove_file(path)?))
    }

    /// Writes entries down. When this returns, they are on disk; if it fails, none of them counts.
    fn write(&mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        let (mut changes, mut text) = (Vec::new(), Vec::new());
        for entry in entries {
            let (key, line) = encode(entry)?;
            let known = changes.iter().rev().find(|(other, _)| *other == key).map(|(_, line)| line);
            let known = known.or_else(|| self.live.get(&key));
            let forgets_nothing = known.is_none() && is_forget(&line);
            if known == Some(&line) || forgets_nothing {
                continue;
            }
            text.extend_from_slice(&line);
            text.push(b'\n');
            changes.push((key, line));
        }
        if text.is_empty() {
            return Ok(());
        }
        self.append(&text)?;
        for (key, line) in changes {
            if is_forget(&line) {
                self.live.remove(&key);
            } else {
                self.live.insert(key, line);
            }
        }
        self.compact_if_need_be();
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> anyhow::Result<()> {
        let written = self.file.write_all(text).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What follows must not be glued to half a line.
            let cut =
                self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)).map(drop));
            let path = self.folder.join(NAME);
            cut.with_context(|| format!("cannot cut {} back to what counts", path.display()))?;
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        self.length += u64::try_from(text.len())?;
        Ok(())
    }

    /// A failure costs room, nothing else: it is tried again after the next change.
    fn compact_if_need_be(&mut self) {
        let used: usize = self.live.values().map(|line| line.len() + 1).sum();
        let used = u64::try_from(used).unwrap_or(u64::MAX);
        if self.length <= COMPACT_ABOVE || self.length / 4 <= used {
            return;
        }
        if let Err(error) = self.compact() {
            tracing::warn!("cannot write the sessions' journal anew: {error:#}");
        }
    }

    fn compact(&mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        for line in self.live.values() {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        let (staged, path) = (self.folder.join(NAME).with_extension("new"), self.folder.join(NAME));
        let mut file = fs_err::File::create(&staged)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs_err::rename(&staged, &path)?;
        (self.file, self.length) = (file.into_parts().0, u64::try_from(text.len())?);
        self.synchronise_folder()
    }

    fn synchronise_folder(&self) -> anyhow::Result<()> {
        let synchronised = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synchronised.with_context(|| format!("cannot sync {}", self.folder.display()))
    }
}

fn take(live: &mut BTreeMap<String, Vec<u8>>, text: &[u8], path: &Path) {
    match serde_json::from_slice::<Line>(text) {
        Ok(Line { version: VERSION, node: Some(node), .. }) => drop(live.insert(name(&node.key()), text.to_vec())),
        Ok(Line { version: VERSION, forget: Some(key), .. }) => drop(live.remove(&key)),
        Ok(other) => {
            tracing::warn!(path = %path.display(), version = other.version, "a session of another version is left out");
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "an unreadable session is left out"),
    }
}

fn encode(entry: Entry) -> anyhow::Result<(String, Vec<u8>)> {
    let (key, line) = match entry {
        Entry::Save(node) => (name(&node.key()), Line { version: VERSION, node: Some(*node), forget: None }),
        Entry::Forget(key) => {
            let key = name(&key);
            (key.clone(), Line { version: VERSION, node: None, forget: Some(key) })
        }
    };
    Ok((key, serde_json::to_vec(&line)?))
}

fn is_forget(line: &[u8]) -> bool {
    line.starts_with(b"{\"version\":1,\"forget\"")
}

/// The name of a node in the file.
fn name(key: &NodeKey) -> String {
    match key {
        NodeKey::Owner(owner) => {
            let namespace = owner.namespace.as_ref().map_or("", |namespace| namespace.as_str());
            format!("{}.{namespace}.{}", owner.kind.singular(), owner.name)
        }
        NodeKey::Stranger(mac) => mac.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::MacAddr;

    fn node(last: u8, session: &str) -> Node {
        let mac = MacAddr([2, 0, 0, 0, 0, last]);
        let text = format!(r#"{{"mac":"{mac}","session":"{session}"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn save(last: u8, session: &str) -> Entry {
        Entry::Save(Box::new(node(last, session)))
    }

    fn read(folder: &Path) -> Vec<String> {
        let store = Store::open(folder).unwrap();
        let session = |line: &Vec<u8>| serde_json::from_slice::<Line>(line).unwrap().node.unwrap().session;
        store.live.values().map(session).collect()
    }

    #[test]
    fn the_last_line_of_each_node_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.write(vec![save(1, "a"), save(2, "b"), save(1, "c")]).unwrap();
        assert_eq!(read(folder.path()), ["c", "b"]);
        store.write(vec![Entry::Forget(node(2, "").key())]).unwrap();
        assert_eq!(read(folder.path()), ["c"]);
    }

    #[test]
    fn what_changes_nothing_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.write(vec![save(1, "a"), save(1, "a"), Entry::Forget(node(9, "").key())]).unwrap();
        let length = store.length;
        store.write(vec![save(1, "a")]).unwrap();
        assert_eq!((store.length, folder.path().join(NAME).metadata().unwrap().len()), (length, length));
    }

    #[test]
    fn half_a_line_and_a_broken_one_cost_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.write(vec![save(1, "a")]).unwrap();
        let mut text = fs_err::read(folder.path().join(NAME)).unwrap();
        text.extend_from_slice(b"garbage\n");
        text.extend_from_slice(&encode(save(2, "b")).unwrap().1);
        text.extend_from_slice(b"\n{\"version\":1,\"node\":{\"mac\"");
        fs_err::write(folder.path().join(NAME), &text).unwrap();
        assert_eq!(read(folder.path()), ["a", "b"]);
        // Half a line is cut off: what is appended now stands alone.
        Store::open(folder.path()).unwrap().write(vec![save(3, "c")]).unwrap();
        assert_eq!(read(folder.path()), ["a", "b", "c"]);
    }

    #[test]
    fn files_of_single_nodes_are_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let (_, line) = encode(save(1, "a")).unwrap();
        fs_err::write(folder.path().join("02-00-00-00-00-01.json"), line).unwrap();
        fs_err::write(folder.path().join("x.json"), "nonsense").unwrap();
        fs_err::write(folder.path().join("y.new"), "half").unwrap();
        assert_eq!(read(folder.path()), ["a"]);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(read(folder.path()), ["a"]);
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let long = "x".repeat(10_000);
        for round in 0..300 {
            store.write(vec![save(1, &format!("{round}{long}")), save(2, "b")]).unwrap();
        }
        assert!(store.length <= COMPACT_ABOVE + 20_000, "{}", store.length);
        assert_eq!(read(folder.path()), [format!("299{long}"), "b".to_owned()]);
    }
}
