//! A wire between two hosts that is long, or loses frames, or swallows long ones: what kernels here have no `netem` for.
//!
//! Each end is a TAP device in its host's namespace; a thread carries the frames from one to the other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::World;

/// The longest frame, with the header that the TAP puts before it.
const LONGEST: usize = 65_600;
/// What a TAP puts before a frame (`struct virtio_net_hdr`), and the link layer's header.
const BEFORE: usize = 10 + 14;
/// How often the thread looks whether it is to end.
const IDLE: Duration = Duration::from_millis(100);
/// Frames on their way in one direction; a queue of this length is full, and the next one is lost.
const QUEUE: usize = 4096;

/// What the wire does to frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// How long a frame is on its way, in each direction.
    pub delay: Duration,
    /// How many of a thousand frames are lost, in each direction.
    pub loss_per_mille: u32,
    /// Packets longer than this vanish without a word, as in a tunnel whose ICMP is filtered; 0: none does.
    pub black_hole: usize,
    /// Of the numbers that decide which frames are lost.
    pub seed: u64,
}

/// The wire. It is gone when it is dropped.
pub struct Relay {
    stop: Arc<AtomicBool>,
    carried: Arc<[AtomicU64; 2]>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// A wire between two hosts. Each end is called `wire0` and has an address with its prefix's length.
    ///
    /// # Errors
    /// If there is such a link on one of them already.
    pub fn between(hosts: [&World; 2], addresses: [&str; 2], wire: Wire) -> Result<Self> {
        let [near, far] = hosts;
        let [near_address, far_address] = addresses;
        let near = Arc::new(File::from(end(near, near_address)?));
        let far = Arc::new(File::from(end(far, far_address)?));
        let stop = Arc::new(AtomicBool::new(false));
        let carried = Arc::new([const { AtomicU64::new(0) }; 2]);
        let ways = [Way::new(near.clone(), far.clone()), Way::new(far, near)];
        let porter = Carrier { ways, wire, dice: wire.seed | 1, stop: stop.clone(), carried: carried.clone() };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || porter.run())?;
        Ok(Self { stop, carried, thread: Some(thread) })
    }

    /// Frames that arrived, from the first host to the second and back.
    pub fn carried(&self) -> [u64; 2] {
        self.carried.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the relay's thread panicked");
        }
    }
}

/// A TAP on a host, up and with an address.
fn end(host: &World, address: &str) -> Result<OwnedFd> {
    // A thread of its own enters the host's namespace: there is no way back.
    let tap = std::thread::scope(|scope| {
        let created = scope.spawn(|| -> Result<OwnedFd> {
            host.enter()?;
            Ok(stoke_sys::tap::create("wire0")?)
        });
        created.join().map_err(|_| anyhow!("the thread that makes a TAP panicked"))?
    })?;
    rustix::fs::fcntl_setfl(&tap, rustix::fs::OFlags::NONBLOCK)?;
    host.run("ip", &["address", "add", address, "dev", "wire0"])?;
    host.run("ip", &["link", "set", "wire0", "up"])?;
    Ok(tap)
}

/// One direction.
struct Way {
    from: Arc<File>,
    to: Arc<File>,
    /// Frames, and when they arrive.
    queue: VecDeque<(Instant, Vec<u8>)>,
}

struct Carrier {
    ways: [Way; 2],
    wire: Wire,
    dice: u64,
    stop: Arc<AtomicBool>,
    carried: Arc<[AtomicU64; 2]>,
}

impl Carrier {
    fn run(mut self) {
        let mut room = vec![0; LONGEST];
        while !self.stop.load(Ordering::Relaxed) {
            self.wait();
            for way in &mut self.ways {
                way.take(&mut room, self.wire, &mut self.dice);
            }
            let now = Instant::now();
            for (way, carried) in self.ways.iter_mut().zip(&*self.carried) {
                carried.fetch_add(way.deliver(now), Ordering::Relaxed);
            }
        }
    }

    fn wait(&self) {
        let [out, back] = &self.ways;
        let next = self.ways.iter().filter_map(|way| way.queue.front()).map(|(due, _)| *due).min();
        let wait = next.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        let wait = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut ends = [PollFd::new(&out.from, PollFlags::IN), PollFd::new(&back.from, PollFlags::IN)];
        // Interrupted, or a host that is gone: what comes next shows it.
        let _ = poll(&mut ends, Some(&wait));
    }
}

impl Way {
    fn new(from: Arc<File>, to: Arc<File>) -> Self {
        Self { from, to, queue: VecDeque::new() }
    }

    /// Takes the frames that are there.
    fn take(&mut self, room: &mut [u8], wire: Wire, dice: &mut u64) {
        while let Ok(length) = (&*self.from).read(room) {
            let too_long = wire.black_hole > 0 && length > BEFORE + wire.black_hole;
            let lost = roll(dice) % 1000 < u64::from(wire.loss_per_mille);
            if !too_long && !lost && self.queue.len() < QUEUE {
                let frame = room.get(..length).unwrap_or_default().to_vec();
                self.queue.push_back((Instant::now() + wire.delay, frame));
            }
        }
    }

    /// Delivers the frames that are due; returns how many.
    fn deliver(&mut self, now: Instant) -> u64 {
        let mut count = 0;
        while self.queue.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, frame)) = self.queue.pop_front() else { break };
            count += u64::from((&*self.to).write(&frame).is_ok());
        }
        count
    }
}

/// Numbers that look random and are the same each time (xorshift).
fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    // The low bits of the first numbers repeat the seed.
    *dice >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// How many of `count` packets of so many bytes arrive, and how long the first took.
    fn arrived(wire: Wire, bytes: usize, count: u32) -> (u32, Duration) {
        let hosts = [World::new().unwrap(), World::new().unwrap()];
        let relay = Relay::between([&hosts[0], &hosts[1]], ["10.9.0.1/24", "10.9.0.2/24"], wire).unwrap();
        let socket = |host: &World, address: &str| {
            std::thread::scope(|scope| {
                let open = scope.spawn(|| {
                    host.enter().unwrap();
                    UdpSocket::bind((address, 4000)).unwrap()
                });
                open.join().unwrap()
            })
        };
        let (from, to) = (socket(&hosts[0], "10.9.0.1"), socket(&hosts[1], "10.9.0.2"));
        to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        from.connect("10.9.0.2:4000").unwrap();
        let mut room = vec![0; 2000];
        // ARP first, which may need more than one try.
        let begin = loop {
            from.send(b"hello").unwrap();
            let begin = Instant::now();
            if to.recv(&mut room).is_ok() {
                break begin;
            }
        };
        let took = begin.elapsed();
        let mut arrived = 0;
        for _ in 0..count {
            from.send(&vec![7; bytes]).unwrap();
        }
        to.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        while arrived < count && to.recv(&mut room).is_ok_and(|length| length == bytes) {
            arrived += 1;
        }
        drop(relay);
        assert!(!hosts[0].links().unwrap().contains(&"wire0".to_owned()), "the wire is gone with its relay");
        (arrived, took)
    }

    #[test]
    fn a_long_wire_carries_everything_late() {
        let (count, took) = arrived(Wire { delay: Duration::from_millis(30), ..Wire::default() }, 100, 200);
        assert_eq!(count, 200);
        assert!(took >= Duration::from_millis(30), "{took:?}");
    }

    #[test]
    fn a_bad_wire_loses_some() {
        let (count, _) = arrived(Wire { loss_per_mille: 300, seed: 5, ..Wire::default() }, 100, 400);
        assert!((150..400).contains(&count), "{count} of 400 arrived");
    }

    #[test]
    fn a_black_hole_takes_what_is_long() {
        let wire = Wire { black_hole: 1000, ..Wire::default() };
        assert_eq!(arrived(wire, 900, 50).0, 50);
        assert_eq!(arrived(wire, 1200, 50).0, 0);
    }
}
