//! Who may load now, when more boot than the farm should feed at once. Pure: the caller brings the clock.
//!
//! ```text
//!           asks, there is room                hello              its root is there, or it failed
//!  (none) ----------------------> loading -----------> greeted ------------------------------> (none)
//!    |                               ^  silent for 3 min: (none)  ^ silent for 10 min: (none)
//!    | asks, there is none           |
//!    +----------------> waiting -----+  asks again, and nobody before it has a claim on the room
//!                          |
//!                          +--> (none)  it did not come back
//! ```
//!
//! Places are given in the order of the first question. A machine that sleeps holds no room: it has its claim from the moment
//! that it was told to come back until a while after. How long it sleeps follows from its place in the line, from how
//! many may load, and from how long a load took of late; a few seconds more depend on its address, so that machines that asked
//! at once do not come back at once.

use std::collections::BTreeMap;

use stoke_api::MacAddr;

/// After this long without a word, who was given a boot script is no longer taken to load.
const LOADING_MS: u64 = 180_000;
/// The same, of a node that said hello: it fetches its root.
const GREETED_MS: u64 = 600_000;
/// How long the claim of one who waits lasts after the time that it was told to come back.
const GRACE_MS: u64 = 30_000;
/// How long a load takes, as long as nothing was seen, in milliseconds.
const TYPICAL_MS: u64 = 20_000;
/// Shortest and longest time that a machine is told to wait, in seconds, before the part that its address makes.
const WAIT: (u64, u64) = (2, 60);
/// Machines that wait and are remembered; later ones wait without a place.
const REMEMBERED: usize = 16_384;

/// What a machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Load.
    Load,
    /// Ask again later.
    Wait {
        /// In how many seconds.
        seconds: u32,
        /// How many are before it.
        before: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Load {
    began_ms: u64,
    /// When it no longer counts, unless it is heard.
    until_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    /// Its place: the less, the earlier.
    ticket: u64,
    /// When it was told to come back.
    due_ms: u64,
}

/// Who loads and who waits.
#[derive(Debug)]
pub struct Admission {
    loading: BTreeMap<MacAddr, Load>,
    waiting: BTreeMap<MacAddr, Waiter>,
    tickets: u64,
    /// How long a load takes, in milliseconds: a mean that the newer loads weigh more in.
    typical_ms: u64,
    most: u32,
    boots: u64,
}

/// Figures for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Machines that load now.
    pub loading: u32,
    /// Machines that were told to wait.
    pub waiting: u32,
    /// The most that loaded at once.
    pub most_loading: u32,
    /// Loads begun.
    pub boots: u64,
}

impl Default for Admission {
    fn default() -> Self {
        let (loading, waiting) = (BTreeMap::new(), BTreeMap::new());
        Self { loading, waiting, tickets: 0, typical_ms: TYPICAL_MS, most: 0, boots: 0 }
    }
}

impl Admission {
    /// A machine asks for its boot script; at most `limit` load at once, if that is bounded. One that asks again while it
    /// loads has begun anew, in its own place.
    pub fn ask(&mut self, mac: MacAddr, limit: Option<u32>, now_ms: u64) -> Turn {
        self.forget(now_ms);
        let room = limit.map_or(usize::MAX, |limit| limit.max(1) as usize);
        if self.loading.contains_key(&mac) || self.has_room(mac, room, now_ms) {
            self.begin(mac, now_ms);
            return Turn::Load;
        }
        self.queue(mac, room, now_ms)
    }

    /// A machine loads that could not be told to wait: firmware that fetches the whole image by itself.
    pub fn begin(&mut self, mac: MacAddr, now_ms: u64) {
        self.waiting.remove(&mac);
        let until_ms = now_ms + LOADING_MS;
        if self.loading.insert(mac, Load { began_ms: now_ms, until_ms }).is_none() {
            self.boots += 1;
        }
        self.most = self.most.max(count(self.loading.len()));
    }

    /// The machine with these interfaces said hello: its kernel runs, and its root is what it loads next.
    pub fn greeted(&mut self, macs: impl IntoIterator<Item = MacAddr>, now_ms: u64) {
        for mac in macs {
            if let Some(load) = self.loading.get_mut(&mac) {
                load.until_ms = now_ms + GREETED_MS;
            }
        }
    }

    /// The machine with this interface has its root, or will not have it.
    pub fn done(&mut self, mac: MacAddr, now_ms: u64) {
        if let Some(load) = self.loading.remove(&mac) {
            let took = now_ms.saturating_sub(load.began_ms);
            self.typical_ms = (self.typical_ms * 7 + took) / 8;
        }
    }

    /// How many load and wait.
    pub fn figures(&mut self, now_ms: u64) -> Figures {
        self.forget(now_ms);
        let (loading, waiting) = (count(self.loading.len()), count(self.waiting.len()));
        Figures { loading, waiting, most_loading: self.most, boots: self.boots }
    }

    fn forget(&mut self, now_ms: u64) {
        self.loading.retain(|_, load| load.until_ms > now_ms);
        self.waiting.retain(|_, waiter| waiter.due_ms + GRACE_MS > now_ms);
    }

    /// Whether this one may begin: there is room, and for those before it who are due as well.
    fn has_room(&self, mac: MacAddr, room: usize, now_ms: u64) -> bool {
        let free = room.saturating_sub(self.loading.len());
        if free == 0 {
            return false;
        }
        let ticket = self.waiting.get(&mac).map_or(u64::MAX, |waiter| waiter.ticket);
        let claim =
            |(other, waiter): &(&MacAddr, &Waiter)| **other != mac && waiter.ticket < ticket && waiter.due_ms <= now_ms;
        self.waiting.iter().filter(claim).take(free).count() < free
    }

    fn queue(&mut self, mac: MacAddr, room: usize, now_ms: u64) -> Turn {
        let ticket = self.waiting.get(&mac).map_or(self.tickets, |waiter| waiter.ticket);
        let before = self.waiting.values().filter(|waiter| waiter.ticket < ticket).count();
        let seconds = self.pause(mac, before, room);
        let due_ms = now_ms + u64::from(seconds) * 1000;
        if ticket == self.tickets && self.waiting.len() < REMEMBERED {
            self.tickets += 1;
        }
        if ticket < self.tickets {
            self.waiting.insert(mac, Waiter { ticket, due_ms });
        }
        Turn::Wait { seconds, before }
    }

    /// Seconds until there may be room for one with so many before it.
    fn pause(&self, mac: MacAddr, before: usize, room: usize) -> u32 {
        let places = before as u64 + 1;
        let expected = places.saturating_mul(self.typical_ms) / 1000 / (room as u64).max(1);
        let wait = expected.clamp(WAIT.0, WAIT.1);
        u32::try_from(wait + spread(mac) % (wait / 4 + 2)).unwrap_or(u32::MAX)
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A number that depends on the address alone and differs between neighbours: FNV-1a.
fn spread(mac: MacAddr) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mac.0.into_iter().fold(0xcbf2_9ce4_8422_2325, mix) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac(number: usize) -> MacAddr {
        let [.., high, low] = number.to_be_bytes();
        MacAddr([0x52, 0x54, 0, 0, high, low])
    }

    fn seconds(turn: Turn) -> u64 {
        match turn {
            Turn::Wait { seconds, .. } => seconds.into(),
            Turn::Load => panic!("it may load"),
        }
    }

    #[test]
    fn without_a_bound_everybody_loads() {
        let mut admission = Admission::default();
        for number in 0..5000 {
            assert_eq!(admission.ask(mac(number), None, 0), Turn::Load);
        }
        let figures = Figures { loading: 5000, waiting: 0, most_loading: 5000, boots: 5000 };
        assert_eq!(admission.figures(1), figures);
    }

    #[test]
    fn who_loads_may_ask_again_and_counts_once() {
        let mut admission = Admission::default();
        assert_eq!(admission.ask(mac(1), Some(1), 0), Turn::Load);
        assert_eq!(admission.ask(mac(1), Some(1), 60_000), Turn::Load);
        assert!(matches!(admission.ask(mac(2), Some(1), 60_000), Turn::Wait { before: 0, .. }));
        // The second question began the time anew.
        assert!(matches!(admission.ask(mac(2), Some(1), LOADING_MS + 1), Turn::Wait { .. }));
        assert_eq!(admission.figures(LOADING_MS + 1).boots, 1);
        assert_eq!(admission.ask(mac(2), Some(1), 60_000 + LOADING_MS), Turn::Load);
    }

    #[test]
    fn room_goes_to_who_asked_first_unless_it_sleeps() {
        let mut admission = Admission::default();
        assert_eq!(admission.ask(mac(0), Some(1), 0), Turn::Load);
        let first = seconds(admission.ask(mac(1), Some(1), 0)) * 1000;
        let second = seconds(admission.ask(mac(2), Some(1), 0)) * 1000;
        admission.done(mac(0), 1);
        // The first one is due: the second, and one who has just come, wait.
        let due = first.max(second);
        assert!(matches!(admission.ask(mac(2), Some(1), due), Turn::Wait { before: 1, .. }));
        assert!(matches!(admission.ask(mac(3), Some(1), due), Turn::Wait { before: 2, .. }));
        assert_eq!(admission.ask(mac(1), Some(1), due), Turn::Load);
        // The others sleep again, so the room of the first is free for whoever asks.
        admission.done(mac(1), due);
        assert_eq!(admission.ask(mac(4), Some(1), due), Turn::Load);
    }

    #[test]
    fn who_does_not_come_back_loses_its_place() {
        let mut admission = Admission::default();
        assert_eq!(admission.ask(mac(0), Some(1), 0), Turn::Load);
        let gone = seconds(admission.ask(mac(1), Some(1), 0)) * 1000 + GRACE_MS;
        assert_eq!(admission.figures(gone - 1).waiting, 1);
        assert_eq!(admission.figures(gone).waiting, 0);
    }

    #[test]
    fn a_node_that_said_hello_has_time_for_its_root() {
        let mut admission = Admission::default();
        admission.ask(mac(1), Some(1), 0);
        admission.greeted([mac(9), mac(1)], LOADING_MS - 1);
        assert_eq!(admission.figures(LOADING_MS + 1).loading, 1);
        admission.done(mac(1), LOADING_MS + 2);
        assert_eq!(admission.figures(LOADING_MS + 2).loading, 0);
    }

    #[test]
    fn the_longer_the_line_and_the_load_the_longer_the_pause() {
        let mut admission = Admission::default();
        let room = 10;
        for number in 0..100 {
            admission.ask(mac(number), Some(room), 0);
        }
        let at = |admission: &Admission, before| u64::from(admission.pause(mac(0), before, room as usize));
        assert!(at(&admission, 0) < at(&admission, 8) && at(&admission, 8) < at(&admission, 20));
        let before = at(&admission, 15);
        for number in 0..10 {
            admission.done(mac(number), 100_000);
        }
        assert!(before < at(&admission, 15), "loads that take longer make longer pauses");
        assert!(at(&admission, 1_000_000) <= WAIT.1 + WAIT.1 / 4 + 2);
    }

    #[test]
    fn those_who_ask_at_once_do_not_come_back_at_once() {
        let mut admission = Admission::default();
        let pauses = (0..1000).map(|number| admission.ask(mac(number), Some(50), 0)).filter(|turn| *turn != Turn::Load);
        let mut by_second = BTreeMap::<u64, usize>::new();
        pauses.for_each(|turn| *by_second.entry(seconds(turn)).or_default() += 1);
        let most = by_second.values().max().unwrap();
        assert!(*most < 950 / 10, "{by_second:?}");
    }

    /// A storm, told by the rules alone: loads take 15 s, everybody comes back when told.
    #[test]
    fn a_thousand_machines_are_all_served_and_the_bound_holds() {
        let (mut admission, limit) = (Admission::default(), 50);
        let mut events: std::collections::BTreeSet<(u64, bool, usize)> =
            (0..1000).map(|number| (0, true, number)).collect();
        let (mut loaded, mut now) = (0, 0);
        while let Some((at, asks, number)) = events.pop_first() {
            now = at;
            if asks {
                match admission.ask(mac(number), Some(limit), now) {
                    Turn::Load => events.insert((now + 15_000, false, number)),
                    Turn::Wait { seconds, .. } => events.insert((now + u64::from(seconds) * 1000, true, number)),
                };
            } else {
                admission.done(mac(number), now);
                loaded += 1;
            }
            assert!(admission.figures(now).loading <= limit);
        }
        assert_eq!(loaded, 1000);
        // Twenty rounds of fifteen seconds are the least; sleeping costs less than as much again.
        assert!(now < 2 * 20 * 15_000, "it took {} s", now / 1000);
        assert_eq!(admission.figures(now), Figures { loading: 0, waiting: 0, most_loading: 50, boots: 1000 });
    }

    proptest! {
        #[test]
        fn the_bound_always_holds(steps in proptest::collection::vec((0usize..40, 0u64..40_000, 0u8..4), 1..300), limit in 1u32..8) {
            let (mut admission, mut now) = (Admission::default(), 0);
            for (number, pause, what) in steps {
                now += pause;
                match what {
                    0 => admission.done(mac(number), now),
                    1 => admission.greeted([mac(number)], now),
                    _ => { admission.ask(mac(number), Some(limit), now); }
                }
                let figures = admission.figures(now);
                prop_assert!(figures.loading <= limit && figures.loading + figures.waiting <= 40);
            }
        }
    }
}
