//! The negotiation: options, and what is said of exports.

use super::{Export, Exports, Session, State, Step, Tls};
use crate::session::Event;
use crate::wire::{self, Cursor, Put as _};

/// Longest data of an option: a name, its length, and a list of requests or of short queries.
const OPTION_LIMIT: usize = wire::NAME_LIMIT + 1024;
/// Identifies the one metadata context of ours.
const ALLOCATION: u32 = 1;

impl<H> Session<H> {
    pub(super) fn option<E: Exports<Handle = H>>(&mut self, exports: &E) -> Step {
        let mut cursor = Cursor(self.unread());
        let (Some(magic), Some(option), Some(length)) = (cursor.u64(), cursor.u32(), cursor.u32()) else {
            return Step::NeedInput;
        };
        if magic != wire::OPTION_MAGIC {
            return self.close();
        }
        if length as usize > OPTION_LIMIT {
            self.consume(wire::OPTION_LENGTH);
            self.discard(u64::from(length));
            self.option_reply(option, wire::REP_ERR_TOO_BIG, b"too long");
            return if option == wire::OPT_EXPORT_NAME { self.close() } else { Step::Again };
        }
        let Some(data) = cursor.take(length as usize).map(<[u8]>::to_vec) else {
            return Step::NeedInput;
        };
        self.consume(wire::OPTION_LENGTH + data.len());
        if self.tls == Tls::Required && !matches!(option, wire::OPT_STARTTLS | wire::OPT_ABORT) {
            self.option_reply(option, wire::REP_ERR_TLS_REQD, b"only inside of TLS");
            return if option == wire::OPT_EXPORT_NAME { self.close() } else { Step::Again };
        }
        self.answer_option(option, &data, exports)
    }

    fn answer_option<E: Exports<Handle = H>>(&mut self, option: u32, data: &[u8], exports: &E) -> Step {
        match option {
            wire::OPT_EXPORT_NAME => return self.export_name(data, exports),
            wire::OPT_ABORT => {
                self.option_reply(option, wire::REP_ACK, b"");
                return self.close();
            }
            wire::OPT_STARTTLS if data.is_empty() && self.tls != Tls::Unavailable => return self.start_tls(),
            wire::OPT_LIST if data.is_empty() => self.list(exports),
            wire::OPT_INFO | wire::OPT_GO => self.info(option, data, exports),
            wire::OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.option_reply(option, wire::REP_ACK, b"");
            }
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => self.meta_context(option, data, exports),
            wire::OPT_LIST | wire::OPT_STRUCTURED_REPLY => {
                self.option_reply(option, wire::REP_ERR_INVALID, b"no data expected");
            }
            _ => self.option_reply(option, wire::REP_ERR_UNSUP, b""),
        }
        Step::Again
    }

    /// What arrived in the clear behind the request could be anybody's: it is not taken for what comes out of TLS.
    fn start_tls(&mut self) -> Step {
        if !self.unread().is_empty() || self.skip > 0 {
            return self.close();
        }
        self.option_reply(wire::OPT_STARTTLS, wire::REP_ACK, b"");
        self.state = State::Securing;
        Step::Event(Event::StartTls)
    }

    fn export_name<E: Exports<Handle = H>>(&mut self, data: &[u8], exports: &E) -> Step {
        // There is no way to say no to this option but to hang up.
        let Some((name, export)) = std::str::from_utf8(data).ok().and_then(|name| Some((name, exports.find(name)?)))
        else {
            return self.close();
        };
        self.output.put_u64(export.size);
        self.output.put_u16(transmission_flags(self.structured));
        if !self.no_zeroes {
            self.output.put(&[0; 124]);
        }
        self.transmit(name, export);
        Step::Again
    }

    fn transmit(&mut self, name: &str, export: Export<H>) {
        let allocation = self.allocation_of.take().is_some_and(|chosen| chosen == name);
        self.state = State::Transmit { export, allocation };
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
        let Some((name, asks_for_name)) = info_request(data) else {
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
        if asks_for_name {
            let info = [&wire::INFO_NAME.to_be_bytes(), name.as_bytes()].concat();
            self.option_reply(option, wire::REP_INFO, &info);
        }
        self.option_reply(option, wire::REP_ACK, b"");
        if option == wire::OPT_GO {
            self.transmit(name, export);
        }
    }

    /// Lists the metadata contexts of an export, or chooses among them. There is one: what is a hole.
    fn meta_context<E: Exports<Handle = H>>(&mut self, option: u32, data: &[u8], exports: &E) {
        let sets = option == wire::OPT_SET_META_CONTEXT;
        if sets {
            self.allocation_of = None;
        }
        if !self.structured {
            return self.option_reply(option, wire::REP_ERR_INVALID, b"structured replies first");
        }
        let Some((name, queries)) = meta_request(data) else {
            return self.option_reply(option, wire::REP_ERR_INVALID, b"malformed");
        };
        if exports.find(name).is_none() {
            return self.option_reply(option, wire::REP_ERR_UNKNOWN, b"no such export");
        }
        let everything = !sets && (queries.is_empty() || queries.contains(&&b"base:"[..]));
        if everything || queries.contains(&wire::BASE_ALLOCATION.as_bytes()) {
            let context = [&ALLOCATION.to_be_bytes(), wire::BASE_ALLOCATION.as_bytes()].concat();
            self.option_reply(option, wire::REP_META_CONTEXT, &context);
            if sets {
                self.allocation_of = Some(name.to_owned());
            }
        }
        self.option_reply(option, wire::REP_ACK, b"");
    }

    fn option_reply(&mut self, option: u32, reply: u32, data: &[u8]) {
        self.output.put_u64(wire::OPTION_REPLY_MAGIC);
        self.output.put_u32(option);
        self.output.put_u32(reply);
        self.output.put_u32(u32::try_from(data.len()).unwrap_or_default());
        self.output.put(data);
    }
}

/// The number of the one metadata context, as it is in block status replies.
pub(super) fn allocation_context() -> u32 {
    ALLOCATION
}

fn transmission_flags(structured: bool) -> u16 {
    let always = wire::FLAG_HAS_FLAGS | wire::FLAG_READ_ONLY | wire::FLAG_CAN_MULTI_CONN | wire::FLAG_SEND_CACHE;
    // Without structured replies there is nothing to split, and the flag is forbidden.
    if structured { always | wire::FLAG_SEND_DF } else { always }
}

/// The name in the data of `OPT_INFO` and `OPT_GO`, and whether it is asked for. Size and block sizes are told whether
/// asked for or not.
fn info_request(data: &[u8]) -> Option<(&str, bool)> {
    let mut cursor = Cursor(data);
    let length = cursor.u32()?;
    let name = cursor.take(length as usize)?;
    let requests = cursor.u16()?;
    let mut asks_for_name = false;
    for _ in 0..requests {
        asks_for_name |= cursor.u16()? == wire::INFO_NAME;
    }
    if cursor.0.is_empty() { Some((std::str::from_utf8(name).ok()?, asks_for_name)) } else { None }
}

/// The export's name and the queries of a metadata context option.
fn meta_request(data: &[u8]) -> Option<(&str, Vec<&[u8]>)> {
    let mut cursor = Cursor(data);
    let length = cursor.u32()?;
    let name = std::str::from_utf8(cursor.take(length as usize)?).ok()?;
    let mut queries = Vec::new();
    for _ in 0..cursor.u32()? {
        let length = cursor.u32()?;
        queries.push(cursor.take(length as usize)?);
    }
    cursor.0.is_empty().then_some((name, queries))
}
