//! One client: its session, and what is on its way to it.
//!
//! A connection is served in turns. A turn ends when the client has nothing to ask for, takes no more answers, or has had
//! its share while others wait; then the connection holds no buffer but what the client has not taken yet.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::image::Image;
use crate::server::{Counters, Handle, TlsConfig};
use crate::session::{Event, Exports, Read, Session};
use crate::wire;
use crate::workers::{Buffers, Workers};

/// Requests that are taken at once.
const INPUT: usize = 16 << 10;
/// Answers that leave at once.
const OUTPUT: usize = 128 << 10;
/// Reads up to this length are gathered; longer ones go from the page cache to the socket without being copied.
const GATHERED: u32 = 16 << 10;
/// Time for a turn while others wait.
const TURN: Duration = Duration::from_millis(20);

/// What a connection waits for after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Requests.
    Readable,
    /// The client to take its answers.
    Writable,
    /// Another turn.
    Turn,
    /// Nothing: it is over.
    Closed,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    session: Session<Handle>,
    tls: Option<Arc<TlsConfig>>,
    /// Answers that the client did not take.
    rest: Vec<u8>,
    /// What of the image follows them.
    tail: Option<Tail>,
    /// A read that is not answered completely.
    reading: Option<Read>,
    /// When the last read was begun, until all of its data is on the way.
    begun: Option<Instant>,
    /// Number and bytes of all reads.
    reads: (u64, u64),
}

/// A part of an image that is to be sent.
#[derive(Clone, Copy, Debug)]
struct Tail {
    offset: u64,
    left: usize,
}

/// What a turn needs beside its connection.
pub(crate) struct Surroundings<'a, E> {
    pub(crate) exports: &'a E,
    pub(crate) counters: &'a Counters,
    /// Who else wants a thread.
    pub(crate) workers: &'a Workers,
}

impl Connection {
    pub(crate) fn new(channel: Channel, tls: Option<Arc<TlsConfig>>) -> Self {
        let session = Session::with_tls(tls.as_ref().map(|tls| tls.policy()).unwrap_or_default());
        Self { channel, session, tls, rest: Vec::new(), tail: None, reading: None, begun: None, reads: (0, 0) }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.channel.socket()
    }

    /// Whether the client has chosen an export.
    pub(crate) fn transmits(&self) -> bool {
        self.session.export().is_some()
    }

    /// Whether it has, now or before its session ended.
    pub(crate) fn has_attached(&self) -> bool {
        self.transmits() || self.reads.0 > 0
    }

    /// Reads until now: their number, and the bytes that they asked for.
    pub(crate) fn reads(&self) -> (u64, u64) {
        self.reads
    }

    /// Serves the client until there is something to wait for.
    ///
    /// # Errors
    /// If the connection has failed, or the image.
    pub(crate) fn turn<E: Exports<Handle = Handle>>(
        &mut self,
        surroundings: &Surroundings<'_, E>,
        buffers: &mut Buffers,
    ) -> io::Result<Next> {
        self.channel.linger(surroundings.workers.scarce())?;
        let Buffers { input, output } = buffers;
        input.resize(INPUT, 0);
        output.clear();
        output.append(&mut self.rest);
        let mut turn = Turn { connection: self, surroundings, output, sent: 0, begin: Instant::now() };
        let next = turn.run(input)?;
        let sent = turn.sent;
        self.rest.extend_from_slice(output.get(sent..).unwrap_or_default());
        self.rest.shrink_to_fit();
        self.session.rest();
        Ok(next)
    }
}

struct Turn<'a, E> {
    connection: &'a mut Connection,
    surroundings: &'a Surroundings<'a, E>,
    output: &'a mut Vec<u8>,
    /// Bytes of the output that the client has taken.
    sent: usize,
    begin: Instant,
}

impl<E: Exports<Handle = Handle>> Turn<'_, E> {
    fn run(&mut self, input: &mut [u8]) -> io::Result<Next> {
        loop {
            let full = self.connection.tail.is_some() || self.output.len() + GATHERED as usize + 64 > OUTPUT;
            if full && !self.flush()? {
                return Ok(Next::Writable);
            }
            self.answered();
            if let Some(read) = self.connection.reading.take() {
                self.part(read);
                continue;
            }
            match self.connection.session.poll(self.surroundings.exports) {
                Event::Read(read) => self.begin_read(read),
                Event::Cache { offset, length } => self.image()?.read_ahead(offset, length),
                Event::StartTls => {
                    if !self.flush()? {
                        return Ok(Next::Writable);
                    }
                    self.start_tls()?;
                }
                Event::Close => return Ok(if self.flush()? { Next::Closed } else { Next::Writable }),
                Event::NeedInput => {
                    if !self.flush()? {
                        return Ok(Next::Writable);
                    }
                    if let Some(next) = self.receive(input)? {
                        return Ok(next);
                    }
                }
            }
        }
    }

    fn start_tls(&mut self) -> io::Result<()> {
        let config = self.connection.tls.as_ref().ok_or(ErrorKind::Unsupported)?.server.clone();
        self.connection.channel.start_tls(config)?;
        self.connection.session.secured();
        Ok(())
    }

    fn image(&self) -> io::Result<&Arc<Image>> {
        let export = self.connection.session.export();
        export.map(|export| &export.handle).ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    fn begin_read(&mut self, read: Read) {
        if let Ok(image) = self.image() {
            image.hot.note(read.offset, read.length);
        }
        self.surroundings.counters.read(read.length);
        let (reads, bytes) = &mut self.connection.reads;
        (*reads, *bytes) = (*reads + 1, *bytes + u64::from(read.length));
        self.connection.begun = Some(Instant::now());
        self.connection.reading = Some(read);
    }

    /// Counts the last read if nothing of it is left to be had.
    fn answered(&mut self) {
        let whole = self.connection.reading.is_none() && self.connection.tail.is_none();
        if let Some(begun) = self.connection.begun.take_if(|_| whole) {
            self.surroundings.counters.latency.observe(begun.elapsed());
        }
    }

    /// Puts the next part of a read's answer behind the others.
    fn part(&mut self, mut read: Read) {
        self.connection.session.take_output(self.output);
        let (before, offset) = (self.output.len(), read.offset);
        let asked = read.length;
        let length = self.connection.session.next_part(&mut read, self.output);
        // A hole may have gone before the data.
        let at = offset + u64::from(asked - read.length - length);
        if length > GATHERED {
            self.connection.tail = Some(Tail { offset: at, left: length as usize });
        } else if let Err(error) = self.gather(at, length as usize) {
            tracing::error!(%error, offset = at, "cannot read an export");
            self.output.truncate(before);
            self.connection.session.fail(read.cookie, wire::EIO);
            return;
        }
        self.connection.reading = (read.length > 0).then_some(read);
    }

    fn gather(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let begin = self.output.len();
        self.output.resize(begin + length, 0);
        let image = self.image()?.clone();
        image.read(self.output.get_mut(begin..).unwrap_or_default(), offset)
    }

    /// Sends everything that waits. False if the client does not take it.
    fn flush(&mut self) -> io::Result<bool> {
        if self.connection.tail.is_none() {
            self.connection.session.take_output(self.output);
        }
        match self.send() {
            Ok(()) => {
                self.output.clear();
                self.sent = 0;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let more = self.connection.tail.is_some();
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            self.sent += again(|| self.connection.channel.send(rest, more))?;
        }
        while let Some(Tail { offset, left }) = self.connection.tail {
            let image = self.image()?.clone();
            let sent = again(|| self.connection.channel.send_file(&image, offset, left))?;
            let rest = Tail { offset: offset + sent as u64, left: left - sent };
            self.connection.tail = (rest.left > 0).then_some(rest);
        }
        self.connection.channel.flush()
    }

    /// Receives requests; what to wait for if there are none.
    fn receive(&mut self, input: &mut [u8]) -> io::Result<Option<Next>> {
        let crowded = self.surroundings.workers.crowded();
        if crowded && self.begin.elapsed() > TURN {
            return Ok(Some(Next::Turn));
        }
        match again(|| self.connection.channel.receive(input, !crowded)) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => {
                self.connection.session.receive(input.get(..received).unwrap_or_default());
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(Next::Readable)),
            Err(error) => Err(error),
        }
    }
}

/// Does it again when a signal came between.
fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
