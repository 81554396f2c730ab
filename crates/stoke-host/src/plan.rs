//! What a change of objects would do on this host, in words. Changes nothing; empty if nothing is to do.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use stoke_api::AnyObject;
use stoke_api::workload::{NodeAgentConfig, Role, Workload};
use stoke_reconcile::{ObjectChange, Observed, ObservedWorkload, reconcile_eventually};

use crate::http;
use crate::paths::{Folders, WorkloadFiles};

/// How long the node agent may take to look at its namespace.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// The steps from what runs to what these objects want in the end.
pub async fn steps(folders: &Folders, observed: &Observed, objects: Vec<AnyObject>) -> Vec<String> {
    let desired = reconcile_eventually(&Observed { objects, ..observed.clone() });
    let links = links(folders, observed, &desired.workloads).await;
    let mut steps = compare(observed, &desired.workloads, &links);
    steps.extend(desired.objects.iter().map(object_step));
    steps
}

/// An object that another one wants. What it wants itself comes after that.
fn object_step(change: &ObjectChange) -> String {
    match change {
        ObjectChange::Create(object) => format!("make {}", object.reference()),
        ObjectChange::Update(object) => format!("change {}", object.reference()),
        ObjectChange::Delete { object, .. } => format!("delete {object}"),
    }
}

/// The steps to the wanted LANs: from what the node agent finds if it runs, else from nothing.
async fn links(folders: &Folders, observed: &Observed, wanted: &[Workload]) -> Vec<String> {
    let node = wanted.iter().find_map(|workload| match &workload.role {
        Role::Node(config) => Some((workload, config)),
        _ => None,
    });
    let Some((workload, config)) = node else { return Vec::new() };
    match observed.workloads.get(&workload.name()).filter(|seen| seen.running) {
        Some(seen) if seen.workload.as_ref() == Some(workload) => Vec::new(),
        Some(_) => ask_agent(folders, config).await.unwrap_or_else(|| stoke_node::plan_lines(config)),
        None => stoke_node::plan_lines(config),
    }
}

/// What the agent that runs would do; `None` if it does not say.
async fn ask_agent(folders: &Folders, config: &NodeAgentConfig) -> Option<Vec<String>> {
    let socket = WorkloadFiles::new(folders, "node").socket;
    let config = serde_json::to_vec(config).ok()?;
    let answer = http::request(&socket, Method::POST, "/plan", config, LOOK_LIMIT).await.ok()?;
    if answer.status.is_success() { serde_json::from_slice(&answer.body).ok() } else { Some(vec![answer.text()]) }
}

fn compare(observed: &Observed, wanted: &[Workload], links: &[String]) -> Vec<String> {
    let by_name: BTreeMap<_, _> = wanted.iter().map(|workload| (workload.name(), workload)).collect();
    let mut steps = Vec::new();
    for (name, seen) in observed.workloads.iter().filter(|(_, seen)| seen.running) {
        match (by_name.get(name), &seen.workload) {
            (None, _) => steps.push(format!("stop {name}")),
            (Some(wanted), Some(has)) if *wanted == has => {}
            (Some(wanted), has) => steps.extend(changed(name, wanted, has.as_ref(), links)),
        }
    }
    let runs = |name: &str| observed.workloads.get(name).is_some_and(|seen: &ObservedWorkload| seen.running);
    for workload in wanted.iter().filter(|workload| !runs(&workload.name())) {
        steps.extend(started(workload, links));
    }
    steps
}

fn changed(name: &str, wanted: &Workload, has: Option<&Workload>, links: &[String]) -> Vec<String> {
    match (&wanted.role, has.map(|has| &has.role)) {
        (Role::Node(_), _) if !links.is_empty() => links.to_vec(),
        (Role::ImageBuild(config), _) => vec![format!("build image {} anew", config.name)],
        (Role::Vm(wanted), Some(Role::Vm(has))) if wanted.power != has.power => {
            vec![format!("switch {name} {}", format!("{:?}", wanted.power).to_lowercase())]
        }
        _ => vec![format!("configure {name}")],
    }
}

fn started(workload: &Workload, links: &[String]) -> Vec<String> {
    match &workload.role {
        Role::Node(_) => std::iter::once("start node".to_owned()).chain(links.iter().cloned()).collect(),
        Role::ImageBuild(config) => vec![format!("build image {}", config.name)],
        _ => vec![format!("start {}", workload.name())],
    }
}
