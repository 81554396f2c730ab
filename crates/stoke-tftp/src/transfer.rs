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
//! Blocks are counted in 64 bits here and in 16 on the wire, so they roll over as clients of large files expect.
//! A window that lost a packet is sent again from the last block that arrived (RFC 7440, section 4).

use std::time::{Duration, Instant};

pub use crate::options::Limits;
use crate::options::{DEFAULT_BLOCK, Rollover, grant};
use crate::pace::Pace;
use crate::packet::{Packet, Request};
use crate::timing::RoundTrips;

/// Silence after which a client counts as gone that was heard before.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for one that only asked: the request may have come from a made-up address.
const PATIENCE_UNPROVEN: Duration = Duration::from_secs(10);
/// The same for one that may have everything already: when its last word is lost, it is no longer there to repeat it.
const PATIENCE_AT_END: Duration = Duration::from_secs(12);
/// After this long, and so many attempts, a first block that does not arrive is longer than the path takes.
const FIRST_BLOCK_LOST: (Duration, u32) = (Duration::from_secs(1), 3);
/// A request that comes again so soon after its transfer went on is an echo of the first one.
const ECHO: Duration = Duration::from_millis(500);

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes, then poll again.
    Send(Vec<u8>),
    /// Send [`data_header`](crate::packet::data_header) of `block` and this part of the file, then poll again.
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
    /// All was sent, and the last acknowledgement never came: clients leave as soon as they have everything.
    Unconfirmed,
    /// The client only wanted to know the size; UEFI firmware asks so before each transfer.
    Probe,
    /// The client gave up in the middle, and says why.
    Aborted(String),
    /// The client went silent.
    Silent,
}

/// What a request that comes again from the same port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The client did not get our answer, which is now sent again.
    Repeated,
    /// The network delivered it twice: nothing.
    Echo,
    /// It begins again.
    Restart,
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    size: u64,
    block: u16,
    window: u16,
    rollover: Rollover,
    /// Answer to the options, until the client has acknowledged it.
    offer: Option<Vec<u8>>,
    /// Blocks that arrived.
    arrived: u64,
    /// Blocks sent, or to be taken as sent: the next one is `sent + 1`.
    sent: u64,
    /// Largest number ever sent.
    furthest: u64,
    /// Set when a window was sent again: acknowledgements may come twice, so they say nothing about loss.
    doubtful_until: u64,
    /// Times that the present window was sent again for silence.
    attempts: u32,
    round_trips: RoundTrips,
    pace: Pace,
    /// The next burst of the window leaves then.
    pause: Option<Instant>,
    /// When the last packet of the window left; `None` while there is more to send.
    waiting_since: Option<Instant>,
    heard_at: Instant,
    /// Whether anything but the request was ever heard.
    proven: bool,
    repeated_blocks: u64,
    timeouts: u64,
    done: Option<Outcome>,
}

impl Transfer {
    /// Begins a transfer of a file of `size` bytes. The first packet is due at once.
    pub fn start(request: &Request<'_>, size: u64, limits: Limits, now: Instant) -> Self {
        let granted = grant(request, size, limits);
        let mut round_trips = RoundTrips::new();
        granted.wait.into_iter().for_each(|wait| round_trips.ask(wait));
        Self {
            size,
            block: granted.block,
            window: granted.window,
            rollover: granted.rollover,
            offer: granted.answer,
            arrived: 0,
            sent: 0,
            furthest: 0,
            doubtful_until: 0,
            attempts: 0,
            round_trips,
            pace: Pace::new(granted.window),
            pause: None,
            waiting_since: None,
            heard_at: now,
            proven: false,
            repeated_blocks: 0,
            timeouts: 0,
            done: None,
        }
    }

    /// Bytes of content in a full block.
    pub fn block_size(&self) -> u16 {
        self.block
    }

    /// Blocks in a full window.
    pub fn window_size(&self) -> u16 {
        self.window
    }

    /// Bytes of the file that the client has.
    pub fn bytes_arrived(&self) -> u64 {
        (self.arrived * u64::from(self.block)).min(self.size)
    }

    /// Blocks that were sent more than once, and windows that nobody answered in time.
    pub fn repeats(&self) -> (u64, u64) {
        (self.repeated_blocks, self.timeouts)
    }

    /// Whether the client was heard since it asked; until then its address may be made up.
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// Whether small packets reach the client and full ones do not: a path with a smaller MTU whose routers do not say so.
    pub fn first_block_lost(&self, now: Instant) -> bool {
        let (while_, attempts) = FIRST_BLOCK_LOST;
        let sending = self.proven && self.offer.is_none() && self.arrived == 0 && self.block > DEFAULT_BLOCK;
        sending && self.attempts >= attempts && now.saturating_duration_since(self.heard_at) >= while_
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
        if let Some(pause) = self.pause.filter(|pause| now < *pause) {
            return Action::WaitUntil(pause);
        }
        self.pause = None;
        let Some(since) = self.waiting_since else { return self.send(now) };
        let due = since + self.round_trips.wait(self.attempts);
        if now < due {
            return Action::WaitUntil(due);
        }
        if now.saturating_duration_since(self.heard_at) >= self.patience() {
            return self.finish(if self.at_end() { Outcome::Unconfirmed } else { Outcome::Silent });
        }
        self.attempts += 1;
        self.timeouts += 1;
        self.pace.silent();
        self.rewind();
        self.send(now)
    }

    fn at_end(&self) -> bool {
        self.offer.is_none() && self.furthest == self.last_block() && self.arrived > 0
    }

    fn patience(&self) -> Duration {
        let patience = match self.proven {
            false => PATIENCE_UNPROVEN,
            true if self.at_end() => PATIENCE_AT_END,
            true => PATIENCE,
        };
        patience.max(self.round_trips.asked().unwrap_or_default() * 4)
    }

    /// Takes note of a packet from this client, other than a request.
    pub fn heard(&mut self, packet: &Packet<'_>, now: Instant) {
        self.proven = true;
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

    /// Takes note of the same request, from the same port.
    pub fn asked_again(&mut self, now: Instant) -> Again {
        if self.done.is_some() {
            return Again::Restart;
        }
        if self.arrived == 0 && !self.proven {
            self.sent = 0;
            (self.waiting_since, self.pause, self.heard_at) = (None, None, now);
            return Again::Repeated;
        }
        if now.saturating_duration_since(self.heard_at) < ECHO { Again::Echo } else { Again::Restart }
    }

    /// Takes note that the network says that nobody is there.
    pub fn unreachable(&mut self) {
        if self.done.is_none() {
            self.done = Some(if self.at_end() { Outcome::Unconfirmed } else { Outcome::Silent });
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Action {
        self.done = Some(outcome.clone());
        Action::Done(outcome)
    }

    fn send(&mut self, now: Instant) -> Action {
        if let Some(offer) = &self.offer {
            self.waiting_since = Some(now);
            return Action::Send(offer.clone());
        }
        let block = self.sent + 1;
        let end = (self.arrived + u64::from(self.window)).min(self.last_block());
        self.sent = block;
        self.repeated_blocks += u64::from(block <= self.furthest);
        self.furthest = self.furthest.max(block);
        if block >= end {
            self.waiting_since = Some(now);
            self.pace.begin();
        } else {
            self.pause = self.pace.block_left(self.round_trips.mean()).map(|gap| now + gap);
        }
        let offset = (block - 1) * u64::from(self.block);
        let length = self.size.saturating_sub(offset).min(u64::from(self.block));
        let length = u16::try_from(length).unwrap_or(self.block);
        Action::Data { block: self.rollover.wire(block), offset, length }
    }

    /// Everything after the last block that arrived is sent again.
    fn rewind(&mut self) {
        self.doubtful_until = self.furthest;
        self.sent = self.arrived;
        (self.waiting_since, self.pause) = (None, None);
        self.pace.begin();
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
        let ahead = self.rollover.ahead(block, self.arrived);
        match ahead {
            0 => self.repeated_ack(),
            // What was never sent cannot have arrived: a stray packet, or of a transfer before this one.
            _ if self.arrived + ahead > self.furthest => {}
            _ => self.progress(self.arrived + ahead, now),
        }
    }

    fn progress(&mut self, block: u64, now: Instant) {
        if self.attempts > 0 {
            self.too_early(now);
        } else if block == self.sent && self.doubtful_until < block {
            self.measure(now);
        }
        self.arrived = block;
        (self.heard_at, self.attempts) = (now, 0);
        if self.arrived >= self.last_block() {
            self.done = Some(Outcome::Complete);
        } else if block < self.sent {
            // A client acknowledges a window's middle when something after it is missing (RFC 7440, section 4).
            self.rewind();
        } else {
            self.sent = self.sent.max(block);
            (self.waiting_since, self.pause) = (None, None);
            self.pace.clean();
        }
    }

    /// An answer to a second attempt that comes in less than a round trip was one to the first.
    fn too_early(&mut self, now: Instant) {
        let since = self.waiting_since.map(|since| now.saturating_duration_since(since));
        if since.zip(self.round_trips.mean()).is_some_and(|(since, mean)| since < mean / 2) {
            self.round_trips.too_early();
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
        if let Some(since) = self.waiting_since.filter(|_| self.attempts == 0) {
            self.round_trips.measured(now.saturating_duration_since(since));
        }
    }
}

#[cfg(test)]
mod tests;
