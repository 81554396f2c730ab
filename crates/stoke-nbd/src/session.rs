//! The server's side of one connection.
//!
//! ```text
//!            client flags           OPT_GO, OPT_EXPORT_NAME            CMD_DISC
//!   Greeted -------------> Options ------------------------> Transmit ----------> Closed
//!                           |  ^ |                               |                   ^
//!                  STARTTLS |  | | OPT_ABORT, bad export name    | not a request     |
//!                           v  | +-------------------------------+-------------------+
//!                         Securing
//! ```
//!
//! The driver owns the socket and the storage: it hands in what it received with [`Session::receive`], asks
//! [`Session::poll`] what to do until that needs input, and sends what [`Session::take_output`] holds before anything
//! else. A read is answered part by part with [`Session::next_part`], or with [`Session::fail`].
//!
//! `options` is the negotiation, `transmission` what comes after it.

mod options;
#[cfg(test)]
mod tests;
mod transmission;

use std::sync::Arc;

use crate::holes::Holes;
use crate::wire::{self, Cursor, Put as _};

/// What a server says of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export<H> {
    /// Whatever the driver needs to read it.
    pub handle: H,
    /// Size in bytes.
    pub size: u64,
    /// Block size that reads are best aligned to: a power of two between 512 and 32 MiB.
    pub preferred_block: u32,
    /// What need not be read.
    pub holes: Arc<Holes>,
}

/// The exports of a server.
pub trait Exports {
    /// Whatever the driver needs to read an export.
    type Handle;
    /// The export of this name.
    fn find(&self, name: &str) -> Option<Export<Self::Handle>>;
    /// All names, for clients that ask for a list.
    fn names(&self) -> Vec<String>;
}

/// What the driver does next, after it has sent the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing before more bytes arrive.
    NeedInput,
    /// Read and answer.
    Read(Read),
    /// Have this range ready in memory soon. It is answered already.
    Cache {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// A TLS handshake, once the output is sent; then [`Session::secured`].
    StartTls,
    /// Over.
    Close,
}

/// A read that the client wants; it lies within the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Names the request.
    pub cookie: u64,
    /// First byte that was not answered yet.
    pub offset: u64,
    /// Number of bytes that were not, at most [`wire::READ_LIMIT`].
    pub length: u32,
    /// Whether it must be one chunk.
    pub whole: bool,
}

/// Whether a connection can, or must, go on inside of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// There is none.
    #[default]
    Unavailable,
    /// Who asks for it gets it.
    Offered,
    /// Nothing is said of exports without it.
    Required,
}

/// One connection.
#[derive(Debug)]
pub struct Session<H> {
    input: Vec<u8>,
    /// Bytes of input that were dealt with.
    consumed: usize,
    output: Vec<u8>,
    /// Bytes of input that belong to something refused.
    skip: u64,
    state: State<H>,
    tls: Tls,
    structured: bool,
    no_zeroes: bool,
    /// The export whose allocation the client wants to ask for.
    allocation_of: Option<String>,
}

#[derive(Debug)]
enum State<H> {
    Greeted,
    Options,
    Securing,
    Transmit { export: Export<H>, allocation: bool },
    Closed,
}

impl<H> Default for Session<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> Session<H> {
    /// A connection that was just accepted, without TLS; the greeting is ready to be sent.
    pub fn new() -> Self {
        Self::with_tls(Tls::Unavailable)
    }

    /// A connection that was just accepted; the greeting is ready to be sent.
    pub fn with_tls(tls: Tls) -> Self {
        let mut output = Vec::with_capacity(64);
        output.put_u64(wire::INIT_MAGIC);
        output.put_u64(wire::OPTION_MAGIC);
        output.put_u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        Self {
            input: Vec::new(),
            consumed: 0,
            output,
            skip: 0,
            state: State::Greeted,
            tls,
            structured: false,
            no_zeroes: false,
            allocation_of: None,
        }
    }

    /// Takes note of bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= skipped as u64;
        self.input.extend_from_slice(bytes.get(skipped..).unwrap_or_default());
    }

    /// What is to be sent, in order, before anything else. The caller's buffer is appended to.
    pub fn take_output(&mut self, into: &mut Vec<u8>) {
        into.append(&mut self.output);
    }

    /// Whether there is something to be sent.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// The export that was chosen.
    pub fn export(&self) -> Option<&Export<H>> {
        match &self.state {
            State::Transmit { export, .. } => Some(export),
            _ => None,
        }
    }

    /// Gives memory back that only a busy connection needs.
    pub fn rest(&mut self) {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        self.input.shrink_to_fit();
        self.output.shrink_to_fit();
    }

    /// The handshake that [`Event::StartTls`] asked for is done: the negotiation begins anew, inside.
    pub fn secured(&mut self) {
        if matches!(self.state, State::Securing) {
            (self.tls, self.state) = (Tls::Unavailable, State::Options);
            (self.structured, self.allocation_of) = (false, None);
        }
    }

    /// What to do next.
    pub fn poll<E: Exports<Handle = H>>(&mut self, exports: &E) -> Event {
        loop {
            let step = match self.state {
                State::Closed => return Event::Close,
                State::Securing => return Event::StartTls,
                State::Greeted => self.client_flags(),
                State::Options => self.option(exports),
                State::Transmit { .. } => self.request(),
            };
            match step {
                Step::Again => {}
                Step::NeedInput => {
                    self.input.drain(..self.consumed);
                    self.consumed = 0;
                    return Event::NeedInput;
                }
                Step::Event(event) => return event,
            }
        }
    }

    /// What was received and not dealt with.
    fn unread(&self) -> &[u8] {
        self.input.get(self.consumed..).unwrap_or_default()
    }

    fn consume(&mut self, length: usize) {
        self.consumed = (self.consumed + length).min(self.input.len());
    }

    /// Drops bytes of the input, also those that are still to come.
    fn discard(&mut self, length: u64) {
        let there = usize::try_from(length).unwrap_or(usize::MAX).min(self.unread().len());
        self.consume(there);
        self.skip += length - there as u64;
    }

    fn close(&mut self) -> Step {
        self.state = State::Closed;
        Step::Event(Event::Close)
    }

    fn client_flags(&mut self) -> Step {
        let Some(flags) = Cursor(self.unread()).u32() else { return Step::NeedInput };
        self.consume(4);
        let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        if flags & !known != 0 {
            return self.close();
        }
        self.no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        self.state = State::Options;
        Step::Again
    }
}

enum Step {
    Again,
    NeedInput,
    Event(Event),
}
