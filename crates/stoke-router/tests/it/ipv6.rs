//! IPv6 with the clients that Debian has: the kernel, dhclient, dig; across crashes and changes.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use stoke_api::workload::{RouterConfig, RouterIpv6};

use crate::world::{World, wait_for};

const ROUTER: &str = "fd00:77::1";

fn ipv6() -> RouterIpv6 {
    RouterIpv6 { prefix: "fd00:77::/64".parse().unwrap(), address: ROUTER.parse().unwrap() }
}

/// A world whose router has an IPv6 address, and the configuration with it.
fn world() -> (World, RouterConfig) {
    let world = World::new();
    world.as_router(&["ip", "address", "add", &format!("{ROUTER}/64"), "dev", "lan0"]);
    let config = RouterConfig { ipv6: Some(ipv6()), ..world.config() };
    (world, config)
}

/// Runs dhclient until it has an IPv6 address; what it was given.
fn dhclient(world: &World, more: &[&str]) -> BTreeMap<String, String> {
    let log = world.path("events6");
    let _ = std::fs::remove_file(&log);
    let script = world.script("script6", &format!("env | tr '\\n' '\\t' >>{log}\necho >>{log}\n", log = log.display()));
    let [leases, pid] = ["leases6", "pid6"].map(|name| world.path(name).display().to_string());
    let _ = std::fs::remove_file(&leases);
    let fixed = ["dhclient", "-6", "-d", "-1", "-sf", &script, "-lf", &leases, "-pf", &pid, "-cf", "/dev/null"];
    let running = world.spawn_as_client(&[&fixed[..], more, &["lan0"]].concat());
    let mut found = None;
    wait_for("dhclient to have an IPv6 address", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let event = |line: &str| {
            let pairs = line.split('\t').filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
        };
        found = text.lines().map(event).find(|event| event.get("reason").is_some_and(|reason| reason == "BOUND6"));
        found.is_some()
    });
    drop(running);
    found.unwrap()
}

fn dig(world: &World, question: &[&str]) -> String {
    let fixed = ["dig", "+short", "+time=2", "+tries=3", "@fd00:77::1"];
    let output = world.as_client(&[&fixed[..], question].concat());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn addresses(world: &World) -> String {
    let output = world.as_client(&["ip", "-6", "-oneline", "address", "show", "dev", "lan0"]);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_host_has_the_same_address_by_dhcp_whatever_asks_and_whatever_crashes_and_a_name() {
    let (world, config) = world();
    let role = world.start(&config);
    wait_for("an address of the kernel's own, to ask from", || addresses(&world).contains("inet6 fd00:77:"));
    let given = dhclient(&world, &[]);
    let address: Ipv6Addr = given["new_ip6_address"].parse().unwrap();
    assert!(ipv6().prefix.contains(&address), "{given:?}");
    assert_eq!(given["new_dhcp6_name_servers"], ROUTER);
    assert_eq!(given["new_dhcp6_domain_search"], "lab.internal.");
    assert_eq!((given["new_preferred_life"].as_str(), given["new_max_life"].as_str()), ("3600", "7200"));
    assert_eq!(dig(&world, &["AAAA", "node-1.lab.internal"]), address.to_string());
    assert_eq!(dig(&world, &["-x", &address.to_string()]), "node-1.lab.internal.");
    assert_eq!(dig(&world, &["A", "router.lab.internal"]), "10.77.0.1");
    let metrics = role.metrics();
    assert!(metrics.contains("dhcp6_replies_total{type=\"Advertise\"}"), "{metrics}");
    role.crash();
    let _role = world.start(&config);
    // `-D LL` and `-D LLT` are other identifiers of the client.
    for identifier in ["LL", "LLT"] {
        assert_eq!(dhclient(&world, &["-D", identifier])["new_ip6_address"], address.to_string(), "{identifier}");
    }
}

#[test]
fn a_prefix_comes_and_goes_while_the_router_runs() {
    let (world, config) = world();
    let role = world.start(&world.config());
    assert_eq!(role.reload(&config), (204, String::new()));
    // The first address is told to all; nobody has to ask.
    let autonomous = || addresses(&world).lines().find(|line| line.contains("fd00:77:")).map(str::to_owned);
    wait_for("an address that the kernel makes of the prefix", || autonomous().is_some());
    assert!(!autonomous().unwrap().contains("deprecated"));
    assert_eq!(role.reload(&world.config()), (204, String::new()));
    wait_for("the address to be no longer preferred", || autonomous().is_some_and(|line| line.contains("deprecated")));
    let routes = world.as_client(&["ip", "-6", "route", "show", "default"]);
    assert_eq!(String::from_utf8_lossy(&routes.stdout), "", "no way out is promised");
}
