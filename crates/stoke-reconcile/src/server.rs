//! `Server`: a physical machine. It wants no workload of its own; router and farm know it.

use stoke_api::node::Phase;
use stoke_api::objects::{Kind, NodeState, Power, ServerStatus};
use stoke_api::workload::RouterHost;
use stoke_api::{Condition, ObjectRef};

use crate::check::hostname;
use crate::names::key;
use crate::observed::{Desired, Occurrence};
use crate::status::{Status, Waiting, condition, push, ready_condition};
use crate::view::{Server, View, sibling};
use crate::{bmc, farm, lan, node_config, trust};

pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, server: &Server, desired: &mut Desired) {
    let node = farm::node_state(view, &farm_of(server), reference).cloned();
    let node = node.or_else(|| asked_for_boot(view, reference, server));
    let state = state(view, reference, server, node.as_ref());
    let before = server.status.node.as_ref().map(|node| node.phase);
    phase_event(desired, reference, before, node.as_ref());
    trust::events(desired, reference, server.status.node.as_ref(), node.as_ref());
    let mut conditions = vec![ready_condition(&state)];
    conditions.extend(writable_layer(node.as_ref()));
    conditions.extend(node_config::configured(node.as_ref()));
    conditions.extend(trusted(view, reference, server, node.as_ref()));
    let switched = bmc::desire(view, reference, server, node.as_ref(), desired);
    conditions.extend(switched.conditions);
    let status = ServerStatus {
        conditions,
        observed_generation: server.metadata.generation.unwrap_or_default(),
        node,
        image: farm::image_of(view, &farm_of(server), reference),
        enrolment: server.status.enrolment.clone(),
        reboots_requested: server.status.reboots_requested,
        reboot: switched.reboot,
        reboots: switched.reboots,
        bmc: switched.status,
    };
    push(desired, reference, &server.status.conditions, Status::Server(status));
}

/// What is to be said of its proof and its secrets.
fn trusted(view: &View<'_>, reference: &ObjectRef, server: &Server, node: Option<&NodeState>) -> Vec<Condition> {
    let Some(farm) = view.farm(&farm_of(server)) else { return Vec::new() };
    trust::conditions(view, farm, &farm::node_config(view, farm, reference, &server.spec.config), node)
}

/// The farm that feeds a server.
pub(crate) fn farm_of(server: &Server) -> ObjectRef {
    let farm = &server.spec.farm;
    ObjectRef { kind: Kind::Farm, namespace: Some(farm.namespace.clone()), name: farm.name.clone() }
}

/// The server as the router of `lan` knows it, if it is there.
pub(crate) fn host(view: &View<'_>, reference: &ObjectRef, server: &Server, lan: &ObjectRef) -> Option<RouterHost> {
    let farm = farm_of(server);
    let here = sibling(&farm, Kind::Lan, &view.farm(&farm)?.spec.lan) == *lan;
    here.then(|| RouterHost {
        owner: reference.clone(),
        hostname: hostname(reference, &server.spec.config),
        macs: server.spec.macs.clone(),
        uuid: server.spec.uuid.clone(),
        client_id: server.spec.client_id.clone(),
        address: server.spec.address,
        farm: view.valid(&farm).is_ok().then(|| key(&farm)),
        kernels: farm::kernels_of(view, &farm, reference),
    })
}

/// A node of which only the router has heard: its firmware asked for an address.
pub(crate) fn asked_for_boot(view: &View<'_>, reference: &ObjectRef, server: &Server) -> Option<NodeState> {
    let farm = farm_of(server);
    let router = lan::router_name(&sibling(&farm, Kind::Lan, &view.farm(&farm)?.spec.lan));
    let asked = view.router_report(&router)?.boot_requests.contains_key(&reference.to_string());
    asked.then(|| NodeState { phase: Phase::Firmware, ..NodeState::default() })
}

fn state(
    view: &View<'_>,
    reference: &ObjectRef,
    server: &Server,
    node: Option<&NodeState>,
) -> Result<(&'static str, String), Waiting> {
    view.valid(reference)?;
    let power = view.environment().bmcs.get(&reference.to_string()).and_then(|seen| seen.power);
    if power == Some(Power::Off) && !node.is_some_and(|node| node.ready) {
        return Err(Waiting::new(
            "PoweredOff",
            format!("it is switched off; `stoke start {reference}` switches it on"),
        ));
    }
    if let Some(node) = node {
        return node_ready(node);
    }
    farm::serves(view, &farm_of(server))?;
    Err(Waiting::new("NotHeardOf", "it has not asked for a boot; switch it on and let it boot from the network"))
}

/// Whether a node is up, or how far it is.
pub(crate) fn node_ready(node: &NodeState) -> Result<(&'static str, String), Waiting> {
    match (&node.failure, node.phase) {
        _ if node.ready => Ok(("NodeReady", node.address.map(|a| a.to_string()).unwrap_or_default())),
        (Some(failure), Phase::Failed) => Err(Waiting::new("BootFailed", failure.clone())),
        (Some(failure), Phase::Ready) => Err(Waiting::new("NodeLost", failure.clone())),
        (Some(failure), phase) => Err(Waiting::new("Booting", format!("booting: {phase}; {failure}"))),
        (None, Phase::Stopping) => Err(Waiting::new("Stopping", "it goes down")),
        (None, phase) => Err(Waiting::new("Booting", format!("booting: {phase}"))),
    }
}

/// What a person must know of a node whose writable layer is full, or was.
pub(crate) fn writable_layer(node: Option<&NodeState>) -> Option<Condition> {
    let layer = node.filter(|node| node.ready)?.layer?;
    if !layer.full {
        return Some(condition("WritableLayer", true, "HasRoom", "there is room again"));
    }
    let message = format!(
        "the writable layer of {} MiB is full: programs on the node get \"No space left on device\"; remove files there, let it \
         be larger by `overlaySize`, or mount a disk where the data go",
        layer.size >> 20
    );
    Some(condition("WritableLayer", false, "Full", message))
}

/// An event for each phase that a node reaches.
pub(crate) fn phase_event(desired: &mut Desired, object: &ObjectRef, before: Option<Phase>, node: Option<&NodeState>) {
    let Some(node) = node.filter(|node| Some(node.phase) != before && node.phase != Phase::Unknown) else { return };
    let message = node.failure.clone().unwrap_or_else(|| format!("reached {}", node.phase));
    desired.events.push(Occurrence { object: object.clone(), reason: format!("Phase{}", node.phase), message });
}
