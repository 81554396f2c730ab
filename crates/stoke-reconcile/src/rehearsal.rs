//! The machine in which a version is tried before any node gets it: a `vm` workload of the farm's own, on the farm's LAN, with
//! the configuration of one of its nodes. It is there while the rehearsal runs and no longer.
//!
//! What it never has: a secret, a node's name or address, or a disk.

use stoke_api::ObjectRef;
use stoke_api::objects::{NodeConfig, Power, Rehearsal, RehearsalPhase, RehearsalSpec, RunStrategy};
use stoke_api::workload::{FarmNode, FirmwareKind, Role, RouterHost, VmConfig, VmNic, Workload};

use crate::names::{key, rehearsal_mac, rehearsal_uuid};
use crate::observed::Desired;
use crate::view::{Farm, View};
use crate::{farm, places};

/// Seconds that its system has to shut down. Nothing of it is kept.
const GRACE_SECONDS: u32 = 1;

/// The rehearsal that runs, and how it is wanted.
fn running(farm: &Farm) -> Option<(&Rehearsal, &RehearsalSpec)> {
    let rehearsal = farm.status.rollout.as_ref()?.rehearsal.as_ref()?;
    let spec = farm.spec.update.as_ref()?.rehearsal.as_ref()?;
    (rehearsal.phase == RehearsalPhase::Running).then_some((rehearsal, spec))
}

/// The machine of a rehearsal that runs.
pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, farm: &Farm, desired: &mut Desired) {
    let Some((rehearsal, spec)) = running(farm) else { return };
    let owner = reference.clone();
    let mut workload = Workload { owner, role: Role::Vm(config(view, reference, farm, rehearsal, spec)) };
    let name = workload.name();
    if let Role::Vm(vm) = &mut workload.role {
        vm.run = places::machine_run(view, &name);
    }
    // The machine of the rehearsal before has the same folder: it goes first.
    let others = format!("rehearsal-{}.", key(reference).replace('/', "-"));
    let other_runs = view.workload_names().any(|other| other.starts_with(&others) && *other != name);
    if let Some(before) = view.told_before(reference, &name) {
        workload.role = before.clone();
    }
    if !other_runs && view.passes(&name, &farm::serves(view, reference)) {
        desired.workloads.push(workload);
    }
}

fn config(
    view: &View<'_>,
    reference: &ObjectRef,
    farm: &Farm,
    rehearsal: &Rehearsal,
    spec: &RehearsalSpec,
) -> VmConfig {
    let lan = farm::lan_of(reference, farm);
    VmConfig {
        machine: reference.clone(),
        uuid: rehearsal_uuid(reference, rehearsal),
        cpus: spec.cpus,
        memory: spec.memory,
        firmware: if spec.firmware.bios.is_some() { FirmwareKind::Bios } else { FirmwareKind::Uefi },
        secure_boot: None,
        tpm: false,
        nics: vec![VmNic { name: "lan".to_owned(), lan, mac: rehearsal_mac(reference) }],
        disks: Vec::new(),
        power: Power::On,
        run_strategy: RunStrategy::Always,
        reboots_requested: 0,
        grace_seconds: GRACE_SECONDS,
        state: places::rehearsal(view, reference),
        run: view.environment().run.clone(),
        ports_socket: places::ports_socket(view),
    }
}

/// What it is called in the LAN.
fn hostname(reference: &ObjectRef) -> String {
    format!("rehearsal-{}", reference.name)
}

/// The machine as a node of the farm.
pub(crate) fn node(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Option<FarmNode> {
    let (rehearsal, _) = running(farm)?;
    let like =
        farm::nodes(view, reference, farm).into_iter().find(|node| Some(&node.owner) == rehearsal.stands_for.as_ref());
    let like = like.map_or_else(|| farm.spec.config.clone(), |node| node.config);
    Some(FarmNode {
        owner: reference.clone(),
        macs: vec![rehearsal_mac(reference)],
        uuid: Some(rehearsal_uuid(reference, rehearsal)),
        config: node_config(&like, &hostname(reference)),
        scopes: Vec::new(),
        root: None,
        enrolment: None,
        reboots_requested: 0,
        image: Some(rehearsal.image),
        kexec: false,
    })
}

/// The machine as the router of the farm's LAN knows it.
pub(crate) fn host(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Option<RouterHost> {
    let (rehearsal, _) = running(farm)?;
    Some(RouterHost {
        owner: reference.clone(),
        hostname: hostname(reference),
        macs: vec![rehearsal_mac(reference)],
        uuid: Some(rehearsal_uuid(reference, rehearsal)),
        client_id: None,
        address: None,
        farm: Some(key(reference)),
        kernels: farm::kernels_of(view, reference, reference),
    })
}

/// The configuration of a node without what only that node may have: its name, addresses, disks, secrets.
pub(crate) fn node_config(config: &NodeConfig, hostname: &str) -> NodeConfig {
    let is_plain = |file: &stoke_api::objects::FileEntry| file.secret.is_none();
    NodeConfig {
        hostname: Some(hostname.to_owned()),
        interfaces: Vec::new(),
        mounts: Vec::new(),
        swap: Vec::new(),
        files: config.files.iter().filter(|file| is_plain(file)).cloned().collect(),
        ..config.clone()
    }
}
