//! The server's side of one connection.
//!
//! ```text
//!            client flags           OPT_GO, OPT_EXPORT_NAME            CMD_DISC
//!   Greeted -------------> Options ------------------------> Transmit ----------> Closed
//!                             |                                  |                   ^
//!                             | OPT_ABORT, bad export name       | not a request     |
//!                             +----------------------------------+-------------------+
//! ```
//!
//! The driver owns the socket and the storage: it hands in what it received with [`Session::receive`], asks
//! [`Session::poll`] what to do until that needs input, and sends what [`Session::take_output`] holds before anything
//! else. A read is answered with [`Session::read_header`] followed by the data, or with [`Session::fail`].

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
    /// Over.
    Close,
}

/// A read that the client wants; it lies within the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Names the request.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at most [`wire::READ_LIMIT`].
    pub length: u32,
}

/// One connection.
#[derive(Debug)]
pub struct Session<H> {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of input that belong to something refused.
    skip: u64,
    state: State<H>,
    structured: bool,
    no_zeroes: bool,
}

#[derive(Debug)]
enum State<H> {
    Greeted,
    Options,
    Transmit(Export<H>),
    Closed,
}

/// The header of a read's answer: at most 28 bytes.
#[derive(Clone, Copy, Debug)]
pub struct ReadHeader {
    bytes: [u8; 28],
    length: usize,
}

impl AsRef<[u8]> for ReadHeader {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<H> Default for Session<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> Session<H> {
    /// A connection that was just accepted; the greeting is ready to be sent.
    pub fn new() -> Self {
        let mut output = Vec::with_capacity(64);
        output.put_u64(wire::INIT_MAGIC);
        output.put_u64(wire::OPTION_MAGIC);
        output.put_u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        Self { input: Vec::new(), output, skip: 0, state: State::Greeted, structured: false, no_zeroes: false }
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
            State::Transmit(export) => Some(export),
            _ => None,
        }
    }

    /// What to do next.
    pub fn poll<E: Exports<Handle = H>>(&mut self, exports: &E) -> Event {
        loop {
            let step = match self.state {
                State::Closed => return Event::Close,
                State::Greeted => self.client_flags(),
                State::Options => self.option(exports),
                State::Transmit(_) => self.request(),
            };
            match step {
                Step::Again => {}
                Step::Event(event) => return event,
            }
        }
    }

    /// The header that goes before a read's data.
    pub fn read_header(&self, read: &Read) -> ReadHeader {
        let mut bytes = Vec::with_capacity(28);
        if self.structured {
            // Offset and data are the chunk's content; the length fits, as reads are limited.
            let chunk = (wire::REPLY_TYPE_OFFSET_DATA, read.length.saturating_add(8));
            structured_header(&mut bytes, wire::REPLY_FLAG_DONE, chunk, read.cookie);
            bytes.put_u64(read.offset);
        } else {
            simple_header(&mut bytes, 0, read.cookie);
        }
        let mut header = ReadHeader { bytes: [0; 28], length: bytes.len() };
        header.bytes.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        header
    }

    /// Answers a request with an error of [`wire`].
    pub fn fail(&mut self, cookie: u64, error: u32) {
        if self.structured {
            structured_header(&mut self.output, wire::REPLY_FLAG_DONE, (wire::REPLY_TYPE_ERROR, 6), cookie);
            self.output.put_u32(error);
            self.output.put_u16(0);
        } else {
            simple_header(&mut self.output, error, cookie);
        }
    }

    fn succeed(&mut self, cookie: u64) {
        if self.structured {
            structured_header(&mut self.output, wire::REPLY_FLAG_DONE, (wire::REPLY_TYPE_NONE, 0), cookie);
        } else {
            simple_header(&mut self.output, 0, cookie);
        }
    }

    fn consume(&mut self, length: usize) {
        self.input.drain(..length.min(self.input.len()));
    }

    /// Drops bytes of the input, also those that are still to come.
    fn discard(&mut self, length: u64) {
        let there = usize::try_from(length).unwrap_or(usize::MAX).min(self.input.len());
        self.consume(there);
        self.skip += length - there as u64;
    }

    fn close(&mut self) -> Step {
        self.state = State::Closed;
        Step::Event(Event::Close)
    }

    fn client_flags(&mut self) -> Step {
        let Some(flags) = Cursor(&self.input).u32() else { return Step::Event(Event::NeedInput) };
        self.consume(4);
        let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        if flags & !known != 0 {
            return self.close();
        }
        self.no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        self.state = State::Options;
        Step::Again
    }

    fn option<E: Exports<Handle = H>>(&mut self, exports: &E) -> Step {
        let mut cursor = Cursor(&self.input);
        let (Some(magic), Some(option), Some(length)) = (cursor.u64(), cursor.u32(), cursor.u32()) else {
            return Step::Event(Event::NeedInput);
        };
        if magic != wire::OPTION_MAGIC {
            return self.close();
        }
        // Name, its length, and a list of information requests: nothing valid is longer.
        if length as usize > wire::NAME_LIMIT + 1024 {
            self.consume(wire::OPTION_LENGTH);
            self.discard(u64::from(length));
            self.option_reply(option, wire::REP_ERR_TOO_BIG, b"too long");
            return if option == wire::OPT_EXPORT_NAME { self.close() } else { Step::Again };
        }
        let Some(data) = cursor.take(length as usize).map(<[u8]>::to_vec) else {
            return Step::Event(Event::NeedInput);
        };
        self.consume(wire::OPTION_LENGTH + data.len());
        self.answer_option(option, &data, exports)
    }

    fn answer_option<E: Exports<Handle = H>>(&mut self, option: u32, data: &[u8], exports: &E) -> Step {
        match option {
            wire::OPT_EXPORT_NAME => return self.export_name(data, exports),
            wire::OPT_ABORT => {
                self.option_reply(option, wire::REP_ACK, b"");
                return self.close();
            }
            wire::OPT_LIST if data.is_empty() => self.list(exports),
            wire::OPT_INFO | wire::OPT_GO => self.info(option, data, exports),
            wire::OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.option_reply(option, wire::REP_ACK, b"");
            }
            wire::OPT_LIST | wire::OPT_STRUCTURED_REPLY => {
                self.option_reply(option, wire::REP_ERR_INVALID, b"no data expected");
            }
            _ => self.option_reply(option, wire::REP_ERR_UNSUP, b""),
        }
        Step::Again
    }

    fn export_name<E: Exports<Handle = H>>(&mut self, data: &[u8], exports: &E) -> Step {
        // There is no way to say no to this option but to hang up.
        let Some(export) = std::str::from_utf8(data).ok().and_then(|name| exports.find(name)) else {
            return self.close();
        };
        self.output.put_u64(export.size);
        self.output.put_u16(transmission_flags(self.structured));
        if !self.no_zeroes {
            self.output.put(&[0; 124]);
        }
        self.state = State::Transmit(export);
        Step::Again
    }

    fn list<E: Exports<Handle = H>>(&mut self, exports: &E) {
        for name in exports.names() {
            let mut data = Vec::with_capacity(4 + name.len());
            data.put_u32(u32::try_from(name.len()).unwrap_or_default());
            data.put(name.as_bytes());
            self.option_reply(wire::OPT_LIST, wire::REP_SERVER, &data);
        }
        self.option_reply(wire::OPT_LIST, wire::REP_ACK, b"");
    }

    fn info<E: Exports<Handle = H>>(&mut self, option: u32, data: &[u8], exports: &E) {
        let Some(name) = info_name(data) else {
            return self.option_reply(option, wire::REP_ERR_INVALID, b"malformed");
        };
        let Some(export) = exports.find(name) else {
            return self.option_reply(option, wire::REP_ERR_UNKNOWN, b"no such export");
        };
        let mut size = Vec::with_capacity(12);
        size.put_u16(wire::INFO_EXPORT);
        size.put_u64(export.size);
        size.put_u16(transmission_flags(self.structured));
        self.option_reply(option, wire::REP_INFO, &size);
        let mut blocks = Vec::with_capacity(14);
        blocks.put_u16(wire::INFO_BLOCK_SIZE);
        blocks.put_u32(1);
        blocks.put_u32(export.preferred_block);
        blocks.put_u32(wire::READ_LIMIT);
        self.option_reply(option, wire::REP_INFO, &blocks);
        self.option_reply(option, wire::REP_ACK, b"");
        if option == wire::OPT_GO {
            self.state = State::Transmit(export);
        }
    }

    fn option_reply(&mut self, option: u32, reply: u32, data: &[u8]) {
        self.output.put_u64(wire::OPTION_REPLY_MAGIC);
        self.output.put_u32(option);
        self.output.put_u32(reply);
        self.output.put_u32(u32::try_from(data.len()).unwrap_or_default());
        self.output.put(data);
    }

    fn request(&mut self) -> Step {
        let mut cursor = Cursor(&self.input);
        let header = (cursor.u32(), cursor.u16(), cursor.u16(), cursor.u64(), cursor.u64(), cursor.u32());
        let (Some(magic), Some(_flags), Some(command), Some(cookie), Some(offset), Some(length)) = header else {
            return Step::Event(Event::NeedInput);
        };
        if magic != wire::REQUEST_MAGIC {
            return self.close();
        }
        self.consume(wire::REQUEST_LENGTH);
        self.command(command, Read { cookie, offset, length })
    }

    fn command(&mut self, command: u16, read: Read) -> Step {
        match command {
            wire::CMD_READ => match self.refusal(&read) {
                None => return Step::Event(Event::Read(read)),
                Some(error) => self.fail(read.cookie, error),
            },
            wire::CMD_CACHE => match self.refusal(&read) {
                None => {
                    self.succeed(read.cookie);
                    return Step::Event(Event::Cache { offset: read.offset, length: read.length });
                }
                Some(error) => self.fail(read.cookie, error),
            },
            wire::CMD_DISC => return self.close(),
            // Nothing is ever dirty, so everything is flushed.
            wire::CMD_FLUSH => self.succeed(read.cookie),
            wire::CMD_WRITE => {
                self.discard(u64::from(read.length));
                self.fail(read.cookie, wire::EPERM);
            }
            wire::CMD_TRIM | wire::CMD_WRITE_ZEROES => self.fail(read.cookie, wire::EPERM),
            _ => self.fail(read.cookie, wire::EINVAL),
        }
        Step::Again
    }

    fn refusal(&self, read: &Read) -> Option<u32> {
        let size = self.export().map_or(0, |export| export.size);
        let within = read.offset.checked_add(u64::from(read.length)).is_some_and(|end| end <= size);
        match () {
            () if !within => Some(wire::EINVAL),
            () if read.length > wire::READ_LIMIT => Some(wire::EOVERFLOW),
            () => None,
        }
    }
}

enum Step {
    Again,
    Event(Event),
}

fn transmission_flags(structured: bool) -> u16 {
    let always = wire::FLAG_HAS_FLAGS | wire::FLAG_READ_ONLY | wire::FLAG_CAN_MULTI_CONN | wire::FLAG_SEND_CACHE;
    // Our reads are one chunk anyway, so the promise costs nothing; without structured replies it is forbidden.
    if structured { always | wire::FLAG_SEND_DF } else { always }
}

/// The name in the data of `OPT_INFO` and `OPT_GO`; the requests after it are answered whether asked or not.
fn info_name(data: &[u8]) -> Option<&str> {
    let mut cursor = Cursor(data);
    let length = cursor.u32()?;
    let name = cursor.take(length as usize)?;
    let requests = cursor.u16()?;
    cursor.take(usize::from(requests) * 2)?;
    if cursor.0.is_empty() { std::str::from_utf8(name).ok() } else { None }
}

fn simple_header(into: &mut Vec<u8>, error: u32, cookie: u64) {
    into.put_u32(wire::SIMPLE_REPLY_MAGIC);
    into.put_u32(error);
    into.put_u64(cookie);
}

fn structured_header(into: &mut Vec<u8>, flags: u16, (kind, length): (u16, u32), cookie: u64) {
    into.put_u32(wire::STRUCTURED_REPLY_MAGIC);
    into.put_u16(flags);
    into.put_u16(kind);
    into.put_u64(cookie);
    into.put_u32(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct One;

    impl Exports for One {
        type Handle = ();
        fn find(&self, name: &str) -> Option<Export<()>> {
            (name == "one").then_some(Export { handle: (), size: 1 << 20, preferred_block: 4096 })
        }
        fn names(&self) -> Vec<String> {
            vec!["one".to_owned()]
        }
    }

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u64(wire::OPTION_MAGIC);
        bytes.put_u32(number);
        bytes.put_u32(u32::try_from(data.len()).unwrap());
        bytes.put(data);
        bytes
    }

    fn go(name: &str) -> Vec<u8> {
        let mut data = Vec::new();
        data.put_u32(u32::try_from(name.len()).unwrap());
        data.put(name.as_bytes());
        data.put_u16(0);
        option(wire::OPT_GO, &data)
    }

    fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u32(wire::REQUEST_MAGIC);
        bytes.put_u16(0);
        bytes.put_u16(command);
        bytes.put_u64(77);
        bytes.put_u64(offset);
        bytes.put_u32(length);
        bytes
    }

    fn output(session: &mut Session<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        session.take_output(&mut bytes);
        bytes
    }

    /// A session in transmission, with its output thrown away.
    fn transmitting() -> Session<()> {
        let mut session = Session::new();
        session.receive(&3_u32.to_be_bytes());
        session.receive(&go("one"));
        assert_eq!(session.poll(&One), Event::NeedInput);
        assert!(session.export().is_some());
        output(&mut session);
        session
    }

    #[test]
    fn an_unknown_export_leaves_the_negotiation_open() {
        let mut session = Session::new();
        session.receive(&3_u32.to_be_bytes());
        session.receive(&go("two"));
        session.receive(&go("one"));
        assert_eq!(session.poll(&One), Event::NeedInput);
        assert_eq!(session.export().map(|export| export.size), Some(1 << 20));
    }

    #[test]
    fn reads_beyond_the_end_are_refused_without_reading() {
        let mut session = transmitting();
        for (offset, length) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 4096)] {
            session.receive(&request(wire::CMD_READ, offset, length));
            assert_eq!(session.poll(&One), Event::NeedInput);
            assert_eq!(output(&mut session).get(4..8).unwrap(), wire::EINVAL.to_be_bytes());
        }
    }

    #[test]
    fn a_write_is_refused_and_its_data_are_not_taken_for_requests() {
        let mut session = transmitting();
        session.receive(&request(wire::CMD_WRITE, 0, 100));
        session.receive(&[0xff; 60]);
        assert_eq!(session.poll(&One), Event::NeedInput);
        assert_eq!(output(&mut session).get(4..8).unwrap(), wire::EPERM.to_be_bytes());
        session.receive(&[0xff; 40]);
        session.receive(&request(wire::CMD_READ, 0, 512));
        assert_eq!(session.poll(&One), Event::Read(Read { cookie: 77, offset: 0, length: 512 }));
    }

    #[test]
    fn an_option_of_gigabytes_is_skipped_without_being_kept() {
        let mut session = Session::<()>::new();
        session.receive(&3_u32.to_be_bytes());
        let mut huge = option(wire::OPT_GO, b"");
        huge.truncate(12);
        huge.put_u32(u32::MAX);
        session.receive(&huge);
        assert_eq!(session.poll(&One), Event::NeedInput);
        session.receive(&vec![0; 1 << 16]);
        assert_eq!((session.input.len(), session.poll(&One)), (0, Event::NeedInput));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_are_hoarded(chunks in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let mut session = Session::<()>::new();
            session.receive(&3_u32.to_be_bytes());
            for chunk in chunks {
                session.receive(&chunk);
                while !matches!(session.poll(&One), Event::NeedInput | Event::Close) {}
                prop_assert!(session.input.len() <= wire::NAME_LIMIT + 2048);
            }
        }

        #[test]
        fn any_cut_of_the_stream_gives_the_same_answers(cuts in proptest::collection::vec(1_usize..40, 1..60)) {
            let mut stream = 3_u32.to_be_bytes().to_vec();
            stream.extend(option(wire::OPT_STRUCTURED_REPLY, b""));
            stream.extend(option(99, b"what"));
            stream.extend(go("one"));
            stream.extend(request(wire::CMD_WRITE, 0, 7));
            stream.extend([1; 7]);
            stream.extend(request(wire::CMD_READ, 4096, 512));
            stream.extend(request(wire::CMD_DISC, 0, 0));
            let run = |pieces: Vec<&[u8]>| {
                let (mut session, mut events) = (Session::<()>::new(), Vec::new());
                for piece in pieces {
                    session.receive(piece);
                    loop {
                        match session.poll(&One) {
                            Event::NeedInput => break,
                            event => {
                                let over = event == Event::Close;
                                events.push(event);
                                if over { break }
                            }
                        }
                    }
                }
                (events, output(&mut session))
            };
            let (mut pieces, mut rest, mut cuts) = (Vec::new(), stream.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            prop_assert_eq!(run(pieces), run(vec![&stream]));
        }
    }
}
