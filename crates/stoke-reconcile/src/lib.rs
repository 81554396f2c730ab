//! The reconcilers: objects and observed state in, workloads and statuses out.
//!
//! [`reconcile`] is pure and derives everything from live state, never from the name of an event: the same input gives
//! the same output, and its own output, once it has come true, gives no change. One module for each kind of object says
//! what that kind wants and what its conditions are; [`check()`] finds what is wrong across objects and is used by whoever
//! accepts objects, too, so that people read the same words from both. One bad object harms itself only.
//!
//! What this crate never does: I/O, reading a clock, knowing whether processes or pods run the workloads, reaching tokio.
//! Read [`observed`] first, then `lan.rs`.

pub mod agents;
mod alarms;
mod bmc;
mod check;
mod claims;
pub mod names;
pub mod observed;
pub mod status;

mod farm;
mod image;
mod join;
mod lan;
mod ltsp;
mod machine;
mod machine_set;
mod minimum;
mod node_config;
mod own_address;
mod places;
mod ports;
mod publish;
mod rehearsal;
pub mod rollout;
mod server;
mod signed;
mod trust;
mod view;
mod vni;

pub use check::{check, check_between, check_between_in, check_in};
pub use claims::{Claim, Claims};
pub use join::joined_cluster;
pub use node_config::{Explained, explain};
pub use observed::{
    BmcSeen, BmcTask, ClusterInfo, ClusterNode, ClusterNodeWanted, Desired, Environment, FarmKeys, FarmPartRequest,
    FarmParts, FarmPorts, FinishedBuild, JoinWanted, KnownImage, Layout, NodeUse, ObjectChange, Observed,
    ObservedWorkload, Occurrence, SshReboot, VersionNote,
};
pub use publish::{Publication, RegistryPlaces};
pub use status::Status;

use view::{Gates, View};

/// What should run now, what each object's status is, and what has to be made first.
///
/// A workload that must wait for another one (a machine for its farm, a farm for its LAN) is left out until then; one
/// that runs is never left out because something that it once waited for is gone.
pub fn reconcile(observed: &Observed) -> Desired {
    desired(View::new(observed, Gates::Closed))
}

/// What will run when all that is waited for has come true: what a plan shows.
pub fn reconcile_eventually(observed: &Observed) -> Desired {
    desired(View::new(observed, Gates::Open))
}

fn desired(mut view: View<'_>) -> Desired {
    let mut desired = Desired { claims: std::mem::take(&mut view.claims), ..Desired::default() };
    let view = &view;
    lan::node_agent(view, &mut desired);
    view.images().for_each(|(reference, image)| image::desire(view, reference, image, &mut desired));
    view.lans().for_each(|(reference, lan)| lan::desire(view, reference, lan, &mut desired));
    view.farms().for_each(|(reference, farm)| farm::desire(view, reference, farm, &mut desired));
    view.farms().for_each(|(reference, farm)| rehearsal::desire(view, reference, farm, &mut desired));
    view.servers().for_each(|(reference, server)| server::desire(view, reference, server, &mut desired));
    view.machines().for_each(|(reference, machine)| machine::desire(view, reference, machine, &mut desired));
    view.machine_sets().for_each(|(reference, set)| machine_set::desire(view, reference, set, &mut desired));
    machine_set::orphans(view, &mut desired);
    desired
}

#[cfg(test)]
mod tests;
