//! `Machine`: one `vm` workload.
//!
//! ```text
//!   wanted off, or waiting      farm serves, wanted on
//!   (no workload) ------------------------------------> vm, power On  <---->  vm, power Off
//!                                                                 stoke start / stop, runStrategy
//! ```
//!
//! A machine that runs is never stopped because something that it once waited for is gone.

use jiff::Timestamp;
use stoke_api::node::Phase;
use stoke_api::objects::{Kind, MachineStatus, NodeState, Power, RunStrategy, UefiLoader, VmSpec};
use stoke_api::report::VmReport;
use stoke_api::workload::{FirmwareKind, Role, TrustedKeys, VmConfig, VmNic, Workload};
use stoke_api::{Condition, ObjectRef};

use crate::names::{key, machine_uuid, nic_mac};
use crate::observed::Desired;
use crate::status::{Status, Waiting, condition, push, ready_condition};
use crate::view::{Machine, View, sibling};
use crate::{farm, lan, node_config, places, ports, rollout, server, trust};

/// Seconds that a guest has to shut down.
const GRACE_SECONDS: u32 = 30;
/// A session whose stamp is this much older than the machine's start is of an earlier boot. Stamps have whole seconds.
const SESSION_SLACK_MS: u64 = 1_000;

pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, machine: &Machine, desired: &mut Desired) {
    let name = workload_name(reference);
    let gate = may_start(view, reference, machine);
    let wanted = view.kept(&name) || (power(machine) == Power::On && view.passes(&name, &gate));
    let status = status(view, reference, machine, &gate);
    let before = machine.status.node.as_ref().map(|node| node.phase);
    server::phase_event(desired, reference, before, status.node.as_ref());
    trust::events(desired, reference, machine.status.node.as_ref(), status.node.as_ref());
    push(desired, reference, &machine.status.conditions, Status::Machine(status));
    if let Some(vm) = machine.spec.vm.as_ref().filter(|_| wanted) {
        let config = match view.told_before(reference, &name) {
            Some(Role::Vm(before)) => {
                let reboots_requested = reboots_requested(view, reference, machine);
                VmConfig { power: power(machine), reboots_requested, ..before.clone() }
            }
            _ => config(view, reference, machine, vm),
        };
        let role = Role::Vm(config);
        desired.workloads.push(Workload { owner: reference.clone(), role });
    }
}

fn workload_name(machine: &ObjectRef) -> String {
    format!("vm-{}", key(machine).replace('/', "-"))
}

fn farm_of(reference: &ObjectRef, machine: &Machine) -> Option<ObjectRef> {
    machine.spec.farm.as_ref().map(|farm| sibling(reference, Kind::Farm, farm))
}

fn power(machine: &Machine) -> Power {
    let off = match machine.spec.run_strategy {
        RunStrategy::Halted => true,
        RunStrategy::Manual => !machine.status.start_requested,
        RunStrategy::Always | RunStrategy::RerunOnFailure | RunStrategy::Once => false,
    };
    if off || machine.status.stop_requested { Power::Off } else { Power::On }
}

fn may_start(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> Result<(), Waiting> {
    view.valid(reference)?;
    for nic in &machine.spec.nics {
        let lan = sibling(reference, Kind::Lan, &nic.lan);
        let wait = |why: Waiting| Waiting::new("WaitingForLan", format!("waiting for {lan}: {}", why.message));
        lan::serves(view, &lan).map_err(wait)?;
    }
    farm_of(reference, machine).map_or(Ok(()), |farm| farm::serves(view, &farm))?;
    secure_boot(view, reference, machine).map(|_| ())
}

/// Whose keys the machine's firmware trusts, if it starts nothing that is not signed.
///
/// # Errors
/// If its farm has nothing that is signed by a key that it could trust.
fn secure_boot(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> Result<Option<TrustedKeys>, Waiting> {
    let uefi = machine.spec.vm.as_ref().and_then(|vm| vm.firmware.uefi.as_ref());
    let wanted = uefi.is_some_and(|uefi| uefi.secure_boot);
    let Some(farm) = farm_of(reference, machine).filter(|_| wanted) else {
        return Ok(wanted.then_some(TrustedKeys::Microsoft));
    };
    if let Some(keys) = view.environment().farm_keys.get(&key(&farm)) {
        let folder = places::secure_boot(view, &keys.folder);
        return Ok(Some(TrustedKeys::Farm { folder, fingerprint: keys.fingerprint.clone() }));
    }
    match view.farm(&farm) {
        Some(spec) if spec.spec.boot.loader.uefi == UefiLoader::Shim => Ok(Some(TrustedKeys::Microsoft)),
        _ => {
            let name = &farm.name;
            let message = format!(
                "{farm} has nothing that Secure Boot would start: make keys by `stoke farm keys create {name}`, or let it \
                 load the distribution's signed programs by `boot: {{loader: {{uefi: Shim}}}}`"
            );
            Err(Waiting::new("NothingSigned", message))
        }
    }
}

fn config(view: &View<'_>, reference: &ObjectRef, machine: &Machine, vm: &VmSpec) -> VmConfig {
    let nic = |nic: &stoke_api::objects::Nic| VmNic {
        name: nic.name.to_string(),
        lan: sibling(reference, Kind::Lan, &nic.lan),
        mac: nic_mac(reference, nic),
    };
    VmConfig {
        machine: reference.clone(),
        uuid: machine_uuid(reference, machine.metadata.uid.as_deref()),
        cpus: vm.cpus,
        memory: vm.memory,
        firmware: if vm.firmware.bios.is_some() { FirmwareKind::Bios } else { FirmwareKind::Uefi },
        secure_boot: secure_boot(view, reference, machine).ok().flatten(),
        tpm: vm.tpm,
        nics: machine.spec.nics.iter().map(nic).collect(),
        disks: vm.disks.clone(),
        power: power(machine),
        run_strategy: machine.spec.run_strategy,
        reboots_requested: reboots_requested(view, reference, machine),
        grace_seconds: GRACE_SECONDS,
        state: places::machine(view, reference),
        run: places::machine_run(view, &workload_name(reference)),
        ports_socket: places::ports_socket(view),
    }
}

fn status(view: &View<'_>, reference: &ObjectRef, machine: &Machine, gate: &Result<(), Waiting>) -> MachineStatus {
    let vm = report(view, reference);
    let node = vm.and_then(|vm| node(view, reference, machine, vm));
    let on = vm.is_some_and(|vm| vm.power == Power::On);
    let state = state(view, reference, machine, vm, node.as_ref(), gate);
    let mut conditions = vec![ready_condition(&state), running(on, vm, &state)];
    conditions.extend(vm.and_then(accelerated));
    conditions.extend(trusted(view, reference, machine, node.as_ref().filter(|_| on)));
    conditions.extend(ports::exposed(view, reference, machine));
    conditions.extend(server::writable_layer(node.as_ref()));
    conditions.extend(node_config::configured(node.as_ref()));
    MachineStatus {
        conditions,
        observed_generation: machine.metadata.generation.unwrap_or_default(),
        power: if on { Power::On } else { Power::Off },
        stop_requested: machine.status.stop_requested,
        start_requested: machine.status.start_requested && !has_ended(view, reference, machine),
        image: farm_of(reference, machine).and_then(|farm| farm::image_of(view, &farm, reference)),
        enrolment: machine.status.enrolment.clone(),
        reboots_requested: machine.status.reboots_requested,
        accelerator: vm.map(|vm| vm.accelerator.clone()).unwrap_or_default(),
        links: vm.map(|vm| vm.links.clone()).unwrap_or_default(),
        node,
    }
}

/// Whether a machine that runs when somebody asks for it has ended by itself since it was told to be on.
fn has_ended(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> bool {
    let told = view.workload(&workload_name(reference)).and_then(|seen| seen.workload.as_ref()).map(|told| &told.role);
    let told_on = matches!(told, Some(Role::Vm(config)) if config.power == Power::On);
    let ended = |vm: &VmReport| vm.ended && vm.power == Power::Off;
    machine.spec.run_strategy == RunStrategy::Manual && told_on && report(view, reference).is_some_and(ended)
}

/// Whether its guest is on.
pub(crate) fn is_on(view: &View<'_>, reference: &ObjectRef) -> Power {
    report(view, reference).map_or(Power::Off, |vm| vm.power)
}

/// What is to be said of its proof and its secrets.
fn trusted(view: &View<'_>, reference: &ObjectRef, machine: &Machine, node: Option<&NodeState>) -> Vec<Condition> {
    let Some(farm) = farm_of(reference, machine).and_then(|farm| view.farm(&farm)) else { return Vec::new() };
    trust::conditions(view, farm, &farm::node_config(view, farm, reference, &machine.spec.config), node)
}

/// What the machine's stoke-vm says. A machine goes on while that is started again: what it said last holds until it says
/// more.
fn report<'a>(view: &View<'a>, reference: &ObjectRef) -> Option<&'a VmReport> {
    let name = workload_name(reference);
    let fails = view.workload(&name).is_some_and(|seen| seen.failure.is_some() && !seen.running);
    view.vm_report(&name).filter(|_| view.kept(&name) && !fails)
}

fn running(on: bool, vm: Option<&VmReport>, state: &Result<(&'static str, String), Waiting>) -> Condition {
    let word = vm.map(|vm| vm.state.clone()).unwrap_or_default();
    match (on, state) {
        (true, _) => condition("Running", true, "PoweredOn", word),
        (false, Err(why)) => condition("Running", false, why.reason, why.message.clone()),
        (false, Ok(_)) => condition("Running", false, "PoweredOff", word),
    }
}

fn accelerated(vm: &VmReport) -> Option<Condition> {
    let kvm = vm.accelerator == "kvm";
    let reason = if kvm { "Kvm" } else { "Emulated" };
    (!vm.accelerator.is_empty()).then(|| condition("Accelerated", kvm, reason, vm.accelerator_reason.clone()))
}

fn state(
    view: &View<'_>,
    reference: &ObjectRef,
    machine: &Machine,
    vm: Option<&VmReport>,
    node: Option<&NodeState>,
    gate: &Result<(), Waiting>,
) -> Result<(&'static str, String), Waiting> {
    view.valid(reference)?;
    if machine.status.stop_requested {
        return Err(stopping(vm, "stopped by request; `stoke start` takes it back"));
    }
    if machine.spec.run_strategy == RunStrategy::Halted {
        return Err(stopping(vm, "its run strategy is Halted"));
    }
    if power(machine) == Power::Off {
        return Err(stopping(vm, "its run strategy is Manual; `stoke start` starts it"));
    }
    if vm.is_some_and(|vm| reboots(view, reference, machine, vm)) {
        return Err(Waiting::new("Rebooting", "it is rebooting by request"));
    }
    let Some(vm) = vm else {
        gate.clone()?;
        view.started(&workload_name(reference))?;
        return Err(Waiting::new("Starting", "the hypervisor is starting"));
    };
    match (&vm.failure, vm.power) {
        (Some(failure), _) => Err(Waiting::new("Failed", failure.clone())),
        (None, Power::Off) => Err(Waiting::new("PoweredOff", "it is off")),
        (None, Power::On) => match node {
            Some(node) => server::node_ready(node),
            None => Err(Waiting::new("Booting", "booting: the firmware is starting")),
        },
    }
}

fn stopping(vm: Option<&VmReport>, message: &str) -> Waiting {
    match vm {
        Some(vm) if vm.power == Power::On => Waiting::new("Stopping", "it is shutting down"),
        _ => Waiting::new("Stopped", message),
    }
}

/// Reboots that its hypervisor was asked for, by people and by updates.
fn reboots_requested(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> u64 {
    let updates = farm_of(reference, machine).map_or(0, |farm| rollout::resets(view, &farm, reference));
    machine.status.reboots_requested + updates
}

/// Whether it was asked to reboot and has not done so yet.
fn reboots(view: &View<'_>, reference: &ObjectRef, machine: &Machine, vm: &VmReport) -> bool {
    vm.power == Power::On && reboots_requested(view, reference, machine) > vm.reboots
}

/// Whether the machine's node is up: of the boot that runs, and not on its way down.
pub(crate) fn is_ready(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> bool {
    current_node(view, reference, machine).is_some_and(|node| node.ready)
}

/// What is known of the machine's node in the boot that runs.
pub(crate) fn current_node(view: &View<'_>, reference: &ObjectRef, machine: &Machine) -> Option<NodeState> {
    report(view, reference).and_then(|vm| node(view, reference, machine, vm))
}

/// What is known of the boot that runs, which ends when the machine was asked to go down.
fn node(view: &View<'_>, reference: &ObjectRef, machine: &Machine, vm: &VmReport) -> Option<NodeState> {
    let state = running_boot(view, reference, machine, vm)?;
    if power(machine) == Power::On && !reboots(view, reference, machine, vm) {
        return Some(state);
    }
    Some(NodeState { phase: Phase::Stopping, ready: false, ..state })
}

/// What was reported since the machine was started or reset. Anything older is of an earlier boot.
fn running_boot(view: &View<'_>, reference: &ObjectRef, machine: &Machine, vm: &VmReport) -> Option<NodeState> {
    let farm = farm_of(reference, machine)?;
    let started = vm.started_ms.filter(|_| vm.power == Power::On)?;
    let begun = |state: &NodeState| {
        let stamp = state.boot_started.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
        stamp.and_then(|ms| u64::try_from(ms).ok()).is_none_or(|ms| ms.saturating_add(SESSION_SLACK_MS) >= started)
    };
    let state = farm::node_state(view, &farm, reference).filter(|state| begun(state));
    if let Some(state) = state.filter(|state| state.phase != Phase::Unknown) {
        return Some(state.clone());
    }
    let router = lan::router_name(&sibling(&farm, Kind::Lan, &view.farm(&farm)?.spec.lan));
    let asked = *view.router_report(&router)?.boot_requests.get(&reference.to_string())?;
    (asked >= started).then(|| NodeState { phase: Phase::Firmware, ..NodeState::default() })
}
