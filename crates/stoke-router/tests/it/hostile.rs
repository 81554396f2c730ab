//! Clients that mean no good, or are broken: what they cost in memory is bounded, and others are served meanwhile.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use stoke_api::MacAddr;
use stoke_api::report::RouterReport;

use crate::packets::{DISCOVER, Message};
use crate::world::{CLIENT, GATEWAY, RESERVED, Role, World};

const PACKETS: u32 = 10_000;
/// What they may cost at their worst, in KiB. A thousand machines are remembered, with what happened to each.
const ALLOWED: u64 = 32 << 10;
const LIMIT: Duration = Duration::from_mins(1);

/// Its largest size so far, in KiB.
fn peak(role: &Role) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", role.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Numbers that look like none.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Waits until the named machine gets an answer to a question that comes behind all that was sent before.
fn offered(socket: &UdpSocket, xid: u32) {
    let question = Message::new(DISCOVER, CLIENT, xid).bytes();
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    while begun.elapsed() < LIMIT {
        socket.send_to(&question, (Ipv4Addr::BROADCAST, 67)).unwrap();
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let reply = &buffer[..length];
            if reply.get(4..8) == Some(&xid.to_be_bytes()) && reply.get(16..20) == Some(&RESERVED.octets()) {
                return;
            }
        }
    }
    panic!("nobody offers an address any more");
}

fn within_bounds(role: &Role, before: u64) {
    let grown = peak(role).saturating_sub(before);
    assert!(grown <= ALLOWED, "the router grew by {grown} KiB");
}

#[test]
fn dhcp_packets_that_make_no_sense() {
    let world = World::new();
    let role = world.start(&world.config());
    let socket = world.socket(true, 68);
    offered(&socket, 1);
    let before = peak(&role);
    for number in 0..PACKETS {
        let mut packet = noise(1 + number as usize % 1400, number);
        if number % 2 == 0 && packet.len() > 240 {
            // A request of Ethernet by its looks.
            packet[..4].copy_from_slice(&[1, 1, 6, 0]);
            packet[28] = 2;
            packet[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        let _ = socket.send_to(&packet, (Ipv4Addr::BROADCAST, 67));
        if number % 500 == 0 {
            offered(&socket, 1000 + number);
        }
    }
    offered(&socket, 2);
    within_bounds(&role, before);
}

#[test]
fn machines_that_do_not_exist_ask_for_a_boot() {
    let world = World::new();
    let role = world.start(&world.config());
    let socket = world.socket(true, 68);
    offered(&socket, 1);
    let before = peak(&role);
    for number in 0..PACKETS {
        let [_, a, b, c] = number.to_be_bytes();
        let asks = Message::new(DISCOVER, MacAddr([2, 9, 9, a, b, c]), number);
        let asks = asks.firmware("PXEClient:Arch:00007:UNDI:003016", 7).with(12, &[b'a'; 200]);
        let _ = socket.send_to(&asks.bytes(), (Ipv4Addr::BROADCAST, 67));
        if number % 500 == 0 {
            offered(&socket, 0x0100_0000 + number);
        }
    }
    offered(&socket, 2);
    let report: RouterReport = role.report();
    assert!(report.strangers.len() <= 256 && !report.strangers.is_empty(), "{} strangers", report.strangers.len());
    within_bounds(&role, before);
}

#[test]
fn dns_questions_that_make_no_sense() {
    let world = World::new();
    let role = world.start(&world.config());
    let dhcp = world.socket(true, 68);
    world.as_client(&["ip", "address", "add", "10.77.0.9/24", "dev", "lan0"]);
    let socket = world.socket(true, 0);
    let before = peak(&role);
    let router = SocketAddr::from((GATEWAY, 53));
    for number in 0..PACKETS {
        let mut packet = noise(1 + number as usize % 1400, number);
        if number % 2 == 0 && packet.len() > 12 {
            packet[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let _ = socket.send_to(&packet, router);
        if number % 500 == 0 {
            offered(&dhcp, 1000 + number);
        }
    }
    let answer = world.as_client(&["dig", "+short", "+tries=10", "+time=5", "@10.77.0.1", "router.lab.internal"]);
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), GATEWAY.to_string());
    within_bounds(&role, before);
}
