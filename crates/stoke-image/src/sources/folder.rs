//! A tree that is there already: a tar archive, or a folder, of which one is made first.
//!
//! As root a folder's owners are taken as they are. An ordinary user's own files become root's, and those of subordinate ids
//! what they are in a user namespace: a folder looks as it does to `unshare --map-root-user --map-auto`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use fs_err as fs;
use fs_err::File;
use stoke_api::Digest;
use stoke_api::objects::TreeSource;

use super::{Bench, Making, SourceError, about, layers_digest, write_tree};
use crate::BuildError;
use crate::layers::{ANY_TIME, Hashing, Layer};
use crate::process::last_lines;
use crate::root::as_root;
use crate::store::Workspace;

const FIELD: &str = "spec.source.tree.path";

/// Order, owners by number, attributes, and no times but that of the content.
const TAR: [&str; 9] = [
    "--create",
    "--sort=name",
    "--numeric-owner",
    "--format=pax",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--xattrs",
    "--xattrs-include=*",
    "--one-file-system",
    "--directory",
];

/// A tree as one archive.
pub(crate) struct Folder<'a> {
    source: &'a TreeSource,
    archive: PathBuf,
    stored: Digest,
    /// Keeps the archive that was made of a folder.
    _workspace: Option<Workspace>,
}

impl<'a> Folder<'a> {
    /// Reads all of it: its content is what it is known by.
    pub(crate) fn prepare(source: &'a TreeSource, bench: &Bench<'a>) -> Result<Self, BuildError> {
        let name = source.path.display().to_string();
        let blame = |error: SourceError| about(FIELD, &name, &error);
        let is_folder = fs::metadata(&source.path).map_err(|error| blame(error.into()))?.is_dir();
        if is_folder {
            let workspace = bench.store.workspace()?;
            let archive = workspace.path().join("folder.tar");
            let stored = pack(&source.path, &archive, bench).map_err(blame)?;
            return Ok(Self { source, archive, stored, _workspace: Some(workspace) });
        }
        let mut hashing = Hashing::new(File::open(&source.path).map_err(|error| blame(error.into()))?);
        io::copy(&mut hashing, &mut io::sink()).map_err(|error| blame(error.into()))?;
        Ok(Self { source, archive: source.path.clone(), stored: hashing.digest(), _workspace: None })
    }

    pub(crate) fn digest(&self) -> Digest {
        layers_digest("tree", &self.stored)
    }

    pub(crate) fn make(&self, making: &mut Making<'_>) -> Result<(), BuildError> {
        making.at("read the tree", 0);
        let archive = self.archive.clone();
        let size = fs::metadata(&archive)?.len();
        let open = move || -> io::Result<Box<dyn Read>> { Ok(Box::new(io::BufReader::new(File::open(&archive)?))) };
        let (stored, built_from) = (Some(self.stored), ANY_TIME);
        let layer = Layer { open: Box::new(open), stored, archive: None, size, built_from };
        write_tree(&[layer], making, "read the tree", FIELD, &self.source.path.display().to_string())
    }
}

/// Makes an archive of a folder, and says its digest.
fn pack(folder: &Path, archive: &Path, bench: &Bench<'_>) -> Result<Digest, SourceError> {
    let mut command = as_root(bench.privilege, "--map-auto", OsStr::new("tar"));
    command.args(TAR).arg(folder).arg(".");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let listener = thread::spawn(move || {
        let mut said = String::new();
        stderr.map_or(Ok(0), |mut stderr| stderr.read_to_string(&mut said)).map(|_| said)
    });
    let mut hashing = Hashing::new(stdout.ok_or_else(|| io::Error::other("no pipe"))?);
    let mut file = File::create(archive)?;
    let written = io::copy(&mut hashing, &mut file);
    let status = child.wait()?;
    let said = listener.join().unwrap_or_else(|_| Ok(String::new()))?;
    written?;
    if status.success() {
        Ok(hashing.digest())
    } else {
        Err(SourceError::Image(format!("it cannot be read: {}", last_lines(&said))))
    }
}
