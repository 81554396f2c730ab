//! DNS with dig, and router solicitations with rdisc6.

use stoke_api::Kind;
use stoke_api::workload::{RouterConfig, RouterSubnet};

use crate::world::{GATEWAY, World, object, wait_for};

const CLIENT_ADDRESS: &str = "10.77.0.2";

fn with_address() -> World {
    let world = World::new();
    world.as_client(&["ip", "address", "add", &format!("{CLIENT_ADDRESS}/24"), "dev", "lan0"]);
    world
}

/// Asks the router, or the server that the arguments name.
fn dig(world: &World, arguments: &[&str]) -> String {
    let server = format!("@{GATEWAY}");
    let server = if arguments[0].starts_with('@') { &[][..] } else { &[server.as_str()] };
    let output = world.as_client(&[&["dig", "+tries=1", "+time=8"], server, arguments].concat());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn machines_have_names_in_both_directions_by_udp_and_tcp() {
    let world = with_address();
    let _role = world.start(&world.config());
    for transport in ["+notcp", "+tcp"] {
        let short = |arguments: &[&str]| dig(&world, &[&["+short", transport], arguments].concat());
        assert_eq!(short(&["node-1.lab.internal"]), "10.77.0.21");
        assert_eq!(short(&["node-1"]), "10.77.0.21");
        assert_eq!(short(&["-x", "10.77.0.21"]), "node-1.lab.internal.");
        assert_eq!(short(&["router.lab.internal"]), "10.77.0.1");
    }
    let nothing = dig(&world, &["nobody.lab.internal"]);
    assert!(nothing.contains("NXDOMAIN") && nothing.contains("SOA"), "{nothing}");
    // Nobody upstream: said at once, not by silence.
    assert!(dig(&world, &["example.org"]).contains("SERVFAIL"));
}

#[test]
fn a_lease_brings_the_name_that_its_client_says() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    let role = world.start(&config);
    let script = world.path("nothing");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    world.as_client(&["chmod", "+x", script.to_str().unwrap()]);
    let script = script.display().to_string();
    let ask = |name: &str| {
        let name = format!("hostname:{name}");
        world.as_client(&["udhcpc", "-i", "lan0", "-f", "-q", "-n", "-t", "3", "-T", "1", "-x", &name, "-s", &script]);
        let leases = role.report().leases;
        let [lease] = leases.as_slice() else { panic!("{leases:?}") };
        lease.address.to_string()
    };
    world.as_client(&["ip", "address", "add", &format!("{CLIENT_ADDRESS}/24"), "dev", "lan0"]);
    let address = ask("Laptop");
    assert_eq!(dig(&world, &["+short", "laptop.lab.internal"]), address);
    assert_eq!(dig(&world, &["+short", "-x", &address]), "laptop.lab.internal.");
    assert_eq!(role.report().leases[0].hostname.as_deref(), Some("laptop"));
    // Nobody takes the router's name.
    ask("router");
    assert_eq!(dig(&world, &["+short", "router.lab.internal"]), GATEWAY.to_string());
    assert_eq!(dig(&world, &["+short", "laptop.lab.internal"]), "");
}

#[test]
fn names_of_others_come_from_upstream_and_a_dead_upstream_is_passed_over() {
    let world = with_address();
    let mut upstream = RouterConfig {
        domain: "up.stream".to_owned(),
        dhcp: stoke_api::objects::DhcpMode::Off,
        leases: world.path("upstream.journal"),
        lan: object(Kind::Lan, "upstream"),
        ..world.config()
    };
    upstream.subnets[0].gateway = CLIENT_ADDRESS.parse().unwrap();
    let other = world.start_beside_client(&upstream);
    let mut config = world.config();
    // The router's own address among them must not make a circle.
    config.upstreams = vec![GATEWAY.into(), "10.77.0.99".parse().unwrap(), CLIENT_ADDRESS.parse().unwrap()];
    let role = world.start(&config);
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(&world, &["+short", transport, "node-1.up.stream"]), "10.77.0.21", "{transport}");
    }
    assert!(dig(&world, &["nobody.up.stream"]).contains("NXDOMAIN"));
    drop(other);
    config.upstreams = vec![CLIENT_ADDRESS.parse().unwrap()];
    assert_eq!(role.reload(&config).0, 204);
    assert!(dig(&world, &["node-1.up.stream"]).contains("SERVFAIL"));
}

#[test]
fn a_subnet_more_and_another_domain_are_served_as_soon_as_they_are_configured() {
    let world = with_address();
    let role = world.start(&world.config());
    let mut config = world.config();
    config.domain = "other.internal".to_owned();
    let second = "10.78.0.1".parse().unwrap();
    config.subnets.push(RouterSubnet {
        cidr: "10.78.0.0/24".parse().unwrap(),
        gateway: second,
        ..config.subnets[0].clone()
    });
    config.subnets[1].pools.clear();
    let (status, text) = role.reload(&config);
    assert!(status == 422 && text.contains("10.78.0.1"), "the address is not there yet: {text}");
    world.as_router(&["ip", "address", "add", "10.78.0.1/24", "dev", "lan0"]);
    assert_eq!(role.reload(&config), (204, String::new()));
    assert_eq!(dig(&world, &["+short", "node-1.other.internal"]), "10.77.0.21");
    world.as_client(&["ip", "address", "add", "10.78.0.2/24", "dev", "lan0"]);
    assert_eq!(dig(&world, &["@10.78.0.1", "+short", "-x", "10.78.0.1"]), "router.other.internal.");
    assert_eq!(role.reload(&world.config()).0, 204);
    wait_for("the second address to be closed", || dig(&world, &["@10.78.0.1", "router"]).contains("refused"));
}

#[test]
fn a_router_solicitation_is_answered_with_nothing_in_it() {
    let world = World::new();
    let _role = world.start(&world.config());
    let mut text = String::new();
    wait_for("an advertisement", || {
        let output = world.as_client(&["rdisc6", "-1", "-w", "1000", "lan0"]);
        text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("Router lifetime")
    });
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    assert!(line("Router lifetime").contains(" 0 "), "{text}");
    assert!(line("Stateful address conf.").ends_with("No"), "{text}");
    assert!(line("Stateful other conf.").ends_with("No"), "{text}");
    assert!(text.contains("Source link-layer address") && !text.contains("Prefix"), "{text}");
}
