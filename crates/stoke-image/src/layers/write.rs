//! The second read: the tree as one tar archive. Folders, then files in the order in which the layers have them, then all
//! that is a name only.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::LayerError;
use super::index::{Kind, Meta, Node, Tree};

pub(super) struct Writer<'a, W: Write> {
    tree: &'a Tree,
    builder: Builder<W>,
    /// Files whose content is still to come, by layer and place in it.
    wanted: HashMap<(usize, u64), (&'a Node, &'a str)>,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(super) fn new(tree: &'a Tree, out: W) -> Self {
        let files = tree.names.iter().filter_map(|(id, names)| Some((tree.node(*id)?, names.first()?.as_str())));
        let files = files.filter(|(node, _)| matches!(node.kind, Kind::File));
        let wanted = files.map(|(node, path)| ((node.layer, node.sequence), (node, path))).collect();
        Self { tree, builder: Builder::new(out), wanted }
    }

    pub(super) fn folders(&mut self) -> Result<(), LayerError> {
        for (path, node) in self.tree.paths(|kind| matches!(kind, Kind::Folder(_))) {
            let header = header(&node.meta, EntryType::Directory, 0);
            self.entry(node, header, path, io::empty())?;
        }
        Ok(())
    }

    /// An entry of a layer, whose content is written if it is still in the tree.
    pub(super) fn content(
        &mut self,
        layer: usize,
        sequence: u64,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> Result<(), LayerError> {
        let Some((node, path)) = self.wanted.remove(&(layer, sequence)) else { return Ok(()) };
        let header = header(&node.meta, EntryType::Regular, entry.size());
        self.entry(node, header, path, entry)
    }

    /// What has no content of its own; and the end of the archive.
    pub(super) fn rest(mut self) -> Result<(), LayerError> {
        let tree = self.tree;
        for (path, node) in tree.paths(|kind| !matches!(kind, Kind::Folder(_) | Kind::File)) {
            match &node.kind {
                Kind::Symlink(target) => {
                    let mut header = header(&node.meta, EntryType::Symlink, 0);
                    self.attributes(node)?;
                    self.builder.append_link(&mut header, path, target).map_err(LayerError::Write)?;
                }
                Kind::Device { character, major, minor } => {
                    let kind = if *character { EntryType::Char } else { EntryType::Block };
                    let mut header = header(&node.meta, kind, 0);
                    header.set_device_major(*major).map_err(LayerError::Write)?;
                    header.set_device_minor(*minor).map_err(LayerError::Write)?;
                    self.entry(node, header, path, io::empty())?;
                }
                _ => self.entry(node, header(&node.meta, EntryType::Fifo, 0), path, io::empty())?,
            }
        }
        self.further_names()?;
        self.builder.into_inner().and_then(|mut out| out.flush()).map_err(LayerError::Write)
    }

    /// Files with several names: all but the first are hard links.
    fn further_names(&mut self) -> Result<(), LayerError> {
        let tree = self.tree;
        for (id, names) in &tree.names {
            let Some((first, further)) = names.split_first() else { continue };
            let Some(node) = tree.node(*id).filter(|node| matches!(node.kind, Kind::File)) else { continue };
            for name in further {
                let mut header = header(&node.meta, EntryType::Link, 0);
                self.builder.append_link(&mut header, name, first).map_err(LayerError::Write)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, node: &Node, mut header: Header, path: &str, content: impl Read) -> Result<(), LayerError> {
        self.attributes(node)?;
        self.builder.append_data(&mut header, path, content).map_err(super::read_error)
    }

    fn attributes(&mut self, node: &Node) -> Result<(), LayerError> {
        let attributes = node.meta.attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(attributes).map_err(LayerError::Write)
    }
}

fn header(meta: &Meta, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid);
    header.set_gid(meta.gid);
    header.set_mtime(meta.time);
    header.set_size(size);
    header
}
