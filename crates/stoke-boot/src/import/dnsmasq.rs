//! Objects of dnsmasq-controller: hosts become servers, options what a LAN or a farm says of the same.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;
use stoke_api::MacAddr;
use stoke_api::objects::{HostEntry, NodeConfig};

use super::draft::Draft;
use super::range::Range;
use super::{entries, take, text, texts};

pub(super) fn add(draft: &mut Draft, file: &str, kind: &str, mut document: Value) {
    let name = document.pointer("/metadata/name").and_then(text).unwrap_or_default();
    let at = format!("{kind} {name}");
    let mut spec = take(&mut document, "spec").unwrap_or_default();
    if take(&mut spec, "controller").is_some() {
        draft.nothing(file, &format!("{at}: controller"), "one router serves a LAN");
    }
    let list = if kind.ends_with("Hosts") { "hosts" } else { "options" };
    for (index, mut entry) in entries(take(&mut spec, list)).into_iter().enumerate() {
        let at = format!("{at}: {list}[{index}]");
        match kind {
            "DhcpHosts" => dhcp_host(draft, file, &at, &mut entry),
            "DnsHosts" => dns_host(draft, file, &at, &mut entry),
            "DhcpOptions" => dhcp_option(draft, file, &at, &mut entry),
            _ => dnsmasq_option(draft, file, &at, &mut entry),
        }
        draft.rest(file, &at, &entry);
    }
    draft.rest(file, &at, &spec);
}

fn dhcp_host(draft: &mut Draft, file: &str, at: &str, host: &mut Value) {
    let macs: Vec<MacAddr> = texts(take(host, "macs")).iter().filter_map(|mac| mac.parse().ok()).collect();
    if take(host, "ignore").is_some_and(|ignore| ignore == Value::Bool(true)) {
        return draft.nothing(
            file,
            &format!("{at}.ignore"),
            "machines without a Server are ignored: unknownClients: Ignore",
        );
    }
    let address: Option<Ipv4Addr> = texts(take(host, "ip")).first().and_then(|ip| ip.parse().ok());
    let named = texts(take(host, "hostname")).pop();
    let name = named.or_else(|| macs.first().map(|mac| format!("node-{mac}"))).unwrap_or_default();
    if macs.is_empty() {
        return draft.nothing(file, at, "a Server is known by its MAC addresses, and there is none");
    }
    let client_id = take(host, "clientID").as_ref().and_then(text);
    let tags: Vec<_> = texts(take(host, "setTags")).into_iter().chain(texts(take(host, "tags"))).collect();
    let (name, server) = draft.server(&name, &macs);
    server.address = address.or(server.address);
    server.client_id = client_id.or_else(|| server.client_id.take());
    server.tags.extend(tags.iter().cloned());
    draft.field(file, at, format!("Server {name}"));
    for tag in tags {
        draft.configure(&tag, &NodeConfig::default());
    }
    if take(host, "leaseTime").is_some() {
        draft.nothing(file, &format!("{at}.leaseTime"), "an address that an object names stays with its machine");
    }
}

fn dns_host(draft: &mut Draft, file: &str, at: &str, host: &mut Value) {
    let Some(address) = take(host, "ip").as_ref().and_then(text).and_then(|ip| ip.parse::<IpAddr>().ok()) else {
        return;
    };
    let names = texts(take(host, "hostnames"));
    let config = NodeConfig { hosts: vec![HostEntry { address, names }], ..NodeConfig::default() };
    let field = draft.configure("all", &config);
    draft.field(file, at, format!("{field}.hosts[{address}]"));
}

fn dhcp_option(draft: &mut Draft, file: &str, at: &str, entry: &mut Value) {
    let key = take(entry, "key").as_ref().and_then(text).unwrap_or_default();
    let values = texts(take(entry, "values"));
    let tags = texts(take(entry, "tags"));
    let tag = tags.first().map_or("all", String::as_str);
    option(draft, file, &format!("{at} {key}"), (&key, &values), tag);
}

/// A DHCP option, for all or for those with a tag.
pub(super) fn option(draft: &mut Draft, file: &str, at: &str, (key, values): (&str, &[String]), tag: &str) {
    let key = key.strip_prefix("option:").unwrap_or(key);
    let addresses = || values.iter().filter_map(|value| value.parse().ok());
    match key {
        "3" | "router" if tag == "all" => {
            draft.gateway = values.first().and_then(|value| value.parse().ok());
            draft.field(file, at, "Lan: spec.subnets[].gateway");
        }
        "6" | "dns-server" => {
            let mut config = NodeConfig::default();
            config.dns.servers = addresses().collect();
            let field = draft.configure(tag, &config);
            draft.field(file, at, format!("{field}.dns.servers"));
        }
        "42" | "ntp-server" => {
            let config = NodeConfig { ntp: values.to_vec(), ..NodeConfig::default() };
            let field = draft.configure(tag, &config);
            draft.field(file, at, format!("{field}.ntp"));
        }
        "15" | "domain-name" if tag == "all" => {
            draft.domain = values.first().cloned();
            draft.field(file, at, "Lan: spec.dns.domain");
        }
        "1" | "netmask" => draft.nothing(file, at, "the subnet says it: spec.subnets[].cidr of the Lan"),
        "66" | "67" | "150" | "tftp-server" | "server-ip-address" | "bootfile-name" => {
            draft.nothing(file, at, "the farm says it, by what the machine's firmware is");
        }
        _ => draft.nothing(file, at, "a Lan has no such DHCP option"),
    }
}

fn dnsmasq_option(draft: &mut Draft, file: &str, at: &str, entry: &mut Value) {
    let key = take(entry, "key").as_ref().and_then(text).unwrap_or_default();
    let values = texts(take(entry, "values"));
    let at = format!("{at} {key}");
    match key.as_str() {
        "dhcp-range" => match Range::parse(&values.join(",")) {
            Some(range) => {
                draft.range(range);
                draft.field(file, &at, "Lan: spec.subnets");
            }
            None => draft.nothing(file, &at, "this is no range of IPv4 addresses"),
        },
        "server" => {
            draft.upstreams.extend(values.iter().filter_map(|value| value.parse::<IpAddr>().ok()));
            draft.field(file, &at, "Lan: spec.dns.upstreams");
        }
        "domain" => {
            draft.domain = values.first().cloned();
            draft.field(file, &at, "Lan: spec.dns.domain");
        }
        "dhcp-authoritative" => draft.field(file, &at, "Lan: spec.dhcp.mode"),
        _ => draft.nothing(file, &at, "an option of dnsmasq that a Lan does not have"),
    }
}
