//! How a conversation is written down: lines that begin with `#` say what spoke; each other line is a packet.
//!
//! ```text
//! # OVMF 2022.11, UEFI HTTPv4
//! dhcp client 0.0.0.0 67 010106009a…
//! ```
//!
//! Protocol, who sent it, the sender's address, the server's port, the bytes in hexadecimal.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

use crate::{Conversation, Packet};

/// Writes a conversation.
pub(crate) fn print(conversation: &Conversation) -> String {
    let mut text = format!("# {}\n", conversation.about);
    for Packet { protocol, from, source, port, bytes } in &conversation.packets {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{protocol} {from} {source} {port} {}", hex(bytes));
    }
    text
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads one.
pub(crate) fn parse(name: &str, text: &str) -> Result<Conversation> {
    let mut conversation = Conversation { name: name.to_owned(), about: String::new(), packets: vec![] };
    for (number, line) in text.lines().enumerate() {
        if let Some(about) = line.strip_prefix("# ") {
            about.clone_into(&mut conversation.about);
        } else {
            conversation.packets.push(packet(line).with_context(|| format!("line {}", number + 1))?);
        }
    }
    Ok(conversation)
}

fn packet(line: &str) -> Result<Packet> {
    let words = line.split(' ').collect::<Vec<_>>();
    let [protocol, from, source, port, bytes] = words.as_slice() else { bail!("not five words: {line:.60}") };
    let (source, port) = (source.parse().context("the address")?, port.parse().context("the port")?);
    Ok(Packet { protocol: protocol.parse()?, from: from.parse()?, source, port, bytes: unhex(bytes)? })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { bail!("half a byte") };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    pairs.iter().map(byte).collect::<Option<_>>().context("not hexadecimal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Side};

    #[test]
    fn what_was_written_is_read() {
        let tftp = Packet {
            protocol: Protocol::Tftp,
            from: Side::Client,
            source: "10.10.0.27".parse().unwrap(),
            port: 69,
            bytes: vec![0, 1, 0xfe],
        };
        let dhcp6 = Packet {
            protocol: Protocol::Dhcp6,
            from: Side::Server,
            source: "fe80::1".parse().unwrap(),
            port: 547,
            bytes: vec![],
        };
        let one = Conversation { name: "x".to_owned(), about: "Firmware 1.0".to_owned(), packets: vec![tftp, dhcp6] };
        let text = print(&one);
        assert_eq!(text, "# Firmware 1.0\ntftp client 10.10.0.27 69 0001fe\ndhcp6 server fe80::1 547 \n");
        assert_eq!(parse("x", &text).unwrap(), one);
    }

    #[test]
    fn what_is_no_packet_is_told_with_its_line() {
        let wrong = |line: &str| format!("{:#}", parse("x", &format!("# y\n{line}\n")).unwrap_err());
        assert_eq!(wrong("dhcp client"), "line 2: not five words: dhcp client");
        assert_eq!(wrong("dhcp client 0.0.0.0 67 0"), "line 2: half a byte");
        assert_eq!(wrong("dhcp client 0.0.0.0 67 0g"), "line 2: not hexadecimal");
        assert_eq!(wrong("smtp client 0.0.0.0 67 00"), "line 2: \"smtp\" is no protocol");
    }
}
