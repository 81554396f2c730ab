//! TFTP: packets, and a transfer whose client does what it likes.

use std::time::{Duration, Instant};

use stoke_tftp::packet::{self, Packet};
use stoke_tftp::transfer::{Action, Limits, Transfer};

use crate::pieces::Pieces;

/// Packets that may leave before anything is heard: the window and the answer to the options.
const BURST: usize = 65;

/// Any packet.
pub fn packet(input: &[u8]) {
    if let Ok(Packet::Read(request)) = Packet::parse(input) {
        for name in ["blksize", "tsize", "timeout", "windowsize", "utimeout"] {
            let _ = request.option(name);
        }
    }
}

/// A request for a file, then packets and time in turns: what is sent is of the file, and is bounded until something is
/// heard.
pub fn transfer(input: &[u8]) {
    let mut pieces = Pieces(input);
    let size = u64::from(pieces.number()) >> (pieces.byte() % 32);
    let bytes = pieces.packet();
    let Ok(Packet::Read(request)) = Packet::parse(bytes) else { return };
    let mut now = Instant::now();
    let mut transfer = Transfer::start(&request, size, Limits::for_mtu(pieces.short()), now);
    while !pieces.is_empty() {
        if send_all(&mut transfer, size, now) {
            return;
        }
        match pieces.byte() % 8 {
            0 => now += Duration::from_millis(u64::from(pieces.short())),
            1 => transfer.heard(&Packet::Ack(pieces.short()), now),
            2 => {
                if let Ok(packet) = Packet::parse(pieces.packet()) {
                    transfer.heard(&packet, now);
                }
            }
            3 => drop(transfer.asked_again(now)),
            4 => transfer.unreachable(),
            _ => transfer.heard(&Packet::Ack(pieces.byte().into()), now),
        }
    }
    let _ = packet::error(0, "enough");
}

/// Polls until the transfer waits; whether it is over.
fn send_all(transfer: &mut Transfer, size: u64, now: Instant) -> bool {
    for sent in 0.. {
        assert!(sent <= BURST, "more than a window leaves at once");
        match transfer.poll(now) {
            Action::Send(bytes) => assert!(bytes.len() <= 1024, "a control packet of {} bytes", bytes.len()),
            Action::Data { offset, length, .. } => {
                assert!(offset + u64::from(length) <= size, "data behind the end of the file");
                assert!(length <= transfer.block_size());
            }
            Action::WaitUntil(until) => {
                assert!(until > now, "a wait that is over already");
                return false;
            }
            Action::Done(_) => {
                assert!(matches!(transfer.poll(now), Action::Done(_)), "what is over begins again");
                assert!(transfer.bytes_arrived() <= size);
                return true;
            }
        }
    }
    false
}
