//! What only one object may have: who has it, and who does not get it.

use std::sync::Arc;

use super::*;

/// The example lab, in a cluster whose store keeps what is claimed.
struct Cluster(World);

impl Cluster {
    fn new(objects: Vec<AnyObject>) -> Self {
        let mut world = World::new(objects);
        world.observed.environment.layout = Layout::Pods;
        Self(world)
    }

    fn objects(&mut self) -> &mut Vec<AnyObject> {
        &mut self.0.observed.objects
    }

    /// What is wanted; the store keeps it.
    fn keep(&mut self) -> Claims {
        let claims = reconcile(&self.0.observed).claims;
        let held = claims.iter().map(|(name, claim)| (name.clone(), claim.holder.clone())).collect();
        self.0.observed.environment.claims = Arc::new(held);
        claims
    }

    fn problems(&self) -> Vec<String> {
        let found = check_in(&self.0.observed.objects, &self.0.observed.environment);
        found.into_iter().map(|(object, problem)| format!("{object} {}", problem.field)).collect()
    }
}

fn dated(mut object: AnyObject, day: u8) -> AnyObject {
    object.metadata_mut().creation_timestamp = Some(format!("2026-01-{day:02}T00:00:00Z"));
    object
}

fn with_uuid(mut object: AnyObject, uuid: &str) -> AnyObject {
    let AnyObject::Server(server) = &mut object else { panic!("a server") };
    server.spec.uuid = Some(uuid.to_owned());
    object
}

const UUID: &str = "4c4c4544-0044-4810-8031-b4c04f4a3132";

/// A server that wants all that another one has.
fn twin(name: &str) -> AnyObject {
    let mut twin = with_uuid(server(name, "52:54:00:00:00:0a", "10.10.0.40"), UUID);
    let AnyObject::Server(server) = &mut twin else { panic!("a server") };
    server.spec.config.hostname = Some("twin".to_owned());
    twin
}

const ALL_OF_TWIN: [&str; 4] = ["spec.macs[0]", "spec.uuid", "spec.config.hostname", "spec.address"];

fn all_of(name: &str) -> Vec<String> {
    ALL_OF_TWIN.iter().map(|field| format!("server/{name} {field}")).collect()
}

/// Two servers, of which the older one is edited when the younger one has what it wants.
fn older_is_edited() -> Cluster {
    let mut cluster = Cluster::new(vec![image(), lan(), farm()]);
    let other = dated(server("older", "52:54:00:00:00:0b", "10.10.0.41"), 1);
    cluster.objects().extend([other, dated(twin("younger"), 2)]);
    cluster.keep();
    cluster.objects()[3] = dated(twin("older"), 1);
    cluster
}

#[test]
fn each_value_of_the_lab_is_claimed_once() {
    let mut cluster = Cluster::new(lab());
    let claims = cluster.keep();
    let shown: Vec<_> =
        claims.iter().map(|(name, claim)| format!("{name}: {} {}", claim.holder, claim.value)).collect();
    insta::assert_snapshot!(shown.join("\n"), @r"
    address-default.lab.10-10-0-2: farm/lab 10.10.0.2 on lan/lab
    address-default.lab.10-10-0-21: machine/node-1 10.10.0.21 on lan/lab
    address-default.lab.10-10-0-27: server/rack1-07 10.10.0.27 on lan/lab
    farm-default.lab: farm/lab the farm of lan/lab
    hostname-default.lab.node-1: machine/node-1 node-1 on lan/lab
    hostname-default.lab.rack1-07: server/rack1-07 rack1-07 on lan/lab
    mac-52-54-00-00-00-01: machine/node-1 52:54:00:00:00:01
    mac-52-54-00-00-00-07: server/rack1-07 52:54:00:00:00:07
    vni-1833194: lan/lab network identifier 1833194
    ");
    assert_eq!(cluster.keep(), claims, "nothing changed");
    assert_eq!(reconcile(&World::new(lab()).observed).claims, Claims::new(), "one host has one store");
}

#[test]
fn an_older_object_that_is_edited_takes_nothing_from_a_younger_one() {
    let mut cluster = older_is_edited();
    assert_eq!(cluster.problems(), all_of("older"));
    let before = cluster.0.observed.environment.claims.clone();
    cluster.keep();
    let theirs = |claims: &BTreeMap<String, ObjectRef>| {
        let of = |claim: &(&String, &ObjectRef)| claim.1.name.as_str() == "younger";
        claims.iter().filter(of).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(theirs(&cluster.0.observed.environment.claims), theirs(&before));
    // Without claims it would: nothing says who was there first.
    cluster.0.observed.environment.claims = Arc::default();
    assert_eq!(cluster.problems(), all_of("younger"));
}

#[test]
fn a_claim_is_free_when_its_holder_is_gone_or_wants_it_no_more() {
    let mut cluster = older_is_edited();
    cluster.objects().pop();
    assert_eq!(cluster.problems(), [""; 0]);
    let mut cluster = older_is_edited();
    cluster.objects()[4] = dated(server("younger", "52:54:00:00:00:0c", "10.10.0.42"), 2);
    assert_eq!(cluster.problems(), [""; 0]);
    let holder = |claims: &Claims, name: &str| claims[name].holder.name.to_string();
    let claims = cluster.keep();
    assert_eq!(holder(&claims, "mac-52-54-00-00-00-0a"), "older");
    assert_eq!(holder(&claims, "mac-52-54-00-00-00-0c"), "younger");
    assert!(!claims.contains_key("mac-52-54-00-00-00-0b"), "nobody wants it any more");
}

#[test]
fn of_several_who_want_what_a_claim_of_nobody_is_to_the_oldest_gets_it() {
    let mut cluster = older_is_edited();
    cluster.objects()[4] = dated(twin("third"), 3);
    assert_eq!(cluster.problems(), all_of("third"));
}

#[test]
fn what_cannot_be_read_keeps_its_claims() {
    let mut cluster = older_is_edited();
    let younger = cluster.objects().pop().unwrap().reference();
    cluster.0.observed.environment.unreadable = [younger].into();
    assert_eq!(cluster.problems(), all_of("older"));
    // What it did not have is everybody's.
    cluster.objects()[3] = dated(server("older", "52:54:00:00:00:0d", "10.10.0.43"), 1);
    assert_eq!(cluster.problems(), [""; 0]);
}

#[test]
fn a_lan_keeps_its_farm_when_an_older_one_is_moved_there() {
    let other = |lan: &str| {
        let spec = json!({"lan": lan, "image": "node", "addresses": ["10.10.0.9"]});
        dated(object(json!({"kind": "Farm", "metadata": {"name": "older"}, "spec": spec})), 1)
    };
    let mut cluster = Cluster::new(vec![image(), lan(), dated(farm(), 2), other("nowhere")]);
    cluster.keep();
    cluster.objects()[3] = other("lab");
    assert_eq!(cluster.problems(), ["farm/older spec.lan"]);
}

#[test]
fn a_machine_that_had_two_interfaces_of_one_address_is_told_of_itself() {
    let mac = "52:54:00:00:00:0a";
    let mut cluster = Cluster::new(vec![image(), lan(), farm(), dated(twin("older"), 1)]);
    let mut nic = machine("twice", &json!({"name": "a", "lan": "lab", "mac": mac}));
    let AnyObject::Machine(twice) = &mut nic else { panic!("a machine") };
    let second = serde_json::from_value(json!({"name": "b", "lan": "lab", "mac": mac})).unwrap();
    twice.spec.nics.push(second);
    cluster.objects().push(dated(nic, 2));
    let name = "mac-52-54-00-00-00-0a".to_owned();
    let claims = BTreeMap::from([(name, reference(Kind::Machine, "twice"))]);
    cluster.0.observed.environment.claims = Arc::new(claims);
    assert_eq!(cluster.problems(), ["server/older spec.macs[0]", "machine/twice spec.nics[1].mac"]);
}
