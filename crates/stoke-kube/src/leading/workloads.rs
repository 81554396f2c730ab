//! What there is of workloads in the cluster, and what should be: from caches to what reconcilers read, from what they want
//! to what is planned and told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use stoke_api::AnyObject;
use stoke_api::report::Report;
use stoke_api::workload::{Role, TrustedKeys, Workload};
use stoke_reconcile::{Desired, Observed, ObservedWorkload};

use super::known::Basis;
use super::{Leader, lans_of};
use crate::observe::{self, AgentSeen};
use crate::plan::{self, Seen, Step, has_guest, plan};
use crate::render::{Facts, RenderError, Rendered, render};
use crate::{nodes, offers};

/// Machines of which something is to be done in one round: what is to be done of a thousand at once would be half of all that
/// the operator ever needs to have in memory.
const MACHINES_AT_ONCE: usize = 100;

impl Leader<'_> {
    /// What there is of each workload, by its name.
    pub(super) fn seen(&self, objects: &[AnyObject]) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::<String, Seen>::new();
        for map in self.watched.maps.state() {
            let name = plan::workload_name(&*map);
            seen.entry(name).or_default().map = Some(map);
        }
        for claim in self.watched.claims.state() {
            let name = plan::workload_name(&*claim);
            seen.entry(name).or_default().claim = Some(claim);
        }
        for budget in self.watched.budgets.state() {
            let name = plan::workload_name(&*budget);
            seen.entry(name).or_default().budget = Some(budget);
        }
        for service in self.watched.farm_services.state() {
            let name = plan::workload_name(&*service);
            seen.entry(name).or_default().service = Some(service);
        }
        for job in self.watched.jobs.state() {
            let name = plan::workload_name(&*job);
            seen.entry(name).or_default().job = Some(job);
        }
        for pod in self.watched.pods.state() {
            let entry = seen.entry(plan::workload_name(&*pod)).or_default();
            // A build may have several pods: the newest is the one that matters.
            let newer = |old: &Arc<Pod>| {
                old.metadata.creation_timestamp.as_ref().map(|time| time.0)
                    <= pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
            };
            if entry.pod.as_ref().is_none_or(newer) {
                entry.pod = Some(pod);
            }
        }
        let lost = nodes::lost(&self.watched.nodes.state());
        let there: BTreeSet<_> = objects.iter().map(AnyObject::reference).collect();
        for (name, seen) in &mut seen {
            let node = seen.pod.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.clone());
            seen.node_lost = node.is_some_and(|node| lost.contains(&node));
            seen.object = nodes::owner(seen).is_none_or(|owner| there.contains(&owner)) && !name.is_empty();
        }
        seen
    }

    /// What the reconcilers are to know of workloads.
    pub(super) fn workloads(
        &mut self,
        seen: &BTreeMap<String, Seen>,
        agents: &BTreeMap<String, AgentSeen>,
    ) -> BTreeMap<String, ObservedWorkload> {
        let failures = self.applier.failures();
        self.read.keep(seen);
        let mut read = std::mem::take(&mut self.read);
        let one = |(name, seen): (&String, &Seen)| {
            let workload = seen.map.as_deref().and_then(|map| read.workload(name, map));
            let refused = failures.get(name).cloned().or_else(|| self.teller.refused(name));
            let refused = refused.or_else(|| observe::without_address(seen.service.as_deref()?));
            let build = matches!(workload.as_ref().map(|workload| &workload.role), Some(Role::ImageBuild(_)));
            let observed = if build || seen.job.is_some() {
                let report = self.build_report(name).map(Report::ImageBuild);
                let mut observed = observe::of_build(workload, seen.job.as_deref(), seen.pod.as_deref(), report);
                observed.failure = refused.or(observed.failure);
                observed
            } else {
                observe::of_pod(workload, seen.pod.as_deref(), agents, refused.as_deref())
            };
            (name.clone(), observed)
        };
        let mut workloads: BTreeMap<_, _> = seen.iter().map(one).collect();
        self.read = read;
        for (name, failure) in failures {
            workloads
                .entry(name)
                .or_insert_with(|| ObservedWorkload { failure: Some(failure), ..ObservedWorkload::default() });
        }
        let config = self.lans.as_ref().and_then(|workload| match &workload.role {
            Role::Node(config) => Some(config),
            _ => None,
        });
        let nodes =
            observe::of_nodes(self.lans.as_ref(), config, agents, nodes::resolvers(Path::new("/etc/resolv.conf")));
        if self.lans.is_some() {
            workloads.insert("node".to_owned(), nodes);
        }
        workloads
    }

    /// What runs for an object that is there and cannot be read is left alone: nobody knows what it should be.
    fn without_unreadable(
        &self,
        mut seen: BTreeMap<String, Seen>,
        wanted: &BTreeMap<String, Rendered>,
    ) -> BTreeMap<String, Seen> {
        let unreadable: BTreeSet<_> =
            self.store.unreadable().into_iter().map(|one| (one.kind, one.namespace, one.name)).collect();
        let hidden = |seen: &Seen| {
            nodes::owner(seen).is_some_and(|owner| {
                let namespace = owner.namespace.map(|namespace| namespace.to_string());
                unreadable.contains(&(owner.kind, namespace, owner.name.to_string()))
            })
        };
        seen.retain(|name, seen| wanted.contains_key(name) || !hidden(seen));
        seen
    }

    pub(super) fn facts(&self, agents: &BTreeMap<String, AgentSeen>) -> Facts {
        Facts {
            installation: self.environment.installation.clone(),
            kvm: offers::kvm(agents),
            kvm_groups: offers::kvm_groups(agents),
            ..Facts::default()
        }
    }

    /// What is to be done for workloads, and which were not looked at: their turn is later. Machines of which nothing is to be
    /// done are remembered, and looked at again when they or what there is of them are others.
    pub(super) fn plan(
        &mut self,
        observed: &Observed,
        workloads: &[Workload],
        facts: &Facts,
        seen: BTreeMap<String, Seen>,
    ) -> (Vec<(String, Vec<Step>)>, BTreeSet<String>) {
        let mut there = guests(seen, &observed.workloads);
        let by_reference: BTreeMap<_, _> = observed.objects.iter().map(|object| (object.reference(), object)).collect();
        let (mut steps, mut later, mut rests) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let (mut wanted, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for workload in workloads.iter().filter(|workload| !matches!(workload.role, Role::Node(_))) {
            let name = workload.name();
            let facts = self.facts_of(facts, workload, by_reference.get(&workload.owner).copied());
            let rendered = || render(&self.operator.settings, &facts, workload);
            if !has_guest(&workload.role) {
                // What a farm's pods do depends on one another.
                wanted.extend(noted(&name, rendered(), &mut refused).map(|objects| (name, objects)));
                continue;
            }
            // Machines are many, and each is alone.
            let seen = there.remove(&name).unwrap_or_default();
            let written = observed.workloads.get(&name).and_then(|observed| observed.workload.as_ref());
            let basis = (written == Some(workload)).then(|| Basis::new(facts.clone(), &seen));
            if basis.is_some() && self.rests.get(&name) == basis.as_ref() {
                rests.extend(basis.map(|basis| (name, basis)));
                continue;
            }
            // What was refused and waits is in nobody's way.
            if steps.len() == MACHINES_AT_ONCE || self.applier.waits(&name) {
                later.insert(name);
                continue;
            }
            let Some(objects) = noted(&name, rendered(), &mut refused) else { continue };
            let own = plan::of_one(&objects, &seen);
            if own.is_empty() {
                rests.extend(basis.map(|basis| (name, basis)));
            } else {
                steps.push((name, own));
            }
        }
        if steps.len() == MACHINES_AT_ONCE {
            self.wake.notify_one();
        }
        let mut there = self.without_unreadable(there, &wanted);
        // What cannot be told anything new goes on with what it was told.
        there.retain(|name, _| !refused.contains_key(name));
        self.applier.refuse(refused);
        self.rests = rests;
        steps.extend(plan(&wanted, &there));
        (steps, later)
    }

    fn facts_of(&self, facts: &Facts, workload: &Workload, owner: Option<&AnyObject>) -> Facts {
        let mut facts = Facts { uid: owner.and_then(|owner| owner.metadata().uid.clone()), ..facts.clone() };
        if let Some(AnyObject::Machine(machine)) = owner {
            facts.scheduling = machine.spec.scheduling.clone();
            facts.set = machine
                .metadata
                .controller()
                .filter(|owner| owner.kind == "MachineSet")
                .map(|owner| owner.name.clone());
        }
        if let Some(AnyObject::Farm(farm)) = owner {
            facts.placement.clone_from(&farm.spec.placement);
        }
        if let Role::Vm(vm) = &workload.role
            && let Some(TrustedKeys::Farm { .. }) = &vm.secure_boot
        {
            facts.files = nodes::certificates(&self.folders, vm);
        }
        facts
    }

    pub(super) fn configure_nodes(
        &mut self,
        observed: &Observed,
        desired: &Desired,
        agents: &BTreeMap<String, AgentSeen>,
    ) {
        self.lans = lans_of(desired);
        let (pods, nodes) = (self.watched.pods.state(), self.watched.nodes.state());
        let basis = nodes::basis(observed, desired, &pods, &nodes, agents, self.agents.begun());
        // Each of five hundred nodes has all the others as peers.
        if self.told.as_ref() == Some(&basis) {
            return;
        }
        let installation = &self.environment.installation;
        let mut configs = nodes::configs(&self.operator.settings, installation, &basis);
        for node in agents.keys() {
            self.agents.configure(node, configs.remove(node).unwrap_or_else(|| nodes::empty(installation)));
        }
        self.told = Some(basis);
    }

    /// Tells roles what is new. Whether some have yet to be told.
    pub(super) fn tell(&mut self, workloads: &[Workload], seen: &BTreeMap<String, Seen>) -> bool {
        let mut busy = false;
        for workload in workloads {
            let name = workload.name();
            let Some(Seen { map: Some(map), pod: Some(pod), .. }) = seen.get(&name) else { continue };
            if matches!(workload.role, Role::Node(_) | Role::ImageBuild(_)) || pod.metadata.deletion_timestamp.is_some()
            {
                continue;
            }
            // What is written down is what is told: who is started anew must find the same.
            busy |= !self.teller.tell(&self.agents, &name, pod, map);
        }
        self.teller.keep(|name| seen.contains_key(name));
        busy
    }
}

/// What a workload is in the cluster. Takes note of why it cannot be.
fn noted(
    name: &str,
    rendered: Result<Rendered, RenderError>,
    refused: &mut BTreeMap<String, String>,
) -> Option<Rendered> {
    let note = |error| drop(refused.insert(name.to_owned(), format!("{:#}", anyhow::Error::new(error))));
    rendered.map_err(note).ok()
}

/// What is there, and whether its guests run.
fn guests(mut seen: BTreeMap<String, Seen>, observed: &BTreeMap<String, ObservedWorkload>) -> BTreeMap<String, Seen> {
    for (name, seen) in &mut seen {
        seen.guest = observed.get(name).is_some_and(observe::has_guest);
    }
    seen
}
