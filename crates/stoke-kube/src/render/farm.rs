//! Farms: a pod for each server, in the operator's namespace: on its LAN, on the network of a node, or behind a load balancer.
//!
//! What each server remembers is its own: so each has an address of its own, and a load balancer never sends a node's second
//! request to another server than its first.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSecurityContext, PodSpec, Service, ServicePort, ServiceSpec, Sysctl, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stoke_api::ObjectRef;
use stoke_api::objects::{HostNetwork, LoadBalancer};
use stoke_api::workload::FarmConfig;
use stoke_api::workload::pod::{IMAGES, PRIVATE, STATE};
use stoke_reconcile::names::file_name;

use super::pod::{self, mount};
use super::role::{container, root, spec};
use super::{INSTALLATION, KIND, NAME, NAMESPACE, PLACEMENT, Place, REPLICA, ROLE, USER, template_hash};

/// Which network a server is on.
enum Network<'a> {
    /// Its LAN.
    Lan,
    /// A node's.
    Host(&'a HostNetwork),
    /// The pods', behind a Service.
    Service(&'a LoadBalancer),
}

impl<'a> Network<'a> {
    fn of(place: &'a Place<'_>) -> Self {
        let placement = place.facts.placement.as_ref();
        let host = placement.and_then(|placement| placement.host_network.as_ref()).map(Self::Host);
        let service = || placement.and_then(|placement| placement.load_balancer.as_ref()).map(Self::Service);
        host.or_else(service).unwrap_or(Self::Lan)
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Host(_) => "host-network",
            Self::Service(_) => "load-balancer",
        }
    }
}

/// The folder of a farm on the store's volume.
pub fn farm_folder(farm: &ObjectRef) -> String {
    format!("farms/{}", file_name(farm))
}

pub(super) fn pod(place: &Place<'_>, config: &FarmConfig) -> Pod {
    let store = pod::claimed_volume("store", place.settings.store.claim.clone());
    let volumes = vec![pod::config_volume(place), pod::secret_volume(place), store];
    let container = container(place, &place.settings.farm, mounts(place, config));
    let spec = spec(place, &place.settings.farm, container, volumes);
    let network = Network::of(place);
    let spec = match &network {
        Network::Lan => on_pods(place, spec),
        Network::Service(_) => with_ports(on_pods(place, spec), config),
        Network::Host(host) => on_host(with_ports(spec, config), host, config),
    };
    let mut pod = pod::pod(place, spec);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REPLICA.to_owned(), config.replica.to_string());
    labels.insert(PLACEMENT.to_owned(), network.word().to_owned());
    pod
}

fn mounts(place: &Place<'_>, config: &FarmConfig) -> Vec<VolumeMount> {
    let folder = farm_folder(&place.workload.owner);
    let own = format!("{folder}/replica-{}", config.replica);
    let mut mounts = vec![
        pod::store_mount(&own, STATE, false),
        pod::store_mount("images", IMAGES, true),
        pod::store_mount("boot", format!("{STATE}/boot"), true),
        VolumeMount { read_only: Some(true), ..mount("private", PRIVATE) },
    ];
    if !config.host_keys.as_os_str().is_empty() {
        // All replicas know all nodes.
        mounts.push(pod::store_mount(&format!("{folder}/host-keys"), &config.host_keys, false));
    }
    mounts
}

/// With a network namespace of its own.
fn on_pods(place: &Place<'_>, mut spec: PodSpec) -> PodSpec {
    secure(&mut spec, &[]);
    // Its ports are below 1024, as firmware wants them: the namespace allows that, no capability does (ip(7)).
    let low_ports = Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "0".to_owned() };
    spec.security_context = Some(PodSecurityContext { sysctls: Some(vec![low_ports]), ..pod::nobody() });
    spec.affinity = Some(pod::apart_from(of_farm(place)));
    spec
}

/// On the network of the node that has the address. A pod may not change that network's rules, so what lets it have the low
/// ports is the one capability for that, and with it root; its files are its group's.
fn on_host(mut spec: PodSpec, host: &HostNetwork, config: &FarmConfig) -> PodSpec {
    secure(&mut spec, &["NET_BIND_SERVICE"]);
    spec.security_context =
        Some(PodSecurityContext { fs_group: Some(USER), supplemental_groups: Some(vec![USER]), ..root() });
    spec.host_network = Some(true);
    let index = usize::try_from(config.replica).unwrap_or(usize::MAX);
    let named = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(host.nodes.get(index).cloned().into_iter().collect()),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![named]), ..NodeSelectorTerm::default() };
    let required = NodeSelector { node_selector_terms: vec![term] };
    let node =
        NodeAffinity { required_during_scheduling_ignored_during_execution: Some(required), ..NodeAffinity::default() };
    spec.affinity = Some(Affinity { node_affinity: Some(node), ..Affinity::default() });
    spec
}

fn secure(spec: &mut PodSpec, capabilities: &[&str]) {
    for container in &mut spec.containers {
        container.security_context = Some(pod::security(capabilities));
    }
}

/// Says which ports it has: on a node's network so that the scheduler knows who else has one.
fn with_ports(mut spec: PodSpec, config: &FarmConfig) -> PodSpec {
    let port = |(name, protocol, port): (&str, &str, u16)| ContainerPort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        container_port: i32::from(port),
        ..ContainerPort::default()
    };
    let declare = |container: &mut Container| container.ports = Some(ports(config).map(port).into());
    spec.containers.iter_mut().for_each(declare);
    spec
}

fn ports(config: &FarmConfig) -> [(&'static str, &'static str, u16); 4] {
    [
        ("tftp", "UDP", config.tftp_port),
        ("http", "TCP", config.http_port),
        ("node", "TCP", config.node_port),
        ("nbd", "TCP", config.nbd_port),
    ]
}

/// Labels of all servers of the farm.
fn of_farm(place: &Place<'_>) -> BTreeMap<String, String> {
    let labels = place.labels().into_iter();
    labels.filter(|(name, _)| [INSTALLATION, KIND, NAMESPACE, NAME, ROLE].contains(&name.as_str())).collect()
}

/// The address of one server, if that is a load balancer's.
pub(super) fn service(place: &Place<'_>, config: &FarmConfig) -> Option<Service> {
    let Network::Service(wanted) = Network::of(place) else { return None };
    let mut selector = of_farm(place);
    selector.insert(REPLICA.to_owned(), config.replica.to_string());
    let port = |(name, protocol, port): (&str, &str, u16)| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: i32::from(port),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some("LoadBalancer".to_owned()),
        load_balancer_class: wanted.class.clone(),
        // Deprecated in favour of annotations of each load balancer, and understood by most of them.
        load_balancer_ip: Some(config.address.to_string()),
        // The farm sees its nodes' own addresses, and packets take no way round.
        external_traffic_policy: Some("Local".to_owned()),
        ports: Some(ports(config).map(port).into()),
        selector: Some(selector),
        ..ServiceSpec::default()
    };
    let mut metadata = place.owned_metadata();
    metadata.annotations.get_or_insert_default().extend(wanted.annotations.clone());
    metadata.name = metadata.name.map(service_name);
    Some(Service { metadata, spec: Some(spec), status: None })
}

/// The name of a workload as a Service may have it: one label of DNS (RFC 1035), where those of replicas have a dot.
fn service_name(workload: String) -> String {
    const LONGEST: usize = 63;
    if workload.len() <= LONGEST && !workload.contains('.') {
        return workload;
    }
    let mut hash = template_hash(&workload);
    hash.truncate(8);
    let readable: String = workload.replace('.', "-").chars().take(LONGEST - 1 - hash.len()).collect();
    format!("{readable}-{hash}")
}

/// Of several servers one at a time may be evicted. By a number, since what owns these pods has no scale.
pub(super) fn budget(place: &Place<'_>, config: &FarmConfig) -> Option<PodDisruptionBudget> {
    let others = i32::try_from(config.replicas.len()).unwrap_or(i32::MAX).saturating_sub(1);
    // One for all of them, which the first has.
    (others > 0 && config.replica == 0).then(|| {
        let spec = PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(others)),
            selector: Some(LabelSelector { match_labels: Some(of_farm(place)), match_expressions: None }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        };
        PodDisruptionBudget { metadata: place.owned_metadata(), spec: Some(spec), status: None }
    })
}
