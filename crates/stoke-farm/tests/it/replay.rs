//! The heads of requests that firmware and loaders really send (`test/captures`), as they are understood.

use std::fmt::Write as _;

use captures::{Packet, Protocol};
use stoke_farm::request::parse;

#[test]
fn firmware_and_loaders_are_understood() {
    let mut text = String::new();
    for one in captures::all().unwrap() {
        let asked = one.asked(Protocol::Http).map(understood).collect::<String>();
        if !asked.is_empty() {
            write!(text, "{}: {}\n{asked}\n", one.name, one.about).unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

fn understood(packet: &Packet) -> String {
    for end in 0..packet.bytes.len() {
        assert!(parse(&packet.bytes[..end]).unwrap().is_none(), "a part of the head was taken for all of it");
    }
    let (request, length) = parse(&packet.bytes).unwrap().unwrap();
    assert_eq!((length, request.body), (packet.bytes.len(), 0));
    let field = |name: &str| request.fields.get(name).map_or("-", |value| value.to_str().unwrap());
    let after = if request.persistent { "may go on" } else { "ends" };
    let (method, target, version) = (&request.method, &request.target, request.version);
    format!(
        "  {method} {target} {version:?}, {after}, host {}, range {}, {}\n",
        field("host"),
        field("range"),
        field("user-agent")
    )
}
