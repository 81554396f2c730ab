//! Boots that go round in circles: a client that loads the same program again and again and never comes to `stoke-init`.

use std::collections::BTreeMap;

use stoke_api::MacAddr;

/// What is counted: the same program within this time, in milliseconds.
const WINDOW: u64 = 120_000;
/// More often than this is a circle.
pub(crate) const CIRCLE: usize = 5;
/// How often an iPXE that cannot run the script gets another iPXE within the window. Often enough for a lost packet or
/// two; a client that got one this often has one that is no better.
pub(crate) const CHAINS: usize = 3;
/// Clients that are remembered; the one that was silent longest goes first.
const CLIENTS: usize = 1024;

/// What clients were told to load.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    clients: BTreeMap<MacAddr, Client>,
}

#[derive(Debug, Default)]
struct Client {
    /// The exchange that was counted last: repeated packets are the same one.
    xid: u32,
    last: u64,
    /// By program, when it was told.
    told: BTreeMap<String, Vec<u64>>,
}

impl Guard {
    /// How often the client was told this program within the window, other than in this exchange.
    pub(crate) fn count(&self, mac: MacAddr, xid: u32, program: &str, now_ms: u64) -> usize {
        let Some(client) = self.clients.get(&mac).filter(|client| client.xid != xid) else { return 0 };
        let times = client.told.get(program).map(Vec::as_slice).unwrap_or_default();
        times.iter().filter(|at| **at + WINDOW > now_ms).count()
    }

    /// Takes note of what the client was told. How often that was within the window, this time included; 0 if this
    /// exchange was counted already.
    pub(crate) fn told(&mut self, mac: MacAddr, xid: u32, program: &str, now_ms: u64) -> usize {
        let client = self.clients.entry(mac).or_default();
        if client.xid == xid && client.last > 0 {
            return 0;
        }
        (client.xid, client.last) = (xid, now_ms);
        client.told.values_mut().for_each(|times| times.retain(|at| *at + WINDOW > now_ms));
        client.told.retain(|_, times| !times.is_empty());
        let times = client.told.entry(program.to_owned()).or_default();
        times.push(now_ms);
        let count = times.len();
        self.forget();
        count
    }

    /// The client got through to its system.
    pub(crate) fn arrived(&mut self, mac: MacAddr) {
        self.clients.remove(&mac);
    }

    fn forget(&mut self) {
        while self.clients.len() > CLIENTS {
            let silent = self.clients.iter().min_by_key(|(_, client)| client.last).map(|(mac, _)| *mac);
            let Some(silent) = silent else { return };
            self.clients.remove(&silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2; 6]);

    #[test]
    fn exchanges_are_counted_once_within_the_window_until_the_system_is_reached() {
        let mut guard = Guard::default();
        assert_eq!(guard.count(MAC, 1, "a", 0), 0);
        for (xid, at, expected) in [(1, 1000, 1), (1, 2000, 0), (2, 3000, 2), (3, 4000, 3)] {
            assert_eq!(guard.told(MAC, xid, "a", at), expected, "{xid}");
        }
        assert_eq!(guard.told(MAC, 4, "b", 5000), 1);
        assert_eq!((guard.count(MAC, 5, "a", 6000), guard.count(MAC, 4, "a", 6000)), (3, 0));
        assert_eq!(guard.told(MAC, 6, "a", 3000 + WINDOW), 2);
        guard.arrived(MAC);
        assert_eq!(guard.told(MAC, 7, "a", 3000 + WINDOW), 1);
    }

    #[test]
    fn a_bounded_number_of_clients_is_remembered() {
        let mut guard = Guard::default();
        for number in 0..2000_u16 {
            let [a, b] = number.to_be_bytes();
            guard.told(MacAddr([2, 0, 0, 0, a, b]), 1, "a", 1 + u64::from(number));
        }
        assert_eq!(guard.clients.len(), CLIENTS);
        assert!(guard.clients.values().all(|client| client.last > 2000 - 1024));
    }
}
