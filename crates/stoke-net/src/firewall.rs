//! The packet filter of a namespace: one nftables table of our own that keeps LANs apart and hides them behind the way
//! out.
//!
//! Expressions are written exactly as `nft -j list` prints them (libnftables-json(5)), so that what is there can be
//! compared with what is wanted. Everything is in the `ip` family: IPv6 is not forwarded.

use std::fmt;

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use stoke_api::names::LinkName;

use crate::label::Installation;
use crate::wanted::{Lan, Wanted};

/// Chains of the table: name, type, hook, priority, policy.
const CHAINS: [(&str, &str, &str, i64, &str); 3] = [
    ("forward", "filter", "forward", 0, "drop"),
    ("input", "filter", "input", 0, "accept"),
    ("postrouting", "nat", "postrouting", 100, "accept"),
];

/// A table, wanted or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, made from the installation's.
    pub name: String,
    /// Its chains, in order of their names.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Type, hook, priority and policy.
    pub base: Value,
    /// Its rules: lists of expressions.
    pub rules: Vec<Value>,
}

impl Table {
    /// The table's name.
    pub fn name(installation: &Installation) -> String {
        format!("stokehold_{installation}")
    }

    /// The table that these LANs need.
    pub fn of(wanted: &Wanted) -> Self {
        let rules = |chain: &str| match chain {
            "forward" => forward_rules(wanted),
            "input" => input_rules(&wanted.lans),
            _ => masquerade_rules(wanted),
        };
        let chain = |(name, kind, hook, priority, policy): (&str, &str, &str, i64, &str)| Chain {
            name: name.to_owned(),
            base: base(&json!(kind), &json!(hook), &json!(priority), &json!(policy)),
            rules: rules(name),
        };
        Self { name: Self::name(&wanted.installation), chains: CHAINS.map(chain).to_vec() }
    }

    /// Finds the table in what `nft -j list ruleset` printed.
    pub fn find(name: &str, listing: &Value) -> Option<Self> {
        let entries = listing.get("nftables")?.as_array()?;
        let of_table = |kind: &'static str, key: &'static str| {
            let entries = entries.iter().filter_map(move |entry| entry.get(kind));
            entries.filter(move |entry| entry.get(key).is_some_and(|found| found == name) && is_ip(entry))
        };
        of_table("table", "name").next()?;
        let mut chains: Vec<Chain> = of_table("chain", "table").filter_map(chain_of).collect();
        for rule in of_table("rule", "table") {
            let chain = chains.iter_mut().find(|chain| rule.get("chain").is_some_and(|name| *name == chain.name));
            if let (Some(chain), Some(expressions)) = (chain, rule.get("expr")) {
                chain.rules.push(expressions.clone());
            }
        }
        chains.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Self { name: name.to_owned(), chains })
    }

    /// The commands that make it, for `nft -j -f -`. The kernel takes all or none (one netlink batch); connections that
    /// are translated go on, since the tracker remembers them and not the table.
    pub fn load(&self) -> Value {
        let table = json!({"family": "ip", "name": self.name});
        let mut commands = vec![json!({"add": {"table": table}}), json!({"delete": {"table": table}})];
        commands.push(json!({"add": {"table": table}}));
        for chain in &self.chains {
            let mut object = chain.base.clone();
            merge(&mut object, json!({"family": "ip", "table": self.name, "name": chain.name}));
            commands.push(json!({"add": {"chain": object}}));
        }
        for chain in &self.chains {
            let rule = |rule: &Value| json!({"family": "ip", "table": self.name, "chain": chain.name, "expr": rule});
            commands.extend(chain.rules.iter().map(|expressions| json!({"add": {"rule": rule(expressions)}})));
        }
        json!({"nftables": commands})
    }

    /// The commands that remove the table of this name.
    pub fn delete(name: &str) -> Value {
        json!({"nftables": [{"delete": {"table": {"family": "ip", "name": name}}}]})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: usize = self.chains.iter().map(|chain| chain.rules.len()).sum();
        write!(f, "nftables table {} ({rules} rules)", self.name)?;
        let masquerades = self.chains.iter().filter(|chain| chain.name == "postrouting").flat_map(|chain| &chain.rules);
        let networks: Vec<String> = masquerades.filter_map(source_network).collect();
        if networks.is_empty() { Ok(()) } else { write!(f, ": masquerade {}", networks.join(", ")) }
    }
}

fn is_ip(entry: &Value) -> bool {
    entry.get("family").is_some_and(|family| family == "ip")
}

fn base(kind: &Value, hook: &Value, priority: &Value, policy: &Value) -> Value {
    json!({"type": kind, "hook": hook, "prio": priority, "policy": policy})
}

fn chain_of(entry: &Value) -> Option<Chain> {
    let field = |name| entry.get(name).cloned().unwrap_or(Value::Null);
    let base = base(&field("type"), &field("hook"), &field("prio"), &field("policy"));
    Some(Chain { name: entry.get("name")?.as_str()?.to_owned(), base, rules: Vec::new() })
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// The network of a rule that begins with its source.
fn source_network(rule: &Value) -> Option<String> {
    let prefix = rule.get(0)?.get("match")?.get("right")?.get("prefix")?;
    Some(format!("{}/{}", prefix.get("addr")?.as_str()?, prefix.get("len")?))
}

/// Nothing goes from one link to another but what is said here.
fn forward_rules(wanted: &Wanted) -> Vec<Value> {
    let established = json!({"match": {
        "op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]
    }});
    let mut rules = vec![json!([established, {"accept": null}])];
    for lan in &wanted.lans {
        // Only seen where the host filters bridged frames too (net.bridge.bridge-nf-call-iptables): they stay in the LAN.
        rules.push(json!([link("iifname", &lan.bridge), link("oifname", &lan.bridge), {"accept": null}]));
        if lan.masquerade {
            rules.push(json!([link("iifname", &lan.bridge), link("oifname", &wanted.way_out), {"accept": null}]));
        }
    }
    rules
}

/// A host answers on any of its links for all of its addresses: without these, a LAN would reach the router, DNS and
/// farm of another one.
fn input_rules(lans: &[Lan]) -> Vec<Value> {
    let foreign = |lan: &Lan| {
        let others = lans.iter().filter(|other| other.key != lan.key).flat_map(|other| &other.addresses);
        let drop = |address: &Ipv4Net| {
            let destination = json!({"payload": {"protocol": "ip", "field": "daddr"}});
            let is = json!({"match": {"op": "==", "left": destination, "right": address.addr().to_string()}});
            json!([link("iifname", &lan.bridge), is, {"drop": null}])
        };
        others.map(drop).collect::<Vec<_>>()
    };
    lans.iter().flat_map(foreign).collect()
}

fn masquerade_rules(wanted: &Wanted) -> Vec<Value> {
    let lans = wanted.lans.iter().filter(|lan| lan.masquerade);
    let networks = lans.flat_map(|lan| lan.addresses.iter().map(Ipv4Net::trunc));
    networks.map(|network| masquerade(network, &wanted.way_out)).collect()
}

fn masquerade(network: Ipv4Net, way_out: &LinkName) -> Value {
    let source = json!({"payload": {"protocol": "ip", "field": "saddr"}});
    let prefix = json!({"prefix": {"addr": network.network().to_string(), "len": network.prefix_len()}});
    let from = json!({"match": {"op": "==", "left": source, "right": prefix}});
    json!([from, link("oifname", way_out), {"masquerade": null}])
}

fn link(key: &str, name: &LinkName) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": name.as_str()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lan(bridge: &str, address: &str, masquerade: bool) -> Lan {
        Lan {
            key: crate::LanKey::of(&format_ref(bridge)),
            bridge: bridge.parse().unwrap(),
            mac: stoke_api::names::MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: [address.parse().unwrap()].into(),
            masquerade,
            uplinks: [].into(),
        }
    }

    fn format_ref(name: &str) -> stoke_api::meta::ObjectRef {
        stoke_api::meta::ObjectRef { kind: stoke_api::objects::Kind::Lan, namespace: None, name: name.parse().unwrap() }
    }

    #[test]
    fn the_table_of_two_lans() {
        let lans = vec![lan("lab0", "10.10.0.1/24", true), lan("safe0", "10.20.0.1/24", false)];
        let wanted = Wanted { installation: "0a".parse().unwrap(), lans, way_out: "out".parse().unwrap() };
        let table = Table::of(&wanted);
        assert_eq!(table.to_string(), "nftables table stokehold_0a (7 rules): masquerade 10.10.0.0/24");
        let commands = table.load();
        let lines: Vec<String> = commands["nftables"].as_array().unwrap().iter().map(Value::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_listing_without_the_table() {
        let others = json!({"nftables": [
            {"metainfo": {}},
            {"table": {"family": "ip6", "name": "stokehold_0a"}},
            {"table": {"family": "ip", "name": "filter"}},
        ]});
        assert_eq!(Table::find("stokehold_0a", &others), None);
    }
}
