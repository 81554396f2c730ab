//! What an operator should look at: no address left, addresses that others use, servers that should not be there.
//!
//! Each alarm ends by itself when its reason has not been seen for a while.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::report::{Conflict, RogueServer, RouterReport, Unbootable};

/// How long an alarm stays, in seconds: no address left.
const EXHAUSTED: u64 = 3600;
/// An address that somebody uses; it is not given out for as long.
const CONFLICT: u64 = 600;
/// A server that is not ours; it is asked for once a minute.
const ROGUE: u64 = 300;
/// A machine that nothing is here for.
const UNBOOTABLE: u64 = 3600;
/// Most of each.
const CONFLICTS: usize = 64;
const ROGUES: usize = 16;
const UNBOOTABLES: usize = 16;

/// The alarms.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    exhausted_at: Option<u64>,
    conflicts: BTreeMap<Ipv4Addr, Conflict>,
    rogues: BTreeMap<Ipv4Addr, RogueServer>,
    unbootable: BTreeMap<MacAddr, Unbootable>,
}

impl Alarms {
    /// A client got no address.
    pub(crate) fn exhausted(&mut self, now: u64) {
        self.exhausted_at = Some(now);
    }

    /// Somebody uses an address. Whether that is news.
    pub(crate) fn conflict(&mut self, conflict: Conflict) -> bool {
        let now = conflict.at;
        self.conflicts.retain(|_, known| known.at + CONFLICT > now);
        // Who declines knows less than who hears the answer.
        let mac = conflict.mac.or_else(|| self.conflicts.get(&conflict.address)?.mac);
        let known = self.conflicts.insert(conflict.address, Conflict { mac, ..conflict });
        while self.conflicts.len() > CONFLICTS {
            let oldest = self.conflicts.values().min_by_key(|known| known.at).map(|known| known.address);
            oldest.and_then(|address| self.conflicts.remove(&address));
        }
        known.is_none()
    }

    /// Another server was heard. Whether that is news.
    pub(crate) fn rogue(&mut self, address: Ipv4Addr, now: u64) -> bool {
        self.rogues.retain(|_, known| known.last_seen + ROGUE > now);
        let known = self.rogues.get(&address).and_then(|known| known.mac);
        if self.rogues.len() >= ROGUES && !self.rogues.contains_key(&address) {
            return false;
        }
        self.rogues.insert(address, RogueServer { address, mac: known, last_seen: now }).is_none()
    }

    /// A station says that it has the address: perhaps one of another server.
    pub(crate) fn station(&mut self, address: Ipv4Addr, mac: MacAddr) {
        if let Some(rogue) = self.rogues.get_mut(&address) {
            rogue.mac = Some(mac);
        }
    }

    /// Our server is not the only one any more, so others are none of our business.
    pub(crate) fn forget_rogues(&mut self) {
        self.rogues.clear();
    }

    /// A machine asks for a boot that there is none for. Whether that is news.
    pub(crate) fn unbootable(&mut self, mac: MacAddr, reason: &str, now: u64) -> bool {
        let machine = Unbootable { mac, reason: reason.to_owned(), last_seen: now };
        let known = self.unbootable.insert(mac, machine);
        while self.unbootable.len() > UNBOOTABLES {
            let oldest = self.unbootable.values().min_by_key(|known| known.last_seen).map(|known| known.mac);
            oldest.and_then(|mac| self.unbootable.remove(&mac));
        }
        known.is_none_or(|known| known.reason != reason)
    }

    /// A machine has something to boot now.
    pub(crate) fn bootable(&mut self, mac: MacAddr) {
        self.unbootable.remove(&mac);
    }

    /// Writes what still holds into the report.
    pub(crate) fn tell(&self, report: &mut RouterReport, now: u64) {
        report.exhausted_at = self.exhausted_at.filter(|at| at + EXHAUSTED > now);
        report.conflicts = self.conflicts.values().filter(|known| known.at + CONFLICT > now).cloned().collect();
        report.rogue_servers = self.rogues.values().filter(|known| known.last_seen + ROGUE > now).cloned().collect();
        report.unbootable =
            self.unbootable.values().filter(|known| known.last_seen + UNBOOTABLE > now).cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(alarms: &Alarms, now: u64) -> RouterReport {
        let mut report = RouterReport::default();
        alarms.tell(&mut report, now);
        report
    }

    fn conflict(number: u32, mac: Option<MacAddr>, at: u64) -> Conflict {
        Conflict { address: Ipv4Addr::from(number), mac, noticed: "declined".into(), at }
    }

    #[test]
    fn alarms_end_when_their_reason_is_gone() {
        let mut alarms = Alarms::default();
        alarms.exhausted(1000);
        assert!(alarms.conflict(conflict(1, Some(MacAddr([2; 6])), 1000)));
        assert!(!alarms.conflict(conflict(1, None, 1001)), "it is known");
        assert!(alarms.rogue(Ipv4Addr::LOCALHOST, 1000));
        alarms.station(Ipv4Addr::LOCALHOST, MacAddr([4; 6]));
        assert!(!alarms.rogue(Ipv4Addr::LOCALHOST, 1010), "it is known");
        let now = report(&alarms, 1011);
        assert_eq!((now.exhausted_at, now.conflicts[0].mac), (Some(1000), Some(MacAddr([2; 6]))));
        assert_eq!((now.rogue_servers[0].mac, now.rogue_servers[0].last_seen), (Some(MacAddr([4; 6])), 1010));
        assert!(alarms.unbootable(MacAddr([6; 6]), "why", 1000) && !alarms.unbootable(MacAddr([6; 6]), "why", 1000));
        assert_eq!(report(&alarms, 1011).unbootable[0].reason, "why");
        let later = report(&alarms, 1310);
        assert_eq!((later.conflicts.len(), later.rogue_servers.len()), (1, 0));
        assert_eq!(report(&alarms, 1000 + EXHAUSTED), RouterReport::default());
    }

    #[test]
    fn alarms_are_bounded_the_newest_stay() {
        let mut alarms = Alarms::default();
        for number in 0..200 {
            alarms.conflict(conflict(number, None, 1000 + u64::from(number)));
            alarms.rogue(Ipv4Addr::from(number), 1000);
        }
        let now = report(&alarms, 1200);
        for number in 0..200 {
            alarms.unbootable(MacAddr([2, 0, 0, 0, 0, number]), "why", 1000 + u64::from(number));
        }
        let machines = report(&alarms, 1200).unbootable;
        assert_eq!((machines.len(), machines[0].last_seen), (UNBOOTABLES, 1200 - 16));
        assert_eq!((now.conflicts.len(), now.rogue_servers.len()), (CONFLICTS, ROGUES));
        assert_eq!(now.conflicts[0].address, Ipv4Addr::from(200 - 64));
    }
}
