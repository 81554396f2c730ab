//! The wire format.

/// Error code: see the message.
pub const ERROR_UNDEFINED: u16 = 0;
/// Error code: no such file.
pub const ERROR_NOT_FOUND: u16 = 1;
/// Error code: not allowed.
pub const ERROR_ACCESS: u16 = 2;
/// Error code: no such operation.
pub const ERROR_ILLEGAL: u16 = 4;
/// Error code: the options are not acceptable (RFC 2347).
pub const ERROR_OPTION: u16 = 8;

/// Longest packet that anybody sends to a server; a request is one block at most (RFC 2347, section 2).
pub const REQUEST_LIMIT: usize = 1024;
/// Options of one request that are looked at.
const OPTION_LIMIT: usize = 16;

/// A packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The client wants a file.
    Read(Request<'a>),
    /// The client wants to write.
    Write,
    /// Everything up to this block arrived.
    Ack(u16),
    /// The client gives up.
    Error {
        /// Why, by number.
        code: u16,
        /// Why, in words.
        message: String,
    },
}

/// A read request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Name of the file, as it was sent.
    pub file: &'a str,
    /// Transfer mode.
    pub mode: &'a str,
    /// Options, in order. Names are compared without regard to case.
    pub options: Vec<(&'a str, &'a str)>,
}

/// Why some bytes are no packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Cut off.
    #[error("the packet is too short")]
    Short,
    /// An operation that clients of a reading server never use.
    #[error("operation {0} makes no sense here")]
    Operation(u16),
    /// A text without end, or not in UTF-8.
    #[error("the request's text is malformed")]
    Text,
}

impl<'a> Packet<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// If it is no packet of a client. Nothing is to be answered then but to a [`PacketError::Text`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let (operation, rest) = number(bytes).ok_or(PacketError::Short)?;
        match operation {
            1 => Ok(Self::Read(Request::parse(rest)?)),
            2 => Ok(Self::Write),
            4 => number(rest).map(|(block, _)| Self::Ack(block)).ok_or(PacketError::Short),
            5 => {
                let (code, text) = number(rest).ok_or(PacketError::Short)?;
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                let text = String::from_utf8_lossy(text);
                Ok(Self::Error { code, message: text.chars().filter(|c| !c.is_control()).take(128).collect() })
            }
            other => Err(PacketError::Operation(other)),
        }
    }
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        // DHCP's option 67 has a length and no end: some ROMs take the end mark of the options, 255, for a part of the name.
        let mut fields = Fields(bytes);
        let file = fields.next().flatten().ok_or(PacketError::Text)?;
        let file = std::str::from_utf8(without_marks(file)).map_err(|_| PacketError::Text)?;
        let mut texts = fields.map(|field| field.and_then(|field| std::str::from_utf8(field).ok()));
        let mode = texts.next().flatten().ok_or(PacketError::Text)?;
        let mut options = Vec::new();
        // Some ROMs pad their requests: what is no pair of texts ends the options and harms nothing.
        while let (Some(Some(name)), Some(Some(value))) = (texts.next(), texts.next()) {
            if name.is_empty() || options.len() == OPTION_LIMIT {
                break;
            }
            options.push((name, value));
        }
        Ok(Self { file, mode, options })
    }

    /// Value of an option as a number.
    pub fn option(&self, name: &str) -> Option<u64> {
        let (_, value) = self.options.iter().find(|(option, _)| option.eq_ignore_ascii_case(name))?;
        value.parse().ok()
    }
}

/// Fields that each end with a zero byte; `None` for one without an end.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(end) = self.0.iter().position(|byte| *byte == 0) else {
            self.0 = &[];
            return Some(None);
        };
        let (field, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..).unwrap_or_default();
        Some(Some(field))
    }
}

/// A name without what ROMs leave at its end.
fn without_marks(mut name: &[u8]) -> &[u8] {
    while let [rest @ .., 0xff | b' ' | b'\r' | b'\n' | b'\t'] = name {
        name = rest;
    }
    name
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// The four bytes that go before a block's content.
pub fn data_header(block: u16) -> [u8; 4] {
    let [high, low] = block.to_be_bytes();
    [0, 3, high, low]
}

/// An error packet.
pub fn error(code: u16, message: &str) -> Vec<u8> {
    let mut bytes = vec![0, 5];
    bytes.extend(code.to_be_bytes());
    bytes.extend(message.bytes().filter(|byte| *byte != 0));
    bytes.push(0);
    bytes
}

/// An acknowledgement of options (RFC 2347).
pub fn option_ack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes = vec![0, 6];
    for (name, value) in options {
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.extend(value.to_string().bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_request_of_ovmf() {
        let bytes = b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0";
        let Ok(Packet::Read(request)) = Packet::parse(bytes) else { panic!("no request") };
        assert_eq!((request.file, request.mode), ("snponly.efi", "octet"));
        assert_eq!((request.option("BLKSIZE"), request.option("windowsize")), (Some(1468), Some(4)));
    }

    #[test]
    fn a_request_without_final_zero_is_malformed() {
        assert_eq!(Packet::parse(b"\0\x01file\0octet"), Err(PacketError::Text));
        assert_eq!(Packet::parse(b"\0\x01file"), Err(PacketError::Text));
    }

    #[test]
    fn a_request_padded_with_garbage_is_served() {
        let Ok(Packet::Read(request)) = Packet::parse(b"\0\x01a\0octet\0tsize\x000\0\0\0\0zz") else {
            panic!("no request")
        };
        assert_eq!(request.options, [("tsize", "0")]);
    }

    #[test]
    fn a_name_with_the_end_mark_of_dhcp_is_served() {
        let Ok(Packet::Read(request)) = Packet::parse(b"\0\x01pxelinux.0\xff\0octet\0") else { panic!("no request") };
        assert_eq!(request.file, "pxelinux.0");
        assert_eq!(Packet::parse(b"\0\x01a\xffb\0octet\0"), Err(PacketError::Text));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, operation in 0_u8..8) {
            let _ = Packet::parse(&bytes);
            let mut bytes = bytes;
            bytes.splice(0..0, [0, operation]);
            let _ = Packet::parse(&bytes);
        }
    }
}
