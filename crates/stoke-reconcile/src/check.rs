//! What is wrong across objects: references to nothing, what is claimed twice, addresses that fit nowhere.
//!
//! Of two objects that want the same thing the later one is at fault: the order is that of creation, then of names, so
//! that an object that has worked goes on when another one is added.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use stoke_api::objects::{
    AnyObject, FarmSpec, ImagePin, ImageSpec, Kind, LanSpec, MachineSpec, NodeConfig, Problem, ServerSpec, image_bases,
};
use stoke_api::{MacAddr, ObjectName, ObjectRef};

use crate::names::nic_mac;
use crate::node_config;
use crate::view::sibling;

/// All that is wrong with these objects, each alone and among the others. Used before objects are accepted, and by the
/// reconcilers.
pub fn check(objects: &[AnyObject]) -> Vec<(ObjectRef, Problem)> {
    let mut findings = Findings::new(objects);
    for object in objects {
        let reference = object.reference();
        findings.problems.extend(object.check().into_iter().map(|problem| (reference.clone(), problem)));
    }
    findings.all(objects);
    findings.problems.extend(node_config::check(objects));
    findings.problems
}

/// What is wrong between these objects, of which each was looked at alone before, if there are others that nobody could
/// read: a reference to nothing may be to one of those.
pub fn check_between(objects: &[AnyObject]) -> Vec<(ObjectRef, Problem)> {
    let mut findings = Findings { some_are_unknown: true, ..Findings::new(objects) };
    findings.all(objects);
    findings.problems.extend(node_config::check(objects));
    findings.problems
}

/// LANs, farms, then all machines, whose claims are looked up in these; oldest first, and objects that the store has not
/// seen yet come last.
fn age(object: &AnyObject) -> (u8, bool, Option<String>, ObjectRef) {
    let rank = match object.kind() {
        Kind::Image | Kind::Lan => 0,
        Kind::Farm => 1,
        Kind::Server | Kind::Machine => 2,
    };
    let created = object.metadata().creation_timestamp.clone();
    (rank, created.is_none(), created, object.reference())
}

#[derive(Default)]
struct Findings<'a> {
    names: Vec<ObjectRef>,
    images: BTreeMap<ObjectRef, &'a ImageSpec>,
    lans: BTreeMap<ObjectRef, &'a LanSpec>,
    farms: BTreeMap<ObjectRef, &'a FarmSpec>,
    laid: Vec<(ObjectRef, Ipv4Net)>,
    uplinks: BTreeMap<String, ObjectRef>,
    farm_of_lan: BTreeMap<ObjectRef, ObjectRef>,
    macs: BTreeMap<MacAddr, ObjectRef>,
    addresses: BTreeMap<(ObjectRef, Ipv4Addr), ObjectRef>,
    hostnames: BTreeMap<(ObjectRef, String), ObjectRef>,
    uuids: BTreeMap<String, ObjectRef>,
    problems: Vec<(ObjectRef, Problem)>,
    some_are_unknown: bool,
}

impl<'a> Findings<'a> {
    fn all(&mut self, objects: &[AnyObject]) {
        let mut by_age: Vec<_> = objects.iter().collect();
        by_age.sort_by_key(|object| age(object));
        for object in by_age {
            self.object(object);
        }
    }

    fn new(objects: &'a [AnyObject]) -> Self {
        let mut findings = Self { names: objects.iter().map(AnyObject::reference).collect(), ..Self::default() };
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

    fn object(&mut self, object: &AnyObject) {
        let reference = object.reference();
        match object {
            AnyObject::Image(image) => self.image(&reference, &image.spec),
            AnyObject::Lan(lan) => self.lan(&reference, &lan.spec),
            AnyObject::Farm(farm) => self.farm(&reference, &farm.spec),
            AnyObject::Server(server) => self.server(&reference, &server.spec),
            AnyObject::Machine(machine) => self.machine(&reference, &machine.spec),
        }
    }

    fn problem(&mut self, object: &ObjectRef, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push((object.clone(), Problem { field: field.into(), message: message.into() }));
    }

    /// A value that only one object may have. The second one has a problem.
    fn claim<K: Ord>(
        claims: &mut BTreeMap<K, ObjectRef>,
        key: K,
        claimant: &ObjectRef,
        what: impl FnOnce(&ObjectRef) -> String,
    ) -> Option<String> {
        let holder = claims.entry(key).or_insert_with(|| claimant.clone());
        (holder != claimant).then(|| what(holder))
    }

    fn image(&mut self, image: &ObjectRef, spec: &ImageSpec) {
        let Some(namespace) = &image.namespace else { return };
        let find = |name: &str| self.images.get(&ObjectRef { name: name.parse().ok()?, ..image.clone() }).copied();
        let bases = image_bases(namespace.as_str(), image.name.as_str(), spec, &find);
        if let Some(problem) = bases.err().filter(|_| !self.some_are_unknown) {
            self.problem(image, problem.field, problem.message);
        }
    }

    fn lan(&mut self, lan: &ObjectRef, spec: &LanSpec) {
        for (index, subnet) in spec.subnets.iter().enumerate() {
            let cidr = subnet.cidr;
            let overlaps = |(other, theirs): &&(ObjectRef, Ipv4Net)| {
                other != lan && (theirs.contains(&cidr) || cidr.contains(theirs))
            };
            if let Some((other, theirs)) = self.laid.iter().find(overlaps).cloned() {
                let message = format!("{cidr} overlaps {theirs} of {other}; machines could not tell the two apart");
                self.problem(lan, format!("spec.subnets[{index}].cidr"), message);
            }
            self.laid.push((lan.clone(), cidr));
        }
        for (index, uplink) in spec.uplinks.iter().enumerate() {
            let name = uplink.interface.to_string();
            let taken = |holder: &ObjectRef| format!("{name} is already an uplink of {holder}");
            if let Some(message) = Self::claim(&mut self.uplinks, name.clone(), lan, taken) {
                self.problem(lan, format!("spec.uplinks[{index}].interface"), message);
            }
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
        let taken = |holder: &ObjectRef| format!("{holder} already serves {lan}; a LAN has one farm");
        if let Some(message) = Self::claim(&mut self.farm_of_lan, lan.clone(), farm, taken) {
            self.problem(farm, "spec.lan", message);
        }
    }

    fn server(&mut self, server: &ObjectRef, spec: &ServerSpec) {
        for (index, mac) in spec.macs.iter().enumerate() {
            self.mac(server, format!("spec.macs[{index}]"), *mac);
        }
        if let Some(uuid) = &spec.uuid {
            let taken = |holder: &ObjectRef| format!("{uuid} is already the UUID of {holder}");
            if let Some(message) = Self::claim(&mut self.uuids, uuid.to_lowercase(), server, taken) {
                self.problem(server, "spec.uuid", message);
            }
        }
        let farm =
            ObjectRef { kind: Kind::Farm, namespace: Some(spec.farm.namespace.clone()), name: spec.farm.name.clone() };
        if !self.refers(server, "spec.farm", &farm) {
            return;
        }
        let Some(lan) = self.farms.get(&farm).map(|spec| sibling(&farm, Kind::Lan, &spec.lan)) else { return };
        self.pin(server, &farm, spec.image.as_ref());
        self.hostname(server, &lan, &spec.config);
        if let Some(address) = spec.address {
            self.address(server, "spec.address", &lan, address);
        }
    }

    fn machine(&mut self, machine: &ObjectRef, spec: &MachineSpec) {
        for (index, nic) in spec.nics.iter().enumerate() {
            self.mac(machine, format!("spec.nics[{index}].mac"), nic_mac(machine, nic));
            let lan = sibling(machine, Kind::Lan, &nic.lan);
            if !self.refers(machine, &format!("spec.nics[{index}].lan"), &lan) {
                continue;
            }
            self.hostname(machine, &lan, &spec.config);
            if let Some(address) = nic.address {
                self.address(machine, &format!("spec.nics[{index}].address"), &lan, address);
            }
        }
        self.boots_from_its_farm(machine, spec);
    }

    /// The first interface boots, so it must be on the LAN that the farm serves.
    fn boots_from_its_farm(&mut self, machine: &ObjectRef, spec: &MachineSpec) {
        let Some(farm) = spec.farm.as_ref().map(|name| sibling(machine, Kind::Farm, name)) else { return };
        if !self.refers(machine, "spec.farm", &farm) {
            return;
        }
        self.pin(machine, &farm, spec.image.as_ref());
        let (Some(first), Some(farm_spec)) = (spec.nics.first(), self.farms.get(&farm)) else { return };
        if first.lan != farm_spec.lan {
            let (theirs, ours) = (&farm_spec.lan, &first.lan);
            let message = format!("{farm} serves lan/{theirs}, but the interface that boots is on lan/{ours}");
            self.problem(machine, "spec.farm", message);
        }
    }

    /// A node boots a version of the image that its farm hands out.
    fn pin(&mut self, owner: &ObjectRef, farm: &ObjectRef, pin: Option<&ImagePin>) {
        let (Some(pin), Some(spec)) = (pin, self.farms.get(farm)) else { return };
        if pin.image != spec.image {
            let message = format!("{farm} hands out image/{}, not image/{}", spec.image, pin.image);
            self.problem(owner, "spec.image", message);
        }
    }

    fn mac(&mut self, owner: &ObjectRef, field: String, mac: MacAddr) {
        let fresh = !self.macs.contains_key(&mac);
        let taken = |holder: &ObjectRef| format!("{mac} is already an address of {holder}");
        if let Some(message) = Self::claim(&mut self.macs, mac, owner, taken) {
            self.problem(owner, field, message);
        } else if !fresh {
            self.problem(owner, field, format!("{mac} is already the address of another interface"));
        }
    }

    fn hostname(&mut self, owner: &ObjectRef, lan: &ObjectRef, config: &NodeConfig) {
        let hostname = hostname(owner, config);
        let taken = |holder: &ObjectRef| format!("{hostname:?} is already the host name of {holder} on {lan}");
        if let Some(message) = Self::claim(&mut self.hostnames, (lan.clone(), hostname.clone()), owner, taken) {
            self.problem(owner, "spec.config.hostname", message);
        }
    }

    fn address(&mut self, owner: &ObjectRef, field: &str, lan: &ObjectRef, address: Ipv4Addr) {
        let Some(spec) = self.lans.get(lan) else { return };
        let subnet = spec.subnets.iter().find(|subnet| subnet.cidr.contains(&address));
        let wrong = match subnet {
            None => {
                let cidrs = spec.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect::<Vec<_>>();
                Some(format!("{address} is outside of {lan}, which has {}", cidrs.join(", ")))
            }
            Some(subnet) if subnet.gateway() == address => Some(format!("{address} is the gateway of {lan}")),
            Some(subnet) if subnet.cidr.network() == address || subnet.cidr.broadcast() == address => {
                Some(format!("{address} is the network's or the broadcast address of {}", subnet.cidr))
            }
            Some(_) => {
                let fresh = !self.addresses.contains_key(&(lan.clone(), address));
                let taken = |holder: &ObjectRef| format!("{address} is already the address of {holder}");
                let twice = || (!fresh).then(|| format!("{address} is already the address of another interface"));
                Self::claim(&mut self.addresses, (lan.clone(), address), owner, taken).or_else(twice)
            }
        };
        if let Some(message) = wrong {
            self.problem(owner, field, message);
        }
    }

    /// Whether the target exists; if not, that is a problem.
    fn refers(&mut self, owner: &ObjectRef, field: &str, target: &ObjectRef) -> bool {
        let exists = self.names.contains(target);
        if exists || self.some_are_unknown {
            return exists;
        }
        let kind = target.kind.singular();
        let wanted = target.name.as_str();
        let elsewhere = self.names.iter().find(|other| other.kind == target.kind && other.name == target.name);
        let hint = if let Some(name) = self.similar(target) {
            format!("; did you mean {:?}?", name.as_str())
        } else if let Some(namespace) = elsewhere.and_then(|other| other.namespace.as_ref()) {
            format!(" in this namespace; one is in namespace {namespace}")
        } else {
            String::new()
        };
        self.problem(owner, field, format!("no {kind} is called {wanted:?}{hint}"));
        false
    }

    fn similar(&self, target: &ObjectRef) -> Option<ObjectName> {
        let candidates = self.names.iter().filter(|o| o.kind == target.kind && o.namespace == target.namespace);
        let scored = candidates.map(|o| (strsim::jaro_winkler(o.name.as_str(), target.name.as_str()), &o.name));
        let best = scored.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, name)| name.clone())
    }
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
}
