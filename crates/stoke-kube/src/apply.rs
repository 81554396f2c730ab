//! Carries steps out at the API server, a bounded number at a time. What fails harms its own workload only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::{Kind, Step};

/// Our name among those who write fields.
pub const FIELD_MANAGER: &str = "stokehold-operator";
/// Writes at a time.
const AT_ONCE: usize = 16;
/// Pause after a refused write, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long a write may take to be seen in a cache before it is done again.
const UNSEEN: Duration = Duration::from_secs(5);

/// Carries steps out.
pub struct Applier {
    client: Client,
    /// What was written last for a workload, as its [`fingerprint`], until its caches can be expected to show it.
    written: BTreeMap<String, (u64, Instant)>,
    failed: BTreeMap<String, Failure>,
    /// Workloads of which nothing can be made, and why.
    refused: BTreeMap<String, String>,
    /// Writes since the start.
    pub writes: u64,
}

struct Failure {
    message: String,
    pause: Duration,
    not_before: Instant,
}

impl Applier {
    /// One that has done nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, written: BTreeMap::new(), failed: BTreeMap::new(), refused: BTreeMap::new(), writes: 0 }
    }

    /// Why steps of workloads could not be done, with what to do about it.
    pub fn failures(&self) -> BTreeMap<String, String> {
        let failed = self.failed.iter().map(|(name, failure)| (name.clone(), failure.message.clone()));
        failed.chain(self.refused.clone()).collect()
    }

    /// Takes note of workloads of which nothing can be made.
    pub fn refuse(&mut self, refused: BTreeMap<String, String>) {
        self.refused = refused;
    }

    /// Whether something was refused for a workload, and it is not yet time to try again.
    pub fn waits(&self, name: &str) -> bool {
        self.failed.get(name).is_some_and(|failure| failure.not_before > Instant::now())
    }

    /// Carries out what is to do; what is `later` was not looked at. Whether there was anything.
    pub async fn apply(&mut self, plan: Vec<(String, Vec<Step>)>, later: &BTreeSet<String>) -> bool {
        let planned: BTreeSet<_> = plan.iter().map(|(name, _)| name.as_str()).collect();
        self.failed.retain(|name, _| planned.contains(name.as_str()) || later.contains(name));
        self.written.retain(|_, (_, at)| at.elapsed() < UNSEEN);
        let due = |(name, steps): &(String, Vec<Step>)| {
            // The caches lag behind: the same again is not yet another wish.
            let unseen = self.written.get(name).is_some_and(|(written, _)| *written == fingerprint(steps));
            !self.waits(name) && !unseen
        };
        // What was refused is tried again after its pause, and nobody needs to look more often for that.
        let busy = plan.iter().any(|(name, _)| !self.failed.contains_key(name));
        let due: Vec<_> = plan.into_iter().filter(due).collect();
        let client = &self.client;
        let work = due.into_iter().map(|(name, steps)| async move {
            let mut done = Ok(());
            let mut writes = 0;
            for step in &steps {
                done = carry_out(client, step).await;
                writes += 1;
                if done.is_err() {
                    break;
                }
            }
            (name, fingerprint(&steps), writes, done)
        });
        let done: Vec<_> = futures::stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        for (name, fingerprint, writes, done) in done {
            self.writes += writes;
            match done {
                Ok(()) => {
                    self.failed.remove(&name);
                    self.written.insert(name, (fingerprint, Instant::now()));
                }
                Err(error) => self.note(name, &error),
            }
        }
        busy
    }

    fn note(&mut self, name: String, error: &kube::Error) {
        let message = explain(error);
        let before = self.failed.get(&name).map_or(PAUSE / 2, |failure| failure.pause);
        let pause = (before * 2).min(LONGEST_PAUSE);
        if self.failed.get(&name).is_none_or(|failure| failure.message != message) {
            tracing::warn!(workload = name, "{message}");
        }
        self.failed.insert(name, Failure { message, pause, not_before: Instant::now() + pause });
    }
}

/// Tells steps from others, without a copy of all that they write.
fn fingerprint(steps: &[Step]) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{steps:?}").hash(&mut hasher);
    hasher.finish()
}

async fn carry_out(client: &Client, step: &Step) -> Result<(), kube::Error> {
    tracing::debug!(?step, "writes");
    match step {
        Step::ApplyMap(map) => apply::<ConfigMap>(client, map).await,
        Step::ApplyClaim(claim) => apply::<PersistentVolumeClaim>(client, claim).await,
        Step::ApplyBudget(budget) => apply::<PodDisruptionBudget>(client, budget).await,
        Step::ApplyService(service) => apply::<Service>(client, service).await,
        Step::CreatePod(pod) => create::<Pod>(client, pod).await,
        Step::CreateJob(job) => create::<Job>(client, job).await,
        Step::Delete { what, namespace, name, uid, by_force } => {
            let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
            let parameters = DeleteParams {
                grace_period_seconds: by_force.then_some(0),
                propagation_policy: Some(PropagationPolicy::Background),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            match what {
                Kind::Pod => delete::<Pod>(client, namespace, name, &parameters).await,
                Kind::Job => delete::<Job>(client, namespace, name, &parameters).await,
                Kind::ConfigMap => delete::<ConfigMap>(client, namespace, name, &parameters).await,
                Kind::Claim => delete::<PersistentVolumeClaim>(client, namespace, name, &parameters).await,
                Kind::Budget => delete::<PodDisruptionBudget>(client, namespace, name, &parameters).await,
                Kind::Service => delete::<Service>(client, namespace, name, &parameters).await,
            }
        }
    }
}

fn api<K>(client: &Client, object: &K) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), object.meta().namespace.as_deref().unwrap_or_default())
}

async fn apply<K>(client: &Client, object: &K) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    // Fields that others took from us are taken back: they are of objects that are ours alone.
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api(client, object).patch(&object.name_any(), &parameters, &Patch::Apply(object)).await.map(drop)
}

async fn create<K>(client: &Client, object: &K) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api(client, object).create(&parameters, object).await {
        // The cache lags behind.
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        made => made.map(drop),
    }
}

async fn delete<K>(client: &Client, namespace: &str, name: &str, how: &DeleteParams) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match Api::<K>::namespaced(client.clone(), namespace).delete(name, how).await {
        // Gone, or another one of its name: neither is ours to end.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        done => done.map(drop),
    }
}

/// What the API server said, and what to do about it.
pub fn explain(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else { return format!("the API server does not answer: {error}") };
    let said = &status.message;
    match status.code {
        403 if said.contains("violates PodSecurity") => format!(
            "{said}; machines meet `restricted`, routers do not: the operator's namespace takes \
             `pod-security.kubernetes.io/enforce=privileged`"
        ),
        403 if said.contains("exceeded quota") => format!("{said}; raise the quota of the namespace or stop others"),
        403 if said.contains("is being terminated") => "its namespace is being deleted".to_owned(),
        403 if said.contains("looking up service account") => {
            format!("{said}; a new namespace gets it within seconds, from the cluster's controller manager")
        }
        // Who else refuses (webhooks, policies) says so in its own words.
        403 if said.contains(" cannot ") => {
            format!("{said}; the operator's role lacks this: `helm upgrade` with the chart of this version mends it")
        }
        _ => said.clone(),
    }
}
