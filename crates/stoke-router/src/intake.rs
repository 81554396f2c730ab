//! Packets that wait for an answer: the newest is taken first, and what its client has given up on is not answered at all.
//!
//! Under load a queue that is served in order answers everybody late: each answer comes when its client has already asked
//! again. Here whoever has just asked is answered at once. What is left behind are the questions that were asked again, or
//! that are older than a client's first pause.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::proxy::Port;

/// Packets that may wait: a storm of a thousand machines, several times.
const LIMIT: usize = 4096;
/// When a client asks again at the latest: four seconds, a second more or less (RFC 2131 section 4.1).
const GIVEN_UP: Duration = Duration::from_secs(5);
/// `chaddr` begins here (RFC 2131 section 2).
const STATION: usize = 28;

type Station = [u8; 6];

/// A packet as it came.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) source: SocketAddrV4,
    pub(crate) port: Port,
    /// Where an answer goes out that goes back to `source`.
    pub(crate) back: Option<Arc<UdpSocket>>,
    pub(crate) at: Instant,
}

impl Packet {
    fn station(&self) -> Option<Station> {
        self.bytes.get(STATION..)?.first_chunk().copied()
    }
}

/// A packet, and whether its client still waits for an answer.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) packet: Packet,
    pub(crate) awaited: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Oldest first, each with its number.
    packets: VecDeque<(u64, Packet)>,
    /// The number of each station's newest packet, since the queue was last empty.
    newest: HashMap<Station, u64>,
    number: u64,
}

impl Queue {
    /// Whether there was room; if not, the oldest packet is gone.
    fn put(&mut self, packet: Packet) -> bool {
        self.number += 1;
        if let Some(station) = packet.station() {
            self.newest.insert(station, self.number);
        }
        self.packets.push_back((self.number, packet));
        let fits = self.packets.len() <= LIMIT;
        if !fits {
            self.packets.pop_front();
        }
        // Stations whose packets are long gone say nothing any more.
        if self.newest.len() > 4 * LIMIT {
            self.newest.clear();
        }
        fits
    }

    fn take(&mut self, most: usize, now: Instant) -> Vec<Taken> {
        let from = self.packets.len().saturating_sub(most);
        let taken = self.packets.split_off(from).into_iter().rev();
        let taken = taken.map(|(number, packet)| {
            let newest = packet.station().and_then(|station| self.newest.get(&station));
            let asked_again = newest.is_some_and(|newest| *newest > number);
            let awaited = !asked_again && now.saturating_duration_since(packet.at) < GIVEN_UP;
            Taken { packet, awaited }
        });
        let taken = taken.collect();
        if self.packets.is_empty() {
            self.newest.clear();
        }
        taken
    }
}

impl Intake {
    /// Queues packets, the oldest first. How many older ones had to go for them.
    pub(crate) fn put(&self, packets: impl IntoIterator<Item = Packet>) -> usize {
        let mut queue = self.queue();
        // Whoever takes goes on until there is nothing; only then it sleeps.
        let sleeps = queue.packets.is_empty();
        let lost = packets.into_iter().map(|packet| usize::from(!queue.put(packet))).sum();
        drop(queue);
        if sleeps {
            self.arrived.notify_one();
        }
        lost
    }

    /// The newest packets, newest first; none if none comes within the pause.
    pub(crate) fn take(&self, most: usize, pause: Duration) -> Vec<Taken> {
        let empty = |queue: &mut Queue| queue.packets.is_empty();
        let waited = self.arrived.wait_timeout_while(self.queue(), pause, empty);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.take(most, Instant::now())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn packet(station: u16, at: Instant) -> Packet {
        let mut bytes = vec![0; 300];
        bytes[STATION..STATION + 2].copy_from_slice(&station.to_be_bytes());
        let source = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 68);
        Packet { bytes: bytes.into(), source, port: Port::Dhcp, back: None, at }
    }

    fn stations(taken: &[Taken]) -> Vec<(u8, bool)> {
        taken.iter().map(|taken| (taken.packet.bytes[STATION + 1], taken.awaited)).collect()
    }

    #[test]
    fn the_newest_is_first_and_who_asked_again_does_not_wait_for_the_first_answer() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for station in [1, 2, 3, 2] {
            assert!(queue.put(packet(station, now)));
        }
        assert_eq!(stations(&queue.take(2, now)), [(2, true), (3, true)]);
        assert_eq!(stations(&queue.take(9, now)), [(2, false), (1, true)]);
        queue.put(packet(2, now));
        assert_eq!(stations(&queue.take(9, now)), [(2, true)]);
    }

    #[test]
    fn what_is_older_than_a_clients_patience_is_not_awaited() {
        let then = Instant::now();
        let mut queue = Queue::default();
        queue.put(packet(1, then));
        queue.put(packet(2, then + GIVEN_UP));
        assert_eq!(stations(&queue.take(9, then + GIVEN_UP)), [(2, true), (1, false)]);
    }

    #[test]
    fn the_queue_is_bounded_and_loses_the_oldest() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let full = u16::try_from(LIMIT).unwrap();
        assert!((0..full).all(|station| queue.put(packet(station, now))));
        assert!(!queue.put(packet(full, now)));
        assert_eq!(queue.packets.len(), LIMIT);
        assert_eq!(queue.packets[0].1.bytes[STATION..STATION + 2], [0, 1]);
    }

    #[test]
    fn what_is_put_by_one_thread_is_taken_by_another() {
        let intake = Arc::new(Intake::default());
        assert!(intake.take(9, Duration::ZERO).is_empty());
        let other = intake.clone();
        let taker = std::thread::spawn(move || other.take(9, Duration::from_mins(1)).len());
        assert_eq!(intake.put([packet(1, Instant::now())]), 0);
        assert_eq!(taker.join().unwrap(), 1);
    }
}
