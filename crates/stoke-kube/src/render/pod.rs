//! What all pods share.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, ExecAction, KeyToPath,
    LocalObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Pod,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount, VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use stoke_api::Bytes;
use stoke_api::agent::{ADMIN_SOCKET, LAN_RESOURCE, POD_FOLDER, PORTS_SOCKET};

use super::{CONFIG_KEY, Place, TEMPLATE, USER, template_hash};
use crate::settings::Resources;

/// Where a pod finds its configuration.
pub(super) const CONFIG_FOLDER: &str = "/etc/stokehold";
/// Name of the one container.
pub(super) const CONTAINER: &str = "stoke";

pub(super) fn quantity(bytes: Bytes) -> Quantity {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    // As the API server would write it, so that nothing looks changed.
    let unit = UNITS.iter().find(|(unit, _)| bytes.0 >= *unit && bytes.0.is_multiple_of(*unit));
    Quantity(unit.map_or_else(|| bytes.0.to_string(), |(unit, word)| format!("{}{word}", bytes.0 / unit)))
}

pub(super) fn quantities(of: &BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    of.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))).collect()
}

/// Requests and limits as they are written, and the folder that the node agent shares.
pub(super) fn with_lan(resources: &Resources) -> ResourceRequirements {
    let mut limits = quantities(&resources.limits);
    limits.insert(LAN_RESOURCE.to_owned(), Quantity("1".to_owned()));
    let mut requests = quantities(&resources.requests);
    requests.insert(LAN_RESOURCE.to_owned(), Quantity("1".to_owned()));
    ResourceRequirements { requests: Some(requests), limits: Some(limits), claims: None }
}

pub(super) fn claim(place: &Place<'_>, size: Bytes) -> PersistentVolumeClaim {
    let requests = BTreeMap::from([("storage".to_owned(), quantity(size))]);
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name: place.settings.storage.class.clone(),
        resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
        ..PersistentVolumeClaimSpec::default()
    };
    PersistentVolumeClaim { metadata: place.owned_metadata(), spec: Some(spec), status: None }
}

/// No right at all but those that are named.
pub(super) fn security(capabilities: &[&str]) -> SecurityContext {
    let add = (!capabilities.is_empty()).then(|| capabilities.iter().map(ToString::to_string).collect());
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_owned()]) }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// As Pod Security `restricted` wants it.
pub(super) fn nobody() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // Without it the kubelet walks through all of a volume at each start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(seccomp()),
        ..PodSecurityContext::default()
    }
}

pub(super) fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

pub(super) fn environment(place: &Place<'_>) -> Vec<EnvVar> {
    let set =
        |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() };
    let mut variables = vec![set("STOKE_LOG", &place.settings.log)];
    if place.settings.log_json {
        variables.push(set("STOKE_LOG_FORMAT", "json"));
    }
    variables
}

pub(super) fn config_volume(place: &Place<'_>) -> Volume {
    map_volume(place, "config", std::iter::once(CONFIG_KEY))
}

/// Some keys of the workload's `ConfigMap` as files.
pub(super) fn map_volume<'a>(place: &Place<'_>, name: &str, keys: impl Iterator<Item = &'a str>) -> Volume {
    let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
    let source = ConfigMapVolumeSource {
        name: place.workload.name(),
        items: Some(keys.map(item).collect()),
        ..ConfigMapVolumeSource::default()
    };
    Volume { name: name.to_owned(), config_map: Some(source), ..Volume::default() }
}

/// The copy of a LAN's leases, if there is one.
pub(super) fn leases_volume(place: &Place<'_>) -> Volume {
    let source = ConfigMapVolumeSource {
        name: crate::leases::copy_name(&place.workload.owner),
        optional: Some(true),
        ..ConfigMapVolumeSource::default()
    };
    Volume { name: "leases".to_owned(), config_map: Some(source), ..Volume::default() }
}

/// The workload's `Secret`.
pub(super) fn secret_volume(place: &Place<'_>) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(place.workload.name()),
        default_mode: Some(0o440),
        ..SecretVolumeSource::default()
    };
    Volume { name: "private".to_owned(), secret: Some(source), ..Volume::default() }
}

/// A folder of the store's volume.
pub(super) fn store_mount(folder: &str, path: impl AsRef<Path>, read_only: bool) -> VolumeMount {
    VolumeMount { sub_path: Some(folder.to_owned()), read_only: read_only.then_some(true), ..mount("store", path) }
}

pub(super) fn empty_volume(name: &str, limit: Option<Bytes>) -> Volume {
    let source = EmptyDirVolumeSource { medium: None, size_limit: limit.map(quantity) };
    Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() }
}

pub(super) fn claimed_volume(name: &str, claim: String) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: None };
    Volume { name: name.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}

/// The workload's own volume, or a folder that goes with the pod.
pub(super) fn state_volume(place: &Place<'_>) -> Volume {
    if place.settings.storage.persistent {
        claimed_volume("state", place.workload.name())
    } else {
        empty_volume("state", None)
    }
}

pub(super) fn mount(name: &str, path: impl AsRef<Path>) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.as_ref().to_string_lossy().into_owned(),
        ..VolumeMount::default()
    }
}

pub(super) fn config_mount() -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount("config", CONFIG_FOLDER) }
}

/// `--config` and `--socket`, which every role has.
pub(super) fn launch_arguments() -> Vec<String> {
    let config = format!("{CONFIG_FOLDER}/{CONFIG_KEY}");
    let socket = format!("{POD_FOLDER}/{ADMIN_SOCKET}");
    ["--config", &config, "--socket", &socket].map(str::to_owned).to_vec()
}

pub(super) fn ports_arguments() -> Vec<String> {
    vec!["--ports".to_owned(), format!("{POD_FOLDER}/{PORTS_SOCKET}")]
}

/// Asks the role itself over its admin socket, inside of its container: it has no listener that the kubelet reaches.
pub(super) fn probe(path: &str, failures: i32) -> Probe {
    let socket = format!("{POD_FOLDER}/{ADMIN_SOCKET}");
    let command = ["stoke", "probe", "--socket", &socket, path].map(str::to_owned).to_vec();
    Probe {
        exec: Some(ExecAction { command: Some(command) }),
        period_seconds: Some(10),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

pub(super) fn container(place: &Place<'_>, image: &str) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(place.settings.images.pull_policy.clone()),
        env: Some(environment(place)),
        // The last words of a role that failed are what its object's condition says.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// A spec without rights at the API server.
pub(super) fn spec(place: &Place<'_>, container: Container, volumes: Vec<Volume>) -> PodSpec {
    let secrets = place.settings.images.pull_secrets.iter();
    let secrets: Vec<_> = secrets.map(|name| LocalObjectReference { name: name.clone() }).collect();
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        ..PodSpec::default()
    }
}

/// The pod of a spec, marked by what it was made of.
pub(super) fn pod(place: &Place<'_>, spec: PodSpec) -> Pod {
    let mut metadata = place.owned_metadata();
    metadata.annotations.get_or_insert_default().insert(TEMPLATE.to_owned(), template_hash(&spec));
    Pod { metadata, spec: Some(spec), status: None }
}

/// Rather on other nodes than pods with these labels.
pub(super) fn apart_from(labels: BTreeMap<String, String>) -> Affinity {
    let preferred = vec![WeightedPodAffinityTerm { pod_affinity_term: on_its_node(labels), weight: 100 }];
    let anti = PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(preferred),
        ..PodAntiAffinity::default()
    };
    Affinity { pod_anti_affinity: Some(anti), ..Affinity::default() }
}

/// Never on the node of a pod with these labels.
pub(super) fn never_with(labels: BTreeMap<String, String>) -> Affinity {
    let anti = PodAntiAffinity {
        required_during_scheduling_ignored_during_execution: Some(vec![on_its_node(labels)]),
        ..PodAntiAffinity::default()
    };
    Affinity { pod_anti_affinity: Some(anti), ..Affinity::default() }
}

fn on_its_node(labels: BTreeMap<String, String>) -> PodAffinityTerm {
    PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    }
}

pub(super) fn selector(labels: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!labels.is_empty()).then(|| labels.clone())
}
