//! The packets in a file of `tcpdump` (pcap-savefile(5)): Ethernet, IPv4 and IPv6, UDP and TCP, no fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Packet, Protocol, Side};

/// What of the traffic has to be in the file: everything that [`packets`] looks at.
pub const FILTER: &str = "udp port 67 or udp port 4011 or udp port 547 or udp port 69 or tcp dst port 80";

/// Magic number of a file in this machine's byte order, with microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// All packets of the protocols of this crate, in order. A packet that repeats the one before it of the same side and
/// protocol is left out; so is what the writer has not finished.
pub fn packets(file: &[u8]) -> Vec<Packet> {
    let mut found: Vec<Packet> = Vec::new();
    for packet in frames(file).filter_map(packet) {
        let before = found.iter().rev().find(|one| (one.protocol, one.from) == (packet.protocol, packet.from));
        if before.is_none_or(|before| !repeats(&packet, before)) {
            found.push(packet);
        }
    }
    found
}

/// DHCP counts the seconds since the client began (RFC 2131 section 2, `secs`): the packet is the same for all that.
fn repeats(packet: &Packet, before: &Packet) -> bool {
    let plain = |packet: &Packet| {
        let mut bytes = packet.bytes.clone();
        if let (Protocol::Dhcp, Some(seconds)) = (packet.protocol, bytes.get_mut(8..10)) {
            seconds.fill(0);
        }
        bytes
    };
    plain(packet) == plain(before)
}

fn frames(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let known = file.first_chunk::<4>().is_some_and(|magic| u32::from_ne_bytes(*magic) == MAGIC);
    let mut rest = file.get(24..).filter(|_| known).unwrap_or_default();
    std::iter::from_fn(move || {
        let (header, behind) = rest.split_first_chunk::<16>()?;
        let length = u32::from_ne_bytes(*header.get(8..)?.first_chunk()?);
        let (frame, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
        rest = behind;
        Some(frame)
    })
}

fn packet(frame: &[u8]) -> Option<Packet> {
    let (protocol, source, segment) = match number(frame, 12)? {
        0x0800 => ipv4(frame.get(14..)?)?,
        0x86dd => ipv6(frame.get(14..)?)?,
        _ => return None,
    };
    let (from_port, to_port) = (number(segment, 0)?, number(segment, 2)?);
    let header = if protocol == UDP { 8 } else { usize::from(segment.get(12)? >> 4) * 4 };
    let payload = segment.get(header..)?;
    // DHCP clients ask from ports of their own, but a relay or a boot server may have the server's port at both ends.
    let (from, port) = match Protocol::of(to_port, protocol == UDP) {
        Some(_) => (Side::Client, to_port),
        None => (Side::Server, from_port),
    };
    let protocol = Protocol::of(port, protocol == UDP)?;
    let bytes = kept(protocol, from, payload)?.to_vec();
    Some(Packet { protocol, from, source, port, bytes })
}

/// What of a payload is kept, if anything.
fn kept(protocol: Protocol, from: Side, payload: &[u8]) -> Option<&[u8]> {
    match protocol {
        Protocol::Dhcp | Protocol::Dhcp6 => Some(payload),
        // Requests (1), errors (5) and acknowledged options (6), not the blocks of a file (RFC 1350, RFC 2347).
        Protocol::Tftp => matches!(number(payload, 0)?, 1 | 5 | 6).then_some(payload),
        Protocol::Http => {
            let begins = [b"GET ".as_slice(), b"HEAD ", b"POST "].iter().any(|method| payload.starts_with(method));
            let end = payload.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
            payload.get(..end).filter(|_| begins && from == Side::Client)
        }
    }
}

fn ipv4(packet: &[u8]) -> Option<(u8, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    // Short frames are padded.
    let segment = packet.get(header..usize::from(number(packet, 2)?))?;
    let source = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
    known(*packet.get(9)?, source.into(), segment)
}

fn ipv6(packet: &[u8]) -> Option<(u8, IpAddr, &[u8])> {
    let segment = packet.get(40..)?.get(..usize::from(number(packet, 4)?))?;
    let source = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
    known(*packet.get(6)?, source.into(), segment)
}

fn known(protocol: u8, source: IpAddr, segment: &[u8]) -> Option<(u8, IpAddr, &[u8])> {
    matches!(protocol, UDP | TCP).then_some((protocol, source, segment))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = [MAGIC.to_ne_bytes().as_slice(), &[0; 20]].concat();
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap().to_ne_bytes();
            file.extend([&[0; 8], length.as_slice(), &length, frame].concat());
        }
        file
    }

    /// A frame of IPv4, padded as Ethernet pads short ones.
    fn frame(protocol: u8, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let ports = ports.map(u16::to_be_bytes).concat();
        let rest: &[u8] = if protocol == UDP { &[0; 4] } else { &[0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0] };
        let length = u16::try_from(20 + ports.len() + rest.len() + payload.len()).unwrap().to_be_bytes();
        let ip = [&[0x45, 0], length.as_slice(), &[0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]].concat();
        [[0; 12].as_slice(), &[8, 0], &ip, &ports, rest, payload, &[0; 9]].concat()
    }

    #[test]
    fn requests_are_found_blocks_and_acknowledgements_are_not() {
        let file = file(&[
            frame(UDP, [3000, 69], b"\0\x01x\0octet\0"),
            frame(UDP, [3000, 69], b"\0\x01x\0octet\0"),
            frame(UDP, [69, 3000], b"\0\x06tsize\x001\0"),
            frame(UDP, [69, 3000], b"\0\x03\0\x01content"),
            frame(UDP, [3000, 69], b"\0\x04\0\x01"),
            frame(TCP, [3001, 80], b"GET / HTTP/1.1\r\nHost: x\r\n\r\nbody"),
            frame(TCP, [3001, 80], b""),
            frame(TCP, [3001, 443], b"GET / HTTP/1.1\r\n\r\n"),
        ]);
        let found = packets(&file);
        let shown = found.iter().map(|packet| (packet.from, packet.port, packet.bytes.as_slice())).collect::<Vec<_>>();
        let expected = [
            (Side::Client, 69, b"\0\x01x\0octet\0".as_slice()),
            (Side::Server, 69, b"\0\x06tsize\x001\0"),
            (Side::Client, 80, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ];
        assert_eq!(shown, expected);
        assert!(found.iter().all(|packet| packet.source == IpAddr::from([10, 0, 0, 2])));
    }

    #[test]
    fn seconds_that_go_by_make_no_other_request() {
        let request = |seconds, kind| [[0; 8].as_slice(), &[0, seconds], &[kind; 230]].concat();
        let asked = [(0, 1), (4, 1), (8, 3)].map(|(seconds, kind)| frame(UDP, [68, 67], &request(seconds, kind)));
        assert_eq!(packets(&file(&asked)).len(), 2);
    }

    #[test]
    fn a_file_that_is_still_written_ends_where_it_ends() {
        let whole = file(&[frame(UDP, [68, 67], b"one"), frame(UDP, [68, 67], b"two")]);
        for end in 0..whole.len() {
            assert!(packets(&whole[..end]).len() < 2, "{end}");
        }
        assert_eq!(packets(&whole).len(), 2);
    }
}
