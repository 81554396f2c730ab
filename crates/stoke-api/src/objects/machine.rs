//! `Machine`: one virtual machine.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Enrolment, ImagePin, MachinePort, NodeConfig, NodeState, Problem, Scheduling, ServiceType, TargetRef, VmDisk, disk,
    machine_port,
};
use crate::names::{Bytes, Digest, MacAddr, ObjectName};
use crate::{Condition, LinkName};

/// One machine: exactly one of its variants, and what is common to all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineSpec {
    /// A virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmSpec>,
    /// The farm that feeds it, if it boots from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub farm: Option<TargetRef>,
    /// Network interfaces; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Ports of its first interface that a Service of its name leads to, in a cluster; keyed by `name`. On one host nothing
    /// does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<MachinePort>,
    /// From where that Service is reached.
    #[serde(default, skip_serializing_if = "ServiceType::is_default")]
    pub service_type: ServiceType,
    /// When it runs.
    #[serde(default)]
    pub run_strategy: RunStrategy,
    /// The one version that it boots, whatever newer ones there are: `NAME@sha256:…` or `NAME:` and the first digits of its
    /// digest. What its farm hands out if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePin>,
    /// Where it runs in a cluster.
    #[serde(default, skip_serializing_if = "Scheduling::is_default")]
    pub scheduling: Scheduling,
    /// Configuration that goes over the farm's.
    #[serde(default)]
    pub config: NodeConfig,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmSpec {
    /// Number of virtual processors.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 255))]
    pub cpus: u32,
    /// Memory.
    #[serde(default = "one_gibibyte")]
    pub memory: Bytes,
    /// What starts first; UEFI if absent.
    #[serde(default)]
    pub firmware: Firmware,
    /// Whether it has a TPM 2.0. Its state is kept; it goes when the machine is purged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tpm: bool,
    /// Where the firmware finds the system.
    #[serde(default)]
    pub boot: BootOrder,
    /// Disks beside what it boots from; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<VmDisk>,
}

fn one() -> u32 {
    1
}

fn one_gibibyte() -> Bytes {
    Bytes(1 << 30)
}

/// What starts first: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Firmware {
    /// A PC BIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<Bios>,
    /// UEFI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi: Option<Uefi>,
}

/// A PC BIOS; it has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bios {}

/// UEFI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uefi {
    /// Whether it starts only boot programs that were signed by a key that it trusts: its farm's own if that has keys
    /// (`stoke farm keys`), else those that machines are sold with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure_boot: bool,
}

/// Where the firmware finds the system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootOrder {
    /// The first place.
    #[serde(default)]
    pub from: BootFrom,
}

/// Where the firmware finds the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BootFrom {
    /// A farm on the first interface's LAN.
    #[default]
    Network,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nic {
    /// Its name in this machine's description.
    pub name: ObjectName,
    /// The LAN that it is on.
    pub lan: TargetRef,
    /// Its link-layer address; one made from the machine's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its address; one from the pools if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// When a machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunStrategy {
    /// Always: it is started again when it ends.
    #[default]
    Always,
    /// Until it has ended well: it is started again when its hypervisor fails, not when its system switched it off.
    RerunOnFailure,
    /// Once: it is not started again when it has ended by itself.
    Once,
    /// When somebody asks for it: from `stoke start` until it ends by itself, or `stoke stop`.
    Manual,
    /// Not at all.
    Halted,
}

/// Whether a machine is on; what was asked for, and what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Power {
    /// It runs.
    #[default]
    On,
    /// It does not.
    Off,
}

/// What is known of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Conditions: `Ready`, `Running`, `Accelerated`, `Exposed` if it has ports, and `WritableLayer` once that has been full.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// Whether it is on.
    #[serde(default = "off")]
    pub power: Power,
    /// Set by `stoke stop`, taken back by `stoke start`; the run strategy stays as it is written.
    #[serde(default)]
    pub stop_requested: bool,
    /// With `runStrategy: Manual`, set by `stoke start`; taken back by `stoke stop`, and when it has ended by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_requested: bool,
    /// The version that it gets when it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// The TPM that was accepted: `stoke farm enroll`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
    /// Grows with each `stoke reboot`.
    #[serde(default)]
    pub reboots_requested: u64,
    /// `kvm` or `tcg`; why is in the condition `Accelerated`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub accelerator: String,
    /// Interface to LAN: the link's name on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkName>,
    /// What the system inside reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeState>,
}

fn off() -> Power {
    Power::Off
}

impl MachineSpec {
    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.config.check("spec.config");
        problems.extend(self.scheduling.check("spec.scheduling"));
        problems.extend(machine_port::check(&self.ports, self.nics.len()));
        match &self.vm {
            None => problems.push(Problem::new("spec", "name one variant: vm")),
            Some(vm) => self.check_vm(vm, &mut problems),
        }
        for (index, nic) in self.nics.iter().enumerate() {
            if self.nics.iter().take(index).any(|earlier| earlier.name == nic.name) {
                let message = format!("{:?} is already the name of another interface", nic.name.as_str());
                problems.push(Problem::new(format!("spec.nics[{index}].name"), message));
            }
            if let Some(mac) = nic.mac.filter(|mac| !mac.is_unicast()) {
                let message = format!("{mac} is no address of one interface (it is a group's, or all zeroes)");
                problems.push(Problem::new(format!("spec.nics[{index}].mac"), message));
            }
        }
        problems
    }

    fn check_vm(&self, vm: &VmSpec, problems: &mut Vec<Problem>) {
        if !(1..=255).contains(&vm.cpus) {
            problems.push(Problem::new("spec.vm.cpus", format!("{} is not between 1 and 255", vm.cpus)));
        }
        if vm.memory < Bytes(64 << 20) {
            let message = format!("{} is too little; the smallest machine has 64Mi", vm.memory);
            problems.push(Problem::new("spec.vm.memory", message));
        }
        if vm.firmware.bios.is_some() && vm.firmware.uefi.is_some() {
            problems.push(Problem::new("spec.vm.firmware", "name one firmware: bios or uefi"));
        }
        problems.extend(disk::check(&vm.disks));
        if vm.boot.from == BootFrom::Network && self.nics.is_empty() {
            problems.push(Problem::new("spec.nics", "a machine that boots from the network needs an interface"));
        }
        if vm.boot.from == BootFrom::Network && self.farm.is_none() {
            problems.push(Problem::new("spec.farm", "a machine that boots from the network needs a farm"));
        }
    }
}
