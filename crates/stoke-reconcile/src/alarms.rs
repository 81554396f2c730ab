//! Conditions of a LAN that are there only while something is wrong with it: what its router noticed on the wire.

use stoke_api::Condition;
use stoke_api::report::{Conflict, RogueServer, RouterReport, Unbootable};

use crate::status::condition;

/// As many are named in a condition; the others are counted.
const NAMED: usize = 3;

/// The conditions of what a router noticed.
pub(crate) fn conditions(report: &RouterReport) -> Vec<Condition> {
    let exhausted = report.exhausted_at.map(|_| {
        let message = "a client asked for an address and none was left: make the pools larger";
        condition("AddressesExhausted", true, "PoolsFull", message)
    });
    let others = [conflicts(&report.conflicts), rogues(&report.rogue_servers), unbootable(&report.unbootable)];
    exhausted.into_iter().chain(others.into_iter().flatten()).collect()
}

fn conflicts(conflicts: &[Conflict]) -> Option<Condition> {
    let words = |conflict: &Conflict| match conflict.mac {
        Some(mac) => format!("{} by {mac} ({})", conflict.address, conflict.noticed),
        None => format!("{} ({})", conflict.address, conflict.noticed),
    };
    let message = format!(
        "in use without having been given out: {}; take such addresses out of the pools, or let these machines use DHCP",
        named(conflicts, words)?
    );
    Some(condition("AddressConflict", true, "InUse", message))
}

fn rogues(servers: &[RogueServer]) -> Option<Condition> {
    let words = |server: &RogueServer| match server.mac {
        Some(mac) => format!("{} at {mac}", server.address),
        None => server.address.to_string(),
    };
    let message = format!(
        "another DHCP server answers, too: {}; end it, or let it give the addresses: spec.dhcp.mode: Proxy",
        named(servers, words)?
    );
    Some(condition("RogueServer", true, "OtherServer", message))
}

fn unbootable(machines: &[Unbootable]) -> Option<Condition> {
    let words = |machine: &Unbootable| format!("{}: {}", machine.mac, machine.reason);
    let message = format!("asks for a boot in vain: {}", named(machines, words)?);
    Some(condition("NoBootProgram", true, "UnknownFirmware", message))
}

fn named<T>(all: &[T], words: impl Fn(&T) -> String) -> Option<String> {
    let first = all.iter().take(NAMED).map(words).collect::<Vec<_>>().join(", ");
    let more = all.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!all.is_empty()).then(|| format!("{first}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use stoke_api::MacAddr;

    fn said(report: &RouterReport) -> Vec<String> {
        conditions(report).iter().map(|one| format!("{} {:?}: {}", one.kind, one.status, one.message)).collect()
    }

    #[test]
    fn there_is_a_condition_for_each_thing_that_is_wrong_and_none_for_others() {
        assert_eq!(said(&RouterReport::default()), [""; 0]);
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
        let conflict = |last, mac| {
            let (address, noticed) = (Ipv4Addr::new(10, 0, 0, last), "answers ARP".to_owned());
            Conflict { address, mac, noticed, at: 5 }
        };
        let rogue = RogueServer { address: Ipv4Addr::new(10, 0, 0, 9), mac, last_seen: 5 };
        let report = RouterReport {
            exhausted_at: Some(5),
            conflicts: vec![conflict(1, mac), conflict(2, None), conflict(3, None), conflict(4, None)],
            rogue_servers: vec![rogue],
            unbootable: vec![Unbootable {
                mac: MacAddr([2, 0, 0, 0, 0, 7]),
                reason: "no boot program for architecture 6, UEFI ia32".into(),
                last_seen: 5,
            }],
            ..RouterReport::default()
        };
        let said = said(&report);
        assert_eq!(
            said[0],
            "AddressesExhausted True: a client asked for an address and none was left: make the pools larger"
        );
        let words = "AddressConflict True: in use without having been given out: 10.0.0.1 by 02:00:00:00:00:01 (answers ARP), \
                     10.0.0.2 (answers ARP), 10.0.0.3 (answers ARP) and 1 more;";
        assert!(said[1].starts_with(words), "{}", said[1]);
        let words = "NoBootProgram True: asks for a boot in vain: 02:00:00:00:00:07: no boot program for architecture 6, \
                     UEFI ia32";
        assert_eq!(said[3], words);
        assert!(
            said[2].starts_with("RogueServer True: another DHCP server answers, too: 10.0.0.9 at 02:"),
            "{}",
            said[2]
        );
    }
}
