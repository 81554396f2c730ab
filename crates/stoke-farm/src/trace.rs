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
use stoke_api::node::{Event, Hello, Phase};
use stoke_api::trace::{TRACED_MACHINES, TraceEvent};
use stoke_daemon::trace::Traces;

use crate::clock::now_ms;

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
    took: Option<Duration>,
    bytes: Option<u64>,
}

impl Noted {
    /// Something that happened just now. `way` is one of those of [`TraceEvent::way`].
    pub(crate) fn now(way: &'static str, what: impl Into<String>, result: impl Into<String>) -> Self {
        Self { way, what: what.into(), result: result.into(), took: None, bytes: None }
    }

    /// It ended just now and took this long.
    pub(crate) fn took(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }

    /// So many bytes of content were sent.
    pub(crate) fn bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    fn of(self, mac: MacAddr) -> TraceEvent {
        let took_ms = self.took.map(milliseconds);
        let at_ms = now_ms().saturating_sub(took_ms.unwrap_or_default());
        let way = self.way.to_owned();
        TraceEvent { at_ms, took_ms, mac, way, what: self.what, result: self.result, bytes: self.bytes }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The farm's memory of boots.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) ring: Arc<Traces>,
    whose: Mutex<Addresses>,
    boots: Mutex<Boots>,
}

impl Trace {
    /// Remembers what happened to a machine.
    pub(crate) fn machine(&self, mac: MacAddr, noted: Noted) {
        self.ring.note(noted.of(mac));
    }

    /// Remembers what happened to whoever has this address, if that is known; returns who that is.
    pub(crate) fn client(&self, address: IpAddr, noted: Noted) -> Option<MacAddr> {
        let mac = self.mac_of(address)?;
        self.ring.note_part(noted.of(mac));
        Some(mac)
    }

    /// A machine says which it is, and how long its kernel runs.
    pub(crate) fn greets(&self, hello: &Hello) {
        self.whose().said.insert(IpAddr::V4(hello.address), hello.boot_mac);
        self.boots().begin(hello.boot_mac, now_ms().saturating_sub(hello.uptime_ms));
    }

    /// A node reports what it reached, now or before. Returns what that was if it was not known yet.
    pub(crate) fn reaches(&self, mac: MacAddr, event: &Event) -> Option<Reached> {
        let (reached, started_ms) = self.boots().reach(mac, event)?;
        let (phase, detail) = (event.phase.to_string(), event.detail.clone());
        // By the node's own clock, since good boots report their phases all at once.
        let at_ms = started_ms.map_or_else(now_ms, |started| started.saturating_add(event.uptime_ms).min(now_ms()));
        self.ring.note(TraceEvent { at_ms, ..Noted::now("node", phase, detail).of(mac) });
        Some(reached)
    }

    /// Whose an address is.
    pub(crate) fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.whose()
            .mac_of(address.to_canonical(), Instant::now(), || fs_err::read_to_string(NEIGHBOURS).unwrap_or_default())
    }

    fn boots(&self) -> std::sync::MutexGuard<'_, Boots> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whose(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.whose.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A phase that a node reached for the first time in its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The one before; [`Phase::Unknown`] at first.
    pub(crate) before: Phase,
    /// Since then.
    pub(crate) took: Duration,
    /// Since the kernel started.
    pub(crate) uptime: Duration,
}

/// How far boots are, of a bounded number of machines.
#[derive(Debug, Default)]
struct Boots(BTreeMap<MacAddr, Boot>);

#[derive(Debug, Default)]
struct Boot {
    /// When its kernel started, as far as that is known.
    started_ms: Option<u64>,
    uptime_ms: u64,
    phase: Phase,
}

/// Two greetings of one boot differ in when they say that the kernel started, by how long they were on their way.
const SAME_BOOT: u64 = 10_000;

impl Boots {
    fn begin(&mut self, mac: MacAddr, started_ms: u64) {
        let known = self.0.get(&mac).and_then(|boot| boot.started_ms);
        if known.is_none_or(|known| known.abs_diff(started_ms) > SAME_BOOT) {
            self.0.insert(mac, Boot { started_ms: Some(started_ms), ..Boot::default() });
        }
        self.bound();
    }

    fn reach(&mut self, mac: MacAddr, event: &Event) -> Option<(Reached, Option<u64>)> {
        let boot = self.0.entry(mac).or_default();
        let again = event.phase == boot.phase || event.uptime_ms < boot.uptime_ms;
        let reached = Reached {
            before: boot.phase,
            took: Duration::from_millis(event.uptime_ms.saturating_sub(boot.uptime_ms)),
            uptime: Duration::from_millis(event.uptime_ms),
        };
        let started_ms = boot.started_ms;
        if !again {
            (boot.phase, boot.uptime_ms) = (event.phase, event.uptime_ms);
        }
        self.bound();
        (!again).then_some((reached, started_ms))
    }

    fn bound(&mut self) {
        while self.0.len() > 4 * TRACED_MACHINES {
            self.0.pop_first();
        }
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
    let octets = address.octets();
    let (prefix, interface) = octets.split_first_chunk::<8>()?;
    let (maker, rest) = interface.split_first_chunk::<3>()?;
    let own = rest.strip_prefix(&[0xff, 0xfe]).filter(|_| prefix.starts_with(&[0xfe, 0x80]))?;
    let mut mac: [u8; 6] = [maker.as_slice(), own].concat().try_into().ok()?;
    mac[0] ^= 2;
    Some(MacAddr(mac))
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
        trace.whose().said.insert("10.10.0.21".parse().unwrap(), mac(1));
        let noted = Noted::now("tftp", "snponly.efi", "complete");
        let noted = noted.took(Duration::from_millis(1500)).bytes(7);
        assert_eq!(trace.client("::ffff:10.10.0.21".parse().unwrap(), noted), Some(mac(1)));
        let [event] = &trace.ring.of(mac(1))[..] else { panic!("one event") };
        assert_eq!((event.way.as_str(), event.result.as_str()), ("tftp", "complete"));
        assert_eq!((event.took_ms, event.bytes), (Some(1500), Some(7)));
        assert!(event.at_ms + 1500 <= now_ms());
    }

    #[test]
    fn a_phase_counts_once_in_a_boot() {
        let mut boots = Boots::default();
        let event = |phase, uptime_ms| Event { phase, uptime_ms, detail: String::new() };
        boots.begin(mac(1), 50_000);
        let (first, started) = boots.reach(mac(1), &event(Phase::Init, 1200)).unwrap();
        assert_eq!((first.before, first.took.as_millis(), started), (Phase::Unknown, 1200, Some(50_000)));
        let (second, _) = boots.reach(mac(1), &event(Phase::Ready, 9000)).unwrap();
        assert_eq!((second.before, second.took.as_millis(), second.uptime.as_millis()), (Phase::Init, 7800, 9000));
        // The same report again, and the same boot's next greeting.
        boots.begin(mac(1), 50_900);
        assert!(boots.reach(mac(1), &event(Phase::Init, 1200)).is_none());
        assert!(boots.reach(mac(1), &event(Phase::Ready, 9000)).is_none());
        boots.begin(mac(1), 300_000);
        assert!(boots.reach(mac(1), &event(Phase::Init, 1300)).is_some());
    }
}
