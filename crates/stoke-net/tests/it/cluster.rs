//! A LAN on several nodes, and pods on it.

use std::fs::File;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoke_api::agent::AgentLan;
use stoke_net::fake::FakeLinks;
use stoke_net::interface::{Ensured, Interface, InterfaceError, ensure};
use stoke_net::kernel::{HostNamespace, KernelError, KernelLinks, overlay_mtu};
use stoke_net::label::LinkRole;
use stoke_net::ports::{self, PortRequest};
use stoke_net::wanted::{Lan, Wanted};
use stoke_net::{Label, LanKey, Links as _, Step, apply, plan};

use super::in_namespace;

const UID: &str = "8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d11";

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A namespace of its own, left at once.
fn new_namespace() -> File {
    let home = here();
    stoke_sys::namespace::unshare_network().unwrap();
    let new = here();
    enter(&home);
    new
}

fn lan_on(node: &str, local: &str, peers: &[&str]) -> Lan {
    let lan = serde_json::json!({
        "plan": {
            "lan": {"kind": "Lan", "namespace": "default", "name": "lab"}, "bridge": "lab0",
            "mac": "52:54:00:aa:00:01", "mtu": 1450, "addresses": ["10.10.0.1/24"], "masquerade": true, "uplinks": []
        },
        "overlay": {"vni": 7001, "port": 8472, "local": local, "peers": peers}
    });
    Lan::on_node(&serde_json::from_value::<AgentLan>(lan).unwrap(), node)
}

fn wanted(lan: Lan) -> Wanted {
    Wanted { installation: "0a1b2c3d".parse().unwrap(), lans: vec![lan], way_out: "out".parse().unwrap() }
}

fn steps(links: &mut KernelLinks, wanted: &Wanted) -> Vec<Step> {
    let observed = links.observe(&wanted.installation).unwrap();
    let lans = wanted.lans.iter().flat_map(|lan| plan::lan(&wanted.installation, lan, &observed).unwrap());
    let mut steps: Vec<Step> = lans.collect();
    steps.extend(plan::namespace(wanted, &observed));
    steps
}

fn lines(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Lays the LAN in the namespace of this thread, and twice, since a new port is attached at the second look.
fn lay(links: &mut KernelLinks, wanted: &Wanted) {
    for _ in 0..2 {
        let steps = steps(links, wanted);
        apply(links, &steps).unwrap();
    }
}

/// A node in this thread: a host with this address on its outer link, and the LANs' namespace, in which the thread is then.
fn node_here(wanted: &Wanted) -> KernelLinks {
    let host = HostNamespace::of_this_thread().unwrap();
    enter(&new_namespace());
    let mut links = KernelLinks::open(Some(host)).unwrap();
    links.loopback_up().unwrap();
    lay(&mut links, wanted);
    links
}

fn an_interface(lan: &Lan, name: &str, address: &str, mac: &str, masquerade: bool) -> Interface {
    let seen = Lan {
        bridge: name.parse().unwrap(),
        mac: mac.parse().unwrap(),
        addresses: [address.parse().unwrap()].into(),
        masquerade,
        overlay: None,
        hosted: true,
        ..lan.clone()
    };
    let role = LinkRole::Port(format!("{UID} router"));
    let label = Label { installation: "0a1b2c3d".parse().unwrap(), lan: LanKey::clone(&lan.key), role };
    Interface { lan: seen, label, gateway: None, forwards: masquerade }
}

fn give(links: &mut KernelLinks, wanted: &Wanted, interface: &Interface, pod: &File) -> Ensured {
    let ensured = ensure(links, &wanted.installation, interface, pod.as_fd()).unwrap();
    lay(links, wanted);
    ensured
}

/// Who connects to it, if this thread does.
fn seen_by(listener: &TcpListener) -> IpAddr {
    let _stream = TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
    listener.accept().unwrap().1.ip()
}

#[test]
fn pods_on_two_nodes_reach_each_other() {
    in_namespace(|| {
        // Two hosts and the wire between them.
        let (first, second) = (here(), new_namespace());
        ip("link add wire0 type veth peer name wire1");
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&second));
        ip(&format!("link set wire1 netns {namespace}"));
        ip("address add 198.51.100.1/24 dev wire0");
        ip("link set wire0 up");
        enter(&second);
        ip("address add 198.51.100.2/24 dev wire1");
        ip("link set wire1 up");

        let far = wanted(lan_on("two", "198.51.100.2", &["198.51.100.1"]));
        let mut two = node_here(&far);
        let pod_two = new_namespace();
        give(&mut two, &far, &an_interface(&far.lans[0], "lan0", "10.10.0.9/24", "52:54:00:00:00:09", false), &pod_two);
        enter(&first);
        let near = wanted(lan_on("one", "198.51.100.1", &["198.51.100.2"]));
        let mut one = node_here(&near);
        let pod_one = new_namespace();
        give(
            &mut one,
            &near,
            &an_interface(&near.lans[0], "lan0", "10.10.0.1/24", "52:54:00:aa:00:01", false),
            &pod_one,
        );
        assert_eq!(lines(&steps(&mut one, &near)), "");
        enter(&pod_two);
        let listener = TcpListener::bind("10.10.0.9:7").unwrap();
        enter(&pod_one);
        assert_eq!(seen_by(&listener).to_string(), "10.10.0.1");
    });
}

#[test]
fn a_tunnel_is_planned_once_and_then_only_what_differs() {
    in_namespace(|| {
        let first = wanted(lan_on("one", "198.51.100.1", &["198.51.100.2", "198.51.100.3"]));
        let host = here();
        let mut links = node_here(&wanted(lan_on("one", "198.51.100.1", &[])));
        let laid = links_of(&mut links, &first);
        apply(&mut links, &plan::teardown(&first.installation, &laid)).unwrap();
        let all = steps(&mut links, &first);
        insta::assert_snapshot!("tunnel", lines(&all));
        // Crashes after each step: what is left is planned, and nothing else.
        for done in 1..=all.len() {
            apply(&mut links, &all[done - 1..done]).unwrap();
            assert_eq!(lines(&steps(&mut links, &first)), lines(&all[done..]), "after {}", all[done - 1]);
        }
        let other_peers = wanted(lan_on("one", "198.51.100.1", &["198.51.100.3", "198.51.100.4"]));
        let change = steps(&mut links, &other_peers);
        let tunnel = first.lans[0].tunnel_name(&first.installation);
        assert_eq!(
            lines(&change),
            format!("let {tunnel} no longer reach 198.51.100.2\nlet {tunnel} reach 198.51.100.4")
        );
        apply(&mut links, &change).unwrap();
        let moved = wanted(lan_on("one", "198.51.100.7", &["198.51.100.3"]));
        lay(&mut links, &moved);
        assert_eq!(lines(&steps(&mut links, &moved)), "");
        let mut alone = moved.clone();
        alone.lans[0].overlay = None;
        assert_eq!(lines(&steps(&mut links, &alone)), format!("delete {tunnel}"));
        enter(&host);
        let shown = Command::new("ip").args(["link", "show", "type", "vxlan"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(shown).unwrap(), "", "nothing of it is seen on the host");
    });
}

fn links_of(links: &mut KernelLinks, wanted: &Wanted) -> stoke_net::observed::Observed {
    links.observe(&wanted.installation).unwrap()
}

#[test]
fn the_fake_plans_a_tunnel_as_the_kernel_does() {
    let mut links = FakeLinks::with_host([].into());
    let wanted = wanted(lan_on("one", "198.51.100.1", &["198.51.100.2", "198.51.100.3"]));
    let plan = |links: &mut FakeLinks| {
        let observed = links.observe(&wanted.installation).unwrap();
        let mut steps = plan::lan(&wanted.installation, &wanted.lans[0], &observed).unwrap();
        steps.extend(plan::namespace(&wanted, &observed));
        steps
    };
    let all = plan(&mut links);
    insta::assert_snapshot!("tunnel", lines(&all));
    for done in 1..=all.len() {
        apply(&mut links, &all[done - 1..done]).unwrap();
        assert_eq!(lines(&plan(&mut links)), lines(&all[done..]), "after {}", all[done - 1]);
    }
    let observed = links.observe(&wanted.installation).unwrap();
    apply(&mut links, &plan::teardown(&wanted.installation, &observed)).unwrap();
    assert!(links.state.links.is_empty());
}

#[test]
fn a_vni_that_the_host_uses_is_refused_by_its_number() {
    in_namespace(|| {
        ip("link add theirs type vxlan id 7001 dstport 8472 local 198.51.100.1");
        let host = HostNamespace::of_this_thread().unwrap();
        enter(&new_namespace());
        let mut links = KernelLinks::open(Some(host)).unwrap();
        let wanted = wanted(lan_on("one", "198.51.100.1", &[]));
        let steps = steps(&mut links, &wanted);
        let refused = apply(&mut links, &steps).unwrap_err();
        assert!(matches!(refused.source, KernelError::TunnelTaken { vni: 7001, port: 8472 }), "{refused:?}");
    });
}

#[test]
fn an_interface_of_a_pod_is_kept_and_put_right() {
    in_namespace(|| {
        let wanted = wanted(lan_on("one", "198.51.100.1", &[]));
        let mut links = node_here(&wanted);
        let pod = new_namespace();
        let interface = an_interface(&wanted.lans[0], "lan0", "10.10.0.1/24", "52:54:00:aa:00:01", false);
        let first = give(&mut links, &wanted, &interface, &pod);
        insta::assert_snapshot!("interface", lines(&first.steps));
        let again = give(&mut links, &wanted, &interface, &pod);
        assert_eq!((again.port, again.steps), (first.port.clone(), vec![]));
        let home = here();
        enter(&pod);
        ip("address del 10.10.0.1/24 dev lan0");
        ip("link set lan0 down");
        enter(&home);
        let repair = lines(&give(&mut links, &wanted, &interface, &pod).steps);
        assert!(repair.starts_with("add 10.10.0.1/24 to lan0\n") && repair.ends_with("set lan0 up"), "{repair}");
        let observed = links.observe(&wanted.installation).unwrap();
        assert_eq!(observed.links[&first.port].master.as_ref(), Some(&wanted.lans[0].bridge));
        drop(pod);
        let gone = || !links_of(&mut links, &wanted).links.contains_key(&first.port);
        wait_until(gone);
    });
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < end, "never happened");
        std::thread::yield_now();
    }
}

#[test]
fn an_interface_of_the_pods_own_is_not_touched() {
    in_namespace(|| {
        let wanted = wanted(lan_on("one", "198.51.100.1", &[]));
        let mut links = node_here(&wanted);
        let (home, pod) = (here(), new_namespace());
        enter(&pod);
        ip("link add lan0 type veth peer name theirs0");
        enter(&home);
        let interface = an_interface(&wanted.lans[0], "lan0", "10.10.0.1/24", "52:54:00:aa:00:01", false);
        let refused = ensure(&mut links, &wanted.installation, &interface, pod.as_fd()).unwrap_err();
        assert!(matches!(refused, InterfaceError::Foreign(_)), "{refused}");
        let no_namespace = File::open("/dev/null").unwrap();
        let refused = ensure(&mut links, &wanted.installation, &interface, no_namespace.as_fd()).unwrap_err();
        assert!(matches!(refused, InterfaceError::NoNamespace(_)), "{refused}");
    });
}

#[test]
fn a_router_pod_is_the_way_out_of_its_lan() {
    in_namespace(|| {
        let wanted = wanted(lan_on("one", "198.51.100.1", &[]));
        // The pod network: what is beyond the router's own interface.
        let pod = new_namespace();
        ip("link add world0 type veth peer name eth0");
        ip(&format!("link set eth0 netns /proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&pod)));
        ip("address add 203.0.113.1/24 dev world0");
        ip("link set world0 up");
        let listener = TcpListener::bind("203.0.113.1:7").unwrap();
        let mut links = node_here(&wanted);
        let lans = here();
        let router = an_interface(&wanted.lans[0], "lan0", "10.10.0.1/24", "52:54:00:aa:00:01", true);
        assert!(give(&mut links, &wanted, &router, &pod).no_way_out);
        enter(&pod);
        ip("address add 203.0.113.2/24 dev eth0");
        ip("link set eth0 up");
        ip("route add default via 203.0.113.1");
        enter(&lans);
        let ensured = give(&mut links, &wanted, &router, &pod);
        assert!(!ensured.no_way_out);
        assert!(lines(&ensured.steps).contains("masquerade 10.10.0.0/24"), "{}", lines(&ensured.steps));
        let machine = new_namespace();
        let mut station = an_interface(&wanted.lans[0], "lan0", "10.10.0.9/24", "52:54:00:00:00:09", false);
        station.label.role = LinkRole::Port("another".to_owned());
        station.gateway = Some("10.10.0.1".parse().unwrap());
        give(&mut links, &wanted, &station, &machine);
        assert_eq!(lines(&give(&mut links, &wanted, &station, &machine).steps), "");
        enter(&machine);
        assert_eq!(seen_by(&listener).to_string(), "203.0.113.2", "beyond, nobody knows the lan");
    });
}

#[test]
fn a_router_pod_that_hides_nobody_forwards_between_subnets() {
    in_namespace(|| {
        let wanted = wanted(lan_on("one", "198.51.100.1", &[]));
        let mut links = node_here(&wanted);
        let pod = new_namespace();
        let mut router = an_interface(&wanted.lans[0], "lan0", "10.10.0.1/24", "52:54:00:aa:00:01", false);
        router.lan.addresses.insert("10.20.0.1/24".parse().unwrap());
        router.forwards = true;
        let ensured = give(&mut links, &wanted, &router, &pod);
        assert!(lines(&ensured.steps).ends_with("forward packets between the namespace's links"));
        assert!(!lines(&ensured.steps).contains("masquerade"), "{}", lines(&ensured.steps));
        assert_eq!(lines(&give(&mut links, &wanted, &router, &pod).steps), "");
        let mut station = |address: &str, mac: &str, gateway: &str| {
            let machine = new_namespace();
            let mut station = an_interface(&wanted.lans[0], "lan0", address, mac, false);
            station.label.role = LinkRole::Port(mac.to_owned());
            station.gateway = Some(gateway.parse().unwrap());
            give(&mut links, &wanted, &station, &machine);
            machine
        };
        let one = station("10.10.0.9/24", "52:54:00:00:00:09", "10.10.0.1");
        let other = station("10.20.0.9/24", "52:54:00:00:00:19", "10.20.0.1");
        enter(&other);
        let listener = TcpListener::bind("10.20.0.9:7").unwrap();
        enter(&one);
        assert_eq!(seen_by(&listener).to_string(), "10.10.0.9");
    });
}

/// Two nodes whose wire takes 1500 bytes, and a pod on each.
#[test]
fn the_largest_packet_of_a_lan_goes_whole_to_another_node() {
    in_namespace(|| {
        let (first, second) = (here(), new_namespace());
        ip("link add wire0 type veth peer name wire1");
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&second));
        ip(&format!("link set wire1 netns {namespace}"));
        ip("address add 198.51.100.1/24 dev wire0");
        ip("link set wire0 up");
        let mtu = overlay_mtu("198.51.100.1".parse().unwrap()).unwrap();
        assert_eq!((mtu, overlay_mtu("198.51.100.9".parse().unwrap()).unwrap()), (Some(1450), None));
        let lan_of = |lan: Lan| wanted(Lan { mtu: mtu.unwrap(), ..lan });
        enter(&second);
        ip("address add 198.51.100.2/24 dev wire1");
        ip("link set wire1 up");
        let far = lan_of(lan_on("two", "198.51.100.2", &["198.51.100.1"]));
        let mut two = node_here(&far);
        let pod_two = new_namespace();
        give(&mut two, &far, &an_interface(&far.lans[0], "lan0", "10.10.0.9/24", "52:54:00:00:00:09", false), &pod_two);
        enter(&first);
        // Laid as if nothing were around a frame, as before it was known: all follows.
        let before = wanted(Lan { mtu: 1500, ..lan_on("one", "198.51.100.1", &["198.51.100.2"]) });
        let mut one = node_here(&before);
        let tap = PortRequest { lan: lab(), mac: None, label: "machine".to_owned() };
        let (_machine, tap) = ports::create(&mut one, &before.installation, &tap).unwrap();
        let pod_one = new_namespace();
        let interface = |lan: &Lan| an_interface(lan, "lan0", "10.10.0.1/24", "52:54:00:aa:00:01", false);
        give(&mut one, &before, &interface(&before.lans[0]), &pod_one);
        let near = lan_of(before.lans[0].clone());
        let given = give(&mut one, &near, &interface(&near.lans[0]), &pod_one);
        let observed = links_of(&mut one, &near);
        let tunnel = near.lans[0].tunnel_name(&near.installation);
        let mtus: Vec<_> =
            [&near.lans[0].bridge, &tunnel, &tap, &given.port].map(|link| observed.links[link].mtu).into();
        assert_eq!(mtus, [1450; 4], "bridge, tunnel, TAP, pair");
        assert_eq!(lines(&steps(&mut one, &near)), "");
        enter(&pod_two);
        let listener = std::net::UdpSocket::bind("10.10.0.9:7").unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        enter(&pod_one);
        let sender = std::net::UdpSocket::bind("10.10.0.1:0").unwrap();
        let packet = [7_u8; 1450 - 28];
        // The first packet of all waits for an answer about its address (ARP).
        assert_eq!(sender.send_to(&packet, "10.10.0.9:7").unwrap(), packet.len());
        let mut received = [0; 2000];
        assert_eq!(listener.recv(&mut received).unwrap(), packet.len());
    });
}

fn lab() -> stoke_api::meta::ObjectRef {
    serde_json::from_value(serde_json::json!({"kind": "Lan", "namespace": "default", "name": "lab"})).unwrap()
}
