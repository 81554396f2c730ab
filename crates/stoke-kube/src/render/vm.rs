//! Machines: in their own namespaces, as Pod Security `restricted` wants it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, PersistentVolumeClaim, Pod, PodSecurityContext, PodSpec, ResourceRequirements, Toleration,
    VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stoke_api::Bytes;
use stoke_api::agent::{KVM_RESOURCE, LAN_RESOURCE};
use stoke_api::objects::AntiAffinity;
use stoke_api::workload::pod::{SECURE_BOOT, STATE};
use stoke_api::workload::{TCG_OVERHEAD, VmConfig, vm_overhead};

use super::pod::{self, mount};
use super::{INSTALLATION, Place, SET};

/// Seconds beyond those of the guest: `stoke-vm` cuts it off itself and writes down what was.
const GRACE_MARGIN: u32 = 10;
/// Room for firmware variables, a TPM's state and the console's history beside the disks.
const STATE_ROOM: u64 = 64 << 20;
/// A filesystem's own part of a volume: one in this many bytes.
const FILESYSTEM_SHARE: u64 = 16;

pub(super) fn pod(place: &Place<'_>, config: &VmConfig) -> Pod {
    let settings = &place.settings.vm;
    let mut mounts = vec![pod::config_mount(), mount("state", STATE), mount("tmp", "/tmp")];
    let mut volumes = vec![pod::config_volume(place), pod::state_volume(place), pod::empty_volume("tmp", None)];
    if !place.facts.files.is_empty() {
        mounts.push(VolumeMount { read_only: Some(true), ..mount("secure-boot", SECURE_BOOT) });
        volumes.push(pod::map_volume(place, "secure-boot", place.facts.files.keys().map(String::as_str)));
    }
    let container = Container {
        command: Some(vec!["stoke-vm".to_owned()]),
        args: Some([pod::launch_arguments(), vec!["--console-stdio".to_owned()]].concat()),
        resources: Some(resources(place, config)),
        security_context: Some(pod::security(&[])),
        volume_mounts: Some(mounts),
        // What `stoke-vm` reads and writes is the machine's serial console: `kubectl attach -it` reaches it.
        stdin: Some(true),
        tty: Some(true),
        // No probe: what a guest does is no reason to end it, and what fails in `stoke-vm` ends that by itself.
        ..pod::container(place, &place.settings.images.vm)
    };
    let scheduling = &place.facts.scheduling;
    let node_selector = settings.node_selector.iter().chain(&scheduling.node_selector);
    let node_selector = node_selector.map(|(name, value)| (name.clone(), value.clone())).collect();
    let own = scheduling.tolerations.iter().map(toleration);
    let tolerations: Vec<_> = settings.tolerations.iter().cloned().chain(own).collect();
    let spec = PodSpec {
        restart_policy: Some("Always".to_owned()),
        security_context: Some(security(place)),
        termination_grace_period_seconds: Some(i64::from(config.grace_seconds + GRACE_MARGIN)),
        node_selector: pod::selector(&node_selector),
        priority_class_name: settings.priority_class.clone(),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        affinity: affinity(place),
        ..pod::spec(place, container, volumes)
    };
    pod::pod(place, spec)
}

/// The device comes into the pod with the group that it has on the node, which only the pod's own user could do without.
fn security(place: &Place<'_>) -> PodSecurityContext {
    let groups: Vec<_> = place.facts.kvm_groups.iter().copied().map(i64::from).collect();
    PodSecurityContext { supplemental_groups: (!groups.is_empty()).then_some(groups), ..pod::nobody() }
}

/// Machines of a set are of use to each other only if they do not fail together.
fn affinity(place: &Place<'_>) -> Option<Affinity> {
    let set = place.facts.set.clone()?;
    let labels = BTreeMap::from([(INSTALLATION.to_owned(), place.facts.installation.clone()), (SET.to_owned(), set)]);
    match place.facts.scheduling.anti_affinity {
        AntiAffinity::Preferred => Some(pod::apart_from(labels)),
        AntiAffinity::Required => Some(pod::never_with(labels)),
        AntiAffinity::None => None,
    }
}

fn toleration(toleration: &stoke_api::objects::Toleration) -> Toleration {
    Toleration {
        key: toleration.key.clone(),
        operator: Some(format!("{:?}", toleration.operator)),
        value: toleration.value.clone(),
        effect: toleration.effect.map(|effect| format!("{effect:?}")),
        toleration_seconds: toleration.toleration_seconds.map(i64::from),
    }
}

/// The guest's memory and the hypervisor's own; the limit is the same, so that a node never has less than it promised.
fn resources(place: &Place<'_>, config: &VmConfig) -> ResourceRequirements {
    let settings = &place.settings.vm;
    let emulated = if place.facts.kvm { 0 } else { TCG_OVERHEAD.0 };
    let overhead = vm_overhead(config.memory, config.cpus).0 + emulated + settings.extra_memory.0;
    let memory = pod::quantity(Bytes(config.memory.0 + overhead));
    let one = Quantity("1".to_owned());
    let mut requests = BTreeMap::from([
        ("cpu".to_owned(), millis(config.cpus * settings.cpu_request_millis)),
        ("memory".to_owned(), memory.clone()),
        (LAN_RESOURCE.to_owned(), one.clone()),
    ]);
    // One processor more than the guest has, for what the hypervisor does beside it.
    let mut limits = BTreeMap::from([
        ("cpu".to_owned(), Quantity((config.cpus + 1).to_string())),
        ("memory".to_owned(), memory),
        (LAN_RESOURCE.to_owned(), one.clone()),
    ]);
    if place.facts.kvm {
        requests.insert(KVM_RESOURCE.to_owned(), one.clone());
        limits.insert(KVM_RESOURCE.to_owned(), one);
    }
    ResourceRequirements { requests: Some(requests), limits: Some(limits), claims: None }
}

fn millis(millis: u32) -> Quantity {
    Quantity(if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") })
}

pub(super) fn claim(place: &Place<'_>, config: &VmConfig) -> Option<PersistentVolumeClaim> {
    let disks: u64 = config.disks.iter().map(|disk| disk.size.0).sum();
    let size = STATE_ROOM + disks + disks / FILESYSTEM_SHARE;
    let whole = size.next_multiple_of(1 << 20);
    place.settings.storage.persistent.then(|| pod::claim(place, Bytes(whole)))
}

/// A machine is one of its kind: either it may be evicted, or its node waits until it was stopped.
pub(super) fn budget(place: &Place<'_>) -> PodDisruptionBudget {
    let labels = place.labels().into_iter();
    let chosen = labels.filter(|(name, _)| name.starts_with("stokehold.dev/") && name != SET).collect();
    let spec = PodDisruptionBudgetSpec {
        min_available: Some(IntOrString::Int(i32::from(!place.settings.vm.evictable))),
        selector: Some(LabelSelector { match_labels: Some(chosen), match_expressions: None }),
        // One that does not run keeps nobody waiting.
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        ..PodDisruptionBudgetSpec::default()
    };
    PodDisruptionBudget { metadata: place.owned_metadata(), spec: Some(spec), status: None }
}
