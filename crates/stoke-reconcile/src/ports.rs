//! Ports of machines in a cluster: at which port of its router's pod each is reached, and what is said of it.
//!
//! ```text
//!  Service node-1:22 --> router's pod :20817 --> node-1's address on the LAN :22
//! ```
//!
//! The port of the router follows from the names, so that it stays what it is whatever comes and goes; of two that come to
//! the same one, the later in the order of names goes to the next that is free.

use std::collections::BTreeSet;

use stoke_api::objects::{Kind, MachinePort};
use stoke_api::workload::{FORWARDS, Forward};
use stoke_api::{Condition, ObjectRef};

use crate::names::{self, nic_mac};
use crate::observed::Layout;
use crate::status::condition;
use crate::view::{Machine, View, sibling};

/// What the router of a LAN passes on.
pub(crate) fn forwards(view: &View<'_>, lan: &ObjectRef) -> Vec<Forward> {
    if view.environment().layout == Layout::Host {
        return Vec::new();
    }
    let mut taken = BTreeSet::new();
    let machines = view.machines().filter(|(name, _)| view.valid(name).is_ok());
    let wanted = machines.filter_map(|(name, machine)| {
        let nic = machine.spec.nics.first().filter(|nic| sibling(name, Kind::Lan, &nic.lan) == *lan)?;
        Some((name, nic_mac(name, nic), machine))
    });
    let mut forwards = Vec::new();
    for (name, mac, machine) in wanted {
        for port in &machine.spec.ports {
            let Some(listen) = free(&taken, name, port) else { continue };
            taken.insert(listen);
            forwards.push(Forward { owner: name.clone(), name: port.name.to_string(), listen, mac, port: port.port });
        }
    }
    forwards
}

/// The port of the names, or the next that is free.
fn free(taken: &BTreeSet<u16>, machine: &ObjectRef, port: &MachinePort) -> Option<u16> {
    let (first, last) = (*FORWARDS.start(), *FORWARDS.end());
    let own = first + names::forward(machine, port.name.as_str()) % (last - first + 1);
    (own..=last).chain(first..own).find(|port| !taken.contains(port))
}

/// Whether a machine's ports are reached.
pub(crate) fn exposed(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> Option<Condition> {
    if machine.spec.ports.is_empty() {
        return None;
    }
    if view.environment().layout == Layout::Host {
        let message =
            "ports are for clusters, where a Service leads to them; on one host its LAN is reached by `stoke ssh`";
        return Some(condition("Exposed", false, "OnOneHost", message));
    }
    Some(match view.environment().services.get(reference) {
        None => condition("Exposed", false, "Waiting", "its Service is about to be made"),
        Some(Ok(words)) => condition("Exposed", true, "Served", words.clone()),
        Some(Err(why)) => condition("Exposed", false, "Failed", why.clone()),
    })
}
