//! Where a workload finds its folders, sockets and interface: on one host each at a path of its own below the installation's
//! folders, in pods all at the same ones, since each pod has its own.

use std::path::PathBuf;

use stoke_api::agent::{LAN_INTERFACE, POD_FOLDER, PORTS_SOCKET};
use stoke_api::workload::pod;
use stoke_api::{LinkName, ObjectRef};

use crate::names::{self, farm_folder, file_name, machine_folder, workload_folder};
use crate::observed::Layout;
use crate::view::View;

/// Where a farm finds what is its own.
pub(crate) struct FarmPlaces {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) sessions: PathBuf,
    pub(crate) host_keys: PathBuf,
}

fn in_pods(view: &View<'_>) -> bool {
    view.environment().layout == Layout::Pods
}

/// The interface that the roles of a LAN serve on.
pub(crate) fn interface(view: &View<'_>, lan: &ObjectRef) -> Option<LinkName> {
    if in_pods(view) { LAN_INTERFACE.parse().ok() } else { names::bridge(&view.environment().installation, lan) }
}

/// The journal of a LAN's leases.
pub(crate) fn leases(view: &View<'_>, lan: &ObjectRef) -> PathBuf {
    let state = if in_pods(view) { pod::STATE.into() } else { view.environment().state.clone() };
    state.join("leases").join(format!("{}.journal", file_name(lan)))
}

/// A copy of these leases: a pod may come to another volume than the one before had.
pub(crate) fn seed(view: &View<'_>) -> Option<PathBuf> {
    in_pods(view).then(|| PathBuf::from(pod::LEASES).join(pod::JOURNAL))
}

/// Where LAN ports are asked for.
pub(crate) fn ports_socket(view: &View<'_>) -> PathBuf {
    let run = if in_pods(view) { POD_FOLDER.into() } else { view.environment().run.clone() };
    run.join(PORTS_SOCKET)
}

/// The store of images.
pub(crate) fn images(view: &View<'_>) -> PathBuf {
    if in_pods(view) { pod::IMAGES.into() } else { view.environment().state.join("images") }
}

/// What is a replica's own.
pub(crate) fn farm(view: &View<'_>, farm: &ObjectRef, replica: u32) -> FarmPlaces {
    if in_pods(view) {
        let (state, private) = (PathBuf::from(pod::STATE), PathBuf::from(pod::PRIVATE));
        return FarmPlaces {
            certificate: private.join(pod::CERTIFICATE),
            key: private.join(pod::KEY),
            sessions: state.join("sessions"),
            host_keys: state.join("host-keys"),
        };
    }
    let shared = farm_folder(&view.environment().state, farm);
    let own = if replica == 0 { shared.clone() } else { shared.join("replicas").join(replica.to_string()) };
    FarmPlaces {
        certificate: own.join(pod::CERTIFICATE),
        key: own.join(pod::KEY),
        sessions: own.join("sessions"),
        host_keys: shared.join("host-keys"),
    }
}

/// The folder of a farm's keys for Secure Boot, as a machine sees it whose folder here is this one.
pub(crate) fn secure_boot(view: &View<'_>, here: &std::path::Path) -> PathBuf {
    if in_pods(view) { pod::SECURE_BOOT.into() } else { here.to_owned() }
}

/// What a machine remembers: its disks, firmware variables, console.
pub(crate) fn machine(view: &View<'_>, machine: &ObjectRef) -> PathBuf {
    if in_pods(view) { pod::STATE.into() } else { machine_folder(&view.environment().state, machine) }
}

/// The same of the machine in which a farm tries versions.
pub(crate) fn rehearsal(view: &View<'_>, farm: &ObjectRef) -> PathBuf {
    if in_pods(view) { pod::STATE.into() } else { farm_folder(&view.environment().state, farm).join("rehearsal") }
}

/// A machine's sockets.
pub(crate) fn machine_run(view: &View<'_>, workload: &str) -> PathBuf {
    if in_pods(view) { POD_FOLDER.into() } else { workload_folder(&view.environment().run, workload) }
}
