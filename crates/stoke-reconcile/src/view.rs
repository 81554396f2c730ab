//! The observed state, indexed: objects by reference, problems by object, workloads by what they serve.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use stoke_api::objects::{
    AnyObject, FarmSpec, FarmStatus, ImageSpec, ImageStatus, Kind, LanSpec, LanStatus, MachineSpec, MachineStatus,
    Problem, ServerSpec, ServerStatus,
};
use stoke_api::report::{FarmReport, ImageBuildReport, NodeAgentReport, Report, RouterReport, VmReport};
use stoke_api::{Object, ObjectName, ObjectRef};

use crate::ltsp::FarmLtsp;
use crate::observed::{Environment, Observed, ObservedWorkload};
use crate::status::Waiting;

pub(crate) type Image = Object<ImageSpec, ImageStatus>;
pub(crate) type Lan = Object<LanSpec, LanStatus>;
pub(crate) type Farm = Object<FarmSpec, FarmStatus>;
pub(crate) type Server = Object<ServerSpec, ServerStatus>;
pub(crate) type Machine = Object<MachineSpec, MachineStatus>;

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
    /// Farms' configurations of LTSP, read when one is asked for.
    ltsp: OnceCell<BTreeMap<ObjectRef, FarmLtsp>>,
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
        for (object, problem) in crate::check(&observed.objects) {
            problems.entry(object).or_default().push(problem);
        }
        Self { observed, gates, objects, problems, ltsp: OnceCell::new() }
    }

    /// A farm's configuration of LTSP.
    pub(crate) fn ltsp_of(&self, farm: &Farm) -> Option<&FarmLtsp> {
        let all = self.ltsp.get_or_init(|| crate::ltsp::of_farms(self));
        let is_it = |reference: &&ObjectRef| self.farm(reference).is_some_and(|other| std::ptr::eq(other, farm));
        all.get(all.keys().find(is_it)?)
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

/// The object called `name` in the namespace of `owner`.
pub(crate) fn sibling(owner: &ObjectRef, kind: Kind, name: &ObjectName) -> ObjectRef {
    ObjectRef { kind, namespace: owner.namespace.clone(), name: name.clone() }
}
