//! What the role counts is what its page in the documentation says.

use std::net::Ipv4Addr;

use testbed::metrics::{documented, faults, page, scraped};

use crate::packets::{DISCOVER, Message};
use crate::world::{CLIENT, World, wait_for};

/// What nobody asks for here.
const QUIET: [&str; 4] = ["dhcp6_requests", "dhcp6_replies", "dhcp6_dropped", "dns_questions"];

#[test]
fn metrics_are_documented_and_the_documented_are_there() {
    let world = World::new();
    let role = world.start(&world.config());
    let socket = world.socket(true, 68);
    let question = Message::new(DISCOVER, CLIENT, 7).bytes();
    // Without traffic, what is counted by kind has no kinds.
    wait_for("an answer and a refusal to be counted", || {
        for packet in [&question[..], b"nonsense"] {
            socket.send_to(packet, (Ipv4Addr::BROADCAST, 67)).unwrap();
        }
        let text = role.metrics();
        text.contains("dhcp_replies_total{") && text.contains("dhcp_dropped_total{")
    });
    let text = role.metrics();
    let scraped = scraped(&text);
    let silent = |row: &&String| QUIET.iter().any(|name| row.contains(name));
    let documented = documented("stoke_router_");
    let mut all = scraped.clone();
    all.extend(documented.iter().filter(silent).cloned());
    let page = page(&scraped);
    assert_eq!(all, documented, "the rows of docs/src/reference/metrics.md should be:\n{page}\n");
    assert_eq!(faults(&scraped), Vec::<&String>::new());
    assert!(text.ends_with("# EOF\n"));
}
