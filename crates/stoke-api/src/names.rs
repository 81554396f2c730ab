//! Newtypes: parse, don't validate. Each has one text form, which is also its form in JSON and YAML.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is no value of the wanted kind; says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct ParseError {
    /// What was written.
    pub text: String,
    /// What was wanted, with an example.
    pub wanted: &'static str,
}

impl ParseError {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

/// Serde and schema by the text form.
macro_rules! by_text {
    ($type:ty, $name:literal, $description:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description, "pattern": $pattern })
            }
        }
    };
}

/// A link-layer address, written `52:54:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    const WANTED: &str = "a MAC address such as 52:54:00:12:34:56";

    /// Whether the address stands for one station (the group bit is off) and is not all zeroes.
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for MacAddr {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new(text, Self::WANTED);
        let mut parts = text.split([':', '-']);
        let mut octets = [0; 6];
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        parts.next().is_none().then_some(Self(octets)).ok_or_else(error)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.0.map(|octet| format!("{octet:02x}"));
        f.write_str(&octets.join(":"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

by_text!(MacAddr, "MacAddr", "A MAC address such as 52:54:00:12:34:56.", "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$");

/// The SHA-256 of some content, written `sha256:` and 64 lower-case hexadecimal digits, as in OCI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    const WANTED: &str = "a digest: sha256: and 64 lower-case hexadecimal digits";

    /// The 64 hexadecimal digits alone.
    pub fn hex(&self) -> String {
        hexadecimal(&self.0)
    }

    /// The first twelve digits, as shown in tables.
    pub fn short(&self) -> String {
        hexadecimal(self.0.first_chunk::<6>().map_or(&[][..], |first| first.as_slice()))
    }

    /// Parses 64 hexadecimal digits without prefix.
    pub fn from_hex(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new(text, Self::WANTED);
        let digits = text.as_bytes();
        let lower = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
        if digits.len() != 64 || !digits.iter().all(lower) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

impl FromStr for Digest {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| ParseError::new(text, Self::WANTED))?;
        Self::from_hex(hex).map_err(|_| ParseError::new(text, Self::WANTED))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

by_text!(Digest, "Digest", "A SHA-256 digest, written as in OCI.", "^sha256:[0-9a-f]{64}$");

/// Name of an object: a DNS label (RFC 1123), 1 to 63 of `a-z 0-9 -`, no `-` at either end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    const WANTED: &str = "a name: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let allowed = text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        let ends = !text.starts_with('-') && !text.ends_with('-');
        if allowed && ends && (1..=63).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new(text, Self::WANTED))
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

by_text!(ObjectName, "ObjectName", "A DNS label.", "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$");

/// Name of a network interface: 1 to 15 bytes, no `/`, no white space (`dev_valid_name` in Linux' `net/core/dev.c`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

impl LinkName {
    const WANTED: &str = "an interface name: 1 to 15 characters, no slash, colon or white space";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = |c: char| c.is_whitespace() || c == '/' || c == ':';
        if (1..=15).contains(&text.len()) && !text.contains(refused) && text != "." && text != ".." {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new(text, Self::WANTED))
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

by_text!(LinkName, "LinkName", "Name of a network interface.", "^[^/:\\s]{1,15}$");

/// An amount of bytes as a Kubernetes quantity: `512Mi`, `2Gi`, `1500M`; `2GiB` is accepted and means `2Gi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

impl Bytes {
    const WANTED: &str = "an amount of bytes such as 512Mi or 2Gi";
}

impl FromStr for Bytes {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new(text, Self::WANTED);
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = unit.trim_end_matches('B');
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        number.checked_mul(*factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        let binary = UNITS.iter().take(4).rev().find(whole);
        let (unit, factor) = binary.copied().unwrap_or(("", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

by_text!(Bytes, "Bytes", "An amount of bytes such as 512Mi or 2Gi.", "^[0-9]+(([KMGT]i|[kMGT])B?|B)?$");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_of_kubernetes_and_of_people() {
        let parsed = ["2Gi", "2GiB", "1500M", "7", "512MiB"].map(|text| text.parse::<Bytes>().unwrap().0);
        assert_eq!(parsed, [2 << 30, 2 << 30, 1_500_000_000, 7, 512 << 20]);
        for wrong in ["", "Gi", "2 Gi", "-1", "2gi", "99999999999999Ti"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_dns_refuses() {
        for wrong in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(wrong.parse::<ObjectName>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_back(mac: [u8; 6], digest: [u8; 32], bytes in 0..u64::MAX) {
            prop_assert_eq!(MacAddr(mac).to_string().parse(), Ok(MacAddr(mac)));
            prop_assert_eq!(Digest(digest).to_string().parse(), Ok(Digest(digest)));
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = (text.parse::<MacAddr>(), text.parse::<Digest>(), text.parse::<Bytes>(), text.parse::<LinkName>());
        }
    }
}
