//! One transfer, server to client.
//!
//! ```text
//!              options              ACK 0                 last block acknowledged
//!   (request) ---------> Offering ---------> Sending -------------------------------> Done(Complete)
//!       | no options                           ^   |
//!       +--------------------------------------+   | ERROR, silence
//!                                                  +----------------------------------> Done(…)
//! ```
//!
//! The driver owns socket, clock and file: after each [`Transfer::heard`], and whenever the last [`Action::WaitUntil`] has
//! come, it calls [`Transfer::poll`] until that says to wait.
//!
//! Blocks are counted in 64 bits here and in 16 on the wire, so they roll over to 0 as every client of large files expects.
//! A window that lost a packet is sent again from the last block that arrived (RFC 7440, section 4).

use std::time::{Duration, Instant};

use crate::packet::{self, Packet, Request};

/// Content of a block without options (RFC 1350).
const DEFAULT_BLOCK: u16 = 512;
/// Wait for an acknowledgement before the round trip was ever measured.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Least wait, however short the round trip: clients write to flash.
const LEAST_WAIT: Duration = Duration::from_millis(40);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// Silence after which the client counts as gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest block. 1468 fits an Ethernet frame: 1500 without the headers of IPv4 (20), UDP (8) and TFTP (4).
    pub block: u16,
    /// Largest window. Above 64, clients and switches begin to drop.
    pub window: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { block: 1468, window: 64 }
    }
}

impl Limits {
    /// Limits for links of this MTU.
    pub fn for_mtu(mtu: u16) -> Self {
        Self { block: mtu.saturating_sub(32).clamp(DEFAULT_BLOCK, 65464), ..Self::default() }
    }
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes, then poll again.
    Send(Vec<u8>),
    /// Send [`packet::data_header`] of `block` and this part of the file, then poll again.
    Data {
        /// The block's number on the wire.
        block: u16,
        /// Where its content begins in the file.
        offset: u64,
        /// Bytes of content; less than a block for the last one.
        length: u16,
    },
    /// Nothing before this moment.
    WaitUntil(Instant),
    /// Over.
    Done(Outcome),
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has the whole file.
    Complete,
    /// The client only wanted to know the size; UEFI firmware asks so before each transfer.
    Probe,
    /// The client gave up in the middle, and says why.
    Aborted(String),
    /// The client went silent.
    Silent,
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    size: u64,
    block: u16,
    window: u16,
    /// Answer to the options, until the client has acknowledged it.
    offer: Option<Vec<u8>>,
    /// The client's own wish (RFC 2349).
    timeout: Option<Duration>,
    /// Blocks that arrived.
    arrived: u64,
    /// Blocks sent, or to be taken as sent: the next one is `sent + 1`.
    sent: u64,
    /// Largest number ever sent.
    furthest: u64,
    /// Set when a window was sent again: acknowledgements may come twice, so they say nothing about loss.
    doubtful_until: u64,
    attempts: u32,
    round_trip: Option<Duration>,
    /// When the last packet of the window left; `None` while there is more to send.
    waiting_since: Option<Instant>,
    heard_at: Instant,
    done: Option<Outcome>,
}

impl Transfer {
    /// Begins a transfer of a file of `size` bytes. The first packet is due at once.
    pub fn start(request: &Request<'_>, size: u64, limits: Limits, now: Instant) -> Self {
        let mut transfer = Self {
            size,
            block: DEFAULT_BLOCK,
            window: 1,
            offer: None,
            timeout: None,
            arrived: 0,
            sent: 0,
            furthest: 0,
            doubtful_until: 0,
            attempts: 0,
            round_trip: None,
            waiting_since: None,
            heard_at: now,
            done: None,
        };
        transfer.negotiate(request, limits);
        transfer
    }

    /// Grants options. What is out of range is left out of the answer, which refuses it (RFC 2347).
    fn negotiate(&mut self, request: &Request<'_>, limits: Limits) {
        let mut granted = Vec::new();
        let number = |name: &str| request.option(name);
        if let Some(asked) = number("blksize").filter(|asked| *asked >= 8) {
            self.block = u16::try_from(asked).unwrap_or(u16::MAX).min(limits.block.max(8));
            granted.push(("blksize", u64::from(self.block)));
        }
        if number("tsize").is_some() {
            granted.push(("tsize", self.size));
        }
        if let Some(seconds) = number("timeout").filter(|seconds| (1..=255).contains(seconds)) {
            self.timeout = Some(Duration::from_secs(seconds));
            granted.push(("timeout", seconds));
        }
        if let Some(asked) = number("windowsize").filter(|asked| (1..=65535).contains(asked)) {
            self.window = u16::try_from(asked).unwrap_or(u16::MAX).min(limits.window.max(1));
            granted.push(("windowsize", u64::from(self.window)));
        }
        self.offer = (!granted.is_empty()).then(|| packet::option_ack(&granted));
    }

    /// Bytes of content in a full block.
    pub fn block_size(&self) -> u16 {
        self.block
    }

    /// Bytes of the file that the client has.
    pub fn bytes_arrived(&self) -> u64 {
        (self.arrived * u64::from(self.block)).min(self.size)
    }

    /// The last block is never full: a file whose size is a multiple of the block's ends with an empty one.
    fn last_block(&self) -> u64 {
        self.size / u64::from(self.block) + 1
    }

    /// What to do at `now`.
    pub fn poll(&mut self, now: Instant) -> Action {
        if let Some(outcome) = &self.done {
            return Action::Done(outcome.clone());
        }
        let Some(since) = self.waiting_since else { return self.send(now) };
        let due = since + self.wait();
        if now < due {
            return Action::WaitUntil(due);
        }
        let patience = PATIENCE.max(self.timeout.unwrap_or_default() * 4);
        if now.saturating_duration_since(self.heard_at) >= patience {
            return self.finish(Outcome::Silent);
        }
        self.attempts += 1;
        self.rewind();
        self.send(now)
    }

    /// Takes note of a packet from this client, other than a request.
    pub fn heard(&mut self, packet: &Packet<'_>, now: Instant) {
        match packet {
            Packet::Ack(block) if self.done.is_none() => self.acknowledged(*block, now),
            Packet::Error { message, .. } if self.done.is_none() => {
                let probe = self.offer.is_some() || self.arrived == 0;
                let outcome = if probe { Outcome::Probe } else { Outcome::Aborted(message.clone()) };
                self.done = Some(outcome);
            }
            _ => {}
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Action {
        self.done = Some(outcome.clone());
        Action::Done(outcome)
    }

    /// The wait for an acknowledgement: the client's wish, or a few round trips, doubled with each attempt.
    fn wait(&self) -> Duration {
        let measured = self.round_trip.map_or(FIRST_WAIT, |time| time * 4 + LEAST_WAIT);
        let first = self.timeout.unwrap_or(measured);
        let longest = LONGEST_WAIT.max(self.timeout.unwrap_or_default());
        first.saturating_mul(1 << self.attempts.min(6)).min(longest)
    }

    fn send(&mut self, now: Instant) -> Action {
        if let Some(offer) = &self.offer {
            self.waiting_since = Some(now);
            return Action::Send(offer.clone());
        }
        let block = self.sent + 1;
        let end = (self.arrived + u64::from(self.window)).min(self.last_block());
        self.sent = block;
        self.furthest = self.furthest.max(block);
        self.waiting_since = (block >= end).then_some(now);
        let offset = (block - 1) * u64::from(self.block);
        let length = self.size.saturating_sub(offset).min(u64::from(self.block));
        let length = u16::try_from(length).unwrap_or(self.block);
        Action::Data { block: wire_number(block), offset, length }
    }

    /// Everything after the last block that arrived is sent again.
    fn rewind(&mut self) {
        self.doubtful_until = self.furthest;
        self.sent = self.arrived;
        self.waiting_since = None;
    }

    fn acknowledged(&mut self, block: u16, now: Instant) {
        if self.offer.is_some() {
            if block == 0 {
                self.measure(now);
                self.offer = None;
                (self.heard_at, self.attempts, self.waiting_since) = (now, 0, None);
            }
            return;
        }
        let ahead = u64::from(block.wrapping_sub(wire_number(self.arrived)));
        match ahead {
            0 => self.repeated_ack(),
            // What was never sent cannot have arrived: a stray packet, or of a transfer before this one.
            _ if self.arrived + ahead > self.furthest => {}
            _ => self.progress(self.arrived + ahead, now),
        }
    }

    fn progress(&mut self, block: u64, now: Instant) {
        if block == self.sent && self.attempts == 0 && self.doubtful_until < block {
            self.measure(now);
        }
        self.arrived = block;
        (self.heard_at, self.attempts) = (now, 0);
        if self.arrived >= self.last_block() {
            self.done = Some(Outcome::Complete);
        } else if block < self.sent && self.waiting_since.is_some() {
            // The window was sent whole and only its beginning arrived (RFC 7440, section 4).
            self.rewind();
        } else {
            self.sent = self.sent.max(block);
            self.waiting_since = None;
        }
    }

    /// With one block in flight an acknowledgement that comes again is to be ignored, or every block would be sent twice from
    /// there on (the Sorcerer's Apprentice, RFC 1123, section 4.2.3.1). With a window it also means that the first block of it
    /// was lost; that is believed once, and not again until what was sent twice has arrived and one block more. It is no
    /// sign of progress either: who repeats himself for ever is let go.
    fn repeated_ack(&mut self) {
        let trusted = self.arrived > 0 && self.doubtful_until < self.arrived;
        if self.window > 1 && self.waiting_since.is_some() && trusted {
            self.rewind();
        }
    }

    fn measure(&mut self, now: Instant) {
        let Some(since) = self.waiting_since.filter(|_| self.attempts == 0) else { return };
        let sample = now.saturating_duration_since(since);
        self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
    }
}

fn wire_number(block: u64) -> u16 {
    let [.., high, low] = block.to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests;
