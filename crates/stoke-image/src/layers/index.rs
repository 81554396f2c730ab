//! The first read: which names there are in the end, and where the content of each is. An arena of nodes; folders know their
//! children, a file with several names is one node.

use std::collections::BTreeMap;
use std::io::Read;

use tar::EntryType;

use super::{ANY_TIME, LayerError, Limits};

pub(super) type NodeId = usize;

/// How many symbolic links one name may lead through, as in Linux (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;
/// What Linux takes: `PATH_MAX`, `NAME_MAX`.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
/// Deeper than any tree of people.
const DEEPEST: usize = 512;
const ROOT: NodeId = 0;

/// Prefix of whiteouts, and the name of the marker of an opaque folder.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Character devices that give nobody anything, by their numbers: null, zero, full, random, urandom; tty, console, ptmx.
const HARMLESS: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// What is known of a file beside its content.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) time: u64,
    /// Extended attributes by their names in the archive, sorted.
    pub(super) attributes: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Folder(BTreeMap<String, NodeId>),
    File,
    Symlink(String),
    Device { character: bool, major: u32, minor: u32 },
    Pipe,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) meta: Meta,
    /// The layer that it comes from, and the number of its entry there, counted from 1.
    pub(super) layer: usize,
    pub(super) sequence: u64,
}

/// What the layers, read in their order, come to.
pub(super) struct Index<'a> {
    limits: &'a Limits,
    nodes: Vec<Node>,
    layer: usize,
    sequence: u64,
    built_from: u64,
    /// What was met so far, of all layers.
    entries: u64,
    names: u64,
    bytes: u64,
}

impl<'a> Index<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        let top = folder(0);
        Self { limits, nodes: vec![top], layer: 0, sequence: 0, built_from: 0, entries: 0, names: 0, bytes: 0 }
    }

    pub(super) fn begin(&mut self, layer: usize, built_from: u64) {
        (self.layer, self.sequence, self.built_from) = (layer, 0, built_from.min(ANY_TIME));
    }

    /// Takes in one entry.
    pub(super) fn apply(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), LayerError> {
        self.sequence += 1;
        self.entries += 1;
        let header_kind = entry.header().entry_type();
        let path = text(&entry.path_bytes())?;
        self.count(&path, entry.size())?;
        if header_kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let names = names(&path)?;
        let Some((name, folders)) = names.split_last() else { return self.top(entry) };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.white_out(&path, folders, name, hidden);
        }
        let parent = self.folder_at(&path, folders)?;
        if header_kind == EntryType::Link {
            return self.link(&path, parent, name, entry);
        }
        let meta = self.meta(entry)?;
        let kind = kind_of(&path, entry)?;
        self.place(parent, name, kind, meta);
        Ok(())
    }

    /// Bounds what is held in memory, and what will be written.
    fn count(&mut self, path: &str, size: u64) -> Result<(), LayerError> {
        self.names += path.len() as u64;
        self.bytes = self.bytes.saturating_add(size);
        let Limits { entries, names, bytes, .. } = *self.limits;
        let too_much = |what: String| Err(LayerError::TooMuch(what));
        if self.entries > entries {
            return too_much(format!("it has more than {entries} entries"));
        }
        if self.names > names {
            return too_much(format!("its names and attributes are more than {names} bytes"));
        }
        if self.bytes > bytes {
            return too_much(format!("its files are more than {bytes} bytes"));
        }
        Ok(())
    }

    fn meta(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<Meta, LayerError> {
        let attributes = attributes(entry)?;
        self.names += attributes.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
        let header = entry.header();
        let read = LayerError::Read;
        let time = header.mtime().map_err(read)?;
        let time = if time < self.built_from { time } else { ANY_TIME };
        let (uid, gid) = (header.uid().map_err(read)?, header.gid().map_err(read)?);
        Ok(Meta { mode: header.mode().map_err(read)? & 0o7777, uid, gid, time, attributes })
    }

    /// An entry for the top of the tree itself.
    fn top(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), LayerError> {
        let meta = self.meta(entry)?;
        if let Some(top) = self.nodes.get_mut(ROOT) {
            top.meta = meta;
        }
        Ok(())
    }

    /// Puts a node under a name, in place of what was there. A folder over a folder keeps the children.
    fn place(&mut self, parent: NodeId, name: &str, kind: Kind, meta: Meta) {
        let (layer, sequence) = (self.layer, self.sequence);
        let before = self.child(parent, name).filter(|id| self.children(*id).is_some());
        if let (Some(id), Kind::Folder(_)) = (before, &kind) {
            if let Some(node) = self.nodes.get_mut(id) {
                (node.meta, node.layer, node.sequence) = (meta, layer, sequence);
            }
            return;
        }
        let id = self.nodes.len();
        self.nodes.push(Node { kind, meta, layer, sequence });
        self.name(parent, name, id);
    }

    fn name(&mut self, parent: NodeId, name: &str, id: NodeId) {
        if let Some(Kind::Folder(children)) = self.nodes.get_mut(parent).map(|node| &mut node.kind) {
            children.insert(name.to_owned(), id);
        }
    }

    /// Another name for a file that is there.
    fn link(
        &mut self,
        path: &str,
        parent: NodeId,
        name: &str,
        entry: &tar::Entry<'_, impl Read>,
    ) -> Result<(), LayerError> {
        let target = text(&entry.link_name_bytes().unwrap_or_default())?;
        let nothing = || LayerError::LinkToNothing { path: path.to_owned(), target: target.clone() };
        let names = names(&target)?;
        let (last, folders) = names.split_last().ok_or_else(nothing)?;
        let folder = self.folder_of(&target, folders)?.ok_or_else(nothing)?;
        let id = self.child(folder, last).filter(|id| self.children(*id).is_none()).ok_or_else(nothing)?;
        self.name(parent, name, id);
        Ok(())
    }

    /// Takes away what lower layers have: one name, or all that is in a folder.
    fn white_out(&mut self, path: &str, folders: &[&str], name: &str, hidden: &str) -> Result<(), LayerError> {
        let Some(folder) = self.folder_of(path, folders)? else { return Ok(()) };
        if name == OPAQUE {
            self.keep_own(folder);
            return Ok(());
        }
        // The markers of another union file system; nothing that ships.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(LayerError::Name(path.to_owned()));
        }
        let Some(id) = self.child(folder, hidden) else { return Ok(()) };
        if !self.keep_own(id)
            && let Some(Kind::Folder(children)) = self.nodes.get_mut(folder).map(|node| &mut node.kind)
        {
            children.remove(hidden);
        }
        Ok(())
    }

    /// Removes what this layer has not brought from below a node; says whether anything of this layer is left, the node
    /// itself included.
    fn keep_own(&mut self, id: NodeId) -> bool {
        let own = self.nodes.get(id).is_some_and(|node| node.layer == self.layer && node.sequence > 0);
        let Some(children) = self.children(id) else { return own };
        let below: Vec<(String, NodeId)> = children.iter().map(|(name, id)| (name.clone(), *id)).collect();
        let gone: Vec<String> =
            below.into_iter().filter_map(|(name, id)| (!self.keep_own(id)).then_some(name)).collect();
        let Some(Kind::Folder(children)) = self.nodes.get_mut(id).map(|node| &mut node.kind) else { return own };
        for name in &gone {
            children.remove(name);
        }
        own || !children.is_empty()
    }

    fn children(&self, id: NodeId) -> Option<&BTreeMap<String, NodeId>> {
        match &self.nodes.get(id)?.kind {
            Kind::Folder(children) => Some(children),
            _ => None,
        }
    }

    fn child(&self, folder: NodeId, name: &str) -> Option<NodeId> {
        self.children(folder)?.get(name).copied()
    }

    /// The folder at these names, made if it is not there.
    fn folder_at(&mut self, path: &str, names: &[&str]) -> Result<NodeId, LayerError> {
        let (depth, mut at, missing) = self.walk(path, names)?;
        if depth + missing.len() > DEEPEST {
            return Err(LayerError::TooMuch(format!("it has folders in more than {DEEPEST} folders")));
        }
        for name in missing {
            let id = self.nodes.len();
            self.nodes.push(folder(self.layer));
            self.name(at, &name, id);
            at = id;
        }
        Ok(at)
    }

    /// The folder at these names, if it is there.
    fn folder_of(&self, path: &str, names: &[&str]) -> Result<Option<NodeId>, LayerError> {
        let (_, at, missing) = self.walk(path, names)?;
        Ok(missing.is_empty().then_some(at))
    }

    /// Goes as far as there are folders, through symbolic links as a process would whose root this tree is: `..` of the top is
    /// the top. Says how deep it came, where, and which names are left over: those are not there.
    fn walk(&self, path: &str, names: &[&str]) -> Result<(usize, NodeId, Vec<String>), LayerError> {
        let mut left: Vec<String> = names.iter().rev().map(|name| (*name).to_owned()).collect();
        let (mut trail, mut links) = (vec![ROOT], 0);
        while let Some(name) = left.pop() {
            let here = trail.last().copied().unwrap_or(ROOT);
            if name == ".." {
                trail.truncate(trail.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(id) = self.child(here, &name) else {
                left.push(name);
                left.reverse();
                // What a link promises and nobody has made is made now; `..` behind it has nothing to go back from.
                left.retain(|name| name != "..");
                return Ok((trail.len(), here, left));
            };
            match self.nodes.get(id).map(|node| &node.kind) {
                Some(Kind::Folder(_)) => trail.push(id),
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(LayerError::LinkLoop(path.to_owned()));
                    }
                    if target.starts_with('/') {
                        trail.truncate(1);
                    }
                    left.extend(parts(target).rev().map(str::to_owned));
                }
                _ => return Err(LayerError::NotAFolder(path.to_owned())),
            }
        }
        Ok((trail.len(), trail.last().copied().unwrap_or(ROOT), Vec::new()))
    }

    /// The tree, with the times of builds made one.
    pub(super) fn finish(mut self) -> Result<Tree, LayerError> {
        let names = self.reachable()?;
        self.check_tops()?;
        let there = || names.iter().filter_map(|(id, names)| Some((self.nodes.get(*id)?, names)));
        there().try_for_each(|(node, names)| check_device(node, names))?;
        let times = there().map(|(node, _)| node.meta.time);
        let newest = times.filter(|time| *time < ANY_TIME).max().unwrap_or_default();
        for node in self.nodes.iter_mut().filter(|node| node.meta.time >= ANY_TIME) {
            node.meta.time = newest;
        }
        Ok(Tree { nodes: self.nodes, names })
    }

    /// Later stages write below these; a link in their place would lead them elsewhere.
    fn check_tops(&self) -> Result<(), LayerError> {
        let mut tops = ["etc", "usr", "var"].into_iter().filter_map(|name| Some((name, self.child(ROOT, name)?)));
        match tops.find(|(_, id)| self.children(*id).is_none()) {
            Some((name, _)) => Err(LayerError::NotAFolder(format!("{name}/"))),
            None => Ok(()),
        }
    }

    /// All nodes that have names, with these, by their first name.
    fn reachable(&self) -> Result<Vec<(NodeId, Vec<String>)>, LayerError> {
        let mut names: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        let (mut left, mut length) = (vec![(ROOT, String::new())], 0);
        while let Some((folder, path)) = left.pop() {
            for (name, id) in self.children(folder).into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                length += path.len() as u64;
                if length > self.limits.names {
                    return Err(LayerError::TooMuch(format!("its paths are more than {} bytes", self.limits.names)));
                }
                names.entry(*id).or_default().push(path.clone());
                if self.children(*id).is_some() {
                    left.push((*id, path));
                }
            }
        }
        for names in names.values_mut() {
            names.sort();
        }
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by(|(_, one), (_, other)| one.cmp(other));
        Ok(names)
    }
}

/// Device nodes below `/dev` do not ship: the kernel makes a node's own. Anywhere else only harmless ones may be.
fn check_device(node: &Node, names: &[String]) -> Result<(), LayerError> {
    let Kind::Device { character, major, minor } = node.kind else { return Ok(()) };
    let harmless = character && HARMLESS.contains(&(major, minor));
    match names.iter().find(|name| !harmless && !name.starts_with("dev/")) {
        Some(path) => Err(LayerError::Device { path: path.clone(), major, minor }),
        None => Ok(()),
    }
}

/// What the layers come to.
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// By the first name. Folders have one name.
    pub(super) names: Vec<(NodeId, Vec<String>)>,
}

impl Tree {
    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// All names of nodes of a kind.
    pub(super) fn paths(&self, wanted: impl Fn(&Kind) -> bool) -> impl Iterator<Item = (&str, &Node)> {
        let nodes = self.names.iter().filter_map(|(id, names)| Some((names, self.nodes.get(*id)?)));
        let nodes = nodes.filter(move |(_, node)| wanted(&node.kind));
        nodes.flat_map(|(names, node)| names.iter().map(move |name| (name.as_str(), node)))
    }
}

/// A folder that no entry describes.
fn folder(layer: usize) -> Node {
    let meta = Meta { mode: 0o755, time: ANY_TIME, ..Meta::default() };
    Node { kind: Kind::Folder(BTreeMap::new()), meta, layer, sequence: 0 }
}

fn text(bytes: &[u8]) -> Result<String, LayerError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(LayerError::Name(String::from_utf8_lossy(bytes).into_owned())),
    }
}

/// Names between slashes, the ones that mean "here" left out.
fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// The names of a path that an archive gives; none for the top.
fn names(path: &str) -> Result<Vec<&str>, LayerError> {
    let names: Vec<&str> = parts(path).collect();
    if path.starts_with('/') || names.contains(&"..") {
        return Err(LayerError::NameLeaves(path.to_owned()));
    }
    if path.len() > LONGEST_PATH || names.iter().any(|name| name.len() > LONGEST_NAME) {
        return Err(LayerError::Name(path.chars().take(80).chain("…".chars()).collect()));
    }
    Ok(names)
}

fn kind_of(path: &str, entry: &tar::Entry<'_, impl Read>) -> Result<Kind, LayerError> {
    let header = entry.header();
    let device = |character| -> Result<Kind, LayerError> {
        let number =
            |number: std::io::Result<Option<u32>>| number.map(Option::unwrap_or_default).map_err(LayerError::Read);
        Ok(Kind::Device { character, major: number(header.device_major())?, minor: number(header.device_minor())? })
    };
    match header.entry_type() {
        EntryType::Directory => Ok(Kind::Folder(BTreeMap::new())),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Ok(Kind::File),
        EntryType::Symlink => {
            let target = text(&entry.link_name_bytes().unwrap_or_default())?;
            let usable = !target.is_empty() && target.len() <= LONGEST_PATH;
            if usable { Ok(Kind::Symlink(target)) } else { Err(LayerError::Name(path.to_owned())) }
        }
        EntryType::Char => device(true),
        EntryType::Block => device(false),
        EntryType::Fifo => Ok(Kind::Pipe),
        other => Err(LayerError::Kind { path: path.to_owned(), kind: char::from(other.as_byte()) }),
    }
}

/// The attributes that a read-only root can have. Those of overlay file systems would change what a node sees of its own.
fn attributes(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<(String, Vec<u8>)>, LayerError> {
    let Some(extensions) = entry.pax_extensions().map_err(super::read_error)? else { return Ok(Vec::new()) };
    let mut attributes = Vec::new();
    for extension in extensions {
        let extension = extension.map_err(LayerError::Read)?;
        let Ok(key) = extension.key() else { continue };
        let Some(name) = key.strip_prefix("SCHILY.xattr.") else { continue };
        let namespace = ["user.", "security.", "trusted."].iter().any(|space| name.starts_with(space));
        let overlay = ["user.overlay.", "trusted.overlay."].iter().any(|space| name.starts_with(space));
        if namespace && !overlay {
            attributes.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    attributes.sort();
    attributes.dedup_by(|one, other| one.0 == other.0);
    Ok(attributes)
}
