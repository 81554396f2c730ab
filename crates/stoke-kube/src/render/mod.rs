//! Workloads to objects of Kubernetes. Pure.
//!
//! Every workload has a `ConfigMap` with its configuration; routers, farms and machines have a bare `Pod` each, builds a
//! `Job`; routers and machines have a claim for what must outlast the pod; machines, and farms of several servers, have a
//! `PodDisruptionBudget`; a farm's server behind a load balancer has a `Service`.
//!
//! Why bare pods, which the operator makes again when they are gone: a `Deployment` starts a second router while the node
//! of the first one is out of touch, and two of them answer for one gateway; a `StatefulSet` never does that, but never
//! replaces a pod of a lost node either. The operator can do both: it takes the lost node out of the LAN first (no peer of
//! the overlay sends there any more), then forces the pod away. `kubectl drain` takes these pods as it takes any other,
//! since each has a controller: its object, or its `ConfigMap` where the object is in another namespace.
//!
//! What a pod is told is in its `ConfigMap` and not in its spec, so that another configuration is no other pod.

pub mod build;
pub mod farm;
mod pod;
mod role;
mod vm;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest as _, Sha256};
use stoke_api::objects::{FarmPlacement, Scheduling};
use stoke_api::workload::{Role, Workload};
use stoke_api::{Kind, ObjectRef};

use crate::settings::Settings;

/// Label: which installation made it.
pub const INSTALLATION: &str = "stokehold.dev/installation";
/// Label: the kind of the object that it serves.
pub const KIND: &str = "stokehold.dev/kind";
/// Label: the namespace of that object.
pub const NAMESPACE: &str = "stokehold.dev/namespace";
/// Label: the name of that object.
pub const NAME: &str = "stokehold.dev/name";
/// Label: the role.
pub const ROLE: &str = "stokehold.dev/role";
/// Label of a farm's server: which of its replicas it is, from 0.
pub const REPLICA: &str = "stokehold.dev/replica";
/// Label of a farm's server: which network it is on.
pub const PLACEMENT: &str = "stokehold.dev/placement";
/// Label of machines of one set, which are kept on nodes apart.
pub const SET: &str = "stokehold.dev/machine-set";
/// Annotation: what the pod was made of; another value wants another pod.
pub const TEMPLATE: &str = "stokehold.dev/template";
/// Annotation: the name of the workload, which may be longer than a label.
pub const WORKLOAD: &str = "stokehold.dev/workload";
/// In a `ConfigMap`, the configuration of the role.
pub const CONFIG_KEY: &str = "config.json";
/// In a `ConfigMap`, the rest of the workload.
pub const WORKLOAD_KEY: &str = "workload.json";
/// User and group of everything that needs no root.
pub const USER: i64 = 65532;

/// What is known beside the workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The installation: eight hexadecimal digits.
    pub installation: String,
    /// Whether some node has a usable `/dev/kvm`.
    pub kvm: bool,
    /// The groups that may open it, on whatever node.
    pub kvm_groups: BTreeSet<u32>,
    /// The uid of the workload's object.
    pub uid: Option<String>,
    /// The set of which the machine is one.
    pub set: Option<String>,
    /// Where the machine runs.
    pub scheduling: Scheduling,
    /// Where the servers of a farm are that is on no LAN of ours.
    pub placement: Option<FarmPlacement>,
    /// Certificates of its farm that a machine's firmware trusts, by file name.
    pub files: BTreeMap<String, String>,
}

/// What a workload comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Its configuration.
    pub config_map: ConfigMap,
    /// Its volume.
    pub claim: Option<PersistentVolumeClaim>,
    /// How many of it may be evicted.
    pub budget: Option<PodDisruptionBudget>,
    /// Where it is reached.
    pub service: Option<Service>,
    /// What runs.
    pub runs: Runs,
}

/// What runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Runs {
    /// As long as it is wanted.
    Pod(Box<Pod>),
    /// Until it is done.
    Job(Box<Job>),
}

/// Why a workload cannot be put into words for Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Some other program has to run it.
    #[error("{0} is no workload for a pod")]
    NoPod(String),
    /// The API server takes no `ConfigMap` above 1 MiB.
    #[error(
        "the configuration of {name} has {bytes} bytes and a ConfigMap holds at most {CONFIG_LIMIT}, so what runs goes on as \
         it is: put large files into a Secret or the image, or give some of its machines a farm of their own"
    )]
    TooLarge {
        /// The workload.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// Its configuration has no JSON.
    #[error("the configuration of {name} cannot be written")]
    Encoding {
        /// The workload.
        name: String,
        /// The reason.
        source: serde_json::Error,
    },
}

/// What a `ConfigMap` can hold, with room for its metadata.
const CONFIG_LIMIT: usize = 1_000_000;

/// The objects of a workload.
///
/// # Errors
/// If there are none.
pub fn render(settings: &Settings, facts: &Facts, workload: &Workload) -> Result<Rendered, RenderError> {
    let config_map = config_map(settings, facts, workload)?;
    let place = Place { settings, facts, workload };
    let (claim, budget, runs) = match &workload.role {
        Role::Node(_) => return Err(RenderError::NoPod(workload.name())),
        Role::Router(_) => (place.router_claim(), None, Runs::Pod(Box::new(role::router(&place)))),
        Role::Farm(config) => (None, farm::budget(&place, config), Runs::Pod(Box::new(farm::pod(&place, config)))),
        Role::Vm(config) => {
            (vm::claim(&place, config), Some(vm::budget(&place)), Runs::Pod(Box::new(vm::pod(&place, config))))
        }
        Role::ImageBuild(config) => (None, None, Runs::Job(Box::new(build::job(&place, config)))),
    };
    let service = match &workload.role {
        Role::Farm(config) => farm::service(&place, config),
        _ => None,
    };
    Ok(Rendered { config_map, claim, budget, service, runs })
}

/// The namespace in which a workload runs: machines in their own, all else in the operator's.
pub fn namespace_of(settings: &Settings, workload: &Workload) -> String {
    match (&workload.role, &workload.owner.namespace) {
        (Role::Vm(_), Some(namespace)) => namespace.to_string(),
        _ => settings.namespace.clone(),
    }
}

/// The workload that a `ConfigMap` of ours holds.
pub fn workload_in(map: &ConfigMap) -> Option<Workload> {
    let data = map.data.as_ref()?;
    let mut workload: serde_json::Value = serde_json::from_str(data.get(WORKLOAD_KEY)?).ok()?;
    let config = serde_json::from_str(data.get(CONFIG_KEY)?).ok()?;
    workload.get_mut("role")?.as_object_mut()?.insert("config".to_owned(), config);
    serde_json::from_value(workload).ok()
}

/// The role's configuration alone, as it reads it.
pub fn config_of(workload: &Workload) -> serde_json::Result<String> {
    let role = serde_json::to_value(&workload.role)?;
    serde_json::to_string(role.get("config").unwrap_or(&serde_json::Value::Null))
}

fn config_map(settings: &Settings, facts: &Facts, workload: &Workload) -> Result<ConfigMap, RenderError> {
    let name = workload.name();
    let encoding = |source| RenderError::Encoding { name: name.clone(), source };
    let config = config_of(workload).map_err(encoding)?;
    // The configuration is in there once: the largest ones come near to what a ConfigMap holds.
    let rest = serde_json::json!({"owner": workload.owner, "role": {"role": role_tag(&workload.role)}}).to_string();
    let mut data = facts.files.clone();
    data.insert(CONFIG_KEY.to_owned(), config);
    data.insert(WORKLOAD_KEY.to_owned(), rest);
    let bytes = data.values().map(String::len).sum();
    if bytes > CONFIG_LIMIT {
        return Err(RenderError::TooLarge { name, bytes });
    }
    let mut metadata = Place { settings, facts, workload }.metadata();
    if !settings.is_foreign(workload) {
        metadata.owner_references = owner(facts, &workload.owner).map(|owner| vec![owner]);
    }
    Ok(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

fn role_tag(role: &Role) -> &'static str {
    match role {
        Role::Node(_) => "Node",
        Role::Router(_) => "Router",
        Role::Farm(_) => "Farm",
        Role::Vm(_) => "Vm",
        Role::ImageBuild(_) => "ImageBuild",
    }
}

impl Settings {
    /// Whether a workload runs in another namespace than its object, or its object has none: then nothing of it can have
    /// the object as its owner.
    fn is_foreign(&self, workload: &Workload) -> bool {
        let own = workload.owner.namespace.as_ref().map(ToString::to_string);
        own != Some(namespace_of(self, workload))
    }
}

/// The object as the owner of what serves it: it goes with it.
fn owner(facts: &Facts, object: &ObjectRef) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "stokehold.dev/v1alpha1".to_owned(),
        kind: kind_word(object.kind),
        name: object.name.to_string(),
        uid: facts.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: None,
    })
}

fn kind_word(kind: Kind) -> String {
    format!("{kind:?}")
}

/// Labels of something of ours that serves an object.
pub(crate) fn owner_labels(installation: &str, owner: &ObjectRef) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "stokehold".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "stokehold".to_owned()),
        (INSTALLATION.to_owned(), installation.to_owned()),
        (KIND.to_owned(), kind_word(owner.kind)),
        (NAME.to_owned(), owner.name.to_string()),
    ]);
    labels.extend(owner.namespace.as_ref().map(|namespace| (NAMESPACE.to_owned(), namespace.to_string())));
    labels
}

/// The object that something of ours serves, by its labels.
pub fn owner_by_labels(labels: &BTreeMap<String, String>) -> Option<ObjectRef> {
    let kind: Kind = labels.get(KIND)?.parse().ok()?;
    let namespace = labels.get(NAMESPACE).and_then(|namespace| namespace.parse().ok());
    Some(ObjectRef { kind, namespace, name: labels.get(NAME)?.parse().ok()? })
}

/// A `ConfigMap` as the owner of its pod.
pub fn map_as_owner(map: &ConfigMap) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: map.metadata.name.clone()?,
        uid: map.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: None,
    })
}

/// A workload and where it is put.
struct Place<'a> {
    settings: &'a Settings,
    facts: &'a Facts,
    workload: &'a Workload,
}

impl Place<'_> {
    fn labels(&self) -> BTreeMap<String, String> {
        let owner = &self.workload.owner;
        let mut labels = owner_labels(&self.facts.installation, owner);
        labels.extend([
            ("app.kubernetes.io/component".to_owned(), self.workload.role.word().to_owned()),
            (ROLE.to_owned(), self.workload.role.word().to_owned()),
        ]);
        labels.extend(self.facts.set.as_ref().map(|set| (SET.to_owned(), set.clone())));
        labels
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.workload.name()),
            namespace: Some(namespace_of(self.settings, self.workload)),
            labels: Some(self.labels()),
            annotations: Some(BTreeMap::from([(WORKLOAD.to_owned(), self.workload.name())])),
            ..ObjectMeta::default()
        }
    }

    /// Metadata of what goes with its object, if it can.
    fn owned_metadata(&self) -> ObjectMeta {
        let foreign = self.settings.is_foreign(self.workload);
        let owner = owner(self.facts, &self.workload.owner).filter(|_| !foreign);
        ObjectMeta { owner_references: owner.map(|owner| vec![owner]), ..self.metadata() }
    }

    fn router_claim(&self) -> Option<PersistentVolumeClaim> {
        let storage = &self.settings.storage;
        storage.persistent.then(|| pod::claim(self, storage.router_size))
    }
}

/// A hash of what a pod is made of.
fn template_hash<T: serde::Serialize>(spec: &T) -> String {
    let text = serde_json::to_vec(spec).unwrap_or_default();
    let bytes: Vec<_> = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    bytes.concat()
}
