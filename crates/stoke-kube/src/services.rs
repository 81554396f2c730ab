//! Services of machines: each machine that has ports has a Service of its name in its namespace, and leads to the pod of its
//! LAN's router, which passes on to the machine.
//!
//! ```text
//!  Service default/node-1     ports of the machine; no selector, since the router is in another namespace
//!  EndpointSlice of it        the router's pod, and its ports
//! ```
//!
//! Both are the machine's own and go with it. A Service of that name which somebody else made is left alone, and the
//! machine says so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector;
use kube::{Client, ResourceExt as _};
use stoke_api::objects::{MachineSpec, MachineStatus};
use stoke_api::workload::{Forward, Role, Workload};
use stoke_api::{AnyObject, Object, ObjectRef};

use crate::apply::{FIELD_MANAGER, explain};
use crate::object::contains;
use crate::render::{self, INSTALLATION, KIND, NAME, NAMESPACE};

/// Label of an `EndpointSlice`: the Service that it is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of an `EndpointSlice`: who writes it. Kubernetes' own controller leaves those of others alone.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Pause after a refusal.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a write may take to be seen in a cache before it is done again.
const UNSEEN: Duration = Duration::from_secs(5);

/// A machine's Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposed {
    service: Service,
    slice: EndpointSlice,
    /// Why nobody is reached yet.
    waits: Option<&'static str>,
}

/// What each machine with ports should have. Pure.
pub fn wanted(
    installation: &str,
    objects: &[AnyObject],
    workloads: &[Workload],
    pods: &[Arc<Pod>],
) -> BTreeMap<ObjectRef, Exposed> {
    let routers = workloads.iter().filter_map(|workload| match &workload.role {
        Role::Router(config) => Some((workload.name(), config)),
        _ => None,
    });
    let mut forwards = BTreeMap::<&ObjectRef, (Option<IpAddr>, Vec<&Forward>)>::new();
    for (name, config) in routers.filter(|(_, config)| !config.forwards.is_empty()) {
        let address = pods.iter().find(|pod| crate::plan::workload_name(&***pod) == name).and_then(|pod| address(pod));
        for forward in &config.forwards {
            forwards.entry(&forward.owner).or_insert((address, Vec::new())).1.push(forward);
        }
    }
    let machines = objects.iter().filter_map(|object| match object {
        AnyObject::Machine(machine) if !machine.spec.ports.is_empty() => Some((object.reference(), machine)),
        _ => None,
    });
    machines
        .map(|(reference, machine)| {
            let (address, forwards) = forwards.get(&reference).cloned().unwrap_or_default();
            let exposed = exposed(installation, &reference, machine, address, &forwards);
            (reference, exposed)
        })
        .collect()
}

/// The address of a pod that serves.
fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    status.pod_ip.as_deref().filter(|_| ready)?.parse().ok()
}

fn exposed(
    installation: &str,
    reference: &ObjectRef,
    machine: &Object<MachineSpec, MachineStatus>,
    address: Option<IpAddr>,
    forwards: &[&Forward],
) -> Exposed {
    let metadata = metadata(installation, reference, machine);
    let port = |port: &stoke_api::objects::MachinePort| ServicePort {
        name: Some(port.name.to_string()),
        port: port.of_service().into(),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some(machine.spec.service_type.word().to_owned()),
        ports: Some(machine.spec.ports.iter().map(port).collect()),
        ..ServiceSpec::default()
    };
    let service = Service { metadata: metadata.clone(), spec: Some(spec), status: None };
    let mut of_slice = metadata;
    let labels = of_slice.labels.get_or_insert_default();
    labels.insert(SERVICE_NAME.to_owned(), reference.name.to_string());
    labels.insert(MANAGED_BY.to_owned(), "stokehold.dev".to_owned());
    let slice = EndpointSlice {
        metadata: of_slice,
        address_type: if address.is_some_and(|address| address.is_ipv6()) { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: address.into_iter().map(endpoint).collect(),
        ports: Some(forwards.iter().map(|forward| endpoint_port(forward)).collect()),
    };
    let waits = match address {
        _ if forwards.is_empty() => Some("its LAN's router does not know of it yet"),
        None => Some("the pod of its LAN's router is not ready"),
        Some(_) => None,
    };
    Exposed { service, slice, waits }
}

fn metadata(installation: &str, reference: &ObjectRef, machine: &Object<MachineSpec, MachineStatus>) -> ObjectMeta {
    let namespace = reference.namespace.as_ref().map(ToString::to_string);
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let labels = BTreeMap::from([
        label("app.kubernetes.io/name", "stokehold"),
        label("app.kubernetes.io/managed-by", "stokehold"),
        label(INSTALLATION, installation),
        label(KIND, "Machine"),
        label(NAMESPACE, namespace.as_deref().unwrap_or_default()),
        label(NAME, reference.name.as_str()),
    ]);
    let owner = machine.metadata.uid.clone().map(|uid| OwnerReference {
        api_version: stoke_api::API_VERSION.to_owned(),
        kind: "Machine".to_owned(),
        name: reference.name.to_string(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    });
    ObjectMeta {
        name: Some(reference.name.to_string()),
        namespace,
        labels: Some(labels),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn endpoint(address: IpAddr) -> Endpoint {
    let conditions = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    Endpoint { addresses: vec![address.to_string()], conditions: Some(conditions), ..Endpoint::default() }
}

fn endpoint_port(forward: &Forward) -> EndpointPort {
    EndpointPort {
        name: Some(forward.name.clone()),
        port: Some(forward.listen.into()),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    }
}

/// What there is of ours.
pub struct There {
    /// Services.
    pub services: reflector::Store<Service>,
    /// Where they lead to.
    pub slices: reflector::Store<EndpointSlice>,
}

/// Makes Services be as they should.
pub struct Services {
    client: Client,
    failed: BTreeMap<ObjectRef, (String, Instant)>,
    written: BTreeMap<ObjectRef, (Exposed, Instant)>,
    /// What each came to.
    state: BTreeMap<ObjectRef, Result<String, String>>,
    /// Writes since the start.
    pub writes: u64,
}

impl Services {
    /// One that has done nothing yet.
    pub fn new(client: Client) -> Self {
        let (failed, written, state) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { client, failed, written, state, writes: 0 }
    }

    /// Where machines are reached, or why not.
    pub fn state(&self) -> &BTreeMap<ObjectRef, Result<String, String>> {
        &self.state
    }

    /// Writes what differs, and removes what nobody wants. Whether there was anything.
    pub async fn keep(&mut self, wanted: &BTreeMap<ObjectRef, Exposed>, there: &There) -> bool {
        self.failed.retain(|machine, (_, at)| wanted.contains_key(machine) && at.elapsed() < PAUSE);
        self.written.retain(|_, (_, at)| at.elapsed() < UNSEEN);
        let (services, slices) = (by_machine(&there.services), by_machine(&there.slices));
        let mut busy = false;
        for (machine, exposed) in wanted {
            let service = services.get(machine);
            let same = service.is_some_and(|there| is_in(&exposed.service, there))
                && slices.get(machine).is_some_and(|there| is_in(&exposed.slice, there));
            let unseen = self.written.get(machine).is_some_and(|(written, _)| written == exposed);
            if same || unseen || self.failed.contains_key(machine) {
                continue;
            }
            busy = true;
            match self.write(exposed, service.is_some()).await {
                Ok(()) => drop(self.written.insert(machine.clone(), (exposed.clone(), Instant::now()))),
                Err(why) => {
                    tracing::warn!(%machine, "its Service: {why}");
                    self.failed.insert(machine.clone(), (why, Instant::now()));
                }
            }
        }
        for (machine, service) in services.iter().filter(|(machine, _)| !wanted.contains_key(machine)) {
            busy = true;
            if let Err(error) = self.remove(service, slices.get(machine).map(AsRef::as_ref)).await {
                tracing::warn!(%machine, "its Service is not removed: {}", explain(&error));
            }
        }
        self.state =
            wanted.iter().map(|(machine, exposed)| (machine.clone(), self.came_to(machine, exposed))).collect();
        busy
    }

    fn came_to(&self, machine: &ObjectRef, exposed: &Exposed) -> Result<String, String> {
        if let Some((why, _)) = self.failed.get(machine) {
            return Err(why.clone());
        }
        if let Some(why) = exposed.waits {
            return Err(why.to_owned());
        }
        let ports = exposed.service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let ports: Vec<_> = ports.iter().map(|port| port.port.to_string()).collect();
        let namespace = exposed.service.namespace().unwrap_or_default();
        Ok(format!("Service {}.{namespace}, port {}", machine.name, ports.join(", ")))
    }

    async fn write(&mut self, exposed: &Exposed, is_ours: bool) -> Result<(), String> {
        let (name, namespace) = (exposed.service.name_any(), exposed.service.namespace().unwrap_or_default());
        let services = Api::<Service>::namespaced(self.client.clone(), &namespace);
        let said = |error: kube::Error| explain(&error);
        let there = if is_ours { None } else { services.get_opt(&name).await.map_err(said)? };
        // The cache lags behind, or it is somebody's.
        if there.is_some_and(|there| there.labels().get(INSTALLATION) != exposed.service.labels().get(INSTALLATION)) {
            return Err(format!(
                "somebody else made a Service {name}; remove it, or give the machine another name or no ports"
            ));
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.writes += 2;
        services.patch(&name, &parameters, &Patch::Apply(&exposed.service)).await.map_err(said)?;
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), &namespace);
        match slices.patch(&name, &parameters, &Patch::Apply(&exposed.slice)).await {
            // A slice never changes from one kind of address to the other.
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("addressType") => {
                slices.delete(&name, &DeleteParams::default()).await.map(drop).map_err(said)
            }
            written => written.map(drop).map_err(said),
        }
    }

    async fn remove(&mut self, service: &Service, slice: Option<&EndpointSlice>) -> Result<(), kube::Error> {
        let namespace = service.namespace().unwrap_or_default();
        self.writes += 1;
        if let Some(slice) = slice {
            let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &namespace);
            gone(api.delete(&slice.name_any(), &exactly(slice.uid())).await)?;
        }
        let api = Api::<Service>::namespaced(self.client.clone(), &namespace);
        gone(api.delete(&service.name_any(), &exactly(service.uid())).await)
    }
}

/// That one and no other of its name.
fn exactly(uid: Option<String>) -> DeleteParams {
    let preconditions = Preconditions { uid, resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match deleted {
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// Those that are there, by their machine's labels; not those on their way out.
fn by_machine<K>(store: &reflector::Store<K>) -> BTreeMap<ObjectRef, Arc<K>>
where
    K: reflector::Lookup<DynamicType = ()> + kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let there = store.state().into_iter().filter(|one| one.meta().deletion_timestamp.is_none());
    there.filter_map(|one| Some((render::owner_by_labels(one.labels())?, one))).collect()
}

/// Whether all that is said in `wanted` is so in `there`; what the API server and others added does not matter.
fn is_in<T: serde::Serialize>(wanted: &T, there: &T) -> bool {
    let value = |object: &T| serde_json::to_value(object).unwrap_or_default();
    contains(&value(there), &value(wanted))
}
