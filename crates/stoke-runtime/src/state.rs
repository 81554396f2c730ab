//! What is remembered of a container: a folder below the root, with a record, the configuration and the socket of `start`.
//!
//! The status is never written down: it is derived from the record and the process, so that nobody's death leaves a wrong one.
//!
//! ```text
//!  creating --> created --> running <--> paused --> stopped
//!      \___________\___________________________________^
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::error::{Context as _, Error, Result};
use crate::spec::Spec;

/// Name of the memory that our program is executed from in a container; the kernel shows it as `/memfd:NAME`.
pub const MEMORY_NAME: &str = "stoke-lxc";

/// Status of a container, as the specification calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the specification's words")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A process, safe against another one that gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number here.
    pub pid: i32,
    /// When it began, in ticks since boot (proc(5), `starttime`).
    pub start_time: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn find(pid: Pid) -> Option<Self> {
        let pid = pid.as_raw_nonzero().get();
        alive(pid).map(|start_time| Self { pid, start_time })
    }

    /// Whether it still runs. One that nobody has waited for has ended.
    pub fn is_alive(self) -> bool {
        alive(self.pid) == Some(self.start_time)
    }

    /// A descriptor of it, if it still runs.
    pub fn open(self) -> Option<OwnedFd> {
        let descriptor = rustix::process::pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(descriptor)
    }

    /// Sends a signal, and says whether there was somebody to get it.
    pub fn signal(self, signal: Signal) -> Result<bool> {
        let Some(descriptor) = self.open() else { return Ok(false) };
        match rustix::process::pidfd_send_signal(descriptor, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(false),
            other => other.map(|()| true).context(|| format!("cannot signal process {}", self.pid)),
        }
    }
}

/// Start time of a process that has not ended.
fn alive(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name, in parentheses, and may contain anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What is written down when a container is created.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of this format: two older ones are read.
    pub version: u32,
    /// The container's name.
    pub id: String,
    /// `ociVersion` of its configuration.
    pub oci_version: String,
    /// Folder of the bundle, absolute.
    pub bundle: PathBuf,
    /// Its root folder, absolute.
    pub rootfs: PathBuf,
    /// When it was created (RFC 3339).
    pub created: String,
    /// Whoever is creating it: while it lives and there is no first process, the container is `creating`.
    pub creator: Option<Process>,
    /// Its first process.
    pub init: Option<Process>,
    /// Its cgroup, from the root of each hierarchy.
    pub cgroup: Option<String>,
    /// Annotations of its configuration.
    pub annotations: BTreeMap<String, String>,
    /// Who owns it.
    pub owner: u32,
}

/// The state that the specification asks for, as JSON on stdin of hooks and as answer of `state`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the specification's fields")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub status: Status,
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    pub bundle: PathBuf,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

impl Record {
    /// What hooks get, and `state` prints.
    pub fn state(&self, status: Status) -> State {
        let pid = self.init.filter(|_| status != Status::Stopped).map_or(0, |init| init.pid);
        State {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid,
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Its cgroup.
    pub fn group(&self) -> Result<Option<Group>> {
        self.cgroup.as_deref().map(Group::open).transpose()
    }
}

/// The folder of all containers of one `--root`.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The folder that `--root` names.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the folder of a new container. It is the lock: only one caller can make it.
    ///
    /// # Errors
    /// If a container of this name exists, or the name is none.
    pub fn create(&self, id: &str) -> Result<Folder> {
        let folder = self.folder(id)?;
        fs::create_dir_all(&self.0).context(|| "cannot create the root".to_owned())?;
        match std::fs::create_dir(&folder.path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists(id.to_owned())),
            Err(error) => Err(Error::system(format!("cannot create {}", folder.path.display()), error)),
            Ok(()) => {
                use std::os::unix::fs::PermissionsExt as _;
                let mode = std::fs::Permissions::from_mode(0o700);
                fs::set_permissions(&folder.path, mode)
                    .context(|| "cannot protect the container's folder".to_owned())?;
                Ok(folder)
            }
        }
    }

    /// The folder of a container that exists.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(&self, id: &str) -> Result<Folder> {
        let folder = self.folder(id)?;
        if folder.path.is_dir() { Ok(folder) } else { Err(Error::NotFound(id.to_owned())) }
    }

    /// Names of all containers.
    pub fn list(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(|| format!("cannot read {}", self.0.display()))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }

    fn folder(&self, id: &str) -> Result<Folder> {
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || "+-._".contains(character);
        if id.is_empty() || id.starts_with('.') || !id.chars().all(is_allowed) || id.len() > 1024 {
            return Err(Error::Input(format!(
                "container name {id:?}: use letters, digits, and +-._, not as its first a dot"
            )));
        }
        Ok(Folder { id: id.to_owned(), path: self.0.join(id) })
    }
}

/// The folder of one container.
#[derive(Clone, Debug)]
pub struct Folder {
    id: String,
    path: PathBuf,
}

impl Folder {
    /// The container's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the container's first process waits for `start`.
    pub fn start_socket(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    /// liblxc's log of this container.
    pub fn lxc_log(&self) -> PathBuf {
        self.path.join("lxc.log")
    }

    /// Writes the record.
    pub fn write(&self, record: &Record) -> Result<()> {
        self.write_file("record.json", &serde_json::to_vec(record).unwrap_or_default())
    }

    /// Writes the configuration as it was when the container was created.
    pub fn write_spec(&self, spec: &Spec) -> Result<()> {
        self.write_file("config.json", &serde_json::to_vec(spec).unwrap_or_default())
    }

    /// The configuration as it was when the container was created.
    pub fn spec(&self) -> Result<Spec> {
        Spec::load(&self.path.join("config.json"))
    }

    /// Whole or not at all: somebody may read it, or end us, at any moment.
    fn write_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let staged = self.path.join(format!(".{name}"));
        let what = || format!("cannot write {name} of the container");
        fs::write(&staged, content).context(what)?;
        fs::rename(&staged, self.path.join(name)).context(what)
    }

    /// Reads the record. There is none if `create` was killed in its first moment.
    pub fn record(&self) -> Result<Option<Record>> {
        let path = self.path.join("record.json");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::system(format!("cannot read {}", path.display()), error)),
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::Input(format!("{}: {error}", path.display()))),
        }
    }

    /// Reads the record of a container that `create` came to write one for.
    ///
    /// # Errors
    /// If there is none.
    pub fn expect_record(&self) -> Result<Record> {
        let incomplete = || Error::State(format!("container {} was never created whole: delete it", self.id));
        self.record()?.ok_or_else(incomplete)
    }

    /// What the container is doing.
    pub fn status(&self, record: &Record) -> Status {
        match record.init {
            None if record.creator.is_some_and(Process::is_alive) => Status::Creating,
            None => Status::Stopped,
            Some(init) if !init.is_alive() => Status::Stopped,
            // With a creator still in the record, `create` has not finished; if that is dead, init is about to end.
            Some(_) if record.creator.is_some() => Status::Creating,
            Some(init) if self.is_waiting(init) => Status::Created,
            Some(_) if matches!(record.group().map(|group| group.is_some_and(|group| group.is_frozen())), Ok(true)) => {
                Status::Paused
            }
            Some(_) => Status::Running,
        }
    }

    /// Whether the container's first process is still our program. What it becomes cannot be another one of this name for
    /// us, since `start` removes the socket.
    fn is_waiting(&self, init: Process) -> bool {
        let program = std::fs::read_link(format!("/proc/{}/exe", init.pid));
        let is_ours = program.is_ok_and(|path| path.to_string_lossy().starts_with(&format!("/memfd:{MEMORY_NAME}")));
        is_ours && self.start_socket().exists()
    }

    /// Removes the folder.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.context(|| format!("cannot remove {}", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            version: 1,
            id: id.to_owned(),
            oci_version: "1.2.0".to_owned(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: String::new(),
            creator: None,
            init: None,
            cgroup: None,
            annotations: BTreeMap::new(),
            owner: 0,
        }
    }

    #[test]
    fn only_one_can_create_a_container() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        root.create("a").unwrap();
        assert!(matches!(root.create("a"), Err(Error::Exists(_))));
        assert!(matches!(root.open("b"), Err(Error::NotFound(_))));
        assert_eq!(root.list().unwrap(), ["a"]);
    }

    #[test]
    fn a_name_cannot_leave_the_root() {
        let root = Root::new("/nowhere");
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b"] {
            assert!(matches!(root.open(name), Err(Error::Input(_))), "{name}");
        }
    }

    #[test]
    fn a_container_whose_creator_died_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let container = Root::new(folder.path()).create("a").unwrap();
        let mut record = record("a");
        record.creator = Process::find(rustix::process::getpid());
        assert_eq!(container.status(&record), Status::Creating);
        // The same number, another process.
        record.creator = record.creator.map(|creator| Process { start_time: 1, ..creator });
        assert_eq!(container.status(&record), Status::Stopped);
    }

    #[test]
    fn a_running_process_is_running_and_a_stopped_one_has_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let container = Root::new(folder.path()).create("a").unwrap();
        let mut record = record("a");
        record.init = Process::find(rustix::process::getpid());
        assert_eq!(container.status(&record), Status::Running);
        assert_eq!(record.state(Status::Stopped).pid, 0);
    }
}
