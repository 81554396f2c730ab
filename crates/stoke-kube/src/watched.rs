//! What is ours in the cluster, as the API server tells it: caches that are kept by watches, never by asking each round.
//!
//! Of a thousand pods and hundreds of nodes only what somebody here reads is kept, and a heartbeat wakes nobody.

mod slim;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::slim::Slim;
use crate::render::{INSTALLATION, ROLE};
use crate::services::There;
use crate::settings::Settings;

/// Objects of a page of a list: as many are decoded at a time, and not all.
const PAGE: u32 = 100;

/// Caches of what is ours, and of what it runs on.
pub struct Watched {
    /// Configurations.
    pub maps: reflector::Store<ConfigMap>,
    /// What runs.
    pub pods: reflector::Store<Pod>,
    /// Volumes.
    pub claims: reflector::Store<PersistentVolumeClaim>,
    /// How many may be evicted.
    pub budgets: reflector::Store<PodDisruptionBudget>,
    /// Where farms behind load balancers are reached.
    pub farm_services: reflector::Store<Service>,
    /// Builds.
    pub jobs: reflector::Store<Job>,
    /// Node agents.
    pub agents: reflector::Store<Pod>,
    /// Nodes.
    pub nodes: reflector::Store<Node>,
    /// Namespaces, whose labels say who may refer to what.
    pub namespaces: reflector::Store<Namespace>,
    /// Services of machines.
    pub services: There,
    /// What nodes ask to be certified.
    pub requests: reflector::Store<CertificateSigningRequest>,
    troubles: Troubles,
    /// Ends the watches when it is dropped.
    _watches: JoinSet<()>,
}

impl Watched {
    /// Begins to watch. `wake` is notified of each change.
    pub fn begin(client: &Client, settings: &Settings, installation: &str, wake: &Arc<Notify>) -> Self {
        let mut started = Started::default();
        let ours = watcher::Config::default().page_size(PAGE).labels(&format!("{INSTALLATION}={installation}"));
        // Services of farms, and what the cluster makes of those, are planned with their pods.
        let farms = watcher::Config::default().labels(&format!("{INSTALLATION}={installation},{ROLE}=farm"));
        let others = watcher::Config::default().labels(&format!("{INSTALLATION}={installation},{ROLE}!=farm"));
        let agents = watcher::Config::default().page_size(PAGE).labels(&settings.agent.selector);
        let namespace = &settings.namespace;
        let all = || watcher::Config::default().page_size(PAGE);
        Self {
            maps: watch(Api::all(client.clone()), ours.clone(), wake, &mut started),
            pods: watch(Api::all(client.clone()), ours.clone(), wake, &mut started),
            claims: watch(Api::all(client.clone()), ours.clone(), wake, &mut started),
            budgets: watch(Api::all(client.clone()), ours.clone(), wake, &mut started),
            services: There {
                services: watch(Api::all(client.clone()), others.clone(), wake, &mut started),
                slices: watch(Api::all(client.clone()), others, wake, &mut started),
            },
            farm_services: watch(Api::namespaced(client.clone(), namespace), farms, wake, &mut started),
            jobs: watch(Api::namespaced(client.clone(), namespace), ours, wake, &mut started),
            agents: watch(Api::namespaced(client.clone(), namespace), agents, wake, &mut started),
            nodes: watch(Api::all(client.clone()), all(), wake, &mut started),
            namespaces: watch(Api::all(client.clone()), all(), wake, &mut started),
            requests: watch(Api::all(client.clone()), all(), wake, &mut started),
            troubles: started.troubles,
            _watches: started.watches,
        }
    }

    /// Waits until all caches have been filled once that decide what is removed. Requests of nodes come when they come: the
    /// operator may have no right to see them.
    ///
    /// # Errors
    /// If the API server refuses one of them for a while.
    pub async fn filled(&self) -> Result<(), Unfilled> {
        let filled = async {
            let _ = tokio::join!(
                self.maps.wait_until_ready(),
                self.pods.wait_until_ready(),
                self.claims.wait_until_ready(),
                self.budgets.wait_until_ready(),
                self.farm_services.wait_until_ready(),
                self.jobs.wait_until_ready(),
                self.agents.wait_until_ready(),
                self.nodes.wait_until_ready(),
                self.namespaces.wait_until_ready(),
            );
        };
        tokio::pin!(filled);
        loop {
            tokio::select! {
                () = &mut filled => return Ok(()),
                () = tokio::time::sleep(REFUSED_FOR) => {}
            }
            // An API server that does not answer is waited for.
            if let Some(refused) = self.troubles.refused() {
                return Err(refused);
            }
        }
    }
}

/// Why caches cannot be filled.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {kind}: {message}; `helm upgrade` with the chart of this version mends the operator's role")]
pub struct Unfilled {
    pub(crate) kind: String,
    pub(crate) message: String,
}

/// How long the API server may refuse a watch.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What the API server refused last, by kind; gone once it does not any more.
#[derive(Clone, Default)]
struct Troubles(Arc<Mutex<BTreeMap<String, String>>>);

impl Troubles {
    fn note(&self, kind: &str, refusal: Option<String>) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Some(message) => drop(troubles.insert(kind.to_owned(), message)),
            None => drop(troubles.remove(kind)),
        }
    }

    fn refused(&self) -> Option<Unfilled> {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, message) = troubles.iter().find(|(kind, _)| *kind != "CertificateSigningRequest")?;
        Some(Unfilled { kind: kind.clone(), message: message.clone() })
    }
}

/// What the API server said no to, of an error of a watch.
pub(crate) fn refusal(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.message.clone()),
        _ => None,
    }
    .filter(|message| message.contains("forbidden"))
}

/// Watches that were started.
#[derive(Default)]
struct Started {
    watches: JoinSet<()>,
    troubles: Troubles,
}

fn watch<K>(api: Api<K>, config: watcher::Config, wake: &Arc<Notify>, started: &mut Started) -> reflector::Store<K>
where
    K: Resource<DynamicType = ()> + Slim + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let writer = Writer::<K>::default();
    let reader = writer.as_reader();
    let wake = wake.clone();
    let events = watcher(api, config).map(|event| {
        event.map(|event| {
            event.modify(|object| {
                // Who wrote which field is of no use here, and half of the memory.
                object.managed_fields_mut().clear();
                object.slim();
            })
        })
    });
    let events = reflector(writer, events.default_backoff());
    let troubles = started.troubles.clone();
    started.watches.spawn(async move {
        let kind = K::kind(&());
        let mut marks = HashMap::new();
        futures::pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    troubles.note(&kind, None);
                    if is_news(&mut marks, &event) {
                        wake.notify_one();
                    }
                }
                Err(error) => {
                    troubles.note(&kind, refusal(&error));
                    tracing::warn!(%kind, "cannot watch: {error}");
                }
            }
        }
    });
    reader
}

/// Whether a round could come to something else after this.
fn is_news<K: Resource + Slim>(marks: &mut HashMap<String, u64>, event: &watcher::Event<K>) -> bool {
    match event {
        watcher::Event::Init => {
            marks.clear();
            false
        }
        watcher::Event::InitApply(object) => {
            note(marks, object);
            false
        }
        watcher::Event::Apply(object) => note(marks, object),
        watcher::Event::Delete(object) => {
            marks.remove(object.meta().uid.as_deref().unwrap_or_default());
            true
        }
        watcher::Event::InitDone => true,
    }
}

fn note<K: Resource + Slim>(marks: &mut HashMap<String, u64>, object: &K) -> bool {
    let Some(mark) = object.mark() else { return true };
    let uid = object.meta().uid.clone().unwrap_or_default();
    marks.insert(uid, mark) != Some(mark)
}
