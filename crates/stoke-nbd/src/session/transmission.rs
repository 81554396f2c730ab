//! Requests and replies, once an export was chosen.

use super::options::allocation_context;
use super::{Event, Read, Session, State, Step};
use crate::holes::Run;
use crate::wire::{self, Cursor, Put as _};

/// Descriptors in one block status reply. The client asks again for what is behind them.
const DESCRIPTORS: usize = 1024;

/// A request after its header.
struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl<H> Session<H> {
    pub(super) fn request(&mut self) -> Step {
        let mut cursor = Cursor(self.unread());
        let header = (cursor.u32(), cursor.u16(), cursor.u16(), cursor.u64(), cursor.u64(), cursor.u32());
        let (Some(magic), Some(flags), Some(command), Some(cookie), Some(offset), Some(length)) = header else {
            return Step::NeedInput;
        };
        if magic != wire::REQUEST_MAGIC {
            return self.close();
        }
        self.consume(wire::REQUEST_LENGTH);
        self.command(&Request { flags, command, cookie, offset, length })
    }

    fn command(&mut self, request: &Request) -> Step {
        let &Request { cookie, offset, length, .. } = request;
        match (request.command, self.refusal(request)) {
            (wire::CMD_DISC, _) => return self.close(),
            // Nothing is ever dirty, so everything is flushed.
            (wire::CMD_FLUSH, _) => self.succeed(cookie),
            (wire::CMD_WRITE, _) => {
                self.discard(u64::from(length));
                self.fail(cookie, wire::EPERM);
            }
            (wire::CMD_TRIM | wire::CMD_WRITE_ZEROES, _) => self.fail(cookie, wire::EPERM),
            (_, Some(error)) => self.fail(cookie, error),
            (wire::CMD_READ, None) => {
                let whole = request.flags & wire::CMD_FLAG_DF != 0;
                return Step::Event(Event::Read(Read { cookie, offset, length, whole }));
            }
            (wire::CMD_CACHE, None) => {
                self.succeed(cookie);
                return Step::Event(Event::Cache { offset, length });
            }
            (wire::CMD_BLOCK_STATUS, None) => self.block_status(request),
            _ => self.fail(cookie, wire::EINVAL),
        }
        Step::Again
    }

    /// Why a request for a range of the export is refused.
    fn refusal(&self, request: &Request) -> Option<u32> {
        let size = self.export().map_or(0, |export| export.size);
        let within = request.offset.checked_add(u64::from(request.length)).is_some_and(|end| end <= size);
        match () {
            () if !within => Some(wire::EINVAL),
            () if request.command == wire::CMD_READ && request.length > wire::READ_LIMIT => Some(wire::EOVERFLOW),
            () => None,
        }
    }

    fn block_status(&mut self, request: &Request) {
        let State::Transmit { export, allocation: true } = &self.state else {
            return self.fail(request.cookie, wire::EINVAL);
        };
        if request.length == 0 {
            return self.fail(request.cookie, wire::EINVAL);
        }
        let most = if request.flags & wire::CMD_FLAG_REQ_ONE != 0 { 1 } else { DESCRIPTORS };
        let mut content = Vec::with_capacity(12);
        content.put_u32(allocation_context());
        for Run { length, hole } in export.holes.runs(request.offset, request.length).take(most) {
            content.put_u32(length);
            content.put_u32(if hole { wire::STATE_HOLE_ZERO } else { 0 });
        }
        let length = u32::try_from(content.len()).unwrap_or_default();
        let chunk = (wire::REPLY_TYPE_BLOCK_STATUS, length);
        structured_header(&mut self.output, wire::REPLY_FLAG_DONE, chunk, request.cookie);
        self.output.put(&content);
    }

    /// Begins the next part of a read's answer: appends what goes before the data and returns how many bytes of the
    /// export, beginning at the read's offset, have to follow. The read is then what is left of it. Called until nothing
    /// is left, and once for a read of no length.
    pub fn next_part(&self, read: &mut Read, into: &mut Vec<u8>) -> u32 {
        if !self.structured {
            simple_header(into, 0, read.cookie);
            return advance(read, read.length);
        }
        loop {
            let Some(run) = self.first_run(read) else {
                // Only a read of no length comes here: every other one ends with its last chunk.
                structured_header(into, wire::REPLY_FLAG_DONE, (wire::REPLY_TYPE_NONE, 0), read.cookie);
                return 0;
            };
            let flags = if run.length == read.length { wire::REPLY_FLAG_DONE } else { 0 };
            if !run.hole {
                // Offset and data are the chunk's content; the length fits, as reads are limited.
                let chunk = (wire::REPLY_TYPE_OFFSET_DATA, run.length.saturating_add(8));
                structured_header(into, flags, chunk, read.cookie);
                into.put_u64(read.offset);
                return advance(read, run.length);
            }
            structured_header(into, flags, (wire::REPLY_TYPE_OFFSET_HOLE, 12), read.cookie);
            into.put_u64(read.offset);
            into.put_u32(run.length);
            advance(read, run.length);
            if read.length == 0 {
                return 0;
            }
        }
    }

    fn first_run(&self, read: &Read) -> Option<Run> {
        match self.export() {
            Some(export) if !read.whole => export.holes.first_run(read.offset, read.length),
            _ => (read.length > 0).then_some(Run { length: read.length, hole: false }),
        }
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
}

fn advance(read: &mut Read, length: u32) -> u32 {
    read.offset = read.offset.saturating_add(length.into());
    read.length = read.length.saturating_sub(length);
    length
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
