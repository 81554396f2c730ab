//! Addresses that wait for their clients' requests: one of each client, each for one client.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;

/// The offers. Bounded by the number of addresses; those that are over stay until the address or the client has another.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    by_address: BTreeMap<Ipv4Addr, (MacAddr, u64)>,
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
}

impl Offers {
    /// Holds an address for a client until a moment, in seconds since 1970.
    pub(crate) fn hold(&mut self, address: Ipv4Addr, mac: MacAddr, until: u64) {
        self.take_back(mac);
        if let Some((before, _)) = self.by_address.insert(address, (mac, until)) {
            self.by_mac.remove(&before);
        }
        self.by_mac.insert(mac, address);
    }

    /// Ends the client's offer.
    pub(crate) fn take_back(&mut self, mac: MacAddr) {
        if let Some(address) = self.by_mac.remove(&mac) {
            self.by_address.remove(&address);
        }
    }

    /// Whom an address is held for.
    pub(crate) fn holder(&self, address: Ipv4Addr, now: u64) -> Option<MacAddr> {
        self.by_address.get(&address).filter(|(_, until)| *until > now).map(|(mac, _)| *mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_one_offer_and_an_address_one_client() {
        let (a, b) = (MacAddr([2; 6]), MacAddr([4; 6]));
        let (first, second) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut offers = Offers::default();
        offers.hold(first, a, 10);
        offers.hold(second, a, 10);
        assert_eq!((offers.holder(first, 0), offers.holder(second, 0)), (None, Some(a)));
        assert_eq!(offers.holder(second, 10), None);
        offers.hold(second, b, 20);
        offers.take_back(a);
        assert_eq!(offers.holder(second, 0), Some(b));
        offers.take_back(b);
        assert_eq!(offers.holder(second, 0), None);
    }
}
