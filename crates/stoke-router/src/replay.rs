//! What real firmware, loaders and clients said (`test/captures`), said again: each request must be understood, and what it
//! is answered is in the snapshots. One router answers a conversation, as it did when it was recorded.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use captures::{Conversation, Packet, Protocol, hex};
use serde_json::json;
use stoke_dhcp::wire::{Options, option};
use stoke_dhcp::{Request, v6};

use crate::proxy::Port;
use crate::state::State;

/// Milliseconds since 1970 of the first packet, and from one to the next.
const BEGIN: u64 = 1_800_000_000_000;
const STEP: u64 = 1000;
/// Our server.
const OWN: [u8; 4] = [10, 10, 0, 1];

/// A router as in the recordings, with the loader that the farm had in this one.
fn router(conversation: &str) -> State {
    let object = |kind, name| json!({"kind": kind, "namespace": "default", "name": name});
    let loader = match conversation {
        "bios-pxelinux" => json!({"bios": "Pxelinux"}),
        "bios-grub" => json!({"bios": "Grub"}),
        "ovmf-grub" => json!({"uefi": "Grub"}),
        "ovmf-shim" => json!({"uefi": "Shim"}),
        _ => json!({}),
    };
    let kernels = json!({"amd64": "/v1/blob/sha256/amd64.efi", "arm64": "/v1/blob/sha256/arm64.efi"});
    let config = json!({
        "lan": object("Lan", "lab"), "interface": "lan0", "mtu": 1500, "dhcp": "Authoritative", "domain": "lab.internal",
        "subnets": [{"cidr": "10.10.0.0/24", "gateway": "10.10.0.1", "defaultRoute": true,
                     "pools": ["10.10.0.100-10.10.0.199"]}],
        "ipv6": {"prefix": "fd00:10::/64", "address": "fd00:10::1"},
        "upstreams": [], "leases": "/nowhere",
        "hosts": [{"owner": object("Server", "rack1-07"), "hostname": "rack1-07", "macs": ["52:54:00:00:00:07"],
                   "uuid": null, "address": "10.10.0.27", "farm": "default/lab"}],
        "farms": {"default/lab": {"addresses": ["10.10.0.1"], "addresses6": ["fd00:10::1"], "httpPort": 80,
                                  "nodePort": 8443, "kernels": kernels, "loader": loader, "unknownClients": "Ignore"}},
    });
    let mut state = State::new(serde_json::from_value(config).unwrap(), vec![]).unwrap();
    state.configure6([2, 0, 0, 0, 0, 1]);
    state
}

/// Everything of one conversation that was said by DHCP, with what our router answers.
fn replay(conversation: &Conversation, protocol: Protocol, answer: fn(&mut State, &Packet, u64) -> String) -> String {
    let mut state = router(&conversation.name);
    let mut text = String::new();
    for (packet, now) in conversation.asked(protocol).zip((BEGIN..).step_by(usize::try_from(STEP).unwrap())) {
        text += &answer(&mut state, packet, now);
    }
    text
}

fn snapshots(protocol: Protocol, suffix: &str, answer: fn(&mut State, &Packet, u64) -> String) {
    let all = captures::all().unwrap();
    let spoken = all.iter().filter(|one| one.asked(protocol).count() > 0).collect::<Vec<_>>();
    assert!(!spoken.is_empty());
    for one in spoken {
        let name = format!("{}{suffix}", one.name);
        insta::assert_snapshot!(name, replay(one, protocol, answer), &one.about);
    }
}

#[test]
fn everybody_gets_address_and_boot_program() {
    snapshots(Protocol::Dhcp, "-dhcp", answer4);
}

#[test]
fn who_speaks_ipv6_gets_address_and_url() {
    snapshots(Protocol::Dhcp6, "-dhcp6", answer6);
}

fn answer4(state: &mut State, packet: &Packet, now: u64) -> String {
    let IpAddr::V4(source) = packet.source else { panic!("DHCP over IPv6") };
    let port = if packet.port == 67 { Port::Dhcp } else { Port::Boot };
    let request = Request::parse(&taken_from_us(&packet.bytes)).unwrap();
    let told = state.answer(&request, source, port, now);
    let event = told.event.map_or_else(|| format!("{:?}", request.kind), |event| event.what);
    let Some(reply) = told.answer.reply else { return format!("{event}\n  no answer\n\n") };
    let kept = if told.answer.record.is_some() { ", written down" } else { "" };
    let mut text = format!("{event}\n  {:?} {:?}{kept}\n", told.answer.kind.unwrap(), reply.to);
    let next = Ipv4Addr::from(*reply.bytes[20..].first_chunk::<4>().unwrap());
    let file = reply.bytes[108..236].split(|byte| *byte == 0).next().unwrap();
    let file = String::from_utf8_lossy(file);
    writeln!(text, "  address {}, next server {next}, file {file:?}", told.answer.address.unwrap()).unwrap();
    let options = Options::parse(&reply.bytes[240..]);
    for code in 1..=254 {
        if let Some(data) = options.get(code) {
            writeln!(text, "  {code}: {}", option_text(code, data)).unwrap();
        }
    }
    text + "\n"
}

/// Where another server gave the addresses, its offer was taken; here ours is, which names the same address.
fn taken_from_us(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let other = [option::SERVER_ID, 4, 10, 10, 0, 254];
    if let Some(at) = packet.windows(other.len()).position(|found| found == other) {
        packet[at + 2..at + 6].copy_from_slice(&OWN);
    }
    packet
}

fn option_text(code: u8, data: &[u8]) -> String {
    match (code, data) {
        (
            option::DOMAIN_NAME
            | option::HOST_NAME
            | option::VENDOR_CLASS
            | option::TFTP_SERVER
            | option::BOOT_FILE
            | stoke_api::node::DHCP_OPTION_FARM,
            _,
        ) => format!("{:?}", String::from_utf8_lossy(data)),
        (option::LEASE_TIME | option::RENEWAL | option::REBINDING, [a, b, c, d]) => {
            format!("{} s", u32::from_be_bytes([*a, *b, *c, *d]))
        }
        (option::SUBNET_MASK | option::ROUTER | option::DNS_SERVER | option::BROADCAST | option::SERVER_ID, _) => {
            let addresses = data.as_chunks::<4>().0.iter().map(|address| Ipv4Addr::from(*address).to_string());
            addresses.collect::<Vec<_>>().join(" ")
        }
        (option::INTERFACE_MTU, [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        _ => hex(data),
    }
}

fn answer6(state: &mut State, packet: &Packet, now: u64) -> String {
    let IpAddr::V6(source) = packet.source else { panic!("DHCPv6 over IPv4") };
    let request = v6::Packet::parse(&told_to_us(&packet.bytes)).unwrap();
    let client = v6::Identity::of(&request, source);
    let answer = state.answer6(&request, &client, now);
    let mac = client.mac.map_or_else(|| "somebody".to_owned(), |mac| mac.to_string());
    let mut text = format!("{:?} {mac}\n", request.kind);
    let Some(reply) = answer.reply else { return text + "  no answer\n\n" };
    let addresses = answer.addresses.iter().map(Ipv6Addr::to_string).collect::<Vec<_>>().join(" ");
    let kind = format!("{:?} {addresses}", answer.kind.unwrap());
    writeln!(text, "  {}", kind.trim_end()).unwrap();
    let options = v6::wire::Options::parse(&reply[4..]).unwrap();
    for code in 1..=100 {
        for data in options.all(code) {
            let line = format!("  {code}: {}", option_text6(code, data));
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
    }
    text + "\n"
}

/// The server's identifier is made from its interface, which was another one.
fn told_to_us(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let begin = [0, 2, 0, 10, 0, 3, 0, 1];
    if let Some(at) = packet.windows(begin.len()).position(|found| found == begin) {
        packet[at + 8..at + 14].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    }
    packet
}

fn option_text6(code: u16, data: &[u8]) -> String {
    match code {
        v6::wire::option::BOOT_FILE_URL => format!("{:?}", String::from_utf8_lossy(data)),
        v6::wire::option::DNS_SERVERS => Ipv6Addr::from(*data.first_chunk::<16>().unwrap()).to_string(),
        _ => hex(data),
    }
}
