//! Objects from files: YAML or JSON, as many objects a file as people like, everything wrong reported at once.
//!
//! ```text
//! paths -> files -> documents (tree) -> JSON by the schema of the kind (walk) -> AnyObject -> check()
//! ```
//!
//! Each step goes on past what is wrong and says where it is, so that one run shows all of it. What only shows when all
//! objects are known together (a missing LAN, an address taken twice) is found by whoever keeps them, and
//! [`locate`] gives it its place in the file.

mod files;
mod finding;
mod plain;
mod referenced;
mod tree;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use finding::{Finding, Position, Positions, nearest};
pub use plain::load_documents;

use self::tree::{Content, Node};
use self::walk::Walk;
use crate::control::ObjectProblem;
use crate::meta::ObjectRef;
use crate::objects::{AnyObject, Kind};
use crate::{API_VERSION, schema};

/// A file and its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Its objects in the order in which they are written, each with the places of its fields.
    pub objects: Vec<(AnyObject, Positions)>,
    /// Files that were read because objects name them as part of themselves, found or not.
    pub referenced: Vec<PathBuf>,
}

/// Loads all objects of the files, and of the YAML and JSON files in the folders.
///
/// # Errors
/// With everything that is wrong in all of them.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Loaded>, Vec<Finding>> {
    let (all, findings) = load_what_is_whole(paths);
    if findings.is_empty() { Ok(all) } else { Err(findings) }
}

/// Loads as [`load`] does, and gives with what is wrong the objects that can be told all the same: to find what is wrong
/// between them, never to be used.
pub fn load_what_is_whole(paths: &[PathBuf]) -> (Vec<Loaded>, Vec<Finding>) {
    let (files, mut findings) = files::find(paths);
    let mut all = Vec::new();
    for path in files {
        match files::read(&path) {
            Ok(text) => {
                let mut loaded = parse(path, &text, true, &mut findings);
                resolve_paths(&mut loaded);
                all.push(loaded);
            }
            Err(finding) => findings.push(finding),
        }
    }
    twice(&all, &mut findings);
    (all, findings)
}

/// A file's objects name other files as seen from where the file is, and are used by processes elsewhere.
fn resolve_paths(loaded: &mut Loaded) {
    let absolute = std::path::absolute(&loaded.path).unwrap_or_else(|_| loaded.path.clone());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    loaded.objects.iter_mut().for_each(|(object, _)| object.resolve_paths(folder));
}

/// The files that [`load`] would read, as far as they can be found.
pub fn find_files(paths: &[PathBuf]) -> Vec<PathBuf> {
    files::find(paths).0
}

/// Loads the objects of one text; `path` is only named in findings.
///
/// # Errors
/// With everything that is wrong in it.
pub fn load_text(path: &Path, text: &str) -> Result<Loaded, Vec<Finding>> {
    let mut findings = Vec::new();
    let loaded = parse(path.to_owned(), text, false, &mut findings);
    twice(std::slice::from_ref(&loaded), &mut findings);
    if findings.is_empty() { Ok(loaded) } else { Err(findings) }
}

/// Where a problem is that was found by somebody who knows objects and not files; `None` if no file has the object.
pub fn locate(all: &[Loaded], problem: &ObjectProblem) -> Option<Finding> {
    all.iter().find_map(|loaded| {
        let (_, positions) = loaded.objects.iter().find(|(object, _)| object.reference() == problem.object)?;
        let at = positions.find(&problem.field);
        let (field, message) = (problem.field.clone(), problem.message.clone());
        Some(Finding { path: loaded.path.clone(), at, field, message, hint: None })
    })
}

/// `reads` says whether files that objects name are read; they are left out otherwise.
fn parse(path: PathBuf, text: &str, reads: bool, findings: &mut Vec<Finding>) -> Loaded {
    let (documents, malformed) = tree::parse(text);
    findings.extend(malformed.into_iter().map(|malformed| Finding {
        path: path.clone(),
        at: Some(malformed.at),
        field: String::new(),
        message: malformed.message,
        hint: None,
    }));
    let (mut objects, mut referenced) = (Vec::new(), Vec::new());
    for document in documents.iter().filter(|document| !document.is_nothing()) {
        let (object, mut walk) = read_document(document, reads.then_some((&path, &mut referenced)));
        walk.wrong.sort_by_key(|wrong| wrong.at);
        findings.extend(walk.wrong.into_iter().map(|wrong| Finding {
            path: path.clone(),
            at: Some(wrong.at),
            field: wrong.field,
            message: wrong.message,
            hint: wrong.hint,
        }));
        objects.extend(object.map(|object| (object, walk.positions)));
    }
    Loaded { path, objects, referenced }
}

/// One document: an object if it can be told, and what is wrong with it.
fn read_document(
    document: &Node,
    reading: Option<(&PathBuf, &mut Vec<PathBuf>)>,
) -> (Option<AnyObject>, Walk<'static>) {
    let mut walk = Walk::new(schema::of(Kind::Machine));
    let Content::Map(_) = &document.content else {
        let hint = Some(format!("it begins with apiVersion: {API_VERSION} and kind: Machine (or another)"));
        walk.wrong(document.at, "", "this is no object", hint);
        return (None, walk);
    };
    check_version(document, &mut walk);
    let Some(kind) = read_kind(document, &mut walk) else { return (None, walk) };
    walk.whole = schema::of(kind);
    let value = walk_object(kind, document, &mut walk);
    // A field that does not exist hides nothing else that is wrong.
    if !walk.is_whole() {
        return (None, walk);
    }
    match serde_json::from_value::<AnyObject>(value) {
        Ok(mut object) => {
            if let Some((from, paths)) = reading {
                paths.extend(referenced::read(&mut object, from, &mut walk));
            }
            check(&object, &mut walk);
            (Some(object), walk)
        }
        // Everything that the schema says was checked; this is what only the types know.
        Err(error) => {
            walk.wrong(document.at, "", error.to_string(), None);
            (None, walk)
        }
    }
}

fn check_version(document: &Node, walk: &mut Walk<'_>) {
    let Some(version) = document.get("apiVersion") else {
        let hint = Some(format!("write apiVersion: {API_VERSION}"));
        return walk.wrong(document.at, "apiVersion", "is required", hint);
    };
    let text = version.text().unwrap_or_default();
    if text != API_VERSION {
        let message = format!("{text:?} is not known here");
        walk.wrong(version.at, "apiVersion", message, Some(format!("write {API_VERSION}")));
    }
}

fn read_kind(document: &Node, walk: &mut Walk<'_>) -> Option<Kind> {
    let names = Kind::ALL.map(|kind| kind.to_string());
    let names = names.each_ref().map(String::as_str);
    let Some(node) = document.get("kind") else {
        walk.wrong(document.at, "kind", "is required", Some(format!("kinds are {}", names.join(", "))));
        return None;
    };
    let text = node.text().unwrap_or_default();
    let kind = Kind::ALL.into_iter().find(|kind| kind.to_string() == text);
    if kind.is_none() {
        let hint = finding::suggest(text, &names, "kinds are");
        walk.wrong(node.at, "kind", format!("{text:?} is no kind of object"), hint);
    }
    kind
}

/// Fields of `metadata` that people do not write.
const STORE_FIELDS: [&str; 6] =
    ["uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp", "ownerReferences"];

/// The object as JSON, tagged by its kind. `status` and what the store writes is refused.
fn walk_object(kind: Kind, document: &Node, walk: &mut Walk<'static>) -> Value {
    let Content::Map(entries) = &document.content else { return Value::Null };
    let ours = |(key, _): &&(tree::Key, Node)| !["apiVersion", "kind", "status"].contains(&key.text.as_str());
    let written: Vec<_> = entries.iter().filter(ours).cloned().collect();
    if let Some((key, _)) = entries.iter().find(|(key, _)| key.text == "status") {
        walk.leave_out(key.at, "status", "is written by Stokehold", Some("leave it out of files".to_owned()));
    }
    if let Some(Content::Map(metadata)) = document.get("metadata").map(|node| &node.content) {
        for (key, _) in metadata.iter().filter(|(key, _)| STORE_FIELDS.contains(&key.text.as_str())) {
            let field = format!("metadata.{}", key.text);
            walk.leave_out(key.at, &field, "is written by Stokehold", Some("leave it out of files".to_owned()));
        }
    }
    let node = Node { at: document.at, content: Content::Map(written) };
    let mut value = walk.value(walk.whole, &node, "", document.at);
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".to_owned(), Value::String(kind.to_string()));
    }
    value
}

/// What is well-formed and still wrong.
fn check(object: &AnyObject, walk: &mut Walk<'_>) {
    let at = |walk: &Walk<'_>, field: &str| walk.positions.find(field).unwrap_or(Position { line: 1, column: 1 });
    if !object.kind().is_namespaced() && object.metadata().namespace.is_some() {
        let message = format!("a {} is an asset of the whole installation and in no namespace", object.kind());
        let field = "metadata.namespace";
        walk.wrong(at(walk, field), field, message, Some("leave it out".to_owned()));
    }
    for problem in object.check() {
        if walk.may_be_misspelt(&problem.field) {
            continue;
        }
        walk.wrong(at(walk, &problem.field), &problem.field, problem.message, None);
    }
}

/// Objects that are described twice, in one file or in two.
fn twice(all: &[Loaded], findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<ObjectRef, (&Path, Option<Position>)> = BTreeMap::new();
    for loaded in all {
        for (object, positions) in &loaded.objects {
            let (reference, at) = (object.reference(), positions.find("metadata.name"));
            let Some((path, earlier)) = first.get(&reference) else {
                first.insert(reference, (&loaded.path, at));
                continue;
            };
            let line = earlier.map(|at| format!(":{}", at.line)).unwrap_or_default();
            findings.push(Finding {
                path: loaded.path.clone(),
                at,
                field: "metadata.name".to_owned(),
                message: format!("{reference} is described twice, first in {}{line}", path.display()),
                hint: Some("rename or remove one".to_owned()),
            });
        }
    }
}

#[cfg(test)]
mod tests;
