//! What firmware and loaders really ask (`test/captures`), and what a transfer grants them; without a socket.

use std::fmt::Write as _;
use std::time::Instant;

use captures::{Packet as Captured, Protocol};
use stoke_tftp::{Action, Limits, Packet, Request, Transfer};

/// Bytes of every file here.
const SIZE: u64 = 1_000_000;

#[test]
fn firmware_and_loaders_are_granted_what_they_ask() {
    let mut text = String::new();
    for one in captures::all().unwrap() {
        let asked = one.asked(Protocol::Tftp).map(answer).collect::<String>();
        if !asked.is_empty() {
            write!(text, "{}: {}\n{asked}\n", one.name, one.about).unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

fn answer(captured: &Captured) -> String {
    match Packet::parse(&captured.bytes).unwrap() {
        Packet::Read(request) => granted(&request),
        Packet::Error { code, message } => format!("  error {code} {message:?}\n"),
        other => panic!("neither a request nor an error: {other:?}"),
    }
}

fn granted(request: &Request<'_>) -> String {
    let options = request.options.iter().fold(String::new(), |text, (name, value)| format!("{text} {name}={value}"));
    let now = Instant::now();
    let first = match Transfer::start(request, SIZE, Limits::default(), now).poll(now) {
        Action::Send(packet) => option_ack(&packet),
        Action::Data { block, length, .. } => format!("block {block} of {length} bytes"),
        other => panic!("nothing is sent: {other:?}"),
    };
    format!("  read {} {}{options} -> {first}\n", request.file, request.mode)
}

/// RFC 2347: the operation 6, then names and values, each with a zero byte at its end.
fn option_ack(packet: &[u8]) -> String {
    let fields = packet.strip_prefix(&[0, 6]).and_then(|fields| fields.strip_suffix(&[0])).unwrap();
    let fields = fields.split(|byte| *byte == 0).map(|field| std::str::from_utf8(field).unwrap()).collect::<Vec<_>>();
    let pairs = fields.as_chunks::<2>().0.iter();
    pairs.fold("options".to_owned(), |text, [name, value]| format!("{text} {name}={value}"))
}
