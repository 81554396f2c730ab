//! `MachineSet`: one `Machine` for each number, as the template has it.
//!
//! A set touches only machines that it made: they name it as their owner. One that has a name of the set's and is not its own is
//! left alone, and told. A set that cannot be as it is written leaves its machines as they are.

use std::net::Ipv4Addr;

use stoke_api::meta::OwnerReference;
use stoke_api::objects::{
    AnyObject, Kind, MACHINE_SET_LABEL, MachineSetSpec, MachineSetStatus, MachineSpec, MachineStatus,
};
use stoke_api::{API_VERSION, Metadata, Object, ObjectName, ObjectRef};

use crate::machine;
use crate::observed::{Desired, Layout, ObjectChange};
use crate::status::{Status, Waiting, push, ready_condition};
use crate::view::{Machine, MachineSet, View};

/// The name of a set's machine; none if that is too long for a name.
pub(crate) fn machine_name(set: &ObjectRef, ordinal: u32) -> Option<ObjectRef> {
    let name = format!("{}-{ordinal}", set.name).parse::<ObjectName>().ok()?;
    Some(ObjectRef { kind: Kind::Machine, namespace: set.namespace.clone(), name })
}

/// The address of a set's machine, if the set has addresses.
pub(crate) fn address(spec: &MachineSetSpec, ordinal: u32) -> Option<Ipv4Addr> {
    let addresses = spec.addresses?;
    u32::from(addresses.first).checked_add(ordinal).map(Ipv4Addr::from).filter(|address| addresses.contains(*address))
}

/// The number of a set's machine.
fn ordinal(set: &ObjectRef, machine: &ObjectRef) -> Option<u32> {
    let text = machine.name.as_str().strip_prefix(set.name.as_str())?.strip_prefix('-')?;
    let ordinal = text.parse::<u32>().ok()?;
    (ordinal.to_string() == text).then_some(ordinal)
}

/// The set that made a machine, by its uid.
fn owner(machine: &Machine) -> Option<&OwnerReference> {
    let ours = |owner: &&OwnerReference| {
        owner.kind == Kind::MachineSet.to_string()
            && owner.api_version.split('/').next() == API_VERSION.split('/').next()
    };
    machine.metadata.controller().filter(ours)
}

fn is_its_own(set: &MachineSet, machine: &Machine) -> bool {
    owner(machine).is_some_and(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
}

pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, set: &MachineSet, desired: &mut Desired) {
    let own: Vec<_> = view
        .machines()
        .filter(|(name, machine)| name.namespace == reference.namespace && is_its_own(set, machine))
        .filter_map(|(name, machine)| Some((ordinal(reference, name)?, name, machine)))
        .collect();
    let valid = view.valid(reference);
    if valid.is_ok() && set.metadata.deletion_timestamp.is_none() {
        surplus(set, &own, desired);
        wanted(view, reference, set, desired);
    }
    let state = valid.and_then(|()| state(view, reference, set, &own));
    let ready = |(_, name, machine): &&(u32, &ObjectRef, &Machine)| machine::is_ready(view, name, machine);
    let status = MachineSetStatus {
        conditions: vec![ready_condition(&state)],
        observed_generation: set.metadata.generation.unwrap_or_default(),
        replicas: u32::try_from(own.len()).unwrap_or(u32::MAX),
        ready_replicas: u32::try_from(own.iter().filter(ready).count()).unwrap_or(u32::MAX),
        selector: format!("{MACHINE_SET_LABEL}={}", reference.name),
    };
    push(desired, reference, &set.status.conditions, Status::MachineSet(status));
}

/// Machines beyond the number go, the last one first.
fn surplus(set: &MachineSet, own: &[(u32, &ObjectRef, &Machine)], desired: &mut Desired) {
    let beyond = |(ordinal, _, machine): &&(u32, &ObjectRef, &Machine)| {
        *ordinal >= set.spec.replicas && machine.metadata.deletion_timestamp.is_none()
    };
    let mut beyond: Vec<_> = own.iter().filter(beyond).collect();
    beyond.sort_by_key(|(ordinal, _, _)| std::cmp::Reverse(*ordinal));
    desired.objects.extend(beyond.into_iter().map(|(_, name, machine)| delete(name, machine)));
}

fn delete(name: &ObjectRef, machine: &Machine) -> ObjectChange {
    ObjectChange::Delete { object: name.clone(), uid: machine.metadata.uid.clone() }
}

/// Machines that are missing, and those that are not as the template has them.
fn wanted(view: &View<'_>, reference: &ObjectRef, set: &MachineSet, desired: &mut Desired) {
    for ordinal in 0..set.spec.replicas {
        let Some(name) = machine_name(reference, ordinal) else { continue };
        let machine = machine(reference, set, &name, ordinal);
        match view.machine(&name) {
            None => desired.objects.push(ObjectChange::Create(Box::new(AnyObject::Machine(machine)))),
            Some(there) if is_its_own(set, there) && there.metadata.deletion_timestamp.is_none() => {
                let updated = updated(there, machine);
                if updated != *there {
                    desired.objects.push(ObjectChange::Update(Box::new(AnyObject::Machine(updated))));
                }
            }
            Some(_) => {}
        }
    }
}

/// A machine of the set, as it is made.
fn machine(reference: &ObjectRef, set: &MachineSet, name: &ObjectRef, ordinal: u32) -> Machine {
    let template = &set.spec.template;
    let mut metadata = Metadata::named(name.name.clone());
    metadata.namespace.clone_from(&name.namespace);
    metadata.labels.clone_from(&template.metadata.labels);
    metadata.labels.insert(MACHINE_SET_LABEL.to_owned(), reference.name.to_string());
    metadata.annotations.clone_from(&template.metadata.annotations);
    metadata.owner_references = vec![OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: Kind::MachineSet.to_string(),
        name: reference.name.to_string(),
        uid: set.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }];
    let mut spec: MachineSpec = template.spec.clone();
    if let Some(nic) = spec.nics.first_mut() {
        nic.address = address(&set.spec, ordinal);
    }
    Object { metadata, spec, status: MachineStatus::default() }
}

/// A machine that is there, with what the set wants of it. Annotations of others stay.
fn updated(there: &Machine, wanted: Machine) -> Machine {
    let mut machine = there.clone();
    machine.spec = wanted.spec;
    machine.metadata.labels = wanted.metadata.labels;
    machine.metadata.annotations.extend(wanted.metadata.annotations);
    machine
}

fn state(
    view: &View<'_>,
    reference: &ObjectRef,
    set: &MachineSet,
    own: &[(u32, &ObjectRef, &Machine)],
) -> Result<(&'static str, String), Waiting> {
    let replicas = set.spec.replicas;
    let names = (0..replicas).filter_map(|ordinal| machine_name(reference, ordinal));
    let foreign = |name: &ObjectRef| view.machine(name).is_some_and(|there| !is_its_own(set, there));
    if let Some(name) = names.into_iter().find(foreign) {
        let message = format!("{name} is there and was not made by this set; delete or rename one of them");
        return Err(Waiting::new("NameTaken", message));
    }
    let wanted: Vec<_> = own.iter().filter(|(ordinal, _, _)| *ordinal < replicas).collect();
    let not_ready = wanted.iter().find(|(_, name, machine)| !machine::is_ready(view, name, machine));
    let ready = wanted.iter().filter(|(_, name, machine)| machine::is_ready(view, name, machine)).count();
    let count = format!("{ready} of {replicas} machines are ready");
    match not_ready {
        _ if own.len() > wanted.len() => {
            Err(Waiting::new("ScalingDown", format!("{count}; {} go", own.len() - wanted.len())))
        }
        _ if u32::try_from(ready).is_ok_and(|ready| ready == replicas) => Ok(("MachinesReady", count)),
        Some((_, name, _)) => Err(Waiting::new("MachinesNotReady", format!("{count}; {name} is not"))),
        None => Err(Waiting::new("ScalingUp", count)),
    }
}

/// Machines whose set is gone. A cluster sees to that by itself.
pub(crate) fn orphans(view: &View<'_>, desired: &mut Desired) {
    if view.environment().layout == Layout::Pods {
        return;
    }
    let uids: Vec<_> = view.machine_sets().filter_map(|(_, set)| set.metadata.uid.as_ref()).collect();
    let orphaned = |machine: &Machine| owner(machine).is_some_and(|owner| !uids.contains(&&owner.uid));
    let orphans = view.machines().filter(|(_, machine)| orphaned(machine));
    desired.objects.extend(orphans.map(|(name, machine)| delete(name, machine)));
}
