//! What a change of objects would do on this host, in words. Changes nothing; empty if nothing is to do.

use std::collections::BTreeMap;

use stoke_api::AnyObject;
use stoke_api::workload::{Role, Workload};
use stoke_reconcile::{Observed, ObservedWorkload, reconcile_eventually};

/// The steps from what runs to what these objects want in the end.
pub fn steps(observed: &Observed, objects: Vec<AnyObject>) -> Vec<String> {
    let wanted = reconcile_eventually(&Observed { objects, ..observed.clone() }).workloads;
    let by_name: BTreeMap<_, _> = wanted.iter().map(|workload| (workload.name(), workload)).collect();
    let mut steps = Vec::new();
    for (name, seen) in observed.workloads.iter().filter(|(_, seen)| seen.running) {
        match (by_name.get(name), &seen.workload) {
            (None, _) => steps.push(format!("stop {name}")),
            (Some(wanted), Some(has)) if *wanted == has => {}
            (Some(wanted), has) => steps.extend(changed(name, wanted, has.as_ref())),
        }
    }
    let runs = |name: &str| observed.workloads.get(name).is_some_and(|seen: &ObservedWorkload| seen.running);
    for workload in wanted.iter().filter(|workload| !runs(&workload.name())) {
        steps.extend(started(workload));
    }
    steps
}

fn changed(name: &str, wanted: &Workload, has: Option<&Workload>) -> Vec<String> {
    match (&wanted.role, has.map(|has| &has.role)) {
        (Role::Node(config), _) => stoke_node::plan_lines(config),
        (Role::ImageBuild(config), _) => vec![format!("build image {} anew", config.name)],
        (Role::Vm(wanted), Some(Role::Vm(has))) if wanted.power != has.power => {
            vec![format!("switch {name} {}", format!("{:?}", wanted.power).to_lowercase())]
        }
        _ => vec![format!("configure {name}")],
    }
}

fn started(workload: &Workload) -> Vec<String> {
    match &workload.role {
        Role::Node(config) => {
            let lines = stoke_node::plan_lines(config);
            std::iter::once("start node".to_owned()).chain(lines).collect()
        }
        Role::ImageBuild(config) => vec![format!("build image {}", config.name)],
        _ => vec![format!("start {}", workload.name())],
    }
}
