//! IPv4 (RFC 791) and UDP (RFC 768) headers around a payload.

use std::net::{Ipv4Addr, SocketAddrV4};

const IP_HEADER: u16 = 20;
const UDP_HEADER: u16 = 8;
const UDP: u8 = 17;

/// A whole IPv4 packet; `None` if the payload does not fit one.
pub(crate) fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?.checked_add(IP_HEADER + UDP_HEADER)?;
    let header = ip_header(*from.ip(), *to.ip(), length);
    let udp = udp(from, to, length - IP_HEADER, payload);
    Some([header.as_slice(), &udp].concat())
}

fn ip_header(from: Ipv4Addr, to: Ipv4Addr, length: u16) -> Vec<u8> {
    // Version 4, five words; type of service, length; no identification, may not be fragmented; TTL 64.
    let fixed = |checksum: u16| {
        let [checksum, length] = [checksum, length].map(u16::to_be_bytes);
        [[0x45, 0].as_slice(), &length, &[0, 0, 0x40, 0, 64, UDP], &checksum, &from.octets(), &to.octets()].concat()
    };
    let zeroed = fixed(0);
    fixed(checksum(&[zeroed.as_slice()]))
}

fn udp(from: SocketAddrV4, to: SocketAddrV4, length: u16, payload: &[u8]) -> Vec<u8> {
    let header = |checksum: u16| [from.port(), to.port(), length, checksum].map(u16::to_be_bytes).concat();
    let pseudo = [&from.ip().octets(), &to.ip().octets(), [0, UDP].as_slice(), &length.to_be_bytes()].concat();
    let zeroed = header(0);
    // Zero would say that there is no checksum.
    let checksum = match checksum(&[pseudo.as_slice(), &zeroed, payload]) {
        0 => 0xffff,
        other => other,
    };
    [header(checksum), payload.to_vec()].concat()
}

/// The Internet checksum (RFC 1071). All parts but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    };
    let mut sum: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    proptest! {
        #[test]
        fn a_receiver_finds_every_checksum_right(payload in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 10, 0, 1), 67);
            let to = SocketAddrV4::new(Ipv4Addr::new(10, 10, 0, 100), 68);
            let packet = datagram(from, to, &payload).unwrap();
            let (header, udp) = packet.split_at(20);
            prop_assert_eq!(checksum(&[header]), 0);
            let length = u16::try_from(udp.len()).unwrap().to_be_bytes();
            let pseudo = [header[12..20].to_vec(), vec![0, 17], length.to_vec()].concat();
            prop_assert_eq!(checksum(&[&pseudo, udp]), 0);
            prop_assert_eq!(&udp[8..], &payload[..]);
        }
    }

    #[test]
    fn what_does_not_fit_is_no_packet() {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        assert_eq!(datagram(address, address, &vec![0; 65_508]), None);
    }
}
