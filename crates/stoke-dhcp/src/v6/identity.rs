//! Who asks. A machine has one address through firmware, iPXE, initramfs and operating system, which send different
//! identifiers (DUIDs of type 4 with the UUID of its board, of type 2 with a number of the vendor's, of type 1 with the time
//! of an installation) and different numbers of the association; what they have in common is the link-layer address.
//!
//! It is known from, in this order: a relay that says it (RFC 6939); a DUID that is made of it (RFC 8415 section 11); the
//! link-local address that the message came from, if that is made of it (RFC 4291 appendix A), as firmware's always is. One
//! that cannot be known so is known by its DUID and association.

use std::net::Ipv6Addr;

use stoke_api::MacAddr;

use crate::v6::wire::{Packet, option};

/// Ethernet (IANA's hardware types).
const ETHERNET: [u8; 2] = [0, 1];

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its identifier (section 11), as it came.
    pub duid: Vec<u8>,
    /// Its link-layer address, if it can be known.
    pub mac: Option<MacAddr>,
    /// The UUID of its board, in the order of the text form, if the identifier is made of that.
    pub uuid: Option<[u8; 16]>,
}

impl Identity {
    /// The client of a message that came from `source`. One without identifier is no client that gets an address.
    pub fn of(packet: &Packet, source: Ipv6Addr) -> Self {
        let duid = packet.options.get(option::CLIENT_ID).unwrap_or_default().to_vec();
        let relayed = packet.relays.last().and_then(|relay| relay.options.get(option::CLIENT_LINK_LAYER));
        let mac = relayed.and_then(ethernet).or_else(|| of_duid(&duid)).or_else(|| of_link_local(packet.peer(source)));
        let uuid = uuid(&duid);
        Self { duid, mac: mac.filter(|mac| mac.is_unicast()), uuid }
    }

    /// What the address of the `index`-th association of a message follows from.
    pub(crate) fn key(&self, index: usize, association: [u8; 4]) -> Vec<u8> {
        match self.mac {
            Some(mac) => [b"mac".as_slice(), &mac.0, &index.to_be_bytes()].concat(),
            None => [b"duid".as_slice(), &self.duid, &association].concat(),
        }
    }
}

/// Hardware type, then address.
fn ethernet(data: &[u8]) -> Option<MacAddr> {
    data.strip_prefix(&ETHERNET).and_then(|address| address.try_into().ok()).map(MacAddr)
}

/// DUID-LLT (type 1, with a time of four bytes behind the hardware type) and DUID-LL (type 3).
fn of_duid(duid: &[u8]) -> Option<MacAddr> {
    match duid.split_first_chunk::<2>()? {
        ([0, 3], rest) => ethernet(rest),
        ([0, 1], rest) => {
            let rest = rest.strip_prefix(&ETHERNET)?;
            rest.get(4..)?.try_into().ok().map(MacAddr)
        }
        _ => None,
    }
}

/// `fe80::` with the address around `ff:fe`, its universal/local bit turned over.
fn of_link_local(address: Ipv6Addr) -> Option<MacAddr> {
    let (prefix, interface) = (u128::from(address) >> 64, address.octets());
    let [.., first, second, third, 0xff, 0xfe, fourth, fifth, sixth] = interface else { return None };
    (prefix == 0xfe80 << 48).then_some(MacAddr([first ^ 2, second, third, fourth, fifth, sixth]))
}

/// DUID-UUID (type 4, RFC 6355).
fn uuid(duid: &[u8]) -> Option<[u8; 16]> {
    let uuid: [u8; 16] = duid.strip_prefix(&[0, 4])?.try_into().ok()?;
    (uuid != [0; 16] && uuid != [0xff; 16]).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v6::wire::{MessageType, Options, Relay};

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x77, 0, 1]);

    fn packet(duid: &[u8]) -> Packet {
        let mut options = Options::default();
        options.push(option::CLIENT_ID, duid);
        Packet { kind: MessageType::Solicit, xid: [0; 3], options, relays: vec![] }
    }

    fn from(duid: &[u8], source: &str) -> Identity {
        Identity::of(&packet(duid), source.parse().unwrap())
    }

    #[test]
    fn the_link_layer_address_is_known_by_identifier_or_source() {
        let by_time = [&[0, 1, 0, 1, 9, 9, 9, 9], MAC.0.as_slice()].concat();
        let by_link = [&[0, 3, 0, 1], MAC.0.as_slice()].concat();
        let of_vendor = [0, 2, 0, 0, 0xab, 0x11, 1, 2, 3, 4];
        assert_eq!(from(&by_time, "fe80::1").mac, Some(MAC));
        assert_eq!(from(&by_link, "fe80::1").mac, Some(MAC));
        assert_eq!(from(&of_vendor, "fe80::5054:ff:fe77:1").mac, Some(MAC));
        assert_eq!(from(&of_vendor, "fe80::1").mac, None);
        assert_eq!(from(&[0, 3, 0, 1, 1, 2], "fe80::1").mac, None);
    }

    #[test]
    fn the_uuid_of_a_board_is_known_by_its_identifier() {
        let duid = [[0, 4].as_slice(), &[7; 16]].concat();
        assert_eq!(from(&duid, "fe80::1").uuid, Some([7; 16]));
        assert_eq!(from(&[0, 4, 7], "fe80::1").uuid, None);
        assert_eq!(from(&[[0, 4].as_slice(), &[0; 16]].concat(), "fe80::1").uuid, None);
    }

    #[test]
    fn behind_a_relay_the_source_is_the_relays_peer_and_the_relay_knows_best() {
        let mut request = packet(&[0, 2, 1]);
        let peer = "fe80::5054:ff:fe77:1".parse().unwrap();
        let relay = Relay { hops: 0, link: Ipv6Addr::UNSPECIFIED, peer, options: Options::default() };
        request.relays = vec![relay];
        let source = "fe80::5054:ff:fe99:9".parse().unwrap();
        assert_eq!(Identity::of(&request, source).mac, Some(MAC));
        let said = [ETHERNET.as_slice(), &[2, 0, 0, 0, 0, 5]].concat();
        request.relays[0].options.push(option::CLIENT_LINK_LAYER, said);
        assert_eq!(Identity::of(&request, source).mac, Some(MacAddr([2, 0, 0, 0, 0, 5])));
    }

    #[test]
    fn one_machine_is_one_key_whatever_sends_for_it() {
        let key = |duid: &[u8], association| from(duid, "fe80::5054:ff:fe77:1").key(0, association);
        assert_eq!(key(&[0, 4, 1], [1; 4]), key(&[0, 2, 1], [2; 4]));
        let hidden = |duid: &[u8], association| from(duid, "fe80::99").key(0, association);
        assert_ne!(hidden(&[0, 2, 1], [1; 4]), hidden(&[0, 2, 1], [2; 4]));
        assert_ne!(hidden(&[0, 2, 1], [1; 4]), hidden(&[0, 2, 2], [1; 4]));
    }
}
