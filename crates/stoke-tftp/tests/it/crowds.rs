//! Many clients, and clients that never answer.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;

use stoke_tftp::server::Settings;

use crate::bed::{Bed, LIMIT, must, pattern, wait};

/// Transfers that the server holds at most.
const MOST: u64 = 4096;

#[test]
fn who_never_answers_is_pushed_out_by_who_comes_later() {
    let bed = Bed::on("127.0.0.1", Settings::default());
    // Each request is from a port of its own, whose socket is closed before an answer comes: addresses that are made up.
    for request in 0..6000_u64 {
        let stranger = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        // None is the repetition of another one, whichever port it has.
        let packet = format!("\0\x01lines\0octet\0blksize\01468\0windowsize\064\0x\0{request}\0");
        stranger.send_to(packet.as_bytes(), bed.address).unwrap();
        drop(stranger);
        if request % 64 == 0 {
            // The socket's queue is not what is tested.
            wait("the server to keep up", || bed.counters.requests.load(Ordering::Relaxed) + 64 > request);
        }
    }
    assert!(bed.active() <= MOST, "{} transfers", bed.active());
    let to = tempfile::NamedTempFile::new().unwrap();
    let url = format!("tftp://{}/bytes-100000", bed.address);
    must("curl", &["-sS", "-o", to.path().to_str().unwrap(), &url]);
    assert!(std::fs::read(to.path()).unwrap() == pattern(100_000));
    assert!(bed.active() <= MOST);
    // The last acknowledgement may still be in the socket; nobody else acknowledged anything.
    wait("what was acknowledged to be counted", || bed.counters.bytes.load(Ordering::Relaxed) >= 100_000);
    assert_eq!(bed.counters.bytes.load(Ordering::Relaxed), 100_000);
}

#[test]
fn texts_that_are_translated_have_a_bound() {
    let bed = Bed::on("127.0.0.1", Settings::default());
    let mut clients = Vec::new();
    let mut refused = 0;
    // Two MiB each, doubled at worst: the room is for a few of them.
    for _ in 0..20 {
        let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        client.connect(bed.address).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.send(b"\0\x01bytes-2000000\0netascii\0").unwrap();
        let mut room = [0; 600];
        client.recv(&mut room).unwrap();
        refused += usize::from(room[1] == 5);
        clients.push(client);
    }
    assert!((12..20).contains(&refused), "{refused} of 20 were refused");
    // Who gives up gives the room back.
    for client in &clients {
        client.send(b"\0\x05\0\0enough\0").unwrap();
    }
    wait("the transfers to end", || bed.active() == 0);
    clients[0].send(b"\0\x01lines\0netascii\0").unwrap();
    let mut room = [0; 2048];
    loop {
        let length = clients[0].recv(&mut room).unwrap();
        if room[..length].ends_with(b"fourth, and no end") {
            break;
        }
    }
}

#[test]
fn two_hundred_at_once_all_get_the_right_bytes() {
    let bed = Bed::on("127.0.0.1", Settings::default());
    let content = pattern(200_000);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..25).map(|_| Slow::new(&bed)).collect::<Vec<_>>()))
            .map(|begun| scope.spawn(|| finish(begun.join().unwrap(), &content)))
            .collect();
        let whole: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert_eq!(whole, 200);
    });
    wait("the last word of each", || bed.counters.completed.load(Ordering::Relaxed) == 200);
    assert_eq!(bed.counters.failed.load(Ordering::Relaxed), 0, "{:?}", bed.ended());
}

/// A client that is asked one block at a time, in turn with others.
struct Slow {
    socket: UdpSocket,
    received: Vec<u8>,
    arrived: u16,
}

impl Slow {
    fn new(bed: &Bed) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.connect(bed.address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send(b"\0\x01bytes-200000\0octet\0blksize\x001024\0").unwrap();
        Self { socket, received: Vec::new(), arrived: 0 }
    }

    /// Takes one packet; whether that was the last one.
    fn step(&mut self) -> bool {
        let mut room = [0; 2048];
        let length = self.socket.recv(&mut room).unwrap();
        match room[..length] {
            [0, 3, high, low, ref data @ ..] => {
                let block = u16::from_be_bytes([high, low]);
                if block == self.arrived + 1 {
                    self.received.extend_from_slice(data);
                    self.arrived = block;
                    self.socket.send(&[0, 4, high, low]).unwrap();
                }
                block == self.arrived && data.len() < 1024
            }
            [0, 6, ..] => {
                self.socket.send(&[0, 4, 0, 0]).unwrap();
                false
            }
            ref other => panic!("{other:?}"),
        }
    }
}

fn finish(mut clients: Vec<Slow>, content: &[u8]) -> usize {
    let mut whole = 0;
    while !clients.is_empty() {
        clients.retain_mut(|client| {
            let over = client.step();
            whole += usize::from(over && client.received == content);
            !over
        });
    }
    whole
}
