//! What the farm remembers of each machine's boot, and whose an address is.
//!
//! TFTP, HTTP and NBD know their clients by address only. Whose that is, the machine has said itself (its boot script's URL
//! and its greeting hold its MAC), or the kernel's table of neighbours tells. An address behind a relay that never said
//! whose it is leaves no trace here; the router has one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stoke_api::MacAddr;
use stoke_api::trace::{TRACED_MACHINES, TraceEvent};
use stoke_daemon::trace::Traces;

use crate::run::now_ms;

/// The kernel's IPv4 neighbours, of the network namespace of the thread that reads (Linux' `net/ipv4/arp.c`).
const NEIGHBOURS: &str = "/proc/thread-self/net/arp";
/// The table is not read again sooner: a storm asks for it a thousand times.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// Something that happened, but for the machine that it happened to.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    way: &'static str,
    what: String,
    result: String,
}

impl Noted {
    /// Something that happened just now. `way` is one of those of [`TraceEvent::way`].
    pub(crate) fn now(way: &'static str, what: impl Into<String>, result: impl Into<String>) -> Self {
        Self { way, what: what.into(), result: result.into() }
    }

    fn of(self, mac: MacAddr) -> TraceEvent {
        let (way, what, result) = (self.way.to_owned(), self.what, self.result);
        TraceEvent { at_ms: now_ms(), took_ms: None, mac, way, what, result, bytes: None }
    }
}

/// The farm's memory of boots.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) ring: Arc<Traces>,
    whose: Mutex<Addresses>,
}

impl Trace {
    /// Remembers what happened to a machine.
    pub(crate) fn machine(&self, mac: MacAddr, noted: Noted) {
        self.ring.note(noted.of(mac));
    }

    /// Remembers what happened to whoever has this address, if that is known.
    pub(crate) fn client(&self, address: IpAddr, noted: Noted) {
        if let Some(mac) = self.mac_of(address) {
            self.machine(mac, noted);
        }
    }

    /// Takes note of a machine that says which it is.
    pub(crate) fn speaks(&self, address: IpAddr, mac: MacAddr) {
        self.whose().said.insert(address.to_canonical(), mac);
    }

    /// Whose an address is.
    pub(crate) fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.whose()
            .mac_of(address.to_canonical(), Instant::now(), || fs_err::read_to_string(NEIGHBOURS).unwrap_or_default())
    }

    fn whose(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.whose.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose an address is.
#[derive(Debug, Default)]
struct Addresses {
    /// As machines said it.
    said: Bounded,
    /// As the kernel saw it, and when that was read.
    seen: BTreeMap<Ipv4Addr, MacAddr>,
    read: Option<Instant>,
}

impl Addresses {
    fn mac_of(&mut self, address: IpAddr, now: Instant, read: impl FnOnce() -> String) -> Option<MacAddr> {
        // What is on the wire now goes before what was said: addresses change hands.
        let v4 = match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => return self.said.0.get(&IpAddr::V6(address)).copied().or_else(|| eui64(address)),
        };
        let known = self.seen.get(&v4).copied();
        let stale = self.read.is_none_or(|read| now.saturating_duration_since(read) >= READ_AGAIN);
        if stale {
            self.seen = neighbours(&read());
            self.read = Some(now);
        }
        self.seen.get(&v4).copied().or_else(|| self.said.0.get(&address).copied()).or(known)
    }
}

/// A bounded number of addresses; the lowest goes when there are too many, which takes a farm larger than any LAN of ours.
#[derive(Debug, Default)]
struct Bounded(BTreeMap<IpAddr, MacAddr>);

impl Bounded {
    fn insert(&mut self, address: IpAddr, mac: MacAddr) {
        self.0.insert(address, mac);
        if self.0.len() > 4 * TRACED_MACHINES {
            self.0.pop_first();
        }
    }
}

/// The table as the kernel prints it: address, hardware type, flags, link-layer address, mask, device.
fn neighbours(table: &str) -> BTreeMap<Ipv4Addr, MacAddr> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, _, flags, mac) = (words.next()?, words.next()?, words.next()?, words.next()?);
        // 0 is an entry whose question nobody has answered yet.
        (flags != "0x0").then_some((address.parse().ok()?, mac.parse().ok()?))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

/// The MAC that a link-local address was made from (RFC 4291, appendix A), as firmware makes them.
fn eui64(address: Ipv6Addr) -> Option<MacAddr> {
    match address.octets() {
        [0xfe, 0x80, .., a, b, c, 0xff, 0xfe, d, e, f] => Some(MacAddr([a ^ 2, b, c, d, e, f])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "IP address       HW type     Flags       HW address            Mask     Device
10.10.0.21       0x1         0x2         52:54:00:00:00:01     *        lab
10.10.0.22       0x1         0x0         00:00:00:00:00:00     *        lab
";

    fn mac(last: u8) -> MacAddr {
        MacAddr([0x52, 0x54, 0, 0, 0, last])
    }

    #[test]
    fn the_kernels_table_goes_before_what_was_said() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        let [one, two] = [21, 22].map(|last| IpAddr::from([10, 10, 0, last]));
        addresses.said.insert(one, mac(9));
        addresses.said.insert(two, mac(2));
        assert_eq!(addresses.mac_of(one, now, || TABLE.to_owned()), Some(mac(1)));
        assert_eq!(addresses.mac_of(two, now, || unreachable!("it was read just now")), Some(mac(2)));
        assert_eq!(addresses.mac_of([10, 10, 0, 23].into(), now, || unreachable!()), None);
        let later = now + READ_AGAIN;
        assert_eq!(addresses.mac_of(one, later, String::new), Some(mac(9)));
    }

    #[test]
    fn a_link_local_address_tells_its_maker() {
        let mut addresses = Addresses::default();
        let found = addresses.mac_of("fe80::5054:ff:fe00:1".parse().unwrap(), Instant::now(), String::new);
        assert_eq!(found, Some(mac(1)));
        assert_eq!(addresses.mac_of("fd00::1".parse().unwrap(), Instant::now(), String::new), None);
    }

    #[test]
    fn a_client_is_known_by_what_it_said_of_itself() {
        let trace = Trace::default();
        trace.speaks("10.10.0.21".parse().unwrap(), mac(1));
        let noted = Noted::now("tftp", "snponly.efi", "complete");
        trace.client("::ffff:10.10.0.21".parse().unwrap(), noted);
        let [event] = &trace.ring.of(mac(1))[..] else { panic!("one event") };
        assert_eq!((event.way.as_str(), event.result.as_str()), ("tftp", "complete"));
    }
}
