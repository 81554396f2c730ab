//! Which options of a request are granted (RFC 2347, 2348, 2349, 7440).

use std::time::Duration;

use crate::packet::{self, Request};

/// Content of a block without options (RFC 1350).
pub(crate) const DEFAULT_BLOCK: u16 = 512;
/// Largest block that the option can ask for (RFC 2348).
const LARGEST_BLOCK: u16 = 65464;
/// Bytes of a packet around a block: headers of IPv4 (20), UDP (8) and TFTP (4).
const AROUND_BLOCK: u16 = 32;

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
        Self { block: mtu.saturating_sub(AROUND_BLOCK).clamp(DEFAULT_BLOCK, LARGEST_BLOCK), ..Self::default() }
    }
}

/// How block numbers go on after 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rollover {
    /// With 0, as most clients of large files expect.
    Zero,
    /// With 1, as some loaders do that ask for it (option `rollover` of tftpd-hpa).
    One,
}

/// What was agreed on.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) block: u16,
    pub(crate) window: u16,
    pub(crate) wait: Option<Duration>,
    pub(crate) rollover: Rollover,
    /// The answer, if there is something to say.
    pub(crate) answer: Option<Vec<u8>>,
}

/// Grants options. What is out of range is left out of the answer, which refuses it (RFC 2347).
pub(crate) fn grant(request: &Request<'_>, size: u64, limits: Limits) -> Granted {
    let mut granted = Granted { block: DEFAULT_BLOCK, window: 1, wait: None, rollover: Rollover::Zero, answer: None };
    let mut answer = Vec::new();
    let number = |name: &str| request.option(name);
    if let Some(asked) = number("blksize").filter(|asked| *asked >= 8) {
        granted.block = u16::try_from(asked).unwrap_or(u16::MAX).min(limits.block.max(8));
        answer.push(("blksize", u64::from(granted.block)));
    }
    if number("tsize").is_some() {
        answer.push(("tsize", size));
    }
    if let Some(seconds) = number("timeout").filter(|seconds| (1..=255).contains(seconds)) {
        granted.wait = Some(Duration::from_secs(seconds));
        answer.push(("timeout", seconds));
    }
    // tftpd-hpa's: the same in microseconds.
    if let Some(asked) = number("utimeout").filter(|asked| (10_000..=255_000_000).contains(asked)) {
        granted.wait = Some(Duration::from_micros(asked));
        answer.push(("utimeout", asked));
    }
    if let Some(asked) = number("windowsize").filter(|asked| (1..=65535).contains(asked)) {
        granted.window = u16::try_from(asked).unwrap_or(u16::MAX).min(limits.window.max(1));
        answer.push(("windowsize", u64::from(granted.window)));
    }
    if let Some(asked) = number("rollover").filter(|asked| *asked < 2) {
        granted.rollover = if asked == 0 { Rollover::Zero } else { Rollover::One };
        answer.push(("rollover", asked));
    }
    granted.answer = (!answer.is_empty()).then(|| packet::option_ack(&answer));
    granted
}

impl Rollover {
    /// The number of a block on the wire.
    pub(crate) fn wire(self, block: u64) -> u16 {
        let number = match self {
            Self::Zero => block % 65536,
            Self::One => block.checked_sub(1).map_or(0, |index| index % 65535 + 1),
        };
        u16::try_from(number).unwrap_or_default()
    }

    /// How many blocks a number on the wire is ahead of a block.
    pub(crate) fn ahead(self, number: u16, of: u64) -> u64 {
        match self {
            Self::Zero => u64::from(number.wrapping_sub(self.wire(of))),
            Self::One if number == 0 => 0,
            Self::One => match of.checked_sub(1) {
                None => u64::from(number),
                Some(index) => (u64::from(number) - 1 + 65535 - index % 65535) % 65535,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(options: &[(&'static str, &'static str)]) -> Option<String> {
        let request = Request { file: "f", mode: "octet", options: options.to_vec() };
        let bytes = grant(&request, 5000, Limits::default()).answer?;
        Some(String::from_utf8(bytes[2..].to_vec()).unwrap().replace('\0', " "))
    }

    #[test]
    fn what_is_granted() {
        let all = [("BLKSIZE", "65464"), ("tsize", "0"), ("timeout", "3"), ("windowsize", "4096"), ("multicast", "")];
        assert_eq!(answer(&all).unwrap(), "blksize 1468 tsize 5000 timeout 3 windowsize 64 ");
        assert_eq!(answer(&[("utimeout", "200000"), ("rollover", "1")]).unwrap(), "utimeout 200000 rollover 1 ");
        assert_eq!(answer(&[("blksize", "7"), ("timeout", "0"), ("utimeout", "9"), ("rollover", "2")]), None);
        assert_eq!(answer(&[("blksize", "99999999999999999999")]), None);
    }

    proptest! {
        #[test]
        fn a_number_on_the_wire_is_found_again(block in 0_u64..200_000, ahead in 1_u64..64) {
            for rollover in [Rollover::Zero, Rollover::One] {
                prop_assert_eq!(rollover.ahead(rollover.wire(block + ahead), block), ahead);
                prop_assert_eq!(rollover.ahead(rollover.wire(block), block), 0);
            }
        }
    }

    #[test]
    fn numbers_go_on_with_0_or_with_1() {
        let around = |rollover: Rollover| [65535, 65536, 65537].map(|block| rollover.wire(block));
        assert_eq!(around(Rollover::Zero), [65535, 0, 1]);
        assert_eq!(around(Rollover::One), [65535, 1, 2]);
    }
}
