//! LAN ports over the socket.

use std::fs::File;
use std::io::{Read as _, Write as _};

use stoke_net::ports::{PortError, PortRequest, request};

use super::host::{Agent, User, on_a_host};

/// Zeroes: `virtio_net_hdr` without offloads.
const HEADER: usize = 10;
/// `ETH_P_ARP`.
const ARP: [u8; 2] = [0x08, 0x06];
const MACHINE: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const ROUTER: [u8; 4] = [10, 10, 0, 1];

fn a_request(lan: &str) -> PortRequest {
    let request = serde_json::json!({
        "lan": {"kind": "Lan", "namespace": "default", "name": lan}, "mac": "52:54:00:00:00:01", "label": "machine/a/lab"
    });
    serde_json::from_value(request).unwrap()
}

/// Who has the router's address? (RFC 826)
fn question() -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &MACHINE, &ARP].concat();
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MACHINE, &[10, 10, 0, 77], &[0; 6], &ROUTER].concat();
    [vec![0; HEADER], ethernet, body].concat()
}

/// The link-layer address in the next answer to [`question`].
fn answer(device: &mut File) -> Vec<u8> {
    loop {
        let mut frame = [0; 2048];
        let length = device.read(&mut frame).unwrap();
        let ethernet = &frame[HEADER..length];
        if ethernet[12..14] == ARP && ethernet[28..32] == ROUTER {
            return ethernet[22..28].to_vec();
        }
    }
}

fn reaches_the_router(user: User) {
    on_a_host(move || {
        let agent = Agent::start(user, &[]);
        let (device, reply) = request(&agent.path("ports.sock"), &a_request("lab")).unwrap();
        assert_eq!(reply.mtu, 1500);
        let mut device = File::from(device);
        device.write_all(&question()).unwrap();
        assert_eq!(answer(&mut device), [0x52, 0x54, 0, 0xaa, 0, 1]);
    });
}

#[test]
fn a_port_of_root_reaches_the_router_at_once() {
    reaches_the_router(User::Root);
}

#[test]
fn a_port_of_an_ordinary_user_reaches_the_router_at_once() {
    reaches_the_router(User::Ordinary);
}

#[test]
fn a_port_outlives_the_agent_and_stays_on_its_lan() {
    on_a_host(|| {
        let mut agent = Agent::start(User::Root, &[]);
        agent.add_member();
        let (device, _) = request(&agent.path("ports.sock"), &a_request("lab")).unwrap();
        agent.kill_the_last();
        let mut device = File::from(device);
        device.write_all(&question()).unwrap();
        assert_eq!(answer(&mut device), [0x52, 0x54, 0, 0xaa, 0, 1]);
        agent.launch();
        device.write_all(&question()).unwrap();
        assert_eq!(answer(&mut device), [0x52, 0x54, 0, 0xaa, 0, 1]);
    });
}

#[test]
fn a_lan_that_is_not_there_is_refused_by_name() {
    on_a_host(|| {
        let agent = Agent::start(User::Root, &[]);
        let refused = request(&agent.path("ports.sock"), &a_request("nowhere")).unwrap_err();
        assert!(
            matches!(&refused, PortError::Refused(why) if why == "there is no lan default/nowhere on this host"),
            "{refused}"
        );
    });
}
