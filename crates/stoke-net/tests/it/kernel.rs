//! What only the kernel does: devices with descriptors, interfaces between namespaces, news.

use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoke_net::kernel::{HostNamespace, KernelLinks, host_interfaces};
use stoke_net::netlink::Monitor;
use stoke_net::plan::{self, PlanError};
use stoke_net::ports::{self, PortRequest};
use stoke_net::wanted::Wanted;
use stoke_net::{Links as _, apply};

use super::{in_namespace, lan, wanted};

fn lay(links: &mut KernelLinks, wanted: &Wanted) {
    let observed = links.observe(&wanted.installation).unwrap();
    for lan in &wanted.lans {
        apply(links, &plan::lan(&wanted.installation, lan, &observed).unwrap()).unwrap();
    }
    let observed = links.observe(&wanted.installation).unwrap();
    apply(links, &plan::namespace(wanted, &observed)).unwrap();
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn a_port() -> PortRequest {
    let request = serde_json::json!({
        "lan": {"kind": "Lan", "namespace": "default", "name": "lab"}, "mac": "52:54:00:00:00:01", "label": "machine/a/lab"
    });
    serde_json::from_value(request).unwrap()
}

#[test]
fn a_port_is_attached_and_goes_with_its_descriptor() {
    in_namespace(|| {
        let mut links = KernelLinks::open(None).unwrap();
        let wanted = wanted(vec![lan("lab", 1, &[])]);
        lay(&mut links, &wanted);
        let (device, name) = ports::create(&mut links, &wanted.installation, &a_port()).unwrap();
        let (_second, other) = ports::create(&mut links, &wanted.installation, &a_port()).unwrap();
        assert_ne!(name, other, "two living ports with one label");
        lay(&mut links, &wanted);
        let observed = links.observe(&wanted.installation).unwrap();
        let port = &observed.links[&name];
        assert_eq!((port.master.as_ref(), port.mtu, port.up), (Some(&wanted.lans[0].bridge), 1450, true));
        assert_eq!(port.mac.to_string(), "fe:54:00:00:00:01");
        assert!(port.manners.silent && port.addresses.is_empty(), "{port:?}");
        drop(device);
        // A test beside this one that starts a program has a copy of all descriptors until that program is executed.
        let deadline = Instant::now() + Duration::from_secs(10);
        while links.observe(&wanted.installation).unwrap().links.contains_key(&name) {
            assert!(Instant::now() < deadline, "{name} outlives its descriptor");
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_port_comes_back_to_a_bridge_that_was_made_again() {
    in_namespace(|| {
        let mut links = KernelLinks::open(None).unwrap();
        let wanted = wanted(vec![lan("lab", 1, &[])]);
        lay(&mut links, &wanted);
        let (_device, name) = ports::create(&mut links, &wanted.installation, &a_port()).unwrap();
        lay(&mut links, &wanted);
        ip("link del lab0");
        lay(&mut links, &wanted);
        lay(&mut links, &wanted);
        let observed = links.observe(&wanted.installation).unwrap();
        assert_eq!(observed.links[&name].master.as_ref(), Some(&wanted.lans[0].bridge));
    });
}

#[test]
fn an_interface_of_the_host_joins_and_returns_as_it_was() {
    in_namespace(|| {
        ip("link add nic0 type veth peer name far0");
        ip("link set nic0 alias to_the_rack");
        ip("address add 192.0.2.7/24 dev nic0");
        ip("address add 2001:db8::7/64 dev nic0 nodad");
        ip("link set nic0 up");
        let host = HostNamespace::of_this_thread().unwrap();
        let at_home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        stoke_sys::namespace::unshare_network().unwrap();
        let mut links = KernelLinks::open(Some(host)).unwrap();
        let wanted = wanted(vec![lan("lab", 1, &["nic0"])]);
        lay(&mut links, &wanted);
        let observed = links.observe(&wanted.installation).unwrap();
        assert_eq!(observed.links[&"nic0".parse().unwrap()].master.as_ref(), Some(&wanted.lans[0].bridge));
        assert_eq!(plan::lan(&wanted.installation, &wanted.lans[0], &observed).unwrap(), []);
        apply(&mut links, &plan::teardown(&wanted.installation, &observed)).unwrap();
        move_into_link_name_space(at_home.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let show = |what| Command::new("ip").args([what, "show", "nic0"]).output().unwrap().stdout;
        let shown = String::from_utf8([show("link"), show("address")].concat()).unwrap();
        for expected in ["alias to_the_rack", "192.0.2.7/24", "2001:db8::7/64", ",UP"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
    });
}

#[test]
fn interfaces_that_may_not_join_are_refused_with_the_reason() {
    in_namespace(|| {
        ip("link add nic0 type veth peer name far0");
        ip("address add 192.0.2.2/24 dev nic0");
        ip("link set nic0 up");
        ip("route add default via 192.0.2.1 dev nic0");
        let host = HostNamespace::of_this_thread().unwrap();
        stoke_sys::namespace::unshare_network().unwrap();
        let refusal = |links: &mut KernelLinks, uplink: &str| {
            let wanted = wanted(vec![lan("lab", 1, &[uplink])]);
            let observed = links.observe(&wanted.installation).unwrap();
            plan::lan(&wanted.installation, &wanted.lans[0], &observed).unwrap_err()
        };
        let mut links = KernelLinks::open(Some(host)).unwrap();
        assert_eq!(refusal(&mut links, "nic0"), PlanError::DefaultRoute("nic0".parse().unwrap()));
        let missing = refusal(&mut links, "eth7").to_string();
        assert!(missing.starts_with("the host has no interface eth7; it has far0, "), "{missing}");
        let mut links = KernelLinks::open(None).unwrap();
        assert_eq!(refusal(&mut links, "far0"), PlanError::NotRoot("far0".parse().unwrap()));
    });
}

#[test]
fn changes_are_heard() {
    in_namespace(|| {
        let monitor = Monitor::open().unwrap();
        assert!(!monitor.drain().unwrap());
        ip("link set lo up");
        assert!(monitor.wait(Duration::from_secs(5)).unwrap());
        assert!(host_interfaces().unwrap()[&"lo".parse().unwrap()].loopback);
    });
}
