//! What is wrong across objects: references to nothing, what is claimed twice, addresses that fit nowhere.
//!
//! Of two objects that want the same thing the later one is at fault: the order is that of creation, then of names, so
//! that an object that has worked goes on when another one is added. Where claims are kept ([`crate::claims`]), who has one is
//! not asked for its age, so that it goes on when an older object is changed, too.

mod refers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use stoke_api::objects::{
    AnyObject, FarmSpec, ImagePin, ImageSpec, Kind, LanSpec, MachineSetSpec, MachineSpec, NodeConfig, Problem,
    ServerSpec, image_bases,
};
use stoke_api::{LinkName, MacAddr, ObjectRef};

use crate::claims::{Answer, Claims, Holders, Unique};
use crate::names::nic_mac;
use crate::observed::{Environment, Layout};
use crate::view::sibling;
use crate::{machine_set, node_config, own_address, vni};

/// Machines of a set that are looked at before they are there.
const MOST_OF_SET: u32 = 10_000;

/// All that is wrong with these objects, each alone and among the others. Used before objects are accepted, and by the
/// reconcilers.
pub fn check(objects: &[AnyObject]) -> Vec<(ObjectRef, Problem)> {
    check_in(objects, &Environment::default())
}

/// The same, where the objects are in a place of which more is known: the labels of namespaces, how workloads share it, and
/// who has which claim.
pub fn check_in(objects: &[AnyObject], environment: &Environment) -> Vec<(ObjectRef, Problem)> {
    look(objects, environment).0
}

/// All that is wrong, and what each object has that nobody else may have.
pub(crate) fn look(objects: &[AnyObject], environment: &Environment) -> (Vec<(ObjectRef, Problem)>, Claims) {
    let mut problems = Vec::new();
    for object in objects {
        let reference = object.reference();
        problems.extend(object.check().into_iter().map(|problem| (reference.clone(), problem)));
    }
    let findings = Findings::new(objects, environment).all(objects);
    let claims = if findings.in_pods() { findings.claims() } else { Claims::new() };
    problems.extend(findings.problems);
    problems.extend(node_config::check(objects));
    (problems, claims)
}

/// What is wrong between these objects, of which each was looked at alone before, if there are others that nobody could
/// read: a reference to nothing may be to one of those.
pub fn check_between(objects: &[AnyObject]) -> Vec<(ObjectRef, Problem)> {
    check_between_in(objects, &Environment::default())
}

/// The same, in a place of which more is known.
pub fn check_between_in(objects: &[AnyObject], environment: &Environment) -> Vec<(ObjectRef, Problem)> {
    let findings = Findings { some_are_unknown: true, ..Findings::new(objects, environment) };
    let mut problems = findings.all(objects).problems;
    problems.extend(node_config::check(objects));
    problems
}

/// LANs, farms, then all machines, whose claims are looked up in these; oldest first, and objects that the store has not
/// seen yet come last.
fn age(object: &AnyObject) -> (u8, bool, Option<String>, ObjectRef) {
    let rank = match object.kind() {
        Kind::Image | Kind::Lan => 0,
        Kind::Farm => 1,
        Kind::Server | Kind::Machine | Kind::MachineSet => 2,
    };
    let created = object.metadata().creation_timestamp.clone();
    (rank, created.is_none(), created, object.reference())
}

/// Objects, the oldest first.
pub(crate) fn by_age(objects: &[AnyObject]) -> Vec<&AnyObject> {
    let mut by_age: Vec<_> = objects.iter().collect();
    by_age.sort_by_cached_key(|object| age(object));
    by_age
}

/// An interface that nodes with these labels have, and the LAN that it is an uplink of.
type UplinkClaim<'a> = (&'a LinkName, &'a BTreeMap<String, String>, ObjectRef);

struct Findings<'a> {
    environment: &'a Environment,
    names: BTreeSet<ObjectRef>,
    images: BTreeMap<ObjectRef, &'a ImageSpec>,
    lans: BTreeMap<ObjectRef, &'a LanSpec>,
    farms: BTreeMap<ObjectRef, &'a FarmSpec>,
    laid: Vec<(ObjectRef, Ipv4Net)>,
    uplinks: Vec<UplinkClaim<'a>>,
    vnis: BTreeMap<ObjectRef, Result<u32, ObjectRef>>,
    own_addresses: BTreeMap<ObjectRef, Option<Ipv4Addr>>,
    holders: Holders<'a>,
    problems: Vec<(ObjectRef, Problem)>,
    some_are_unknown: bool,
}

impl<'a> Findings<'a> {
    fn all(self, objects: &'a [AnyObject]) -> Self {
        let by_age = by_age(objects);
        let findings = self.each(&by_age);
        match findings.holders.again() {
            Some(holders) => {
                let (laid, uplinks, problems) = (Vec::new(), Vec::new(), Vec::new());
                Self { laid, uplinks, holders, problems, ..findings }.each(&by_age)
            }
            None => findings,
        }
    }

    fn each(mut self, objects: &[&'a AnyObject]) -> Self {
        for object in objects {
            self.object(object);
        }
        self
    }

    /// What each object has that nobody else may have.
    fn claims(&self) -> Claims {
        let mut claims = self.holders.claims(&self.names);
        let vnis = self.vnis.iter().filter_map(|(lan, vni)| Some(Unique::Vni(*vni.as_ref().ok()?).claim(lan)));
        claims.extend(vnis);
        claims
    }

    fn new(objects: &'a [AnyObject], environment: &'a Environment) -> Self {
        let in_pods = environment.layout == Layout::Pods;
        let mut findings = Self {
            environment,
            names: objects.iter().map(AnyObject::reference).collect(),
            images: BTreeMap::new(),
            lans: BTreeMap::new(),
            farms: BTreeMap::new(),
            laid: Vec::new(),
            uplinks: Vec::new(),
            vnis: vni::assign(objects, environment),
            own_addresses: if in_pods { own_address::choose(objects, environment) } else { BTreeMap::new() },
            holders: Holders::new(environment),
            problems: Vec::new(),
            some_are_unknown: false,
        };
        for object in objects {
            match object {
                AnyObject::Lan(lan) => drop(findings.lans.insert(object.reference(), &lan.spec)),
                AnyObject::Farm(farm) => drop(findings.farms.insert(object.reference(), &farm.spec)),
                AnyObject::Image(image) => drop(findings.images.insert(object.reference(), &image.spec)),
                _ => {}
            }
        }
        findings
    }

    fn in_pods(&self) -> bool {
        self.environment.layout == Layout::Pods
    }

    fn object(&mut self, object: &'a AnyObject) {
        let reference = object.reference();
        match object {
            AnyObject::Image(image) => self.image(&reference, &image.spec),
            AnyObject::Lan(lan) => self.lan(&reference, &lan.spec),
            AnyObject::Farm(farm) => self.farm(&reference, &farm.spec),
            AnyObject::Server(server) => self.server(&reference, &server.spec),
            AnyObject::Machine(machine) => self.machine(&reference, &machine.spec),
            AnyObject::MachineSet(set) => self.machine_set(&reference, &set.spec),
        }
    }

    fn problem(&mut self, object: &ObjectRef, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push((object.clone(), Problem { field: field.into(), message: message.into() }));
    }

    /// A value that only one object may have: the holder, if it is another one than who claims it.
    fn claim(&mut self, unique: Unique, claimant: &ObjectRef) -> Option<ObjectRef> {
        match self.holders.ask(unique, claimant) {
            Answer::Taken(holder) => Some(holder),
            Answer::Given | Answer::Twice => None,
        }
    }

    /// An object as the owner of another one may be told of it: in a cluster, what is in other namespaces is not theirs to know.
    fn shown(&self, owner: &ObjectRef, other: &ObjectRef) -> String {
        if self.in_pods() && owner.namespace.is_some() && owner.namespace != other.namespace {
            "an object that is not in this namespace".to_owned()
        } else {
            other.to_string()
        }
    }

    fn image(&mut self, image: &ObjectRef, spec: &ImageSpec) {
        let Some(namespace) = &image.namespace else { return };
        let find = |name: &str| self.images.get(&ObjectRef { name: name.parse().ok()?, ..image.clone() }).copied();
        let bases = image_bases(namespace.as_str(), image.name.as_str(), spec, &find);
        if let Some(problem) = bases.err().filter(|_| !self.some_are_unknown) {
            self.problem(image, problem.field, problem.message);
        }
    }

    fn lan(&mut self, lan: &ObjectRef, spec: &'a LanSpec) {
        for (index, subnet) in spec.subnets.iter().enumerate() {
            let cidr = subnet.cidr;
            let overlaps = |(other, theirs): &&(ObjectRef, Ipv4Net)| {
                other != lan && (theirs.contains(&cidr) || cidr.contains(theirs))
            };
            // In pods each LAN has a router of its own, and nobody else has an address on it.
            let found = self.laid.iter().find(overlaps).filter(|_| !self.in_pods()).cloned();
            if let Some((other, theirs)) = found {
                let message = format!("{cidr} overlaps {theirs} of {other}; machines could not tell the two apart");
                self.problem(lan, format!("spec.subnets[{index}].cidr"), message);
            }
            self.laid.push((lan.clone(), cidr));
        }
        if let Some(Err(holder)) = self.vnis.get(lan).cloned() {
            let holder = self.shown(lan, &holder);
            self.problem(lan, "spec.overlay.vni", format!("{holder} has this network identifier"));
        }
        for (index, uplink) in spec.uplinks.iter().enumerate() {
            let (name, nodes) = (&uplink.interface, &uplink.node_selector);
            let same =
                |(other, theirs, _): &&UplinkClaim<'_>| *other == name && (!self.in_pods() || may_meet(nodes, theirs));
            let holder = self.uplinks.iter().find(same).map(|(_, _, holder)| self.shown(lan, holder));
            if let Some(holder) = holder {
                let message = format!("{name} is already an uplink of {holder}");
                self.problem(lan, format!("spec.uplinks[{index}].interface"), message);
            }
            self.uplinks.push((name, nodes, lan.clone()));
        }
    }

    fn farm(&mut self, farm: &ObjectRef, spec: &FarmSpec) {
        for (field, message) in crate::ltsp::problems(spec) {
            self.problem(farm, field, message);
        }
        self.refers(farm, "spec.image", &sibling(farm, Kind::Image, &spec.image));
        let lan = sibling(farm, Kind::Lan, &spec.lan);
        if !self.refers(farm, "spec.lan", &lan) {
            return;
        }
        if let Some(holder) = self.claim(Unique::Farm(lan.clone()), farm) {
            let holder = self.shown(farm, &holder);
            self.problem(farm, "spec.lan", format!("{holder} already serves {lan}; a LAN has one farm"));
        }
        self.placement(farm, spec, &lan);
        if !self.in_pods() || spec.placement.is_some() {
            return;
        }
        // On one host a farm may share the router's address, and whoever else has another one is on another link.
        for (index, address) in spec.addresses.iter().enumerate() {
            self.address(farm, &format!("spec.addresses[{index}]"), &lan, *address);
        }
        if let Some(address) = self.own_addresses.get(farm).copied().flatten() {
            self.claim(Unique::Address(lan, address), farm);
        }
    }

    /// A farm is on its LAN, or somewhere else because its LAN is none of ours.
    fn placement(&mut self, farm: &ObjectRef, spec: &FarmSpec, lan: &ObjectRef) {
        let Some(external) = self.lans.get(lan).map(|lan| lan.external) else { return };
        match &spec.placement {
            None if external => {
                let message = format!(
                    "{lan} is external: say where the farm's servers are, hostNetwork: {{nodes: [NAME]}} or \
                     loadBalancer: {{}}"
                );
                self.problem(farm, "spec.placement", message);
            }
            Some(_) if !external => {
                let message = format!("the farm is on {lan}, which is ours; this is for a LAN that is external");
                self.problem(farm, "spec.placement", message);
            }
            _ => {}
        }
        if external && spec.update.as_ref().is_some_and(|update| update.rehearsal.is_some()) {
            let message = format!("a rehearsal is a machine on the farm's LAN, and {lan} is external");
            self.problem(farm, "spec.update.rehearsal", message);
        }
    }

    /// Nothing of ours is on a LAN that is somebody else's.
    fn is_ours(&mut self, owner: &ObjectRef, field: String, lan: &ObjectRef) -> bool {
        let external = self.lans.get(lan).is_some_and(|lan| lan.external);
        if external {
            let message = format!("{lan} is external: no machine can be on it; use a LAN with uplinks to it");
            self.problem(owner, field, message);
        }
        !external
    }

    fn server(&mut self, server: &ObjectRef, spec: &ServerSpec) {
        for (index, mac) in spec.macs.iter().enumerate() {
            self.mac(server, format!("spec.macs[{index}]"), *mac);
        }
        if let Some(uuid) = &spec.uuid
            && let Some(holder) = self.claim(Unique::Uuid(uuid.to_lowercase()), server)
        {
            let message = format!("{uuid} is already the UUID of {}", self.shown(server, &holder));
            self.problem(server, "spec.uuid", message);
        }
        let farm =
            ObjectRef { kind: Kind::Farm, namespace: Some(spec.farm.namespace.clone()), name: spec.farm.name.clone() };
        if !self.refers(server, "spec.farm", &farm) {
            return;
        }
        let Some(lan) = self.farms.get(&farm).map(|spec| sibling(&farm, Kind::Lan, &spec.lan)) else { return };
        self.pin(server, "spec", &farm, spec.image.as_ref());
        self.hostname(server, &lan, &spec.config);
        if let Some(address) = spec.address {
            self.address(server, "spec.address", &lan, address);
        }
    }

    fn machine(&mut self, machine: &ObjectRef, spec: &MachineSpec) {
        for (index, nic) in spec.nics.iter().enumerate() {
            self.mac(machine, format!("spec.nics[{index}].mac"), nic_mac(machine, nic));
            let lan = sibling(machine, Kind::Lan, &nic.lan);
            let field = format!("spec.nics[{index}].lan");
            if !self.refers(machine, &field, &lan) || !self.is_ours(machine, field, &lan) {
                continue;
            }
            self.hostname(machine, &lan, &spec.config);
            if let Some(address) = nic.address {
                self.address(machine, &format!("spec.nics[{index}].address"), &lan, address);
            }
        }
        self.boots_from_its_farm(machine, "spec", spec);
    }

    /// A set's template as a machine, and what those of its machines will want that are not there yet.
    fn machine_set(&mut self, set: &ObjectRef, spec: &MachineSetSpec) {
        let (at, template) = ("spec.template.spec", &spec.template.spec);
        let mut first = None;
        for (index, nic) in template.nics.iter().enumerate() {
            let lan = sibling(set, Kind::Lan, &nic.lan);
            let field = format!("{at}.nics[{index}].lan");
            let found = self.refers(set, &field, &lan) && self.is_ours(set, field, &lan);
            first = first.or((found && index == 0).then_some(lan));
        }
        self.boots_from_its_farm(set, at, template);
        let last = spec.replicas.checked_sub(1);
        if last.is_some_and(|last| machine_set::machine_name(set, last).is_none()) {
            self.problem(set, "metadata.name", "this is too long: its machines are called NAME-0, NAME-1 and so on");
        }
        let Some(lan) = first else { return };
        for ordinal in 0..spec.replicas.min(MOST_OF_SET) {
            let Some(machine) = machine_set::machine_name(set, ordinal) else { return };
            if self.names.contains(&machine) {
                continue;
            }
            let Some(address) = machine_set::address(spec, ordinal) else { return };
            if let Some(message) = self.wrong_address(&machine, &lan, address) {
                // One of them says enough of the range.
                return self.problem(set, "spec.addresses", message);
            }
        }
    }

    /// The first interface boots, so it must be on the LAN that the farm serves.
    fn boots_from_its_farm(&mut self, machine: &ObjectRef, at: &str, spec: &MachineSpec) {
        let Some(farm) = spec.farm.as_ref().map(|name| sibling(machine, Kind::Farm, name)) else { return };
        if !self.refers(machine, &format!("{at}.farm"), &farm) {
            return;
        }
        self.pin(machine, at, &farm, spec.image.as_ref());
        let (Some(first), Some(farm_spec)) = (spec.nics.first(), self.farms.get(&farm)) else { return };
        let (theirs, ours) = (sibling(&farm, Kind::Lan, &farm_spec.lan), sibling(machine, Kind::Lan, &first.lan));
        if theirs != ours {
            let message = format!("{farm} serves {theirs}, but the interface that boots is on {ours}");
            self.problem(machine, format!("{at}.farm"), message);
        }
    }

    /// A node boots a version of the image that its farm hands out.
    fn pin(&mut self, owner: &ObjectRef, at: &str, farm: &ObjectRef, pin: Option<&ImagePin>) {
        let (Some(pin), Some(spec)) = (pin, self.farms.get(farm)) else { return };
        if pin.image != spec.image.name {
            let message = format!("{farm} hands out image/{}, not image/{}", spec.image, pin.image);
            self.problem(owner, format!("{at}.image"), message);
        }
    }

    fn mac(&mut self, owner: &ObjectRef, field: String, mac: MacAddr) {
        let message = match self.holders.ask(Unique::Mac(mac), owner) {
            Answer::Given => return,
            Answer::Twice => format!("{mac} is already the address of another interface"),
            Answer::Taken(holder) => format!("{mac} is already an address of {}", self.shown(owner, &holder)),
        };
        self.problem(owner, field, message);
    }

    fn hostname(&mut self, owner: &ObjectRef, lan: &ObjectRef, config: &NodeConfig) {
        let hostname = hostname(owner, config);
        if let Some(holder) = self.claim(Unique::Hostname(lan.clone(), hostname.clone()), owner) {
            let message = format!("{hostname:?} is already the host name of {} on {lan}", self.shown(owner, &holder));
            self.problem(owner, "spec.config.hostname", message);
        }
    }

    fn address(&mut self, owner: &ObjectRef, field: &str, lan: &ObjectRef, address: Ipv4Addr) {
        if let Some(message) = self.wrong_address(owner, lan, address) {
            self.problem(owner, field, message);
        }
    }

    /// Why an address cannot be an object's on a LAN; else it is.
    fn wrong_address(&mut self, owner: &ObjectRef, lan: &ObjectRef, address: Ipv4Addr) -> Option<String> {
        let spec = self.lans.get(lan)?;
        let Some(subnet) = spec.subnets.iter().find(|subnet| subnet.cidr.contains(&address)) else {
            let cidrs = spec.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect::<Vec<_>>();
            return Some(format!("{address} is outside of {lan}, which has {}", cidrs.join(", ")));
        };
        if subnet.gateway() == address {
            return Some(format!("{address} is the gateway of {lan}"));
        }
        if subnet.cidr.network() == address || subnet.cidr.broadcast() == address {
            return Some(format!("{address} is the network's or the broadcast address of {}", subnet.cidr));
        }
        match self.holders.ask(Unique::Address(lan.clone(), address), owner) {
            Answer::Given => None,
            Answer::Twice => Some(format!("{address} is already the address of another interface")),
            Answer::Taken(holder) => {
                Some(format!("{address} is already the address of {}", self.shown(owner, &holder)))
            }
        }
    }
}

/// Whether a node may have the labels of both selectors.
fn may_meet(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    one.iter().all(|(key, value)| other.get(key).is_none_or(|theirs| theirs == value))
}

/// The host name of a node: its configuration's, else the object's name.
pub(crate) fn hostname(owner: &ObjectRef, config: &NodeConfig) -> String {
    config.hostname.clone().unwrap_or_else(|| owner.name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_objects_is_told_although_others_are_unknown() {
        let object = |kind: &str, name: &str, spec: &str| {
            format!("apiVersion: stokehold.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
        };
        let text = [
            object("Lan", "a", "{subnets: [{name: v4, cidr: 10.0.0.0/16}]}"),
            object("Lan", "b", "{subnets: [{name: v4, cidr: 10.0.1.0/24}]}"),
            object("Farm", "lab", "{lan: c, image: node}"),
        ];
        let loaded = stoke_api::load::load_text(std::path::Path::new("lab.yaml"), &text.concat()).unwrap();
        let objects: Vec<_> = loaded.objects.into_iter().map(|(object, _)| object).collect();
        let told = |found: Vec<(ObjectRef, Problem)>| {
            found.into_iter().map(|(object, problem)| format!("{object} {}", problem.field)).collect::<Vec<_>>()
        };
        assert_eq!(told(check_between(&objects)), ["lan/b spec.subnets[0].cidr"]);
        assert_eq!(told(check(&objects)), ["lan/b spec.subnets[0].cidr", "farm/lab spec.image", "farm/lab spec.lan"]);
    }

    #[test]
    fn whether_labels_allow_something_is_left_to_those_who_know_them() {
        let text = "apiVersion: stokehold.dev/v1alpha1\nkind: Lan\nmetadata: {name: lab, namespace: infra}\nspec:\n  \
                    subnets: [{name: v4, cidr: 10.0.0.0/16}]\n  access: {namespaces: ACCESS}\n---\n\
                    apiVersion: stokehold.dev/v1alpha1\nkind: Machine\nmetadata: {name: a}\nspec:\n  \
                    vm: {}\n  farm: unknown\n  nics: [{name: a, lan: {namespace: infra, name: lab}}]\n";
        let told = |access: &str, environment: &Environment| {
            let text = text.replace("ACCESS", access);
            let loaded = stoke_api::load::load_text(std::path::Path::new("lab.yaml"), &text).unwrap();
            let objects: Vec<_> = loaded.objects.into_iter().map(|(object, _)| object).collect();
            check_between_in(&objects, environment).len()
        };
        let in_pods = Environment { layout: Layout::Pods, ..Environment::default() };
        let known = [("default".to_owned(), BTreeMap::new())].into();
        let blue = "Selector, selector: {matchLabels: {team: blue}}";
        assert_eq!(told(blue, &in_pods), 0);
        assert_eq!(told(blue, &Environment { namespaces: known, ..in_pods.clone() }), 1);
        assert_eq!(told("Same", &in_pods), 1);
        assert_eq!(told(blue, &Environment::default()), 1, "on one host there are no labels");
    }
}
