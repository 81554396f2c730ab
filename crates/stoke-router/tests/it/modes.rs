//! DHCP beside other servers and behind relays, with the servers and relays of others.

use std::net::{Ipv4Addr, UdpSocket};

use stoke_api::MacAddr;
use stoke_api::objects::{DhcpMode, Reservation};
use stoke_api::trace::TraceEvent;
use stoke_api::workload::{RouterConfig, RouterSubnet};
use stoke_dhcp::wire::option;

use crate::packets::{ACK, DISCOVER, Message, NAK, OFFER, REQUEST, Reply, ask, receive};
use crate::world::{CLIENT, GATEWAY, RESERVED, Role, Running, ThirdHost, World, wait_for};

const BROADCAST: (Ipv4Addr, u16) = (Ipv4Addr::BROADCAST, 67);
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const PXE: &str = "PXEClient:Arch:00000:UNDI:002001";

fn discover(mac: MacAddr, xid: u32) -> Message {
    Message::new(DISCOVER, mac, xid)
}

/// A third host that gives addresses and knows nothing of boots.
fn foreign_server(world: &World) -> (ThirdHost, Running) {
    let host = world.third_host(&format!("{FOREIGN}/24"));
    let leases = format!("--dhcp-leasefile={}", world.path("dnsmasq.leases").display());
    let pid = format!("--pid-file={}", world.path("dnsmasq.pid").display());
    let fixed = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--no-ping"];
    let network = ["--interface=lan0", "--dhcp-range=10.77.0.150,10.77.0.159,1h", "--dhcp-authoritative"];
    let process = host.spawn(&[&fixed[..], &network, &[&leases, &pid]].concat());
    (host, process)
}

fn with_mode(world: &World, dhcp: DhcpMode) -> RouterConfig {
    RouterConfig { dhcp, ..world.config() }
}

fn from(server: Ipv4Addr) -> impl Fn(&Reply) -> bool {
    move |reply| reply.server() == Some(server)
}

#[test]
fn a_proxy_tells_each_firmware_what_it_boots_and_the_foreign_server_gives_the_address() {
    let world = World::new();
    let _foreign = foreign_server(&world);
    let role = world.start(&with_mode(&world, DhcpMode::Proxy));
    let client = world.socket(true, 68);
    let offered = |message: &Message| ask(&client, BROADCAST, message, from(GATEWAY));
    let bios = discover(CLIENT, 1).firmware(PXE, 0);
    let given = ask(&client, BROADCAST, &bios, from(FOREIGN));
    assert!(Ipv4Addr::new(10, 77, 0, 150) <= given.yours && given.file.is_empty(), "{given:?}");
    let told = offered(&bios);
    assert_eq!((told.kind, told.yours, told.next_server), (OFFER, Ipv4Addr::UNSPECIFIED, GATEWAY));
    assert_eq!((told.file.as_str(), told.text(option::VENDOR_CLASS).as_deref()), ("undionly.kpxe", Some("PXEClient")));
    assert_eq!(told.options.get(option::VENDOR_SPECIFIC), Some(&[6, 1, 8, 255][..]));
    assert!(told.options.get(option::LEASE_TIME).is_none() && told.options.get(option::SUBNET_MASK).is_none());

    let uefi = offered(&discover(CLIENT, 2).firmware("PXEClient:Arch:00007:UNDI:003001", 7));
    assert_eq!((uefi.file.as_str(), uefi.options.get(option::VENDOR_SPECIFIC)), ("", None));
    let http = offered(&discover(CLIENT, 3).firmware("HTTPClient:Arch:00016:UNDI:003001", 16));
    assert_eq!(http.text(option::VENDOR_CLASS).as_deref(), Some("HTTPClient"));
    assert_eq!(http.text(option::BOOT_FILE).as_deref(), Some("http://10.77.0.1/v1/blob/sha256/ab.efi"));
    let ipxe = discover(CLIENT, 4).firmware(PXE, 0).with(option::USER_CLASS, b"iPXE");
    let ipxe = offered(&ipxe.with(option::ETHERBOOT, &[0x13, 1, 1, 0x18, 1, 1]));
    assert_eq!(ipxe.next_server, GATEWAY, "iPXE ignores a proxy without");
    assert!(ipxe.file.starts_with("http://10.77.0.1/") && ipxe.options.get(option::ETHERBOOT).is_none(), "{ipxe:?}");
    let init = offered(&discover(CLIENT, 5).with(option::VENDOR_CLASS, b"stokehold-init"));
    assert_eq!(init.text(224).as_deref(), Some("https://10.77.0.1:8443"));
    assert_eq!(role.report().leases, []);
}

#[test]
fn firmware_that_asks_on_port_4011_gets_the_file_there() {
    let world = World::new();
    let role = world.start(&with_mode(&world, DhcpMode::Proxy));
    world.as_client(&["ip", "address", "add", "10.77.0.150/24", "dev", "lan0"]);
    let client = world.socket(true, 68);
    let asked = Message { client: Ipv4Addr::new(10, 77, 0, 150), ..Message::new(REQUEST, CLIENT, 9) };
    let asked = asked.firmware("PXEClient:Arch:00007:UNDI:003001", 7);
    let told = ask(&client, (GATEWAY, 4011), &asked, |_| true);
    assert_eq!((told.kind, told.yours, told.next_server), (ACK, Ipv4Addr::UNSPECIFIED, GATEWAY));
    assert_eq!((told.file.as_str(), told.server()), ("snponly.efi", Some(GATEWAY)));
    assert_eq!(told.text(option::VENDOR_CLASS).as_deref(), Some("PXEClient"));
    // A REQUEST on port 67 belongs to the other server: nobody refuses it.
    let other = Message::new(REQUEST, CLIENT, 10).with(option::SERVER_ID, &FOREIGN.octets());
    client.send_to(&other.with(option::REQUESTED_ADDRESS, &[10, 77, 0, 150]).bytes(), BROADCAST).unwrap();
    let next = ask(&client, BROADCAST, &discover(CLIENT, 11).firmware(PXE, 0), |_| true);
    assert_eq!(next.kind, OFFER);
    assert!(!role.metrics().contains("type=\"Nak\""), "{}", role.metrics());
}

#[test]
fn the_mode_changes_while_the_router_runs() {
    let world = World::new();
    let role = world.start(&with_mode(&world, DhcpMode::Proxy));
    let client = world.socket(true, 68);
    let address = |xid| ask(&client, BROADCAST, &discover(CLIENT, xid).firmware(PXE, 0), |_| true).yours;
    assert_eq!(address(1), Ipv4Addr::UNSPECIFIED);
    for (xid, mode) in
        [(2, DhcpMode::Off), (3, DhcpMode::Authoritative), (4, DhcpMode::Off), (5, DhcpMode::Reservations)]
    {
        assert_eq!(role.reload(&with_mode(&world, mode)), (204, String::new()), "{mode:?}");
        if mode == DhcpMode::Off {
            client.send_to(&discover(CLIENT, xid).bytes(), BROADCAST).unwrap();
            assert!(receive(&client).is_none_or(|late| late.xid != xid), "answered although off");
        } else {
            assert_eq!(address(xid), RESERVED, "{mode:?}");
        }
    }
    // A port that somebody else has is named, and the old configuration goes on.
    let taken = world.socket(false, 4011);
    let (status, text) = role.reload(&with_mode(&world, DhcpMode::Proxy));
    assert!(status == 422 && text.contains("ProxyDHCP on UDP port 4011"), "{status} {text}");
    drop(taken);
    assert_eq!(role.reload(&with_mode(&world, DhcpMode::Proxy)).0, 204);
    assert_eq!(address(6), Ipv4Addr::UNSPECIFIED);
}

#[test]
fn with_reservations_alone_nobody_else_is_answered_or_refused() {
    let world = World::new();
    let mut config = with_mode(&world, DhcpMode::Reservations);
    config.reservations = vec![Reservation {
        name: "printer".to_owned(),
        address: Ipv4Addr::new(10, 77, 0, 50),
        mac: None,
        client_id: Some("tray-1".to_owned()),
        uuid: None,
        circuit_id: None,
    }];
    let role = world.start(&config);
    assert_eq!(role.report().capacity, 2);
    let client = world.socket(true, 68);
    let stranger = MacAddr([2, 0, 0, 0, 0, 7]);
    client.send_to(&discover(stranger, 1).bytes(), BROADCAST).unwrap();
    let wrong = Message::new(REQUEST, stranger, 2).with(option::REQUESTED_ADDRESS, &[10, 99, 0, 1]);
    client.send_to(&wrong.bytes(), BROADCAST).unwrap();
    let known = discover(stranger, 3).with(option::CLIENT_ID, b"\0tray-1");
    let told = ask(&client, BROADCAST, &known, |_| true);
    assert_eq!(told.yours, Ipv4Addr::new(10, 77, 0, 50));
    let metrics = role.metrics();
    assert!(metrics.contains("replies_total{type=\"Offer\"}") && !metrics.contains("type=\"Nak\""), "{metrics}");
}

fn behind_a_relay(world: &World) -> RouterConfig {
    let mut config = world.config();
    config.subnets.push(RouterSubnet {
        cidr: "10.88.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 88, 0, 1),
        default_route: false,
        pools: vec!["10.88.0.100-10.88.0.109".parse().unwrap()],
        relayed: true,
    });
    config
}

/// The relay of others on the client's host, which is a router between the LAN and the far host.
fn relay(world: &World) -> (ThirdHost, Running) {
    world.as_client(&["ip", "address", "add", "10.77.0.2/24", "dev", "lan0"]);
    let far = world.host_behind_client("10.88.0.1/24");
    world.as_router(&["ip", "route", "add", "10.88.0.0/24", "via", "10.77.0.2"]);
    world.as_client(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let pid = format!("--pid-file={}", world.path("relay.pid").display());
    let fixed = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0"];
    let relay = ["--dhcp-relay=10.88.0.1,10.77.0.1", pid.as_str()];
    let process = world.spawn_as_client(&[&fixed[..], &relay].concat());
    (far, process)
}

#[test]
fn a_client_behind_a_relay_gets_an_address_of_its_own_network_in_both_modes() {
    let world = World::new();
    let (far, _relay) = relay(&world);
    let role = world.start(&behind_a_relay(&world));
    let script = world.path("set");
    std::fs::write(
        world.path("set.text"),
        "#!/bin/sh\n[ -n \"$ip\" ] || exit 0\nip address replace \"$ip/24\" dev \"$interface\"\n\
         ip route replace default via \"$router\"\necho \"$router $serverid\" >\"$0.told\"\n",
    )
    .unwrap();
    let install = ["install", "-m755", &world.path("set.text").display().to_string(), &script.display().to_string()];
    assert!(std::process::Command::new(install[0]).args(&install[1..]).status().unwrap().success());
    let script = script.display().to_string();
    let udhcpc = far.spawn(&["udhcpc", "-i", "lan0", "-f", "-t", "30", "-T", "1", "-s", &script]);
    let mac = far.mac();
    let lease = || role.report().leases.into_iter().find(|lease| lease.mac == mac);
    wait_for("the far client's lease", || lease().is_some());
    let first = lease().unwrap();
    assert!(first.address.to_string().starts_with("10.88.0.10"), "{first:?}");
    let told = || std::fs::read_to_string(format!("{script}.told")).unwrap_or_default();
    wait_for("the far client to be configured", || !told().trim().is_empty());
    assert_eq!(told().trim(), "10.88.0.1 10.77.0.1", "its own router, our server");
    // Nobody is asked by ARP about a network that is elsewhere, and in this mode the LAN itself is left alone.
    let mut config = behind_a_relay(&world);
    config.dhcp = DhcpMode::Relayed;
    assert_eq!(role.reload(&config).0, 204);
    assert_eq!(role.report().capacity, 11);
    let acks = || count(&role, "replies_total{type=\"Ack\"}");
    let before = acks();
    udhcpc.signal("-USR1");
    wait_for("the lease to be renewed without the relay", || acks() > before);
    let here = world.socket(true, 68);
    here.send_to(&discover(CLIENT, 77).bytes(), BROADCAST).unwrap();
    assert!(receive(&here).is_none_or(|reply| reply.xid != 77), "a direct client was answered");
}

fn count(role: &Role, metric: &str) -> u64 {
    let metrics = role.metrics();
    let value = |line: &str| line.split_once(metric).and_then(|(_, value)| value.trim().parse().ok());
    metrics.lines().find_map(value).unwrap_or(0)
}

#[test]
fn an_ipxe_that_cannot_load_the_script_gets_another_one_three_times() {
    let world = World::new();
    let role = world.start(&world.config());
    let client = world.socket(true, 68);
    for (xid, helped) in [(1, true), (2, true), (3, true), (4, false), (5, false)] {
        let poor = |kind| Message::new(kind, CLIENT, xid).firmware(PXE, 0).with(option::USER_CLASS, b"iPXE");
        let told = ask(&client, BROADCAST, &poor(DISCOVER), |reply| reply.kind == OFFER);
        assert_eq!((told.yours, told.file.as_str() == "undionly.kpxe"), (RESERVED, helped), "round {xid}");
        let request = poor(REQUEST).with(option::REQUESTED_ADDRESS, &RESERVED.octets());
        let request = request.with(option::SERVER_ID, &GATEWAY.octets());
        ask(&client, BROADCAST, &request, |reply| reply.kind == ACK);
    }
    let events = trace(&role, CLIENT);
    let found = |what: &str, result: &str| {
        events.iter().any(|event| event.what == what && event.result == result && event.way == "dhcp")
    };
    assert!(found("REQUEST BIOS (iPXE)", "ACK 10.77.0.21 undionly.kpxe"), "{events:?}");
    assert!(
        found("REQUEST BIOS (iPXE)", "ACK 10.77.0.21 (undionly.kpxe was loaded 3 times and did not help)"),
        "{events:?}"
    );
    assert_eq!(trace(&role, MacAddr([2; 6])), []);
}

#[test]
fn who_loads_the_same_again_and_again_is_counted_until_its_system_runs() {
    let world = World::new();
    let role = world.start(&world.config());
    let client = world.socket(true, 68);
    let boots = |first: u32, class: &str| {
        for xid in first..first + 6 {
            let request = Message::new(REQUEST, CLIENT, xid).firmware(class, 0);
            let request = request.with(option::REQUESTED_ADDRESS, &RESERVED.octets());
            ask(&client, BROADCAST, &request, |reply| reply.kind == ACK);
        }
    };
    boots(1, PXE);
    assert_eq!(count(&role, "boot_loops_total"), 1, "six times the same program");
    boots(11, "stokehold-init");
    assert_eq!(count(&role, "boot_loops_total"), 1);
}

fn trace(role: &Role, mac: MacAddr) -> Vec<TraceEvent> {
    let (status, body) = role.request("GET", &format!("/trace?mac={mac}")).expect("the router answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn an_address_that_somebody_uses_is_found_before_it_is_given_out() {
    let world = World::new();
    let host = world.third_host("10.77.0.100/24");
    let mut config = world.config();
    config.hosts.clear();
    config.subnets[0].pools = vec!["10.77.0.100-10.77.0.101".parse().unwrap()];
    let role = world.start(&config);
    wait_for("the conflict to be seen", || !role.report().conflicts.is_empty());
    let conflict = role.report().conflicts[0].clone();
    assert_eq!((conflict.address, conflict.mac), (Ipv4Addr::new(10, 77, 0, 100), Some(host.mac())));
    assert_eq!(conflict.noticed, "answers ARP");
    let client = world.socket(true, 68);
    assert_eq!(lease(&client, MacAddr([2, 0, 0, 0, 0, 1]), 1), Ipv4Addr::new(10, 77, 0, 101));
    assert_eq!(role.report().exhausted_at, None);
    wait_for("the pool to be exhausted", || {
        client.send_to(&discover(MacAddr([2, 0, 0, 0, 0, 2]), 9).bytes(), BROADCAST).unwrap();
        role.report().exhausted_at.is_some()
    });
}

fn lease(client: &UdpSocket, mac: MacAddr, xid: u32) -> Ipv4Addr {
    let offer = ask(client, BROADCAST, &discover(mac, xid), |reply| reply.kind == OFFER);
    let request = Message::new(REQUEST, mac, xid + 1).with(option::REQUESTED_ADDRESS, &offer.yours.octets());
    let request = request.with(option::SERVER_ID, &GATEWAY.octets());
    let reply = ask(client, BROADCAST, &request, |reply| [ACK, NAK].contains(&reply.kind));
    assert_eq!((reply.kind, reply.yours), (ACK, offer.yours));
    offer.yours
}

#[test]
fn an_address_that_its_client_declines_rests_and_is_reported() {
    let world = World::new();
    let mut config = world.config();
    config.hosts.clear();
    let role = world.start(&config);
    let client = world.socket(true, 68);
    let address = lease(&client, CLIENT, 1);
    let decline = Message::new(4, CLIENT, 5).with(option::REQUESTED_ADDRESS, &address.octets());
    client.send_to(&decline.with(option::SERVER_ID, &GATEWAY.octets()).bytes(), BROADCAST).unwrap();
    wait_for("the conflict", || role.report().conflicts.iter().any(|conflict| conflict.address == address));
    assert_eq!(role.report().conflicts[0].noticed, "declined");
    assert_ne!(lease(&client, CLIENT, 6), address);
}

#[test]
fn another_server_is_reported_where_ours_should_be_the_only_one() {
    let world = World::new();
    let (host, _server) = foreign_server(&world);
    let role = world.start(&world.config());
    let rogue = || role.report().rogue_servers.into_iter().next();
    wait_for("the other server and where it is", || rogue().is_some_and(|rogue| rogue.mac == Some(host.mac())));
    assert_eq!(rogue().map(|rogue| rogue.address), Some(FOREIGN));
    assert_eq!(role.reload(&with_mode(&world, DhcpMode::Proxy)).0, 204);
    assert_eq!(role.report().rogue_servers, []);
}
