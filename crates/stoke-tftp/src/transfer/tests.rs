//! A transfer against a client behind a wire that loses, repeats and reorders.

use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

fn request(options: &[(&'static str, &'static str)]) -> Request<'static> {
    Request { file: "f", mode: "octet", options: options.to_vec() }
}

fn wire_number(block: u64) -> u16 {
    Rollover::Zero.wire(block)
}

fn now_and(options: &[(&'static str, &'static str)], size: u64) -> (Instant, Transfer) {
    let now = Instant::now();
    (now, Transfer::start(&request(options), size, Limits::default(), now))
}

/// Everything that is sent without waiting: block numbers, and the answer to options as 0.
fn burst(transfer: &mut Transfer, now: Instant) -> Vec<u16> {
    let mut blocks = Vec::new();
    loop {
        match transfer.poll(now) {
            Action::Send(_) => blocks.push(0),
            Action::Data { block, .. } => blocks.push(block),
            Action::WaitUntil(_) | Action::Done(_) => return blocks,
        }
    }
}

#[test]
fn options_are_granted_within_limits() {
    let asked = [("blksize", "65464"), ("tsize", "0"), ("timeout", "3"), ("windowsize", "4096"), ("multicast", "")];
    let (now, mut transfer) = now_and(&asked, 5000);
    let Action::Send(bytes) = transfer.poll(now) else { panic!("no answer") };
    assert_eq!(bytes, b"\0\x06blksize\x001468\0tsize\x005000\0timeout\x003\0windowsize\x0064\0");
}

#[test]
fn options_out_of_range_are_refused_by_silence() {
    let (now, mut transfer) = now_and(&[("blksize", "7"), ("timeout", "0"), ("windowsize", "0")], 5000);
    assert_eq!(transfer.poll(now), Action::Data { block: 1, offset: 0, length: 512 });
}

#[test]
fn a_size_probe_is_no_failure() {
    let (now, mut transfer) = now_and(&[("tsize", "0")], 5000);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Error { code: 8, message: "User aborted the transfer".into() }, now);
    assert_eq!(transfer.poll(now), Action::Done(Outcome::Probe));
}

#[test]
fn an_acknowledgement_that_comes_twice_sends_nothing_twice() {
    let (now, mut transfer) = now_and(&[], 5000);
    assert_eq!(burst(&mut transfer, now), [1]);
    transfer.heard(&Packet::Ack(1), now);
    assert_eq!(burst(&mut transfer, now), [2]);
    transfer.heard(&Packet::Ack(1), now);
    assert_eq!(burst(&mut transfer, now), [0_u16; 0]);
}

#[test]
fn a_window_is_sent_again_from_the_last_block_that_arrived() {
    let (now, mut transfer) = now_and(&[("windowsize", "4")], 512 * 9);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Ack(0), now);
    assert_eq!(burst(&mut transfer, now), [1, 2, 3, 4]);
    transfer.heard(&Packet::Ack(2), now);
    assert_eq!(burst(&mut transfer, now), [3, 4, 5, 6]);
    transfer.heard(&Packet::Ack(6), now);
    assert_eq!(burst(&mut transfer, now), [7, 8, 9, 10]);
    transfer.heard(&Packet::Ack(10), now);
    assert_eq!(transfer.poll(now), Action::Done(Outcome::Complete));
}

#[test]
fn a_window_sent_twice_does_not_make_every_window_go_twice() {
    let (now, mut transfer) = now_and(&[("windowsize", "2")], 512 * 20);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Ack(0), now);
    burst(&mut transfer, now);
    let Action::WaitUntil(late) = transfer.poll(now) else { panic!("not waiting") };
    assert_eq!(burst(&mut transfer, late), [1, 2]);
    let mut sent = 0;
    for block in [2, 2, 4, 6, 8, 10] {
        transfer.heard(&Packet::Ack(block), late);
        sent += burst(&mut transfer, late).len();
    }
    assert_eq!(sent, 10);
}

#[test]
fn block_numbers_roll_over() {
    let blocks = 65_540;
    let (now, mut transfer) = now_and(&[], 512 * blocks);
    for block in 1..=blocks + 1 {
        assert_eq!(burst(&mut transfer, now), [wire_number(block)]);
        transfer.heard(&Packet::Ack(wire_number(block)), now);
    }
    assert_eq!(transfer.poll(now), Action::Done(Outcome::Complete));
}

#[test]
fn block_numbers_roll_over_to_one_if_asked_for() {
    let (now, mut transfer) = now_and(&[("rollover", "1")], 512 * 65_540);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Ack(0), now);
    for block in 1..=65_535_u16 {
        assert_eq!(burst(&mut transfer, now), [block]);
        transfer.heard(&Packet::Ack(block), now);
    }
    assert_eq!(burst(&mut transfer, now), [1]);
    transfer.heard(&Packet::Ack(1), now);
    assert_eq!(burst(&mut transfer, now), [2]);
    assert_eq!(transfer.bytes_arrived(), 65_536 * 512);
}

#[test]
fn a_request_that_comes_again() {
    let (now, mut transfer) = now_and(&[("tsize", "0")], 5000);
    assert_eq!(burst(&mut transfer, now), [0]);
    assert_eq!(transfer.asked_again(now), Again::Repeated);
    assert_eq!(burst(&mut transfer, now), [0]);
    transfer.heard(&Packet::Ack(0), now);
    assert_eq!(burst(&mut transfer, now), [1]);
    // The network delivers the first one once more, or somebody pressed reset.
    assert_eq!(transfer.asked_again(now + Duration::from_millis(5)), Again::Echo);
    assert_eq!(transfer.asked_again(now + Duration::from_secs(3)), Again::Restart);
}

#[test]
fn the_last_word_may_be_lost() {
    let (mut now, mut transfer) = now_and(&[], 600);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Ack(1), now);
    assert_eq!(burst(&mut transfer, now), [2]);
    loop {
        match transfer.poll(now) {
            Action::WaitUntil(then) => now = then,
            Action::Done(outcome) => break assert_eq!(outcome, Outcome::Unconfirmed),
            _ => {}
        }
    }
    assert!(transfer.repeats().0 > 2);
}

#[test]
fn a_first_block_that_never_arrives_shows() {
    let (mut now, mut transfer) = now_and(&[("blksize", "1468")], 5000);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Ack(0), now);
    let begin = now;
    while !transfer.first_block_lost(now) {
        match transfer.poll(now) {
            Action::WaitUntil(then) => now = then,
            Action::Done(outcome) => panic!("{outcome:?}"),
            _ => {}
        }
    }
    assert!(now - begin < Duration::from_secs(4), "{:?}", now - begin);
    transfer.heard(&Packet::Ack(1), now);
    assert!(!transfer.first_block_lost(now));
}

#[test]
fn windows_that_nobody_answers_leave_in_bursts() {
    let (mut now, mut transfer) = now_and(&[("windowsize", "8")], 512 * 100);
    burst(&mut transfer, now);
    transfer.heard(&Packet::Ack(0), now);
    for expected in [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[1, 2, 3, 4, 5, 6, 7, 8], &[1, 2, 3, 4]] {
        assert_eq!(burst(&mut transfer, now), expected);
        let Action::WaitUntil(then) = transfer.poll(now) else { panic!("not waiting") };
        now = then;
    }
    assert_eq!(burst(&mut transfer, now), [5, 6, 7, 8]);
}

#[test]
fn who_never_answers_is_let_go() {
    let (begin, mut transfer) = now_and(&[("blksize", "1468")], 5000);
    let mut now = begin;
    loop {
        match transfer.poll(now) {
            Action::WaitUntil(then) => now = then,
            Action::Done(outcome) => break assert_eq!(outcome, Outcome::Silent),
            _ => {}
        }
    }
    assert!(now - begin < Duration::from_secs(40));
}

/// A client that keeps what comes in order and acknowledges as RFC 7440 wants it: at a window's end, at a gap, on silence.
struct Client {
    received: Vec<u8>,
    arrived: u64,
    in_window: u16,
    window: u16,
    block: usize,
    finished: bool,
    started: bool,
}

impl Client {
    fn data(&mut self, block: u16, content: &[u8]) -> Option<u16> {
        self.started = true;
        if block != wire_number(self.arrived + 1) || self.finished {
            self.in_window = 0;
            return Some(wire_number(self.arrived));
        }
        self.received.extend_from_slice(content);
        self.arrived += 1;
        self.in_window += 1;
        self.finished = content.len() < self.block;
        let full = self.finished || self.in_window == self.window;
        full.then(|| {
            self.in_window = 0;
            block
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flying {
    ToClient(u16, Vec<u8>),
    Offer,
    ToServer(u16),
    ClientTimer(u64),
}

/// What the wire does to each packet, endlessly: how often it arrives, and how late.
fn run(file: &[u8], window: u16, fates: &[(u8, u8)]) -> (Vec<u8>, Outcome) {
    let windowsize: &'static str = Box::leak(window.to_string().into_boxed_str());
    let (begin, mut transfer) = now_and(&[("blksize", "16"), ("windowsize", windowsize)], file.len() as u64);
    let mut client =
        Client { received: vec![], arrived: 0, in_window: 0, window, block: 16, finished: false, started: false };
    let mut fates = fates.iter().cycle();
    let mut wire: BinaryHeap<std::cmp::Reverse<(Duration, Flying)>> = BinaryHeap::new();
    let mut now = Duration::ZERO;
    let silence = Duration::from_millis(700);
    let mut fly = |wire: &mut BinaryHeap<_>, now: Duration, packet: Flying| {
        let (copies, delay) = *fates.next().unwrap();
        for copy in 0..copies {
            let late = Duration::from_millis(u64::from(delay) * u64::from(copy + 1));
            wire.push(std::cmp::Reverse((now + late, packet.clone())));
        }
    };
    wire.push(std::cmp::Reverse((silence, Flying::ClientTimer(0))));
    loop {
        let wake = loop {
            match transfer.poll(begin + now) {
                Action::Send(_) => fly(&mut wire, now, Flying::Offer),
                Action::Data { block, offset, length } => {
                    let from = usize::try_from(offset).unwrap();
                    let content = file[from..from + usize::from(length)].to_vec();
                    fly(&mut wire, now, Flying::ToClient(block, content));
                }
                Action::WaitUntil(at) => break at - begin,
                Action::Done(outcome) => return (client.received, outcome),
            }
        };
        if wire.peek().is_none_or(|next| next.0.0 > wake) {
            now = wake;
            continue;
        }
        let std::cmp::Reverse((at, packet)) = wire.pop().unwrap();
        now = now.max(at);
        match packet {
            Flying::Offer if !client.started => fly(&mut wire, now, Flying::ToServer(0)),
            Flying::Offer => {}
            Flying::ToClient(block, content) => {
                if let Some(ack) = client.data(block, &content) {
                    fly(&mut wire, now, Flying::ToServer(ack));
                }
            }
            Flying::ToServer(block) => transfer.heard(&Packet::Ack(block), begin + now),
            Flying::ClientTimer(seen) => {
                if client.started && seen == client.arrived {
                    fly(&mut wire, now, Flying::ToServer(wire_number(client.arrived)));
                }
                wire.push(std::cmp::Reverse((now + silence, Flying::ClientTimer(client.arrived))));
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_wire_does_the_file_arrives_whole(
        length in 0_usize..3000,
        window in 1_u16..20,
        fates in proptest::collection::vec((0_u8..3, 0_u8..30), 7..60),
    ) {
        // A wire that loses everything has no story to tell.
        prop_assume!(fates.iter().filter(|(copies, _)| *copies > 0).count() * 3 > fates.len() * 2);
        let file: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let (received, outcome) = run(&file, window, &fates);
        // The client may be done while its last word is lost; what it has must be right in any case.
        prop_assert_eq!(&file[..received.len()], &received[..]);
        if outcome == Outcome::Complete {
            prop_assert_eq!(received.len(), file.len());
        } else {
            prop_assert!(matches!(outcome, Outcome::Silent | Outcome::Unconfirmed), "{:?}", outcome);
        }
    }

    #[test]
    fn a_clean_wire_sends_every_block_once(length in 0_usize..3000, window in 1_u16..70, delay in 0_u8..20) {
        let file = vec![7; length];
        let (received, outcome) = run(&file, window, &[(1, delay)]);
        prop_assert_eq!((received.len(), outcome), (length, Outcome::Complete));
    }

    #[test]
    fn stray_acknowledgements_never_panic(blocks in proptest::collection::vec(any::<u16>(), 0..100), window in 1_u16..9) {
        let windowsize: &'static str = Box::leak(window.to_string().into_boxed_str());
        let (mut now, mut transfer) = now_and(&[("windowsize", windowsize)], 40_000);
        for block in blocks {
            burst(&mut transfer, now);
            transfer.heard(&Packet::Ack(block), now);
            now += Duration::from_millis(50);
        }
        prop_assert!(transfer.arrived <= transfer.furthest);
    }
}
