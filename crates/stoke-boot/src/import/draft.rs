//! The objects that an import makes, as far as its files have told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};
use stoke_api::API_VERSION;
use stoke_api::MacAddr;
use stoke_api::objects::{NodeConfig, RootMode};

use super::range::Range;
use super::{Became, Row, object_name};
use crate::config::{Scope, Source, merged};

/// How the objects are called that an import makes or refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The farm.
    pub farm: String,
    /// Its LAN.
    pub lan: String,
    /// The image that its nodes boot.
    pub image: String,
}

/// Objects in the making.
#[derive(Clone, Debug)]
pub struct Draft {
    names: Names,
    /// Configuration of all nodes.
    pub(super) config: NodeConfig,
    pub(super) root: Option<RootMode>,
    classes: BTreeMap<String, NodeConfig>,
    pub(super) servers: BTreeMap<String, Server>,
    ranges: Vec<Range>,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) domain: Option<String>,
    pub(super) upstreams: Vec<IpAddr>,
    rows: Vec<Row>,
}

/// A server in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) macs: BTreeSet<MacAddr>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) uuid: Option<String>,
    pub(super) client_id: Option<String>,
    /// Its classes: labels of these names.
    pub(super) tags: BTreeSet<String>,
    pub(super) config: NodeConfig,
}

impl Draft {
    /// Nothing yet.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            config: NodeConfig::default(),
            root: None,
            classes: BTreeMap::new(),
            servers: BTreeMap::new(),
            ranges: Vec::new(),
            gateway: None,
            domain: None,
            upstreams: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// What became of each key, in the order in which they were read.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn row(&mut self, file: &str, key: &str, became: Became) {
        self.rows.push(Row { file: file.to_owned(), key: key.to_owned(), became });
    }

    pub(super) fn field(&mut self, file: &str, key: &str, field: impl Into<String>) {
        self.row(file, key, Became::Field(field.into()));
    }

    pub(super) fn nothing(&mut self, file: &str, key: &str, why: impl Into<String>) {
        self.row(file, key, Became::Nothing(why.into()));
    }

    /// Rows of what nobody has taken out of a document.
    pub(super) fn rest(&mut self, file: &str, path: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.rest(file, &path, value);
                }
            }
            Value::Array(entries) if entries.iter().any(|entry| entry.is_object() || entry.is_array()) => {
                for (index, value) in entries.iter().enumerate() {
                    self.rest(file, &format!("{path}[{index}]"), value);
                }
            }
            _ => self.nothing(file, path, "nothing here is like it"),
        }
    }

    /// Adds to the configuration of a class, or of all nodes for the tag `all`. Gives the field's beginning.
    pub(super) fn configure(&mut self, tag: &str, config: &NodeConfig) -> String {
        if tag == "all" {
            self.config = over(&self.config, config);
            return format!("Farm {}: spec.config", self.names.farm);
        }
        let name = object_name(tag);
        let class = self.classes.entry(name.clone()).or_default();
        *class = over(class, config);
        format!("Farm {}: class {name}", self.names.farm)
    }

    /// The server of a name, made if it is not there; one with one of these addresses is the same.
    pub(super) fn server(&mut self, name: &str, macs: &[MacAddr]) -> (String, &mut Server) {
        let known = self.servers.iter().find(|(_, server)| macs.iter().any(|mac| server.macs.contains(mac)));
        let name = known.map_or_else(|| object_name(name), |(name, _)| name.clone());
        let server = self.servers.entry(name.clone()).or_default();
        server.macs.extend(macs);
        (name, server)
    }

    pub(super) fn range(&mut self, range: Range) {
        self.ranges.push(range);
    }

    /// The objects, in the order in which one needs the other.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects: Vec<_> = self.lan().into_iter().collect();
        objects.push(self.farm());
        objects.extend(
            self.servers
                .iter()
                .filter(|(_, server)| !server.macs.is_empty())
                .map(|(name, server)| self.server_object(name, server)),
        );
        objects
    }

    fn lan(&self) -> Option<Value> {
        let addresses = || self.servers.values().filter_map(|server| server.address).chain(self.gateway);
        let subnets = Range::subnets(&self.ranges, addresses());
        if subnets.is_empty() {
            return None;
        }
        let gateway = |cidr: &ipnet::Ipv4Net| self.gateway.filter(|gateway| cidr.contains(gateway));
        let subnet = |(index, (cidr, pools)): (usize, &(ipnet::Ipv4Net, Vec<String>))| {
            let mut subnet = json!({"name": format!("v{index}"), "cidr": cidr.to_string()});
            insert(&mut subnet, "gateway", gateway(cidr).map(|gateway| gateway.to_string().into()));
            insert(&mut subnet, "pools", (!pools.is_empty()).then(|| json!(pools)));
            subnet
        };
        let has_pools = subnets.iter().any(|(_, pools)| !pools.is_empty());
        let mut spec = json!({
            "subnets": subnets.iter().enumerate().map(subnet).collect::<Vec<_>>(),
            "dhcp": {"mode": if has_pools { "Authoritative" } else { "Reservations" }},
        });
        let mut dns = json!({});
        insert(&mut dns, "domain", self.domain.clone().map(Value::from));
        let upstreams: Vec<_> = self.upstreams.iter().map(ToString::to_string).collect();
        insert(&mut dns, "upstreams", (!upstreams.is_empty()).then(|| json!(upstreams)));
        insert(&mut spec, "dns", (dns != json!({})).then_some(dns));
        Some(object("Lan", &self.names.lan, &BTreeMap::new(), &spec))
    }

    fn farm(&self) -> Value {
        let mut spec = json!({"lan": self.names.lan, "image": self.names.image});
        insert(&mut spec, "boot", self.root.map(|root| json!({"root": root})));
        insert(&mut spec, "config", of_config(&self.config));
        let class = |(name, config): (&String, &NodeConfig)| {
            let mut labels = Map::new();
            labels.insert(name.clone(), "true".into());
            let mut class = json!({"name": name, "selector": {"matchLabels": labels}});
            insert(&mut class, "config", of_config(config));
            class
        };
        let classes: Vec<_> = self.classes.iter().map(class).collect();
        insert(&mut spec, "classes", (!classes.is_empty()).then(|| classes.into()));
        object("Farm", &self.names.farm, &BTreeMap::new(), &spec)
    }

    fn server_object(&self, name: &str, server: &Server) -> Value {
        let macs: Vec<_> = server.macs.iter().map(ToString::to_string).collect();
        let mut spec = json!({"farm": {"namespace": "default", "name": self.names.farm}, "macs": macs});
        insert(&mut spec, "uuid", server.uuid.clone().map(Value::from));
        insert(&mut spec, "clientId", server.client_id.clone().map(Value::from));
        insert(&mut spec, "address", server.address.map(|address| address.to_string().into()));
        insert(&mut spec, "config", of_config(&server.config));
        let labels = server.tags.iter().map(|tag| (object_name(tag), "true".to_owned())).collect();
        object("Server", name, &labels, &spec)
    }
}

fn object(kind: &str, name: &str, labels: &BTreeMap<String, String>, spec: &Value) -> Value {
    let mut metadata = json!({"name": name});
    insert(&mut metadata, "labels", (!labels.is_empty()).then(|| json!(labels)));
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec})
}

fn insert(into: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(map), Some(value)) = (into.as_object_mut(), value) {
        map.insert(key.to_owned(), value);
    }
}

fn of_config(config: &NodeConfig) -> Option<Value> {
    serde_json::to_value(config).ok().filter(|value| *value != json!({}))
}

/// A configuration with another one over it.
pub(super) fn over(wide: &NodeConfig, narrow: &NodeConfig) -> NodeConfig {
    merged(&[
        Scope { source: Source::named("before"), config: wide },
        Scope { source: Source::named("now"), config: narrow },
    ])
}

/// What a configuration says that another one does not.
pub(super) fn beyond(config: &NodeConfig, base: &NodeConfig) -> NodeConfig {
    let (Ok(whole), Ok(base)) = (serde_json::to_value(config), serde_json::to_value(base)) else {
        return config.clone();
    };
    serde_json::from_value(difference(whole, &base).unwrap_or_else(|| json!({}))).unwrap_or_default()
}

fn difference(whole: Value, base: &Value) -> Option<Value> {
    match (whole, base) {
        (whole, base) if whole == *base => None,
        (Value::Object(fields), Value::Object(known)) => {
            let differs = |(name, value): (String, Value)| {
                let rest = difference(value, known.get(&name).unwrap_or(&Value::Null))?;
                Some((name, rest))
            };
            Some(Value::Object(fields.into_iter().filter_map(differs).collect()))
        }
        (Value::Array(entries), Value::Array(known)) if entries.iter().all(Value::is_object) => {
            Some(Value::Array(entries.into_iter().filter(|entry| !known.contains(entry)).collect()))
        }
        (whole, _) => Some(whole),
    }
}
