//! The packet filter of a namespace: one nftables table of our own that keeps LANs apart and hides them behind the way
//! out.
//!
//! Expressions are written exactly as `nft -j list` prints them (libnftables-json(5)), so that what is there can be
//! compared with what is wanted. IPv6 is not forwarded; once a LAN has it, a second table of the same name, in the family
//! `ip6`, says so and keeps LANs from reaching the router by another one's address.

use std::fmt;

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use stoke_api::names::LinkName;

use crate::label::Installation;
use crate::wanted::{Lan, Wanted};

/// Chains of the table: family, name, type, hook, priority, policy.
const CHAINS: [(&str, &str, &str, &str, i64, &str); 5] = [
    (IPV4, "forward", "filter", "forward", 0, "drop"),
    (IPV4, "input", "filter", "input", 0, "accept"),
    (IPV4, "postrouting", "nat", "postrouting", 100, "accept"),
    (IPV6, "forward", "filter", "forward", 0, "drop"),
    (IPV6, "input", "filter", "input", 0, "accept"),
];
const IPV4: &str = "ip";
const IPV6: &str = "ip6";

/// A table, wanted or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, made from the installation's.
    pub name: String,
    /// Its chains, in order of their families and names.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `ip` or `ip6`.
    pub family: String,
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
        let rules = |family: &str, chain: &str| match (family, chain) {
            (IPV4, "forward") => forward_rules(wanted),
            (IPV4, "input") => input_rules(&wanted.lans, "ip", hosts4),
            (IPV4, _) => masquerade_rules(wanted),
            (_, "input") => input_rules(&wanted.lans, "ip6", hosts6),
            _ => wanted.lans.iter().map(within).collect(),
        };
        let ipv6 = wanted.lans.iter().any(|lan| lan.address6.is_some());
        let chains = CHAINS.into_iter().filter(|(family, ..)| ipv6 || *family == IPV4);
        let chain = |(family, name, kind, hook, priority, policy): (&str, &str, &str, &str, i64, &str)| Chain {
            family: family.to_owned(),
            name: name.to_owned(),
            base: base(&json!(kind), &json!(hook), &json!(priority), &json!(policy)),
            rules: rules(family, name),
        };
        Self { name: Self::name(&wanted.installation), chains: chains.map(chain).collect() }
    }

    /// Finds the table in what `nft -j list ruleset` printed.
    pub fn find(name: &str, listing: &Value) -> Option<Self> {
        let entries = listing.get("nftables")?.as_array()?;
        let of_table = |kind: &'static str, key: &'static str| {
            let entries = entries.iter().filter_map(move |entry| entry.get(kind));
            entries.filter(move |entry| entry.get(key).is_some_and(|found| found == name) && is_ours(entry))
        };
        of_table("table", "name").next()?;
        let mut chains: Vec<Chain> = of_table("chain", "table").filter_map(chain_of).collect();
        for rule in of_table("rule", "table") {
            let same = |field: &str, ours: &str| rule.get(field).is_some_and(|found| found == ours);
            let chain = chains.iter_mut().find(|chain| same("family", &chain.family) && same("chain", &chain.name));
            if let (Some(chain), Some(expressions)) = (chain, rule.get("expr")) {
                chain.rules.push(expressions.clone());
            }
        }
        chains.sort_by(|a, b| (&a.family, &a.name).cmp(&(&b.family, &b.name)));
        Some(Self { name: name.to_owned(), chains })
    }

    /// The commands that make it, for `nft -j -f -`. The kernel takes all or none (one netlink batch); connections that
    /// are translated go on, since the tracker remembers them and not the table.
    pub fn load(&self) -> Value {
        let mut commands = Self::delete_all(&self.name);
        let mut families: Vec<&str> = self.chains.iter().map(|chain| chain.family.as_str()).collect();
        families.dedup();
        let table = |family: &str| json!({"add": {"table": {"family": family, "name": self.name}}});
        commands.extend(families.into_iter().map(table));
        for chain in &self.chains {
            let mut object = chain.base.clone();
            merge(&mut object, json!({"family": chain.family, "table": self.name, "name": chain.name}));
            commands.push(json!({"add": {"chain": object}}));
        }
        for chain in &self.chains {
            let rule =
                |rule: &Value| json!({"family": chain.family, "table": self.name, "chain": chain.name, "expr": rule});
            commands.extend(chain.rules.iter().map(|expressions| json!({"add": {"rule": rule(expressions)}})));
        }
        json!({"nftables": commands})
    }

    /// The commands that remove the table of this name.
    pub fn delete(name: &str) -> Value {
        json!({"nftables": Self::delete_all(name)})
    }

    /// Both families, whichever is there: what is added is there to be deleted.
    fn delete_all(name: &str) -> Vec<Value> {
        let both = |family| {
            let table = json!({"family": family, "name": name});
            [json!({"add": {"table": table}}), json!({"delete": {"table": table}})]
        };
        [IPV4, IPV6].into_iter().flat_map(both).collect()
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

fn is_ours(entry: &Value) -> bool {
    entry.get("family").is_some_and(|family| family == IPV4 || family == IPV6)
}

fn base(kind: &Value, hook: &Value, priority: &Value, policy: &Value) -> Value {
    json!({"type": kind, "hook": hook, "prio": priority, "policy": policy})
}

fn chain_of(entry: &Value) -> Option<Chain> {
    let field = |name| entry.get(name).cloned().unwrap_or(Value::Null);
    let base = base(&field("type"), &field("hook"), &field("prio"), &field("policy"));
    let text = |name| Some(entry.get(name)?.as_str()?.to_owned());
    Some(Chain { family: text("family")?, name: text("name")?, base, rules: Vec::new() })
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
        rules.push(within(lan));
        if lan.masquerade {
            rules.push(json!([link("iifname", &lan.bridge), link("oifname", &wanted.way_out), {"accept": null}]));
        }
    }
    rules
}

/// What stays in a LAN.
fn within(lan: &Lan) -> Value {
    json!([link("iifname", &lan.bridge), link("oifname", &lan.bridge), {"accept": null}])
}

fn hosts4(lan: &Lan) -> Vec<String> {
    lan.addresses.iter().map(|net| net.addr().to_string()).collect()
}

fn hosts6(lan: &Lan) -> Vec<String> {
    lan.address6.iter().map(|net| net.addr().to_string()).collect()
}

/// A host answers on any of its links for all of its addresses: without these, a LAN would reach the router, DNS and
/// farm of another one.
fn input_rules(lans: &[Lan], protocol: &str, addresses: impl Fn(&Lan) -> Vec<String>) -> Vec<Value> {
    let foreign = |lan: &Lan| {
        let others = lans.iter().filter(|other| other.key != lan.key).flat_map(&addresses);
        let drop = |address: String| {
            let destination = json!({"payload": {"protocol": protocol, "field": "daddr"}});
            let is = json!({"match": {"op": "==", "left": destination, "right": address}});
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
            address6: None,
            masquerade,
            uplinks: [].into(),
            overlay: None,
            hosted: true,
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
    fn lans_with_ipv6_are_kept_apart_and_nothing_is_forwarded() {
        let mut lans = vec![lan("lab0", "10.10.0.1/24", true), lan("safe0", "10.20.0.1/24", false)];
        lans[0].address6 = Some("fd00:10::1/64".parse().unwrap());
        let wanted = Wanted { installation: "0a".parse().unwrap(), lans, way_out: "out".parse().unwrap() };
        let table = Table::of(&wanted);
        let chains: Vec<_> = table.chains.iter().filter(|chain| chain.family == IPV6).collect();
        let [forward, input] = chains.as_slice() else { panic!("{chains:?}") };
        assert_eq!((&forward.base["policy"], forward.rules.len()), (&json!("drop"), 2));
        assert!(forward.rules.iter().all(|rule| rule[0]["match"]["right"] == rule[1]["match"]["right"]));
        let [rule] = input.rules.as_slice() else { panic!("{:?}", input.rules) };
        assert_eq!((&rule[0]["match"]["right"], &rule[1]["match"]["right"]), (&json!("safe0"), &json!("fd00:10::1")));
    }

    #[test]
    fn a_listing_without_the_table() {
        let others = json!({"nftables": [
            {"metainfo": {}},
            {"table": {"family": "inet", "name": "stokehold_0a"}},
            {"table": {"family": "ip", "name": "filter"}},
        ]});
        assert_eq!(Table::find("stokehold_0a", &others), None);
    }
}
