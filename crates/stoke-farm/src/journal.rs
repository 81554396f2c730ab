//! Sessions on disk: a file for each node, replaced in one step, synchronised before anybody is answered.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::sessions::{Node, NodeKey};

/// Version of the files' format.
const VERSION: u32 = 1;

/// One file.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    node: Node,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: Arc<Path>,
    /// What the files hold: equal content is not written twice.
    written: HashMap<NodeKey, Vec<u8>>,
}

impl Journal {
    /// Opens the folder, making it if need be, and reads what is there.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<(Self, Vec<Node>)> {
        fs_err::create_dir_all(folder)?;
        let mut nodes = Vec::new();
        for entry in fs_err::read_dir(folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => nodes.extend(read(&path)),
                // What a process that was killed had not finished.
                Some("new") => fs_err::remove_file(&path)?,
                _ => {}
            }
        }
        Ok((Self { folder: folder.into(), written: HashMap::new() }, nodes))
    }

    /// Writes a node down. When this returns, it is on disk.
    pub(crate) async fn save(&mut self, node: Node) -> anyhow::Result<()> {
        let key = node.key();
        let text = serde_json::to_vec(&Record { version: VERSION, node })?;
        if self.written.get(&key) == Some(&text) {
            return Ok(());
        }
        let (folder, name, content) = (self.folder.clone(), file_name(&key), text.clone());
        tokio::task::spawn_blocking(move || replace(&folder, &name, &content)).await??;
        self.written.insert(key, text);
        Ok(())
    }

    /// Removes nodes.
    pub(crate) fn forget(&mut self, keys: &[NodeKey]) {
        for key in keys {
            self.written.remove(key);
            let path = self.folder.join(file_name(key));
            if let Err(error) = fs_err::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "cannot forget a node");
            }
        }
    }
}

/// A file that cannot be read costs its node a new session, no more.
fn read(path: &Path) -> Option<Node> {
    let parsed = fs_err::read(path).map_err(anyhow::Error::from);
    let parsed = parsed.and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?));
    match parsed {
        Ok(record) if record.version == VERSION => Some(record.node),
        Ok(record) => {
            tracing::warn!(path = %path.display(), version = record.version, "session of another version is left alone");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "unreadable session is left alone");
            None
        }
    }
}

fn file_name(key: &NodeKey) -> String {
    match key {
        NodeKey::Owner(owner) => {
            let namespace = owner.namespace.as_ref().map_or("", |namespace| namespace.as_str());
            format!("{}.{namespace}.{}.json", owner.kind.singular(), owner.name)
        }
        NodeKey::Stranger(mac) => format!("{}.json", mac.to_string().replace(':', "-")),
    }
}

fn replace(folder: &Path, name: &str, content: &[u8]) -> anyhow::Result<()> {
    let staged: PathBuf = folder.join(name).with_extension("new");
    let mut file = fs_err::File::create(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs_err::rename(&staged, folder.join(name))?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("cannot sync {}", folder.display()))
}
