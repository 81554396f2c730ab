//! Names and link-layer addresses that are made from what they stand for: the same after a restart.

use stoke_api::names::{LinkName, MacAddr};

/// FNV-1a, 32 bits.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// `PREFIX` and eight hexadecimal digits.
pub(crate) fn hashed(prefix: &'static str, text: &str) -> LinkName {
    let name = format!("{prefix}{:08x}", hash(text));
    // All prefixes are ours and short: such a name is always one.
    name.parse().unwrap_or_else(|_| unreachable!("{name} is a name"))
}

/// A locally administered unicast address.
pub(crate) fn station(text: &str) -> MacAddr {
    let [a, b, c, d] = hash(text).to_be_bytes();
    MacAddr([0x0a, 0x53, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_and_stays_the_same() {
        assert_eq!(hashed("sx-", "lab").as_str(), hashed("sx-", "lab").as_str());
        assert_ne!(hashed("sx-", "lab"), hashed("sx-", "lab2"));
        assert_eq!(hashed("sx-", "").as_str(), "sx-811c9dc5");
    }

    #[test]
    fn a_made_address_is_of_one_station_and_of_no_maker() {
        let made = station("bridge default/lab node-1");
        assert!(made.is_unicast());
        assert_eq!(made.0[0] & 2, 2);
    }
}
