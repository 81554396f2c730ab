//! How a farm's nodes go over to another version of its image: what is seen of them, put into `step`, and what follows
//! from what was noted.
//!
//! What is noted is in the farm's status, so it outlasts everything; whatever is done about it follows from the note that was
//! read, never from the one that is written in the same round.

mod drain;
mod rehearse;
mod step;
#[cfg(test)]
mod tests;
mod waves;

use stoke_api::objects::{
    ImagePin, NodeState, NodeUpdate, Power, RebootWay, RehearsalPhase, RolloutPhase, RolloutStatus, Trust, UpdatePhase,
};
use stoke_api::workload::{FarmImage, FarmNode};
use stoke_api::{Condition, Digest, ObjectRef};

use crate::observed::{ClusterNodeWanted, Desired, NodeUse, Occurrence, SshReboot};
use crate::status::condition;
use crate::view::{Farm, Server, View};
use crate::{farm, join, machine};
use step::{Input, Seen, next};

pub(crate) use drain::InCluster;
pub(crate) use step::began_ms;

/// Different configurations that are rehearsed at most.
const EXAMPLES: usize = 4;

/// What is noted of the farm's nodes now.
pub(crate) fn of_farm(
    view: &View<'_>,
    reference: &ObjectRef,
    farm: &Farm,
    images: &[FarmImage],
) -> Option<RolloutStatus> {
    let before = farm.status.rollout.as_ref();
    if view.valid(reference).is_err() {
        return before.cloned();
    }
    let architecture = images.first().map(|image| image.architecture);
    let same = images.iter().filter(|image| Some(image.architecture) == architecture);
    let versions: Vec<Digest> = same.map(|image| image.digest).collect();
    let nodes = farm::nodes(view, reference, farm);
    let seen: Vec<_> = nodes.iter().map(|node| seen(view, reference, farm, node, &versions)).collect();
    let input = Input {
        update: farm.spec.update.as_ref(),
        versions: &versions,
        nodes: &seen,
        farm: reference,
        machine: farm::node_state(view, reference, reference).cloned(),
        examples: examples(&nodes),
        now_ms: view.environment().now_ms,
    };
    next(before, &input).or_else(|| before.cloned())
}

fn seen(view: &View<'_>, reference: &ObjectRef, farm: &Farm, node: &FarmNode, versions: &[Digest]) -> Seen {
    let reported = farm::node_state(view, reference, &node.owner).cloned();
    let object = view.machine(&node.owner);
    let pin = match object {
        Some(machine) => machine.spec.image.as_ref(),
        None => view.server(&node.owner).and_then(|server| server.spec.image.as_ref()),
    };
    let state = match object {
        // Only its stoke-vm knows which boot runs; the farm knows how many failed.
        Some(machine) => reported.map(|reported| {
            let current = machine::current_node(view, &node.owner, machine).unwrap_or_default();
            let NodeState { failed_boots, boots, good_image, .. } = reported;
            NodeState { failed_boots, boots, good_image, ..current }
        }),
        None => reported,
    };
    let kexec = farm.spec.update.as_ref().is_some_and(|update| update.kexec) && farm.spec.trust == Trust::Network;
    let others: &[RebootWay] = match view.server(&node.owner) {
        Some(server) if can_be_cycled(server) => &[RebootWay::Agent, RebootWay::Ssh, RebootWay::Bmc],
        _ if object.is_some() => &[RebootWay::Hypervisor],
        _ => &[RebootWay::Agent, RebootWay::Ssh],
    };
    let ways = kexec.then_some(RebootWay::Kexec).into_iter().chain(others.iter().copied()).collect();
    let cluster = join::in_cluster(view, reference, farm, node);
    Seen { node: node.owner.clone(), pin: pin.map(|pin| pinned(pin, versions)), state, ways, cluster }
}

/// Whether its controller may switch it off and on: not when people have switched it off.
fn can_be_cycled(server: &Server) -> bool {
    let wanted = server.status.bmc.as_ref().and_then(|bmc| bmc.wanted);
    server.spec.bmc.is_some() && wanted != Some(Power::Off)
}

fn pinned(pin: &ImagePin, versions: &[Digest]) -> Result<Digest, String> {
    let found = versions.iter().find(|version| pin.names(version));
    found.copied().ok_or_else(|| format!("its object demands {pin}, which is not there; it keeps what it has"))
}

/// One node for each configuration that differs in more than the name.
fn examples(nodes: &[FarmNode]) -> Vec<ObjectRef> {
    let mut examples: Vec<(ObjectRef, stoke_api::objects::NodeConfig)> = Vec::new();
    for node in nodes {
        let config = crate::rehearsal::node_config(&node.config, "");
        if examples.len() < EXAMPLES && !examples.iter().any(|(_, other)| *other == config) {
            examples.push((node.owner.clone(), config));
        }
    }
    examples.into_iter().map(|(node, _)| node).collect()
}

fn noted<'a>(farm: &'a Farm, node: &ObjectRef) -> Option<&'a NodeUpdate> {
    farm.status.rollout.as_ref()?.node(node)
}

/// Reboots that a node's agent was asked for because of an update.
pub(crate) fn orders(farm: &Farm, node: &ObjectRef) -> u64 {
    noted(farm, node).map_or(0, |noted| noted.reboots_by(&[RebootWay::Kexec, RebootWay::Agent]))
}

/// Reboots that a machine's hypervisor was asked for because of an update.
pub(crate) fn resets(view: &View<'_>, farm: &ObjectRef, machine: &ObjectRef) -> u64 {
    let noted = view.farm(farm).and_then(|farm| noted(farm, machine));
    noted.map_or(0, |noted| noted.reboots_by(&[RebootWay::Hypervisor]))
}

/// Power cycles that a server's controller was asked for because of an update.
pub(crate) fn cycles(farm: &Farm, node: &ObjectRef) -> u64 {
    noted(farm, node).map_or(0, |noted| noted.reboots_by(&[RebootWay::Bmc]))
}

/// Servers of a farm that are rebooted by SSH.
pub(crate) fn by_ssh(farm: &Farm, desired: &mut Desired) {
    let nodes = farm.status.rollout.iter().flat_map(|rollout| &rollout.nodes);
    let asked = nodes.map(|noted| SshReboot { node: noted.node.clone(), count: noted.reboots_by(&[RebootWay::Ssh]) });
    desired.ssh_reboots.extend(asked.filter(|reboot| reboot.count > 0));
}

/// The name in the cluster of a node that is kept out of use.
pub(crate) fn held<'a>(farm: &'a Farm, node: &ObjectRef) -> Option<&'a str> {
    noted(farm, node)?.drain.as_ref().map(|drain| drain.name.as_str())
}

/// How the farm's nodes in the cluster are to be used.
pub(crate) fn in_cluster(view: &View<'_>, reference: &ObjectRef, farm: &Farm, desired: &mut Desired) {
    let standalone_pods = farm.spec.update.as_ref().is_some_and(|update| update.drain.standalone_pods);
    for noted in farm.status.rollout.iter().flat_map(|rollout| &rollout.nodes) {
        let Some(drain) = &noted.drain else { continue };
        let usage = match noted.phase {
            UpdatePhase::Draining | UpdatePhase::Returned => NodeUse::Drained { standalone_pods },
            _ => NodeUse::Cordoned,
        };
        let (node, name) = (noted.node.clone(), drain.name.clone());
        desired.cluster_nodes.push(ClusterNodeWanted { node, name, usage, image: None });
    }
    if farm.spec.join.is_none() {
        return;
    }
    for node in farm::nodes(view, reference, farm).iter().filter(|node| held(farm, &node.owner).is_none()) {
        let Some(InCluster { name, known: Ok(_) }) = join::in_cluster(view, reference, farm, node) else { continue };
        let image = seen(view, reference, farm, node, &[]).runs();
        desired.cluster_nodes.push(ClusterNodeWanted { node: node.owner.clone(), name, usage: NodeUse::Free, image });
    }
}

/// Whether the last order to a node's agent allows kexec.
pub(crate) fn by_kexec(farm: &Farm, node: &ObjectRef) -> bool {
    noted(farm, node).is_some_and(|noted| noted.way == Some(RebootWay::Kexec))
}

/// What the farm's conditions say of it.
pub(crate) fn conditions(rollout: Option<&RolloutStatus>) -> Vec<Condition> {
    let Some(rollout) = rollout else { return Vec::new() };
    let version = rollout.target.short();
    let having = rollout.nodes.iter().filter(|noted| has(noted, rollout)).count();
    let mut count = format!("{having} of {} nodes are well with {version}", rollout.nodes.len());
    for waits in rollout.nodes.iter().filter(|noted| !noted.message.is_empty() && noted.image == rollout.target) {
        count = format!("{count}; {}: {}", waits.node, waits.message);
    }
    let condition = match rollout.phase {
        RolloutPhase::Complete => return Vec::new(),
        RolloutPhase::Stopped => {
            let rehearsed = rollout.rehearsal.as_ref().is_some_and(|one| one.phase == RehearsalPhase::Failed);
            let reason = if rehearsed { "RehearsalFailed" } else { "BootsFailed" };
            let message =
                format!("{}; `stoke rollout resume` tries again, `stoke rollout undo` takes it back", rollout.message);
            condition("UpdateStopped", true, reason, message)
        }
        _ if rollout.paused => condition("Updating", true, "Paused", format!("{count}; paused")),
        RolloutPhase::Rehearsing => {
            condition("Updating", true, "Rehearsing", format!("{version} is tried in a virtual machine first"))
        }
        RolloutPhase::Progressing => condition("Updating", true, "Progressing", count),
    };
    vec![condition]
}

fn has(noted: &NodeUpdate, rollout: &RolloutStatus) -> bool {
    noted.image == rollout.target && noted.phase == UpdatePhase::Settled
}

/// What happened to nodes because of updates.
pub(crate) fn events(before: Option<&RolloutStatus>, now: Option<&RolloutStatus>, desired: &mut Desired) {
    let (Some(before), Some(now)) = (before, now) else { return };
    for noted in &now.nodes {
        let Some(old) = before.node(&noted.node) else { continue };
        if let Some(drain) = noted.drain.as_ref().filter(|_| noted.phase == UpdatePhase::Draining)
            && old.phase != UpdatePhase::Draining
        {
            let message = format!("pods go from node {}, which is to boot {}", drain.name, noted.image.short());
            let (object, reason) = (noted.node.clone(), "UpdateDrain".to_owned());
            desired.events.push(Occurrence { object, reason, message });
        }
        let told = noted.way.filter(|_| noted.told_ms != old.told_ms);
        if let Some(way) = told {
            let message = format!("{way}, to boot {}", noted.image.short());
            let (object, reason) = (noted.node.clone(), "UpdateReboot".to_owned());
            desired.events.push(Occurrence { object, reason, message });
        }
        if noted.phase == UpdatePhase::Returned && old.phase != UpdatePhase::Returned {
            let (object, reason, message) = (noted.node.clone(), "UpdateReturned".to_owned(), noted.message.clone());
            desired.events.push(Occurrence { object, reason, message });
        }
    }
}

/// Goes on after a pause, and tries again after it stopped.
pub fn resume(rollout: &mut RolloutStatus) {
    rollout.paused = false;
    for noted in rollout.nodes.iter_mut().filter(|noted| noted.undrained) {
        noted.undrained = false;
        noted.message.clear();
    }
    if rollout.phase != RolloutPhase::Stopped {
        return;
    }
    rollout.phase = match &rollout.rehearsal {
        Some(rehearsal) if rehearsal.phase != RehearsalPhase::Passed => RolloutPhase::Rehearsing,
        _ => RolloutPhase::Progressing,
    };
    rollout.rehearsal.take_if(|rehearsal| rehearsal.phase != RehearsalPhase::Passed);
    rollout.message.clear();
    rollout.wave = 0;
    for noted in rollout.nodes.iter_mut().filter(|noted| noted.phase == UpdatePhase::Returned) {
        noted.phase = UpdatePhase::Settled;
    }
}

/// Takes the version back that nodes go over to, or have: they get the one before.
pub fn undo(rollout: &mut RolloutStatus) {
    rollout.refused.push(rollout.target);
    rollout.stable.take_if(|stable| *stable == rollout.target);
    rollout.paused = false;
}
