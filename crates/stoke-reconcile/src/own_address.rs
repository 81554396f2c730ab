//! Addresses of farms that name none, where they cannot share the router's: one of their LAN's first subnet that nobody else
//! has or may be given. It is kept as long as no older object names it; with a claim to it, whoever names it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::ObjectRef;
use stoke_api::objects::{AnyObject, Kind, LanSpec, Pool};

use crate::claims::Unique;
use crate::observed::Environment;

/// Addresses that are looked at before it is said that none is free.
const TRIES: usize = 1 << 16;

/// When an object was made, as the store says; nothing for one that it has not seen.
type Created = Option<String>;

/// What is taken on one LAN, and by objects of what age.
#[derive(Default)]
struct Taken {
    addresses: Vec<(Ipv4Addr, Created, ObjectRef)>,
    ranges: Vec<(Pool, Created)>,
}

impl Taken {
    /// Who has or wants an address.
    fn by(&self, address: Ipv4Addr) -> impl Iterator<Item = &Created> {
        let single = self.addresses.iter().filter(move |(other, ..)| *other == address).map(|(_, created, _)| created);
        single.chain(self.ranges.iter().filter(move |(range, _)| range.contains(address)).map(|(_, created)| created))
    }

    /// Whether an object names an address.
    fn names(&self, object: &ObjectRef, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|(other, _, by)| *other == address && by == object)
    }
}

fn is_older(one: &Created, other: &Created) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one < other,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Each farm that names no address, and the one that it has; none if none is free.
pub(crate) fn choose(objects: &[AnyObject], environment: &Environment) -> BTreeMap<ObjectRef, Option<Ipv4Addr>> {
    let mut taken = taken(objects);
    let mut chosen = BTreeMap::new();
    let lans: BTreeMap<_, _> = objects.iter().filter_map(lan).collect();
    for object in crate::check::by_age(objects) {
        let AnyObject::Farm(farm) = object else { continue };
        let reference = object.reference();
        let name = farm.spec.lan.of(&reference, Kind::Lan);
        let Some(lan) = lans.get(&name).filter(|_| farm.spec.addresses.is_empty()) else { continue };
        let taken = taken.entry(name.clone()).or_default();
        let created = &farm.metadata.creation_timestamp;
        let kept = farm.status.address.as_ref().and_then(|address| address.parse().ok());
        let is_kept = |kept: &Ipv4Addr| match environment.claims.get(&Unique::Address(name.clone(), *kept).name()) {
            Some(holder) if *holder == reference => true,
            Some(holder) if taken.names(holder, *kept) => false,
            _ => !taken.by(*kept).any(|by| is_older(by, created)),
        };
        let address = free(lan, taken, kept.filter(is_kept));
        taken.addresses.extend(address.map(|address| (address, created.clone(), reference.clone())));
        chosen.insert(reference, address);
    }
    chosen
}

fn lan(object: &AnyObject) -> Option<(ObjectRef, &LanSpec)> {
    match object {
        AnyObject::Lan(lan) => Some((object.reference(), &lan.spec)),
        _ => None,
    }
}

fn free(lan: &LanSpec, taken: &Taken, kept: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let subnet = lan.subnets.iter().find(|subnet| !subnet.relayed)?;
    let is_nobodys = |address: &Ipv4Addr| {
        let ends = [subnet.cidr.network(), subnet.cidr.broadcast(), subnet.gateway()];
        subnet.cidr.contains(address)
            && !ends.contains(address)
            && !subnet.pools.iter().any(|pool| pool.contains(*address))
            && !lan.dhcp.reservations.iter().any(|reservation| reservation.address == *address)
    };
    let is_free = |address: &Ipv4Addr| is_nobodys(address) && taken.by(*address).next().is_none();
    kept.filter(is_nobodys).or_else(|| subnet.cidr.hosts().take(TRIES).find(is_free))
}

/// By LAN, what objects name.
fn taken(objects: &[AnyObject]) -> BTreeMap<ObjectRef, Taken> {
    let mut all = BTreeMap::<ObjectRef, Taken>::new();
    let farms: BTreeMap<_, _> = objects
        .iter()
        .filter_map(|object| match object {
            AnyObject::Farm(farm) => Some((object.reference(), farm)),
            _ => None,
        })
        .collect();
    for object in objects {
        let reference = object.reference();
        let created = || object.metadata().creation_timestamp.clone();
        let dated = |address: Ipv4Addr| (address, created(), reference.clone());
        match object {
            AnyObject::Farm(farm) => {
                let lan = farm.spec.lan.of(&reference, Kind::Lan);
                all.entry(lan).or_default().addresses.extend(farm.spec.addresses.iter().copied().map(dated));
            }
            AnyObject::Server(server) => {
                let name = crate::server::farm_of(server);
                let Some(farm) = farms.get(&name) else { continue };
                let lan = farm.spec.lan.of(&name, Kind::Lan);
                all.entry(lan).or_default().addresses.extend(server.spec.address.map(dated));
            }
            AnyObject::Machine(machine) => {
                for nic in &machine.spec.nics {
                    let lan = nic.lan.of(&reference, Kind::Lan);
                    all.entry(lan).or_default().addresses.extend(nic.address.map(dated));
                }
            }
            AnyObject::MachineSet(set) => {
                let first = set.spec.template.spec.nics.first();
                let Some((nic, range)) = first.zip(set.spec.addresses) else { continue };
                all.entry(nic.lan.of(&reference, Kind::Lan)).or_default().ranges.push((range, created()));
            }
            AnyObject::Image(_) | AnyObject::Lan(_) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn object(value: serde_json::Value) -> AnyObject {
        serde_json::from_value(value).unwrap()
    }

    fn lan() -> AnyObject {
        let subnet =
            json!({"name": "v4", "cidr": "10.0.0.0/28", "gateway": "10.0.0.1", "pools": ["10.0.0.2-10.0.0.4"]});
        let dhcp = json!({"reservations": [{"name": "a", "address": "10.0.0.5", "mac": "52:54:00:00:00:01"}]});
        object(json!({"kind": "Lan", "metadata": {"name": "lab"}, "spec": {"subnets": [subnet], "dhcp": dhcp}}))
    }

    fn farm(address: Option<&str>) -> AnyObject {
        let (spec, status) = (json!({"lan": "lab", "image": "node"}), json!({"address": address}));
        object(json!({"kind": "Farm", "metadata": {"name": "lab"}, "spec": spec, "status": status}))
    }

    fn machine(name: &str, address: &str) -> AnyObject {
        let spec = json!({"vm": {}, "nics": [{"name": "a", "lan": "lab", "address": address}]});
        object(json!({"kind": "Machine", "metadata": {"name": name}, "spec": spec}))
    }

    fn set(addresses: &str) -> AnyObject {
        let template = json!({"spec": {"vm": {}, "nics": [{"name": "a", "lan": "lab"}]}});
        object(
            json!({"kind": "MachineSet", "metadata": {"name": "s"}, "spec": {"addresses": addresses, "template": template}}),
        )
    }

    fn chosen(objects: &[AnyObject]) -> String {
        chosen_in(objects, &Environment::default())
    }

    fn chosen_in(objects: &[AnyObject], environment: &Environment) -> String {
        let chosen: Vec<_> = choose(objects, environment).into_values().collect();
        let [address] = chosen[..] else { panic!("one farm") };
        address.map(|address| address.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_farm_has_what_nobody_else_has() {
        assert_eq!(chosen(&[lan(), farm(None)]), "10.0.0.6");
        assert_eq!(chosen(&[lan(), farm(None), machine("a", "10.0.0.6"), set("10.0.0.7-10.0.0.8")]), "10.0.0.9");
        assert_eq!(chosen(&[lan(), farm(None), set("10.0.0.6-10.0.0.14")]), "");
    }

    #[test]
    fn it_is_kept_while_it_can_be() {
        assert_eq!(chosen(&[lan(), farm(Some("10.0.0.12"))]), "10.0.0.12");
        assert_eq!(chosen(&[lan(), farm(Some("10.0.0.1"))]), "10.0.0.6", "the router has that one");
        assert_eq!(chosen(&[lan(), farm(Some("10.9.0.1"))]), "10.0.0.6", "it is of another network");
        let dated = |mut object: AnyObject, created: &str| {
            object.metadata_mut().creation_timestamp = Some(created.to_owned());
            object
        };
        let with = |created: &str| {
            let machine = dated(machine("a", "10.0.0.12"), created);
            chosen(&[lan(), dated(farm(Some("10.0.0.12")), "2026-01-02T00:00:00Z"), machine])
        };
        assert_eq!(with("2026-01-03T00:00:00Z"), "10.0.0.12", "who comes later is told");
        assert_eq!(with("2026-01-01T00:00:00Z"), "10.0.0.6", "who was there before has it");
        let claimed = |created: &str, by: AnyObject| {
            let lan = lan().reference();
            let name = Unique::Address(lan, [10, 0, 0, 12].into()).name();
            let environment =
                Environment { claims: Arc::new([(name, by.reference())].into()), ..Environment::default() };
            let machine = dated(machine("a", "10.0.0.12"), created);
            chosen_in(&[self::lan(), dated(farm(Some("10.0.0.12")), "2026-01-02T00:00:00Z"), machine], &environment)
        };
        assert_eq!(claimed("2026-01-01T00:00:00Z", farm(None)), "10.0.0.12", "who has a claim keeps it");
        assert_eq!(claimed("2026-01-03T00:00:00Z", machine("a", "10.0.0.12")), "10.0.0.6", "this one, too");
        assert_eq!(claimed("2026-01-03T00:00:00Z", machine("b", "10.0.0.12")), "10.0.0.12", "that one is gone");
    }
}
