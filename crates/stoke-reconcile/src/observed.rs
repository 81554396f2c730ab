//! What the reconcilers read ([`Observed`]) and what they say ([`Desired`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stoke_api::objects::{BmcInventory, BmcSpec, ImageSpec, Power};
use stoke_api::report::{BuiltImage, Report};
use stoke_api::workload::{BlobRef, Workload};
use stoke_api::{AnyObject, Digest, ObjectRef};

use crate::status::Status;

/// All that a reconciler may know.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The objects, with the status that was written last.
    pub objects: Vec<AnyObject>,
    /// What is known of workloads, by their name.
    pub workloads: BTreeMap<String, ObservedWorkload>,
    /// Where the workloads run.
    pub environment: Environment,
}

/// What is known of one workload.
#[derive(Clone, Debug, Default)]
pub struct ObservedWorkload {
    /// What it was started with, or told last.
    pub workload: Option<Workload>,
    /// Whether it was started and nobody has asked it to end: it runs, or it was killed and is to be started again. A
    /// machine whose `stoke-vm` was killed goes on meanwhile, so this, and not [`Self::running`], says that it is there.
    pub kept: bool,
    /// Whether it runs.
    pub running: bool,
    /// Its last report; it stays when the workload ends.
    pub report: Option<Report>,
    /// Why it does not run, or refuses its configuration.
    pub failure: Option<String>,
}

/// Where the workloads run, and what has been made for them.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Eight hexadecimal digits that tie links and tables to this installation.
    pub installation: String,
    /// Folder of what must outlast a restart.
    pub state: PathBuf,
    /// Folder of sockets.
    pub run: PathBuf,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Ports of every farm.
    pub ports: FarmPorts,
    /// Boot programs of this host: name to file.
    pub boot_programs: BTreeMap<String, PathBuf>,
    /// Public key that may log in as root on every node.
    pub ssh_public_key: String,
    /// Identity of the programs that build images: a change of it is a reason to look at every image again.
    pub tools: String,
    /// What is known of images, by `NAMESPACE/NAME`.
    pub images: BTreeMap<String, KnownImage>,
    /// By a key as a farm writes it, the versions that it has signed; or why it is no key.
    pub signed: BTreeMap<String, Result<BTreeSet<Digest>, String>>,
    /// Each farm's own parts, by `NAMESPACE/NAME` of the farm and image version.
    pub farm_parts: BTreeMap<(String, Digest), FarmParts>,
    /// Farms with keys of their own for Secure Boot, by `NAMESPACE/NAME`.
    pub farm_keys: BTreeMap<String, FarmKeys>,
    /// Why secrets of nodes cannot be read, by their name.
    pub secret_failures: BTreeMap<String, String>,
    /// What management controllers said, by their server.
    pub bmcs: BTreeMap<String, BmcSeen>,
    /// Why parts could not be made, by the same key.
    pub farm_part_failures: BTreeMap<(String, Digest), String>,
}

/// What a management controller said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BmcSeen {
    /// Whether its server is on; absent while it does not answer.
    pub power: Option<Power>,
    /// What its server is, once it was asked for that.
    pub inventory: Option<BmcInventory>,
    /// Why it was not reached or did not do what it was asked for.
    pub last_error: String,
    /// Requests of power that have come true.
    pub requests_done: u64,
}

/// Ports of a farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarmPorts {
    /// UDP port of TFTP.
    pub tftp: u16,
    /// TCP port of HTTP.
    pub http: u16,
    /// TCP port of the node API.
    pub node: u16,
    /// TCP port of NBD.
    pub nbd: u16,
}

impl Default for FarmPorts {
    fn default() -> Self {
        Self { tftp: 69, http: 80, node: 8443, nbd: 10809 }
    }
}

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownImage {
    /// Published versions that are still there: the one that is handed out, then the others, newest first.
    pub versions: Vec<BuiltImage>,
    /// What is known of each version beside its content, newest first.
    #[serde(default)]
    pub notes: Vec<VersionNote>,
    /// The last build that ended.
    pub last_build: Option<FinishedBuild>,
}

/// What is known of a version beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionNote {
    /// The version.
    pub digest: Digest,
    /// When it was built here, or came here: RFC 3339; empty if nobody took note.
    pub published: String,
    /// Whether it stays whatever is pruned.
    pub kept: bool,
    /// Fingerprints of the keys that are known here and have signed it.
    pub signed_by: Vec<String>,
}

/// A build that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FinishedBuild {
    /// What was built.
    pub spec: ImageSpec,
    /// The images that it started from.
    #[serde(default)]
    pub bases: BTreeMap<String, ImageSpec>,
    /// [`Environment::tools`] at that time.
    pub tools: String,
    /// The version that it published, or found to be published.
    #[serde(default)]
    pub image: Option<Digest>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// How often in a row this same input has failed.
    pub attempts: u32,
    /// When it ended: milliseconds since 1970.
    pub finished_ms: u64,
}

/// A farm's keys for Secure Boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarmKeys {
    /// Where they are.
    pub folder: PathBuf,
    /// Fingerprint of the certificate by which its boot programs are verified.
    pub fingerprint: String,
}

/// What a farm adds to an image version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FarmParts {
    /// The initramfs with the farm's CA.
    pub initramfs: BlobRef,
    /// The unified kernel image with that initramfs inside; absent if the image has none.
    pub uki: Option<BlobRef>,
    /// Fingerprint of the key that has signed it.
    #[serde(default)]
    pub signed_by: Option<String>,
}

/// What should be.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// What should run, in an order in which each can start.
    pub workloads: Vec<Workload>,
    /// The status of each object.
    pub statuses: Vec<(ObjectRef, Status)>,
    /// Parts that are missing.
    pub farm_parts: Vec<FarmPartRequest>,
    /// Servers that are rebooted by SSH.
    pub ssh_reboots: Vec<SshReboot>,
    /// What is wanted of management controllers.
    pub bmcs: Vec<BmcTask>,
    /// What happened to objects since their last status.
    pub events: Vec<Occurrence>,
}

/// A server that an update reboots by SSH: whoever has carried out less requests carries one out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshReboot {
    /// The server.
    pub node: ObjectRef,
    /// Requests so far.
    pub count: u64,
}

/// What is wanted of a server's management controller: whoever has done less requests does the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmcTask {
    /// The server.
    pub server: ObjectRef,
    /// Its SMBIOS UUID.
    pub uuid: Option<String>,
    /// How the controller is reached.
    pub spec: BmcSpec,
    /// What the last request shall come to.
    pub wanted: Option<Power>,
    /// Requests so far.
    pub requests: u64,
    /// Power cycles so far.
    pub cycles: u64,
}

/// A farm's own parts of an image version that are to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarmPartRequest {
    /// `NAMESPACE/NAME` of the farm.
    pub farm: String,
    /// The version.
    pub image: BuiltImage,
    /// The farm's keys, one of which signs the unified kernel image.
    pub keys: Option<FarmKeys>,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The object.
    pub object: ObjectRef,
    /// One word in PascalCase.
    pub reason: String,
    /// One sentence.
    pub message: String,
}
