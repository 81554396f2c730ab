//! What the reconcilers read ([`Observed`]) and what they say ([`Desired`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stoke_api::objects::{BmcInventory, BmcSpec, ImageSpec, Power, SecretRef};
use stoke_api::report::{BuiltImage, Report};
use stoke_api::workload::{BlobRef, Workload};
use stoke_api::{AnyObject, Digest, ObjectRef};

use crate::claims::Claims;
use crate::publish::{Publication, RegistryPlaces};
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

/// How workloads share what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Processes of one host: one network namespace for all LANs and roles, one state folder.
    #[default]
    Host,
    /// Pods of a cluster: each role has a network namespace, addresses and folders of its own, at the same paths in every pod
    /// ([`stoke_api::workload::pod`]).
    Pods,
}

/// The cluster that nodes join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Its API server as nodes reach it: `https://192.0.2.1:6443`.
    pub server: String,
    /// Its CA in PEM.
    pub ca: String,
    /// Its DNS servers.
    pub dns: Vec<IpAddr>,
    /// The domain of its services: `cluster.local`.
    pub domain: String,
}

/// Where the workloads run, and what has been made for them.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// How workloads share what there is.
    pub layout: Layout,
    /// Labels of namespaces, by their name: what `access` selects by.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Who has what only one may have, by the names of claims.
    pub claims: Arc<BTreeMap<String, ObjectRef>>,
    /// Objects that are there and that nobody can read: they keep what they have a claim to.
    pub unreadable: BTreeSet<ObjectRef>,
    /// The cluster that nodes join, if this is one.
    pub cluster: Option<ClusterInfo>,
    /// Other clusters that nodes join, by the secret with their kubeconfig as it is written.
    pub other_clusters: BTreeMap<String, ClusterInfo>,
    /// The largest frame of a LAN, without its header, that every node takes whole to the others, in a cluster of which that is
    /// known.
    pub overlay_mtu: Option<u16>,
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
    /// Where in registries images may be published.
    pub registries: RegistryPlaces,
    /// What came of publications, as far as they were tried.
    pub publications: BTreeMap<Publication, Result<(), String>>,
    /// Each farm's own parts, by `NAMESPACE/NAME` of the farm and image version.
    pub farm_parts: BTreeMap<(String, Digest), FarmParts>,
    /// Farms with keys of their own for Secure Boot, by `NAMESPACE/NAME`.
    pub farm_keys: BTreeMap<String, FarmKeys>,
    /// Why secrets of nodes cannot be read, by their name.
    pub secret_failures: BTreeMap<String, String>,
    /// What management controllers said, by their server.
    pub bmcs: BTreeMap<String, BmcSeen>,
    /// The nodes of the cluster that Stokehold runs in, by their names.
    pub cluster_nodes: BTreeMap<String, ClusterNode>,
    /// What Services of machines came to, by the machine: where they are reached, or why they are not.
    pub services: BTreeMap<ObjectRef, Result<String, String>>,
    /// Why parts could not be made, by the same key.
    pub farm_part_failures: BTreeMap<(String, Digest), String>,
}

/// What is seen of a node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNode {
    /// Whether the cluster says that it is ready.
    pub ready: bool,
    /// The boot of which it says so (`status.nodeInfo.bootID`).
    pub boot: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether no new pods are placed there, whoever wanted that.
    pub unschedulable: bool,
    /// Whether that is so because of us: what people have cordoned stays so.
    pub cordoned: bool,
    /// Pods that have yet to go; absent while nobody has looked since it was cordoned.
    pub pods_left: Option<u32>,
    /// Why they do not go.
    pub blocked: Option<String>,
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
    /// Where images are to be published, or have been.
    pub publications: Vec<Publication>,
    /// Servers that are rebooted by SSH.
    pub ssh_reboots: Vec<SshReboot>,
    /// What is wanted of management controllers.
    pub bmcs: Vec<BmcTask>,
    /// Objects that are to be made, changed or deleted because others want it.
    pub objects: Vec<ObjectChange>,
    /// Nodes that join a cluster by themselves.
    pub joins: Vec<JoinWanted>,
    /// What is wanted of nodes of the cluster that Stokehold runs in.
    pub cluster_nodes: Vec<ClusterNodeWanted>,
    /// Who shall have what only one may have, in a cluster.
    pub claims: Claims,
    /// What happened to objects since their last status.
    pub events: Vec<Occurrence>,
}

/// What is wanted of a node of the cluster that Stokehold runs in. A node that we have cordoned and that nothing is said of is
/// used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNodeWanted {
    /// The `Server` or `Machine`.
    pub node: ObjectRef,
    /// The name of its `Node`.
    pub name: String,
    /// How it shall be used.
    pub usage: NodeUse,
    /// The version that it runs, for those who ask the cluster; absent if nothing is to be said of it now.
    pub image: Option<Digest>,
}

/// How a node of the cluster shall be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeUse {
    /// As it is used without us.
    Free,
    /// No new pods are placed there.
    Cordoned,
    /// The same, and its pods go elsewhere.
    Drained {
        /// Those, too, that nobody makes again.
        standalone_pods: bool,
    },
}

/// A change of an object that another object wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectChange {
    /// It is to be made; if it is there already, nothing is to be done.
    Create(Box<AnyObject>),
    /// Its spec, labels, annotations and owners are to be these, if its `resourceVersion` is still the one that is in it.
    Update(Box<AnyObject>),
    /// It is to be deleted, if it is still the one with this uid.
    Delete {
        /// The object.
        object: ObjectRef,
        /// Its uid.
        uid: Option<String>,
    },
}

/// A node that joins a cluster by itself. Whoever has the cluster keeps the farm in possession of a fresh token while it
/// boots, approves what the node asks for with it, and deletes the token when the cluster knows the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinWanted {
    /// The `Server` or `Machine`.
    pub node: ObjectRef,
    /// The farm that feeds it.
    pub farm: ObjectRef,
    /// Its name in the cluster: its host name.
    pub node_name: String,
    /// Whether it boots now: it shall have a token that was not handed out before.
    pub boots: bool,
    /// When secrets were last handed out to it: RFC 3339, empty if never. A token that is older than this is used up.
    pub handed_out: String,
    /// Its addresses: what a certificate of its own may be for, beside its name.
    pub addresses: Vec<IpAddr>,
    /// Labels that it registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints that it registers with: `KEY=VALUE:EFFECT`.
    pub taints: Vec<String>,
    /// Seconds that a token can be used.
    pub token_seconds: u32,
    /// By its name, the secret of the farm that holds the kubeconfig with the token: its content goes into
    /// [`stoke_api::trust::FarmSecrets`].
    pub secret: SecretRef,
    /// The API server as the node reaches it.
    pub server: String,
    /// A kubeconfig of another cluster.
    pub cluster: Option<SecretRef>,
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
