//! DNS: questions of machines, and answers of servers elsewhere.

use std::net::Ipv4Addr;

use stoke_dns::relay::{self, Relayed};
use stoke_dns::zone::Decision;

/// A question, and the same bytes as the answer to it.
pub fn question(input: &[u8]) {
    let subnet = (ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 10, 0, 0), 24), Ipv4Addr::new(10, 10, 0, 1));
    let Ok(mut zone) = stoke_dns::Zone::new("lab.internal", &[subnet]) else { return };
    zone.insert("node-1", Ipv4Addr::new(10, 10, 0, 21));
    if let Decision::Answer(bytes) = zone.decide(input) {
        assert_eq!(bytes.get(..2), input.get(..2), "the answer to another question");
        // A question must not bring more of an answer than it is worth to whoever forged its sender.
        assert!(bytes.len() <= input.len() + 512, "{} bytes to a question of {}", bytes.len(), input.len());
    }
    let _ = relay::failure(input);
    if let Some(relayed) = Relayed::new(input, 0x1234) {
        assert_eq!(relayed.packet().len(), input.len());
        let response = [&[0x12, 0x34], input.get(2..).unwrap_or_default()].concat();
        let _ = relayed.accept(&response);
    }
}
