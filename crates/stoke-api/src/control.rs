//! The control socket of a standalone installation: HTTP/1.1 over a Unix socket, JSON.
//!
//! ```text
//! GET    /v1/host                              HostInfo
//! GET    /v1/objects/{kinds}[?namespace=N]     [object, …]
//! GET    /v1/objects/{kinds}/{namespace}/{name}   object; the namespace of a Server is written `-`
//! DELETE /v1/objects/{kinds}/{namespace}/{name}   204; 409 if it came from a file
//! POST   /v1/apply           Apply          -> Applied; 422 Refused
//! POST   /v1/plan            Apply          -> Planned; 422 Refused; changes nothing
//! POST   /v1/power/{kinds}/{namespace}/{name}   PowerRequest -> 202
//! POST   /v1/enroll/{kinds}/{namespace}/{name}  EnrollRequest -> 202
//! GET    /v1/events/{kinds}/{namespace}/{name}  [ObjectEvent, …], oldest first
//! GET    /v1/farms/{namespace}/{name}          FarmView
//! POST   /v1/rollout/{namespace}/{name}        RolloutRequest -> 202
//! GET    /v1/trace/{mac}                       [Traced, …], of every role that serves machines
//! GET    /v1/trace/{kinds}/{namespace}/{name}  the same for all interfaces of an object
//! GET    /v1/watch                             WatchEvent, one a line, first all that is, then each change
//! POST   /v1/down            Down           -> Downed; the server ends afterwards
//! ```
//!
//! An error is a [`Refused`] with a fitting status.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::meta::ObjectRef;
use crate::names::Digest;
use crate::objects::AnyObject;
use crate::report::{FarmReport, Stranger};
use crate::trace::TraceEvent;

/// What an installation says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostInfo {
    /// Version of the program that answers.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The state folder.
    pub state: PathBuf,
    /// Folder with the entries `net` and, unless root runs it, `user`: the namespaces that the LANs are in.
    pub namespaces: Option<PathBuf>,
    /// Private key that `stoke ssh` uses. Its public half is given to every node.
    pub ssh_key: PathBuf,
    /// What runs.
    pub workloads: Vec<WorkloadInfo>,
}

/// A workload of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadInfo {
    /// Its name: `router-default-lab`.
    pub name: String,
    /// Its role: `router`.
    pub role: String,
    /// The object that it serves.
    pub owner: ObjectRef,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// When it was started: milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// How often it ended unasked and was started again.
    pub restarts: u32,
    /// Whether it says that it is ready.
    pub ready: bool,
    /// What is wrong with it.
    pub failure: Option<String>,
    /// Its log file.
    pub log: PathBuf,
    /// Its admin socket.
    pub socket: PathBuf,
    /// Its console socket, if it is a machine: raw bytes both ways, the history first.
    pub console: Option<PathBuf>,
}

/// Objects from files. Objects that came from one of these files before and are no longer in it are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Apply {
    /// The files.
    pub files: Vec<AppliedFile>,
}

/// One file and its objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedFile {
    /// Its absolute path.
    pub path: PathBuf,
    /// What it says.
    pub objects: Vec<AnyObject>,
}

/// What an application changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// By object.
    pub changes: Vec<(ObjectRef, Change)>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Change {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

/// What an application would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// Objects.
    pub changes: Vec<(ObjectRef, Change)>,
    /// Steps on this host, one a line.
    pub steps: Vec<String>,
}

/// A request that was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// One line, with the next step.
    pub message: String,
    /// All that is wrong, by object and field.
    #[serde(default)]
    pub problems: Vec<ObjectProblem>,
}

/// Something wrong at a field of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectProblem {
    /// The object.
    pub object: ObjectRef,
    /// Path of the field from the object's root.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A request about a farm's update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutRequest {
    /// What to do.
    pub action: RolloutAction,
}

/// What to do with a farm's update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutAction {
    /// No more nodes go over.
    Pause,
    /// It goes on, or is tried again.
    Resume,
    /// The version is taken back.
    Undo,
}

/// A request to accept the TPM that a node showed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollRequest {
    /// Only if it is this one: the fingerprint of its endorsement key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
    /// Accept none any more.
    #[serde(default)]
    pub forget: bool,
}

/// A request for power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerRequest {
    /// What to do.
    pub action: PowerAction,
}

/// What to do with a machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PowerAction {
    Start,
    Stop,
    Reboot,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectEvent {
    /// When it happened last: RFC 3339.
    pub at: String,
    /// How often.
    pub count: u32,
    /// One word in PascalCase.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// A change that a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchEvent {
    /// What happened; `Created` for all that was there when the watch began.
    pub change: Change,
    /// The object as it is now, or was last.
    pub object: Box<AnyObject>,
}

/// A farm as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmView {
    /// The `Farm`.
    pub farm: ObjectRef,
    /// The image version that new boots get; absent while none is built.
    pub image: Option<Digest>,
    /// Its replicas, by number.
    pub replicas: Vec<FarmReplica>,
    /// Machines on its LANs that asked for a boot and that no object names.
    pub strangers: Vec<LanStranger>,
}

/// One replica of a farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmReplica {
    /// Its workload: `farm-default-lab.1`.
    pub workload: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it serves.
    pub ready: bool,
    /// What is wrong with it.
    pub failure: Option<String>,
    /// What it said last.
    pub report: FarmReport,
}

/// A machine that no object names, and where it was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LanStranger {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// The machine.
    #[serde(flatten)]
    pub stranger: Stranger,
}

/// What one role remembers of a machine's boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traced {
    /// The workload that remembers: `router-default-lab`.
    pub workload: String,
    /// Why it could not be asked, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What it remembers, oldest first.
    pub events: Vec<TraceEvent>,
}

/// A request to end everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Down {
    /// Whether to forget the objects, leases, keys and images, too.
    #[serde(default)]
    pub purge: bool,
}

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Downed {
    /// What was ended or removed, one a line.
    pub removed: Vec<String>,
    /// What could not be.
    pub failures: Vec<String>,
}
