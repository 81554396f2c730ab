//! `kill -9` under load: no lease that was acknowledged is lost, and no address is given twice.
//!
//! `STOKE_KILLS=1000 cargo test -p stoke-router --test it kills` kills as often as that, in some minutes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoke_api::MacAddr;
use stoke_dhcp::wire::option;

use crate::packets::{ACK, DISCOVER, Message, NAK, OFFER, REQUEST, Reply, receive};
use crate::world::{GATEWAY, World, wait_for};

/// How often the router is killed, if `STOKE_KILLS` does not say so.
const KILLS: u32 = 50;
/// Acknowledgements that there must be between two kills.
const LEASES: usize = 20;
/// Exchanges that are under way at once.
const WINDOW: u32 = 64;
/// Clients that there are; half of the pool. Later ones are earlier ones that boot again, and get what they had.
const CLIENTS: u32 = 30_000;
/// The load comes through a relay: all replies go to one socket.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// What the clients were acknowledged: the newest address of each.
#[derive(Debug, Default)]
struct Book {
    of: BTreeMap<MacAddr, Ipv4Addr>,
    by: BTreeMap<Ipv4Addr, MacAddr>,
    acknowledgements: usize,
    doubled: Vec<String>,
}

impl Book {
    fn acknowledged(&mut self, mac: MacAddr, address: Ipv4Addr) {
        self.acknowledgements += 1;
        if let Some(before) = self.of.insert(mac, address).filter(|before| *before != address) {
            self.doubled.push(format!("{mac} had {before} and was given {address}"));
        }
        if let Some(other) = self.by.insert(address, mac).filter(|other| *other != mac) {
            self.doubled.push(format!("{address} was {other}'s and was given to {mac}"));
        }
    }
}

/// Clients that ask one after the other, and again for leases that they have.
struct Load {
    socket: UdpSocket,
    book: Arc<Mutex<Book>>,
    next: u32,
}

impl Load {
    fn message(kind: u8, mac: MacAddr, xid: u32) -> Message {
        Message { relay: RELAY, ..Message::new(kind, mac, xid) }
    }

    fn send(&self, message: &Message) {
        // Nobody listens while the router is away.
        let _ = self.socket.send_to(&message.bytes(), (GATEWAY, 67));
    }

    fn begin(&mut self) {
        self.next += 1;
        // One in four boots again while the others come for the first time.
        let number = if self.next.is_multiple_of(4) { self.next / 2 } else { self.next };
        let [a, b, c, d] = (number % CLIENTS).to_be_bytes();
        self.send(&Self::message(DISCOVER, MacAddr([2, 0, a, b, c, d]), self.next));
    }

    fn heard(&mut self, reply: &Reply) {
        match reply.kind {
            OFFER => {
                let request = Self::message(REQUEST, reply.mac, reply.xid);
                let request = request.with(option::REQUESTED_ADDRESS, &reply.yours.octets());
                self.send(&request.with(option::SERVER_ID, &GATEWAY.octets()));
            }
            ACK => {
                self.book.lock().unwrap().acknowledged(reply.mac, reply.yours);
                self.begin();
            }
            NAK => self.begin(),
            _ => {}
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match receive(&self.socket) {
                Some(reply) => self.heard(&reply),
                // Whatever was under way is lost with the router.
                None => (0..WINDOW).for_each(|_| self.begin()),
            }
        }
    }
}

#[test]
fn no_acknowledged_lease_is_lost_or_given_twice_by_a_router_that_is_killed_again_and_again() {
    let kills = std::env::var("STOKE_KILLS").ok().map_or(KILLS, |number| number.parse().expect("a number"));
    let world = World::new();
    world.as_client(&["ip", "address", "add", &format!("{RELAY}/16"), "dev", "lan0"]);
    world.as_router(&["ip", "address", "flush", "dev", "lan0"]);
    world.as_router(&["ip", "address", "add", &format!("{GATEWAY}/16"), "dev", "lan0"]);
    let mut config = world.config();
    config.hosts.clear();
    config.subnets[0].cidr = "10.77.0.0/16".parse().unwrap();
    config.subnets[0].pools = vec!["10.77.1.0-10.77.255.250".parse().unwrap()];
    let book = Arc::new(Mutex::new(Book::default()));
    let socket = world.socket(true, 67);
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = Load { socket, book: book.clone(), next: 0 };
        scope.spawn(|| load.run(&stop));
        for _ in 0..kills {
            let before = book.lock().unwrap().acknowledgements;
            let role = world.start(&config);
            wait_for("leases under load", || book.lock().unwrap().acknowledgements >= before + LEASES);
            role.crash();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let role = world.start(&config);
    let leases = role.report().leases;
    let book = book.lock().unwrap();
    assert_eq!(book.doubled, [""; 0]);
    let kept: BTreeMap<_, _> = leases.iter().map(|lease| (lease.mac, lease.address)).collect();
    let lost = book.of.iter().filter(|(mac, address)| kept.get(mac) != Some(address)).collect::<Vec<_>>();
    assert_eq!(lost, [], "of {} leases", book.of.len());
}
