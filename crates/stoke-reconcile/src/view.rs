//! The observed state, indexed: objects by reference, problems by object, workloads by what they serve.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::objects::{
    AnyObject, FarmSpec, FarmStatus, ImageSpec, ImageStatus, Kind, LanSpec, LanStatus, MachineSetSpec,
    MachineSetStatus, MachineSpec, MachineStatus, Problem, ServerSpec, ServerStatus, TargetRef,
};
use stoke_api::report::{FarmReport, ImageBuildReport, NodeAgentReport, Report, RouterReport, VmReport};
use stoke_api::workload::Role;
use stoke_api::{Object, ObjectRef};

use crate::claims::Claims;
use crate::ltsp::FarmLtsp;
use crate::observed::{Environment, Layout, Observed, ObservedWorkload};
use crate::status::Waiting;

pub(crate) type Image = Object<ImageSpec, ImageStatus>;
pub(crate) type Lan = Object<LanSpec, LanStatus>;
pub(crate) type Farm = Object<FarmSpec, FarmStatus>;
pub(crate) type Server = Object<ServerSpec, ServerStatus>;
pub(crate) type Machine = Object<MachineSpec, MachineStatus>;
pub(crate) type MachineSet = Object<MachineSetSpec, MachineSetStatus>;

/// Whether workloads wait for each other. A plan shows what comes after the waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gates {
    Closed,
    Open,
}

pub(crate) struct View<'a> {
    observed: &'a Observed,
    gates: Gates,
    objects: BTreeMap<ObjectRef, &'a AnyObject>,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Who shall have what only one may have.
    pub(crate) claims: Claims,
    /// Farms' configurations of LTSP, read when one is asked for.
    ltsp: OnceCell<BTreeMap<ObjectRef, FarmLtsp>>,
    /// Addresses of farms that name none, in pods.
    own_addresses: OnceCell<BTreeMap<ObjectRef, Option<Ipv4Addr>>>,
    /// Network identifiers of LANs, in a cluster.
    vnis: OnceCell<BTreeMap<ObjectRef, Result<u32, ObjectRef>>>,
}

macro_rules! of_kind {
    ($all:ident, $one:ident, $type:ident) => {
        pub(crate) fn $all(&self) -> impl Iterator<Item = (&ObjectRef, &'a $type)> {
            self.objects.iter().filter_map(|(reference, object)| match object {
                AnyObject::$type(object) => Some((reference, object)),
                _ => None,
            })
        }
        pub(crate) fn $one(&self, reference: &ObjectRef) -> Option<&'a $type> {
            match self.objects.get(reference) {
                Some(AnyObject::$type(object)) => Some(object),
                _ => None,
            }
        }
    };
}

macro_rules! report_of {
    ($name:ident, $variant:ident, $type:ty) => {
        pub(crate) fn $name(&self, workload: &str) -> Option<&'a $type> {
            match self.workload(workload)?.report.as_ref()? {
                Report::$variant(report) => Some(report),
                _ => None,
            }
        }
    };
}

impl<'a> View<'a> {
    pub(crate) fn new(observed: &'a Observed, gates: Gates) -> Self {
        let objects = observed.objects.iter().map(|object| (object.reference(), object)).collect();
        let mut problems = BTreeMap::<_, Vec<_>>::new();
        let (found, claims) = crate::check::look(&observed.objects, &observed.environment);
        for (object, problem) in found {
            problems.entry(object).or_default().push(problem);
        }
        Self {
            observed,
            gates,
            objects,
            problems,
            claims,
            ltsp: OnceCell::new(),
            own_addresses: OnceCell::new(),
            vnis: OnceCell::new(),
        }
    }

    /// A farm's configuration of LTSP.
    pub(crate) fn ltsp_of(&self, farm: &Farm) -> Option<&FarmLtsp> {
        let all = self.ltsp.get_or_init(|| crate::ltsp::of_farms(self));
        let is_it = |reference: &&ObjectRef| self.farm(reference).is_some_and(|other| std::ptr::eq(other, farm));
        all.get(all.keys().find(is_it)?)
    }

    /// The address of a farm that names none and has a network namespace of its own.
    pub(crate) fn own_address(&self, farm: &ObjectRef) -> Option<Ipv4Addr> {
        *self
            .own_addresses
            .get_or_init(|| crate::own_address::choose(&self.observed.objects, self.environment()))
            .get(farm)?
    }

    /// The network identifier of a LAN in a cluster.
    pub(crate) fn vni(&self, lan: &ObjectRef) -> Option<u32> {
        if self.environment().layout == Layout::Host {
            return None;
        }
        let all = self.vnis.get_or_init(|| crate::vni::assign(&self.observed.objects, self.environment()));
        all.get(lan)?.as_ref().ok().copied()
    }

    /// The object of this name.
    pub(crate) fn object(&self, reference: &ObjectRef) -> Option<&'a AnyObject> {
        self.objects.get(reference).copied()
    }

    of_kind!(images, image, Image);
    of_kind!(lans, lan, Lan);
    of_kind!(farms, farm, Farm);
    of_kind!(servers, server, Server);
    of_kind!(machines, machine, Machine);

    pub(crate) fn machine_sets(&self) -> impl Iterator<Item = (&ObjectRef, &'a MachineSet)> {
        self.objects.iter().filter_map(|(reference, object)| match object {
            AnyObject::MachineSet(object) => Some((reference, object)),
            _ => None,
        })
    }

    report_of!(node_report, Node, NodeAgentReport);
    report_of!(router_report, Router, RouterReport);
    report_of!(farm_report, Farm, FarmReport);
    report_of!(vm_report, Vm, VmReport);
    report_of!(build_report, ImageBuild, ImageBuildReport);

    pub(crate) fn environment(&self) -> &'a Environment {
        &self.observed.environment
    }

    pub(crate) fn workload(&self, name: &str) -> Option<&'a ObservedWorkload> {
        self.observed.workloads.get(name)
    }

    /// What a workload goes on with whose object cannot be as it is written now: what it was told before. So nobody reaches by
    /// a change of an object what a new object would not be given.
    pub(crate) fn told_before(&self, object: &ObjectRef, workload: &str) -> Option<&'a Role> {
        let told = self.workload(workload)?.workload.as_ref()?;
        self.valid(object).is_err().then_some(&told.role)
    }

    pub(crate) fn workload_names(&self) -> impl Iterator<Item = &'a String> {
        self.observed.workloads.keys()
    }

    pub(crate) fn kept(&self, workload: &str) -> bool {
        self.workload(workload).is_some_and(|workload| workload.kept)
    }

    pub(crate) fn runs(&self, workload: &str) -> bool {
        self.workload(workload).is_some_and(|workload| workload.running)
    }

    /// Whether a workload should be there: it is there, or what it waits for has come true.
    pub(crate) fn passes<T>(&self, workload: &str, gate: &Result<T, Waiting>) -> bool {
        gate.is_ok() || self.gates == Gates::Open || self.kept(workload)
    }

    /// What is wrong with an object, in one sentence.
    pub(crate) fn valid(&self, object: &ObjectRef) -> Result<(), Waiting> {
        let Some(problems) = self.problems.get(object) else { return Ok(()) };
        let lines = problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message));
        Err(Waiting::new("Invalid", lines.collect::<Vec<_>>().join("; ")))
    }

    /// What is wrong with a workload's process: it does not run, or it says so.
    pub(crate) fn started(&self, workload: &str) -> Result<(), Waiting> {
        let Some(seen) = self.workload(workload) else {
            return Err(Waiting::new("Starting", format!("{workload} is about to start")));
        };
        match &seen.failure {
            Some(failure) => Err(Waiting::new("Failed", format!("{workload}: {failure}"))),
            None if !seen.running => Err(Waiting::new("Starting", format!("{workload} is not running"))),
            None => Ok(()),
        }
    }
}

/// The object that `owner` means by `target`.
pub(crate) fn sibling(owner: &ObjectRef, kind: Kind, target: &TargetRef) -> ObjectRef {
    target.of(owner, kind)
}
