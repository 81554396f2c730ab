//! From what is wanted and what there is in the cluster to steps. Pure; empty if all is as it should be.
//!
//! A pod is never changed, it is replaced: a router or farm at once, since what it knows is on its volume and its clients
//! ask again; a machine only when its guest is off, or was never started.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use stoke_api::workload::Role;

use crate::render::{self, Rendered, Runs, TEMPLATE, WORKLOAD};

/// What there is, by the name of the workload.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its configuration.
    pub map: Option<Arc<ConfigMap>>,
    /// Its pod; of several the one that is not on its way out.
    pub pod: Option<Arc<Pod>>,
    /// Its volume.
    pub claim: Option<Arc<PersistentVolumeClaim>>,
    /// How many of it may be evicted.
    pub budget: Option<Arc<PodDisruptionBudget>>,
    /// Where it is reached.
    pub service: Option<Arc<Service>>,
    /// Its build.
    pub job: Option<Arc<Job>>,
    /// Whether its node is out of touch.
    pub node_lost: bool,
    /// Whether a guest runs in the pod, or may do so.
    pub guest: bool,
    /// Whether the object that it serves is still there.
    pub object: bool,
}

/// One write to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Server-side apply of a configuration.
    ApplyMap(Box<ConfigMap>),
    /// Server-side apply of a volume's claim.
    ApplyClaim(Box<PersistentVolumeClaim>),
    /// Server-side apply of a budget.
    ApplyBudget(Box<PodDisruptionBudget>),
    /// Server-side apply of a service.
    ApplyService(Box<Service>),
    /// Makes a pod.
    CreatePod(Box<Pod>),
    /// Makes a build.
    CreateJob(Box<Job>),
    /// Ends something.
    Delete {
        /// What.
        what: Kind,
        /// Where.
        namespace: String,
        /// Its name.
        name: String,
        /// That one and no other of its name.
        uid: Option<String>,
        /// Whether nobody waits for its end: its node cannot say any more that it ended.
        by_force: bool,
    },
}

/// What can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Pod,
    Job,
    ConfigMap,
    Claim,
    Budget,
    Service,
}

/// The steps of each workload, in an order in which they can be done.
pub fn plan(wanted: &BTreeMap<String, Rendered>, seen: &BTreeMap<String, Seen>) -> Vec<(String, Vec<Step>)> {
    let nothing = Seen::default();
    let names: BTreeSet<_> = wanted.keys().chain(seen.keys()).collect();
    let mut rolling = BTreeSet::new();
    let mut steps = Vec::new();
    for name in names {
        let there = seen.get(name).unwrap_or(&nothing);
        let own = match wanted.get(name) {
            Some(wanted) => kept(wanted, there, &mut rolling),
            None => ended(there),
        };
        if !own.is_empty() {
            steps.push((name.clone(), own));
        }
    }
    steps
}

/// The steps of one workload that does not depend on others.
pub fn of_one(wanted: &Rendered, there: &Seen) -> Vec<Step> {
    kept(wanted, there, &mut BTreeSet::new())
}

fn kept<'a>(wanted: &'a Rendered, there: &Seen, rolling: &mut BTreeSet<(&'a str, &'a str)>) -> Vec<Step> {
    let mut steps = Vec::new();
    let map = there.map.as_deref();
    if map.is_none_or(|map| !is_map_in(&wanted.config_map, map)) {
        steps.push(Step::ApplyMap(Box::new(wanted.config_map.clone())));
    }
    if let Some(claim) = wanted.claim.as_ref().filter(|claim| grows(claim, there.claim.as_deref())) {
        steps.push(Step::ApplyClaim(Box::new(claim.clone())));
    }
    if let Some(budget) = wanted.budget.as_ref()
        && there.budget.as_deref().is_none_or(|there| !is_budget_in(budget, there))
    {
        steps.push(Step::ApplyBudget(Box::new(budget.clone())));
    }
    steps.extend(reached(wanted.budget.is_some(), wanted.service.as_ref(), there));
    match &wanted.runs {
        Runs::Pod(pod) => steps.extend(pod_step(pod, there, rolling)),
        Runs::Job(job) => steps.extend(job_step(job, there)),
    }
    steps
}

/// The service, and what is no longer wanted beside a workload that stays.
fn reached(has_budget: bool, service: Option<&Service>, there: &Seen) -> Vec<Step> {
    let budget = there.budget.as_deref().filter(|_| !has_budget);
    let mut steps: Vec<_> = budget.map(|budget| delete(Kind::Budget, &budget.metadata, false)).into_iter().collect();
    match (service, there.service.as_deref()) {
        (Some(service), there) if there.is_none_or(|there| !is_service_in(service, there)) => {
            steps.push(Step::ApplyService(Box::new(service.clone())));
        }
        (None, Some(service)) if service.metadata.deletion_timestamp.is_none() => {
            steps.push(delete(Kind::Service, &service.metadata, false));
        }
        _ => {}
    }
    steps
}

fn pod_step<'a>(wanted: &'a Pod, there: &Seen, rolling: &mut BTreeSet<(&'a str, &'a str)>) -> Option<Step> {
    let Some(pod) = there.pod.as_deref() else { return create(wanted, there.map.as_deref()) };
    let machine = label(wanted, render::ROLE) == "vm";
    if pod.metadata.deletion_timestamp.is_some() {
        // A machine's disks may still be written to over there: it waits for its node, or for a person's word.
        return (there.node_lost && !machine).then(|| delete_pod(pod, true));
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Failed" | "Succeeded") {
        return Some(delete_pod(pod, false));
    }
    if pod.annotations().get(TEMPLATE) == wanted.annotations().get(TEMPLATE) {
        return None;
    }
    let never_ran = phase == "Pending" && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
    if machine {
        return (never_ran || !there.guest).then(|| delete_pod(pod, false));
    }
    // One replica of a farm at a time.
    let group = (label(wanted, render::NAMESPACE), label(wanted, render::NAME));
    rolling.insert(group).then(|| delete_pod(pod, false))
}

/// The pod, once its configuration is there: where the object is in another namespace, that is its owner.
fn create(wanted: &Pod, map: Option<&ConfigMap>) -> Option<Step> {
    let map = map.filter(|map| map.metadata.deletion_timestamp.is_none())?;
    let mut pod = wanted.clone();
    if pod.metadata.owner_references.is_none() {
        pod.metadata.owner_references = Some(vec![render::map_as_owner(map)?]);
    }
    Some(Step::CreatePod(Box::new(pod)))
}

fn job_step(wanted: &Job, there: &Seen) -> Option<Step> {
    let Some(job) = there.job.as_deref() else {
        return there.map.is_some().then(|| Step::CreateJob(Box::new(wanted.clone())));
    };
    let same = job.annotations().get(TEMPLATE) == wanted.annotations().get(TEMPLATE);
    (!same && job.metadata.deletion_timestamp.is_none()).then(|| delete(Kind::Job, &job.metadata, false))
}

/// What nobody wants goes: what runs first, its configuration when nothing runs any more. Volumes of machines go with their
/// objects, which own them; those of routers go when the LAN is gone, and not just because it waits for something.
fn ended(there: &Seen) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(job) = there.job.as_deref().filter(|job| job.metadata.deletion_timestamp.is_none()) {
        steps.push(delete(Kind::Job, &job.metadata, false));
    }
    if let Some(pod) = there.pod.as_deref() {
        let of_job = pod.owner_references().iter().any(|owner| owner.kind == "Job");
        let lost = there.node_lost && label(pod, render::ROLE) != "vm";
        if (pod.metadata.deletion_timestamp.is_none() && !of_job) || lost {
            steps.push(delete_pod(pod, lost));
        }
        return steps;
    }
    let map = there.map.as_deref().map(|map| delete(Kind::ConfigMap, &map.metadata, false));
    let budget = there.budget.as_deref().map(|budget| delete(Kind::Budget, &budget.metadata, false));
    let owned = |claim: &PersistentVolumeClaim| !claim.owner_references().is_empty();
    let service = there.service.as_deref().filter(|service| service.metadata.deletion_timestamp.is_none());
    let service = service.map(|service| delete(Kind::Service, &service.metadata, false));
    let claim = there.claim.as_deref().filter(|claim| !there.object && !owned(claim));
    let claim = claim.filter(|claim| claim.metadata.deletion_timestamp.is_none());
    steps.extend(
        [map, budget, service, claim.map(|claim| delete(Kind::Claim, &claim.metadata, false))].into_iter().flatten(),
    );
    steps
}

fn delete_pod(pod: &Pod, by_force: bool) -> Step {
    delete(Kind::Pod, &pod.metadata, by_force)
}

fn delete(what: Kind, metadata: &ObjectMeta, by_force: bool) -> Step {
    Step::Delete {
        what,
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone(),
        by_force,
    }
}

fn label<'a>(pod: &'a Pod, name: &str) -> &'a str {
    pod.labels().get(name).map(String::as_str).unwrap_or_default()
}

/// Whether a claim is missing or asks for less than it should: volumes never shrink.
fn grows(wanted: &PersistentVolumeClaim, there: Option<&PersistentVolumeClaim>) -> bool {
    let size = |claim: &PersistentVolumeClaim| {
        let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        requests.get("storage")?.0.parse::<stoke_api::Bytes>().ok()
    };
    there.is_none_or(|there| size(wanted) > size(there))
}

/// Whether all that is said in `wanted` is so in `there`; what the API server and others added does not matter.
fn is_map_in(wanted: &ConfigMap, there: &ConfigMap) -> bool {
    is_metadata_in(&wanted.metadata, &there.metadata) && wanted.data == there.data
}

fn is_service_in(wanted: &Service, there: &Service) -> bool {
    let ports = |spec: &ServiceSpec| -> Vec<_> {
        let ports = spec.ports.iter().flatten();
        ports.map(|port| (port.name.clone(), port.port, port.protocol.clone())).collect()
    };
    let spec = match (&wanted.spec, &there.spec) {
        (Some(wanted), Some(there)) => {
            is_said(wanted.type_.as_ref(), there.type_.as_ref())
                && is_said(wanted.load_balancer_class.as_ref(), there.load_balancer_class.as_ref())
                && is_said(wanted.load_balancer_ip.as_ref(), there.load_balancer_ip.as_ref())
                && is_said(wanted.external_traffic_policy.as_ref(), there.external_traffic_policy.as_ref())
                && is_said(wanted.selector.as_ref(), there.selector.as_ref())
                && ports(wanted) == ports(there)
        }
        (wanted, _) => wanted.is_none(),
    };
    spec && is_metadata_in(&wanted.metadata, &there.metadata)
}

fn is_budget_in(wanted: &PodDisruptionBudget, there: &PodDisruptionBudget) -> bool {
    let spec = match (&wanted.spec, &there.spec) {
        (Some(wanted), Some(there)) => {
            is_said(wanted.max_unavailable.as_ref(), there.max_unavailable.as_ref())
                && is_said(wanted.min_available.as_ref(), there.min_available.as_ref())
                && is_said(wanted.selector.as_ref(), there.selector.as_ref())
                && is_said(wanted.unhealthy_pod_eviction_policy.as_ref(), there.unhealthy_pod_eviction_policy.as_ref())
        }
        (wanted, _) => wanted.is_none(),
    };
    spec && is_metadata_in(&wanted.metadata, &there.metadata)
}

/// Labels, annotations and owners: the rest of what we say of something is what it was found by.
fn is_metadata_in(wanted: &ObjectMeta, there: &ObjectMeta) -> bool {
    let words = |wanted: &Option<BTreeMap<String, String>>, there: &Option<BTreeMap<String, String>>| {
        wanted.iter().flatten().all(|(name, word)| there.as_ref().and_then(|there| there.get(name)) == Some(word))
    };
    words(&wanted.labels, &there.labels)
        && words(&wanted.annotations, &there.annotations)
        && is_said(wanted.owner_references.as_ref(), there.owner_references.as_ref())
}

fn is_said<T: PartialEq>(wanted: Option<&T>, there: Option<&T>) -> bool {
    wanted.is_none() || wanted == there
}

/// The name of the workload of something of ours.
pub fn workload_name<K: kube::ResourceExt>(object: &K) -> String {
    object.annotations().get(WORKLOAD).cloned().unwrap_or_else(|| object.name_any())
}

/// Whether a role is of the kind whose pod has a guest.
pub fn has_guest(role: &Role) -> bool {
    matches!(role, Role::Vm(_))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(role: &str, template: &str) -> Pod {
        let metadata = json!({"name": "a", "namespace": "n", "uid": "1", "labels": {"stokehold.dev/role": role},
            "annotations": {"stokehold.dev/template": template}});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": "worker", "containers": []},
            "status": {"phase": "Running"}}))
        .unwrap()
    }

    fn wanted(role: &str, template: &str) -> Rendered {
        let config_map = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n"}})).unwrap();
        Rendered {
            config_map,
            claim: None,
            budget: None,
            service: None,
            runs: Runs::Pod(Box::new(pod(role, template))),
        }
    }

    fn seen(pod: Pod) -> Seen {
        let map = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "2"}})).unwrap();
        Seen { map: Some(Arc::new(map)), pod: Some(Arc::new(pod)), object: true, ..Seen::default() }
    }

    fn steps(wanted: Option<Rendered>, seen: Seen) -> Vec<Step> {
        let wanted = wanted.into_iter().map(|wanted| ("a".to_owned(), wanted)).collect();
        let plan = plan(&wanted, &BTreeMap::from([("a".to_owned(), seen)]));
        plan.into_iter().flat_map(|(_, steps)| steps).collect()
    }

    fn deleted(steps: &[Step]) -> Vec<(Kind, bool)> {
        let one = |step: &Step| match step {
            Step::Delete { what, by_force, .. } => Some((*what, *by_force)),
            _ => None,
        };
        steps.iter().filter_map(one).collect()
    }

    fn ending(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-21T10:00:00Z")).unwrap();
        pod
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        assert_eq!(steps(Some(wanted("vm", "1")), seen(pod("vm", "1"))), []);
    }

    #[test]
    fn a_machine_is_replaced_when_its_guest_is_off_and_a_router_at_once() {
        let replaced = |role: &str, guest| {
            let seen = Seen { guest, ..seen(pod(role, "1")) };
            deleted(&steps(Some(wanted(role, "2")), seen))
        };
        assert_eq!(replaced("vm", true), []);
        assert_eq!(replaced("vm", false), [(Kind::Pod, false)]);
        assert_eq!(replaced("router", false), [(Kind::Pod, false)]);
    }

    #[test]
    fn only_what_has_no_disk_is_forced_away_from_a_lost_node() {
        let forced = |role: &str| {
            let seen = Seen { node_lost: true, ..seen(ending(pod(role, "1"))) };
            deleted(&steps(Some(wanted(role, "1")), seen))
        };
        assert_eq!(forced("router"), [(Kind::Pod, true)]);
        assert_eq!(forced("vm"), []);
    }

    #[test]
    fn what_runs_ends_before_its_configuration_goes() {
        assert_eq!(deleted(&steps(None, seen(pod("router", "1")))), [(Kind::Pod, false)]);
        assert_eq!(deleted(&steps(None, seen(ending(pod("router", "1"))))), []);
        let without_pod = Seen { pod: None, ..seen(pod("router", "1")) };
        assert_eq!(deleted(&steps(None, without_pod)), [(Kind::ConfigMap, false)]);
    }

    #[test]
    fn a_volume_stays_as_long_as_its_object_is_there() {
        let claim = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n"}})).unwrap();
        let claim: Arc<PersistentVolumeClaim> = Arc::new(claim);
        let goes = |object| deleted(&steps(None, Seen { claim: Some(claim.clone()), object, ..Seen::default() }));
        assert_eq!(goes(true), []);
        assert_eq!(goes(false), [(Kind::Claim, false)]);
    }

    #[test]
    fn what_others_add_to_an_object_is_no_difference() {
        let map = |value: serde_json::Value| serde_json::from_value::<ConfigMap>(value).unwrap();
        let there = map(json!({"metadata": {"labels": {"a": "1", "theirs": "2"}, "uid": "1"}, "data": {"a": "1"}}));
        assert!(is_map_in(&map(json!({"metadata": {"labels": {"a": "1"}}, "data": {"a": "1"}})), &there));
        assert!(!is_map_in(&map(json!({"metadata": {"labels": {"a": "2"}}, "data": {"a": "1"}})), &there));
        assert!(!is_map_in(&map(json!({"metadata": {"labels": {"a": "1"}}, "data": {}})), &there));
        let budget = |value: serde_json::Value| serde_json::from_value::<PodDisruptionBudget>(value).unwrap();
        let there = budget(json!({"metadata": {"name": "a"}, "spec": {"maxUnavailable": 0}, "status": {}}));
        assert!(is_budget_in(&budget(json!({"metadata": {}, "spec": {"maxUnavailable": 0}})), &there));
        assert!(!is_budget_in(&budget(json!({"metadata": {}, "spec": {"maxUnavailable": 1}})), &there));
    }
}
