//! DHCP messages (RFC 2131, RFC 2132) as far as a client needs them.
//!
//! By hand, because a malformed packet may not end PID 1: the crates for it assert on the lengths of some options.
//! Options are kept as bytes; parts of the same option are joined (RFC 3396).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;

/// Length of the fixed part.
const FIXED: usize = 236;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// RFC 1542, section 2.1: some relays drop what is shorter than a BOOTP message.
const SHORTEST: usize = 300;
const BROADCAST: u16 = 0x8000;
const PAD: u8 = 0;
const END: u8 = 255;

/// Codes of the options that are used here.
#[expect(missing_docs, reason = "the names are those of the registry")]
pub mod code {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const ROOT_PATH: u8 = 17;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const RENEW: u8 = 58;
    pub const REBIND: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const MACHINE: u8 = 97;
}

/// The message type of a client that looks for servers (RFC 2132, section 9.6).
pub const DISCOVER: u8 = 1;
/// That of a server's offer.
pub const OFFER: u8 = 2;
/// That of a client that wants an address.
pub const REQUEST: u8 = 3;
/// That of a lease.
pub const ACK: u8 = 5;
/// That of a refusal.
pub const NAK: u8 = 6;

/// A message. What a client does not use is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether it comes from a server.
    pub reply: bool,
    /// Chosen by the client; comes back from the server.
    pub transaction: u32,
    /// Seconds since the client began.
    pub seconds: u16,
    /// The address that the client has (`ciaddr`).
    pub client_address: Ipv4Addr,
    /// The address that the client gets (`yiaddr`).
    pub your_address: Ipv4Addr,
    /// The client.
    pub mac: MacAddr,
    /// Options by code.
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Message {
    /// The bytes of a request whose answer shall be broadcast.
    pub fn encode(&self) -> Vec<u8> {
        let operation = if self.reply { 2 } else { 1 };
        let mut bytes = vec![operation, 1, 6, 0];
        bytes.extend(self.transaction.to_be_bytes());
        bytes.extend(self.seconds.to_be_bytes());
        bytes.extend(BROADCAST.to_be_bytes());
        bytes.extend(self.client_address.octets());
        bytes.extend(self.your_address.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.mac.0);
        bytes.resize(FIXED, 0);
        bytes.extend(MAGIC);
        for (code, value) in &self.options {
            for part in value.chunks(255) {
                bytes.extend([*code, u8::try_from(part.len()).unwrap_or_default()]);
                bytes.extend(part);
            }
        }
        bytes.push(END);
        bytes.resize(bytes.len().max(SHORTEST), PAD);
        bytes
    }

    /// Reads a message; none if it is none, or not of Ethernet.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        let [operation, 1, 6, _, rest_of_fixed @ ..] = fixed else { return None };
        let mut options = BTreeMap::new();
        take_options(rest.strip_prefix(&MAGIC)?, &mut options);
        // RFC 2132, section 9.3: the fields for the boot file and the server's name hold options too.
        let overload = options.get(&code::OVERLOAD).and_then(|value| value.first()).copied().unwrap_or_default();
        if overload & 1 != 0 {
            take_options(fixed.get(108..FIXED)?, &mut options);
        }
        if overload & 2 != 0 {
            take_options(fixed.get(44..108)?, &mut options);
        }
        Some(Self {
            reply: *operation == 2,
            transaction: u32::from_be_bytes(*rest_of_fixed.first_chunk()?),
            seconds: u16::from_be_bytes(*fixed.get(8..)?.first_chunk()?),
            client_address: address_at(fixed, 12)?,
            your_address: address_at(fixed, 16)?,
            mac: MacAddr(*fixed.get(28..)?.first_chunk()?),
            options,
        })
    }

    /// The message type.
    pub fn kind(&self) -> Option<u8> {
        self.options.get(&code::MESSAGE_TYPE)?.first().copied()
    }

    /// The addresses in an option.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.options.get(&code).map(Vec::as_slice).unwrap_or_default();
        value.chunks_exact(4).filter_map(|octets| address_at(octets, 0)).collect()
    }

    /// The first address in an option.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.addresses(code).first().copied()
    }

    /// An option as a number of 32 bits.
    pub fn number(&self, code: u8) -> Option<u32> {
        let octets: [u8; 4] = self.options.get(&code)?.as_slice().try_into().ok()?;
        Some(u32::from_be_bytes(octets))
    }

    /// An option as a number of 16 bits.
    pub fn short(&self, code: u8) -> Option<u16> {
        let octets: [u8; 2] = self.options.get(&code)?.as_slice().try_into().ok()?;
        Some(u16::from_be_bytes(octets))
    }

    /// An option as text; some servers end it with a zero byte. None if it is empty, or has control characters, which
    /// would end up in files.
    pub fn text(&self, code: u8) -> Option<String> {
        let text = std::str::from_utf8(self.options.get(&code)?).ok()?.trim_end_matches('\0').trim();
        (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
    }
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// Reads options up to the end mark, or to the first that does not fit.
fn take_options(mut bytes: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) {
    loop {
        match bytes {
            [PAD, rest @ ..] => bytes = rest,
            [END, ..] | [] | [_] => return,
            [code, length, rest @ ..] => {
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { return };
                options.entry(*code).or_default().extend(value);
                bytes = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(options: BTreeMap<u8, Vec<u8>>) -> Message {
        Message {
            reply: true,
            transaction: 42,
            seconds: 3,
            client_address: Ipv4Addr::UNSPECIFIED,
            your_address: Ipv4Addr::new(10, 0, 0, 9),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            options,
        }
    }

    #[test]
    fn options_go_on_in_the_field_of_the_boot_file() {
        let mut bytes = message(BTreeMap::from([(code::OVERLOAD, vec![1])])).encode();
        bytes[108..113].copy_from_slice(&[code::DOMAIN, 3, b'l', b'a', b'b']);
        assert_eq!(Message::decode(&bytes).unwrap().text(code::DOMAIN).as_deref(), Some("lab"));
    }

    #[test]
    fn text_without_the_zero_byte_and_without_line_breaks() {
        let options = BTreeMap::from([(code::DOMAIN, b"lab\0".to_vec()), (code::HOSTNAME, b"a\nb".to_vec())]);
        let message = message(options);
        assert_eq!(message.text(code::DOMAIN).as_deref(), Some("lab"));
        assert_eq!(message.text(code::HOSTNAME), None);
    }

    #[test]
    fn numbers_of_a_wrong_length_are_none() {
        let message = message(BTreeMap::from([(code::LEASE_TIME, vec![0; 5]), (code::MTU, vec![5, 220])]));
        assert_eq!((message.number(code::LEASE_TIME), message.short(code::MTU)), (None, Some(1500)));
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            options in proptest::collection::btree_map(
                (1_u8..255).prop_filter("overload", |code| *code != code::OVERLOAD),
                proptest::collection::vec(any::<u8>(), 1..600),
                0..8,
            )
        ) {
            let message = message(options);
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }
}
