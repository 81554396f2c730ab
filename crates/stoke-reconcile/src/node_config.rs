//! The scopes of a node's configuration, widest first: default, LAN, farm, classes in their order, the object itself.
//!
//! A farm is given the merged configuration of each node, and where a class chooses by what the machine is, the scopes
//! too: only the machine knows that, and says it when it boots. What the default and the LAN say is no part of what a node
//! is given, since it does or learns that by itself; it is in what people are shown ([`explain`]).

use std::collections::BTreeMap;

use stoke_api::meta::DEFAULT_NAMESPACE;
use stoke_api::objects::node_config::Conflict;
use stoke_api::objects::{AnyObject, FarmSpec, Inventory, InventorySelector, Kind, NodeConfig, NodeState, Problem};
use stoke_api::workload::ConfigScope;
use stoke_api::{Condition, ObjectRef};
use stoke_boot::config::{Merged, Origin, Scope, Source, merge, merged};
use stoke_boot::lts::translate::Translation;

use crate::check::hostname;
use crate::lan;
use crate::ltsp::FarmLtsp;
use crate::names::nic_mac;
use crate::status::condition;
use crate::view::{Farm, View, sibling};

/// A scope of a node's configuration.
#[derive(Clone, Debug)]
pub(crate) struct OwnScope {
    /// Where it is written.
    pub(crate) source: Source,
    /// What it says, and for which machines.
    pub(crate) scope: ConfigScope,
}

/// A node as its configuration needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    /// The `Server` or `Machine`.
    pub(crate) name: &'a ObjectRef,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) own: &'a NodeConfig,
    /// What the machine is, if it has said it.
    pub(crate) inventory: Option<&'a Inventory>,
}

/// The name of a farm.
pub(crate) fn reference_of(farm: &Farm) -> ObjectRef {
    let namespace = farm.metadata.namespace.clone().or_else(|| DEFAULT_NAMESPACE.parse().ok());
    ObjectRef { kind: Kind::Farm, namespace, name: farm.metadata.name.clone() }
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl<'a> Node<'a> {
    /// The node that an object of the view describes.
    pub(crate) fn in_view(view: &View<'a>, name: &'a ObjectRef, own: &'a NodeConfig) -> Self {
        let node = view.object(name).and_then(|object| Self::of(object, name));
        node.map_or(Self { name, labels: &NO_LABELS, own, inventory: None }, |(node, _)| node)
    }

    /// The node of an object, and the farm that feeds it.
    pub(crate) fn of(object: &'a AnyObject, name: &'a ObjectRef) -> Option<(Self, ObjectRef)> {
        fn inventory(node: Option<&NodeState>) -> Option<&Inventory> {
            node?.inventory.as_ref()
        }
        match object {
            AnyObject::Server(server) => {
                let (labels, own) = (&server.metadata.labels, &server.spec.config);
                let node = Self { name, labels, own, inventory: inventory(server.status.node.as_ref()) };
                Some((node, crate::server::farm_of(server)))
            }
            AnyObject::Machine(machine) => {
                let (labels, own) = (&machine.metadata.labels, &machine.spec.config);
                let node = Self { name, labels, own, inventory: inventory(machine.status.node.as_ref()) };
                Some((node, sibling(name, Kind::Farm, machine.spec.farm.as_ref()?)))
            }
            _ => None,
        }
    }
}

/// The scopes that a farm has for machines with these labels, widest first.
pub(crate) fn scopes_of_farm(farm: &ObjectRef, spec: &FarmSpec, labels: &BTreeMap<String, String>) -> Vec<OwnScope> {
    // A host name of the farm would be that of all its nodes.
    let whole = NodeConfig { hostname: None, ..spec.config.clone() };
    let mut scopes = vec![own_scope(Source::object(farm, "spec.config"), whole, InventorySelector::default())];
    for (index, class) in spec.classes.iter().enumerate().filter(|(_, class)| class.selector.fits_labels(labels)) {
        let source = Source {
            name: format!("class {} of {farm}", class.name),
            object: Some(farm.clone()),
            field: format!("spec.classes[{index}].config"),
        };
        scopes.push(own_scope(source, class.config.clone(), class.selector.inventory.clone()));
    }
    scopes
}

/// What a farm's configuration of LTSP means for a node, as a scope of its own.
const LTSP: &str = "LTSP";

/// All scopes of a node that objects have, widest first. `ltsp` is what the farm's configuration of LTSP means for it.
pub(crate) fn scopes(farm: &ObjectRef, spec: &FarmSpec, node: Node<'_>, ltsp: Option<Translation>) -> Vec<OwnScope> {
    let mut scopes = scopes_of_farm(farm, spec, node.labels);
    if let Some(translation) = ltsp {
        let field = if spec.lts_conf.is_some() { "spec.ltsConf" } else { "spec.ltspConf" };
        let source = Source { name: LTSP.to_owned(), object: Some(farm.clone()), field: field.to_owned() };
        scopes.insert(1, own_scope(source, translation.config, InventorySelector::default()));
    }
    let own = with_namespace(node.own.clone(), node.name, farm);
    scopes.push(own_scope(Source::object(node.name, "spec.config"), own, InventorySelector::default()));
    scopes
}

/// A node's own configuration, whose secrets are in the node's namespace, also where its farm is in another one.
fn with_namespace(mut config: NodeConfig, node: &ObjectRef, farm: &ObjectRef) -> NodeConfig {
    let elsewhere = node.namespace.as_ref().filter(|_| node.namespace != farm.namespace);
    for secret in config.files.iter_mut().filter_map(|file| file.secret.as_mut()) {
        // A server is in no namespace: who writes one has the whole cluster.
        secret.namespace = elsewhere.cloned();
    }
    config
}

/// Classes that machines are in which no object names, and which so have no labels.
pub(crate) fn classes_of_strangers(farm: &ObjectRef, spec: &FarmSpec) -> Vec<ConfigScope> {
    scopes_of_farm(farm, spec, &BTreeMap::new()).into_iter().skip(1).map(|scope| scope.scope).collect()
}

fn own_scope(source: Source, config: NodeConfig, inventory: InventorySelector) -> OwnScope {
    OwnScope { source, scope: ConfigScope { config, inventory } }
}

/// The scopes that hold for a machine: those that choose by what it is only if that is known.
pub(crate) fn holding<'a>(scopes: &'a [OwnScope], inventory: Option<&Inventory>) -> Vec<Scope<'a>> {
    let holds = |selector: &InventorySelector| match inventory {
        _ if selector.is_empty() => true,
        Some(machine) => selector.fits(machine),
        None => false,
    };
    let holding = scopes.iter().filter(|scope| holds(&scope.scope.inventory));
    holding.map(|scope| Scope { source: scope.source.clone(), config: &scope.scope.config }).collect()
}

/// The merged configuration of a machine.
pub(crate) fn merged_for(scopes: &[OwnScope], inventory: Option<&Inventory>) -> NodeConfig {
    merged(&holding(scopes, inventory))
}

/// The scopes if what a machine is decides which of them hold; else nothing.
pub(crate) fn undecided(scopes: Vec<OwnScope>) -> Vec<ConfigScope> {
    let decides = scopes.iter().any(|scope| !scope.scope.inventory.is_empty());
    scopes.into_iter().filter(|_| decides).map(|scope| scope.scope).collect()
}

/// A node's configuration as people are shown it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// All values, and where each came from.
    pub merged: Merged,
    /// The classes that it is in, in their order.
    pub classes: Vec<String>,
    /// Classes that it may be in: what the machine is decides, and it has not said that yet.
    pub undecided: Vec<String>,
}

/// The configuration of a node; `None` if there is no such `Server` or `Machine`, or no farm feeds it.
pub fn explain(objects: &[AnyObject], name: &ObjectRef) -> Option<Explained> {
    let find = |wanted: &ObjectRef| objects.iter().find(|object| object.reference() == *wanted);
    let object = find(name)?;
    let (node, farm) = Node::of(object, name)?;
    let Some(AnyObject::Farm(spec)) = find(&farm) else { return None };
    let zone =
        NodeConfig { timezone: Some("Etc/UTC".into()), hostname: Some(name.name.to_string()), ..NodeConfig::default() };
    let mut all = vec![own_scope(Source::named("default"), zone, InventorySelector::default())];
    let lan = sibling(&farm, Kind::Lan, &spec.spec.lan);
    if let Some(AnyObject::Lan(object)) = find(&lan) {
        let mut config = NodeConfig::default();
        config.dns.search = vec![lan::domain(&lan, object)];
        let field = if object.spec.dns.domain.is_some() { "spec.dns.domain" } else { "metadata.name" };
        all.push(own_scope(Source::object(&lan, field), config, InventorySelector::default()));
    }
    let ltsp = FarmLtsp::among(objects, &farm, &spec.spec).map(|ltsp| ltsp_of(&ltsp, object, name));
    let places = ltsp.as_ref().map(|translation| translation.places.clone()).unwrap_or_default();
    all.extend(scopes(&farm, &spec.spec, node, ltsp));
    let holds = |name: &&OwnScope| holding(std::slice::from_ref(*name), node.inventory).len() == 1;
    let is_class = |scope: &&OwnScope| scope.source.field.starts_with("spec.classes");
    let class = |scope: &OwnScope| scope.source.name.clone();
    let mut merged = merge(&holding(&all, node.inventory));
    for (path, origin) in merged.origins.iter_mut().filter(|(_, origin)| origin.source.name == LTSP) {
        // The line says more than the field.
        if let Some(place) = places.get(path) {
            origin.source.name = place.to_string();
        }
    }
    Some(Explained {
        merged,
        classes: all.iter().filter(is_class).filter(holds).map(class).collect(),
        undecided: if node.inventory.is_some() {
            Vec::new()
        } else {
            all.iter().filter(is_class).filter(|scope| !holds(scope)).map(class).collect()
        },
    })
}

/// What a farm's configuration of LTSP means for an object's machine.
fn ltsp_of(ltsp: &FarmLtsp, object: &AnyObject, name: &ObjectRef) -> Translation {
    match object {
        AnyObject::Server(server) => {
            ltsp.translate(&server.spec.macs, server.spec.address, &hostname(name, &server.spec.config))
        }
        AnyObject::Machine(machine) => {
            let macs: Vec<_> = machine.spec.nics.iter().map(|nic| nic_mac(name, nic)).collect();
            let address = machine.spec.nics.iter().find_map(|nic| nic.address);
            ltsp.translate(&macs, address, &hostname(name, &machine.spec.config))
        }
        _ => Translation::default(),
    }
}

/// What a node does not do that its configuration asks for.
pub(crate) fn configured(node: Option<&NodeState>) -> Option<Condition> {
    let remarks = &node?.remarks;
    (!remarks.is_empty()).then(|| condition("Configured", false, "Incomplete", remarks.join("; ")))
}

/// Nodes for which a value is wrong.
type Faults = BTreeMap<(ObjectRef, String, String), Vec<ObjectRef>>;

/// What excludes each other in the configurations of all nodes, each told where it is written that is at fault: in the
/// narrower of the two scopes.
pub(crate) fn check(objects: &[AnyObject]) -> Vec<(ObjectRef, Problem)> {
    let farms: BTreeMap<_, _> = objects
        .iter()
        .filter_map(|object| match object {
            AnyObject::Farm(farm) => Some((object.reference(), &farm.spec)),
            _ => None,
        })
        .collect();
    let mut faults = Faults::new();
    let ltsp: BTreeMap<_, _> =
        farms.iter().filter_map(|(farm, spec)| Some((farm, FarmLtsp::among(objects, farm, spec)?))).collect();
    for (farm, spec) in &farms {
        // What machines get that no object names.
        let scopes = scopes_of_farm(farm, spec, &BTreeMap::new());
        check_one(&scopes, None, farm, &mut faults);
    }
    for object in objects {
        let name = object.reference();
        let Some((node, farm)) = Node::of(object, &name) else { continue };
        let Some(spec) = farms.get(&farm) else { continue };
        let ltsp = ltsp.get(&farm).map(|ltsp| ltsp_of(ltsp, object, &name));
        check_one(&scopes(&farm, spec, node, ltsp), node.inventory, &name, &mut faults);
    }
    faults
        .into_iter()
        .map(|((object, field, message), nodes)| (object.clone(), told(field, &message, &object, &nodes)))
        .collect()
}

fn check_one(scopes: &[OwnScope], inventory: Option<&Inventory>, node: &ObjectRef, faults: &mut Faults) {
    let holding = holding(scopes, inventory);
    let conflicts = merged(&holding).conflicts();
    if conflicts.is_empty() {
        return;
    }
    let origins = merge(&holding).origins;
    let rank = |origin: &Origin| holding.iter().position(|scope| scope.source == origin.source);
    for Conflict { between: [one, other], message } in conflicts {
        let (Some(one), Some(other)) = (origins.get(&one), origins.get(&other)) else { continue };
        let (guilty, wider) = if rank(one) > rank(other) { (one, other) } else { (other, one) };
        let message = if guilty.source == wider.source {
            message
        } else {
            format!("{message} (the other is {} of {})", wider.field, wider.source.name)
        };
        let object = guilty.source.object.clone().unwrap_or_else(|| node.clone());
        faults.entry((object, guilty.whole_field(), message)).or_default().push(node.clone());
    }
}

/// One problem for all nodes that have it. The object itself needs not be named.
fn told(field: String, message: &str, object: &ObjectRef, nodes: &[ObjectRef]) -> Problem {
    let message = match nodes {
        [] => message.to_owned(),
        _ if nodes.contains(object) => message.to_owned(),
        [node] => format!("{message}, for {node}"),
        [first, rest @ ..] => format!("{message}, for {first} and {} more", rest.len()),
    };
    Problem { field, message }
}

#[cfg(test)]
mod tests;
