//! ARP packets (RFC 826) and address probes (RFC 5227), for IPv4 over Ethernet.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;

/// Ethernet, IPv4, addresses of six and four bytes.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];

/// Asks who has `target`. A probe has no sender address (RFC 5227 section 2.1.1), so that nobody learns a wrong one.
pub(crate) fn question(mac: MacAddr, sender: Option<Ipv4Addr>, target: Ipv4Addr) -> Vec<u8> {
    let sender = sender.unwrap_or(Ipv4Addr::UNSPECIFIED);
    [&KIND[..], &REQUEST, &mac.0, &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// The station that says by a packet, question or answer, that it has an address.
pub(crate) fn sender(packet: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let rest = packet.strip_prefix(&KIND)?.get(2..)?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    let mac = MacAddr(*mac);
    (mac.is_unicast() && !address.is_unspecified()).then_some((address, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_tell_who_asks_and_probes_do_not() {
        let (mac, own, target) = (MacAddr([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let packet = question(mac, Some(own), target);
        assert_eq!((packet.len(), sender(&packet)), (28, Some((own, mac))));
        assert_eq!(sender(&question(mac, None, target)), None);
        for length in 0..18 {
            assert_eq!(sender(&packet[..length]), None, "{length} bytes");
        }
        assert_eq!(sender(&question(MacAddr([0xff; 6]), Some(own), target)), None);
    }
}
