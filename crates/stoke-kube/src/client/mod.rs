//! A cluster as people reach it: with their kubeconfig and their rights, never with more. What `kubectl stoke` is made of.
//!
//! - [`Cluster::connect`]: kubeconfig and context to a client.
//! - [`Cluster::list`], [`Cluster::object`], [`Cluster::apply`], [`Cluster::delete`], [`Cluster::watch`]: objects.
//! - [`Cluster::power`], [`Cluster::rollout`], [`Cluster::enroll`]: requests, which are in an object's status.
//! - [`Cluster::console`], [`Cluster::copy_log`], [`Cluster::dial`]: streams to pods, by pods/attach, pods/log, pods/portforward.
//!
//! What this module never does: decide, run anything, or use pods/exec.

mod apply;
mod connect;
mod keys;
mod objects;
mod requests;
mod streams;
mod uninstall;
mod watch;

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;
use stoke_api::control::{ObjectEvent, ObjectProblem};
use stoke_api::{API_VERSION, AnyObject, Kind, ObjectName, ObjectRef};

pub use apply::Applied;
pub use connect::{Access, is_available};
pub use objects::written;
pub use streams::{Console, Duplex};
pub use watch::Watch;

/// Who writes fields that people apply with `stoke`.
pub const FIELD_MANAGER: &str = "stoke";

/// A cluster, with somebody's rights.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    /// The namespace of objects that name none.
    namespace: ObjectName,
    /// The namespace of the operator, routers and farms.
    system: String,
    /// The context, or where else the access came from.
    name: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no access to a cluster.
    #[error("cannot use the kubeconfig: {0}")]
    Config(String),
    /// It does not answer, or not as it should.
    #[error("the cluster {name} does not answer")]
    Unreachable {
        /// Its context.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It knows no such kind.
    #[error("the cluster {0} has no Stokehold: the API server knows no {plural}.stokehold.dev", plural = .1.plural())]
    NotInstalled(String, Kind),
    /// There is no such object.
    #[error("there is no {0}")]
    NotFound(ObjectRef),
    /// Something else is missing: a pod.
    #[error("{0}")]
    Missing(String),
    /// The person may not.
    #[error("you may not do that: {0}")]
    Forbidden(String),
    /// Somebody else has changed it meanwhile, again and again.
    #[error("{0} changes all the time; try again")]
    Conflict(ObjectRef),
    /// The API server or its webhooks refuse it.
    #[error("{0}")]
    Refused(String),
    /// Objects that contradict each other; nothing was changed.
    #[error("{} in the objects; nothing was changed", count(.0.len()))]
    Invalid(Vec<ObjectProblem>),
    /// An object that this program does not understand.
    #[error("{object} cannot be read by this version of stoke: {message}")]
    Unreadable {
        /// Its name, as the API server has it.
        object: String,
        /// What is not understood.
        message: String,
    },
    /// A stream to a pod failed.
    #[error("{what}")]
    Stream {
        /// What was tried.
        what: String,
        /// Why it did not work.
        source: std::io::Error,
    },
}

fn count(problems: usize) -> String {
    if problems == 1 { "one problem".to_owned() } else { format!("{problems} problems") }
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, ClusterError>;

impl Cluster {
    /// One line for people: which cluster this is.
    pub fn describe(&self) -> String {
        format!("cluster {}, namespace {}", self.name, self.namespace)
    }

    /// The namespace of objects that name none.
    pub fn namespace(&self) -> &ObjectName {
        &self.namespace
    }

    /// The namespace of the operator, routers and farms.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// All objects of a kind, of one namespace or of all.
    ///
    /// # Errors
    /// If the API server refuses. Objects that cannot be read are left out, and told by `unreadable`.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: Option<&ObjectName>,
        unreadable: &mut dyn FnMut(ClusterError),
    ) -> Result<Vec<AnyObject>> {
        let found = self.api(kind, namespace).list(&ListParams::default()).await;
        let found = found.map_err(|error| self.of_kind(kind, error))?;
        let mut read = Vec::new();
        for object in found.items {
            match objects::read(kind, &object) {
                Ok(object) => read.push(object),
                Err(error) => unreadable(error),
            }
        }
        Ok(read)
    }

    /// One object.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub async fn object(&self, reference: &ObjectRef) -> Result<AnyObject> {
        let object = self.api_of(reference).get(reference.name.as_str()).await;
        objects::read(reference.kind, &object.map_err(|error| self.about(reference, error))?)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// If there is none, or the API server refuses.
    pub async fn delete(&self, reference: &ObjectRef) -> Result<()> {
        let deleted = self.api_of(reference).delete(reference.name.as_str(), &DeleteParams::background()).await;
        deleted.map(drop).map_err(|error| self.about(reference, error))
    }

    /// Sets the number of machines of a set, through the `scale` subresource.
    ///
    /// # Errors
    /// If there is none, or it has no number.
    pub async fn scale(&self, reference: &ObjectRef, replicas: u32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let api = self.api_of(reference);
        let scaled = api.patch_scale(reference.name.as_str(), &PatchParams::default(), &patch).await;
        scaled.map(drop).map_err(|error| self.about(reference, error))
    }

    /// What happened to an object, oldest first.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn events(&self, reference: &ObjectRef) -> Result<Vec<ObjectEvent>> {
        // Events about an object without namespace are in the default one.
        let namespace = reference.namespace.as_ref().map_or("default", ObjectName::as_str);
        let api = Api::<k8s_openapi::api::core::v1::Event>::namespaced(self.client.clone(), namespace);
        let fields = format!("involvedObject.kind={},involvedObject.name={}", reference.kind, reference.name);
        let found = api.list(&ListParams::default().fields(&fields)).await;
        let found = found.map_err(|error| self.about(reference, error))?;
        let mut events: Vec<_> = found.items.into_iter().map(objects::event).collect();
        events.sort_by(|a, b| a.at.cmp(&b.at));
        Ok(events)
    }

    fn api_of(&self, reference: &ObjectRef) -> Api<DynamicObject> {
        let namespace = reference.namespace.as_ref().or(Some(&self.namespace));
        self.api(reference.kind, namespace)
    }

    fn api(&self, kind: Kind, namespace: Option<&ObjectName>) -> Api<DynamicObject> {
        let resource = resource(kind);
        match namespace.filter(|_| kind.is_namespaced()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace.as_str(), &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// An error about an object.
    fn about(&self, reference: &ObjectRef, error: kube::Error) -> ClusterError {
        match &error {
            kube::Error::Api(status) if status.code == 404 && !is_route(&status.message) => {
                ClusterError::NotFound(reference.clone())
            }
            _ => self.of_kind(reference.kind, error),
        }
    }

    /// An error about all objects of a kind.
    fn of_kind(&self, kind: Kind, error: kube::Error) -> ClusterError {
        match error {
            kube::Error::Api(status) if status.code == 404 && is_route(&status.message) => {
                ClusterError::NotInstalled(self.name.clone(), kind)
            }
            other => self.failed(other),
        }
    }

    /// Any other error.
    fn failed(&self, error: kube::Error) -> ClusterError {
        match error {
            kube::Error::Api(status) => match status.code {
                401 => ClusterError::Forbidden("the cluster does not know you (401); log in again".to_owned()),
                403 => ClusterError::Forbidden(status.message),
                _ => ClusterError::Refused(status.message),
            },
            other => ClusterError::Unreachable { name: self.name.clone(), source: Box::new(other) },
        }
    }
}

/// Whether it is the path that the API server does not know, and not an object: its own words.
fn is_route(message: &str) -> bool {
    message.contains("could not find the requested resource") || message.starts_with("404 page not found")
}

fn resource(kind: Kind) -> ApiResource {
    let (group, version) = API_VERSION.split_once('/').unwrap_or(("stokehold.dev", API_VERSION));
    let kinds = GroupVersionKind::gvk(group, version, &kind.to_string());
    ApiResource::from_gvk_with_plural(&kinds, kind.plural())
}
