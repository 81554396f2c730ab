//! What real firmware, loaders and DHCP clients say on the wire: whole conversations with a router and a farm of ours, one
//! file each in `wire/`, for tests that replay them through the protocols without any of the machines.
//!
//! - [`all`] reads the files; the tests of `stoke-router`, `stoke-tftp` and `stoke-farm` replay them.
//! - `text`: how a conversation is written down.
//! - [`frames`]: how one is found in what `tcpdump` saw.
//! - `examples/record` makes the files anew: `cargo run -p captures --example record [NAME…]`.
//!
//! What this crate never does: judge what was said. What the answer to each packet has to be is in the snapshots of
//! the crates that give it. Read `text` first.

pub mod frames;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
pub use text::hex;

/// A conversation of one machine or client with our servers, from its first packet to the last one that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// What spoke, for a file's name: `ovmf-http4`.
    pub name: String,
    /// What spoke, with its version.
    pub about: String,
    /// What was said, in order. Repetitions of a packet are left out.
    pub packets: Vec<Packet>,
}

/// One message, without the headers of the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub protocol: Protocol,
    /// Who sent it.
    pub from: Side,
    /// The sender's address.
    pub source: IpAddr,
    /// The server's port.
    pub port: u16,
    /// The UDP payload; of HTTP, a request's head with the empty line that ends it.
    pub bytes: Vec<u8>,
}

/// A protocol of which packets are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// DHCP for IPv4: everything.
    Dhcp,
    /// DHCPv6: everything.
    Dhcp6,
    /// TFTP: requests, and what is said of options and errors.
    Tftp,
    /// HTTP without TLS: heads of requests.
    Http,
}

impl Protocol {
    const ALL: [(Self, &str); 4] =
        [(Self::Dhcp, "dhcp"), (Self::Dhcp6, "dhcp6"), (Self::Tftp, "tftp"), (Self::Http, "http")];

    /// By the server's port, and whether it is one of UDP.
    fn of(port: u16, udp: bool) -> Option<Self> {
        match (udp, port) {
            (true, 67 | 4011) => Some(Self::Dhcp),
            (true, 547) => Some(Self::Dhcp6),
            (true, 69) => Some(Self::Tftp),
            (false, 80) => Some(Self::Http),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(protocol, _)| protocol == self);
        f.write_str(found.map_or("", |(_, name)| name))
    }
}

impl FromStr for Protocol {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(protocol, _)| *protocol).with_context(|| format!("{text:?} is no protocol"))
    }
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The machine.
    Client,
    /// Our router or farm, or the DHCP server beside them.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Client { "client" } else { "server" })
    }
}

impl FromStr for Side {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            other => bail!("{other:?} is neither client nor server"),
        }
    }
}

impl Conversation {
    /// What the client said by one protocol, in order.
    pub fn asked(&self, protocol: Protocol) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(move |packet| packet.protocol == protocol && packet.from == Side::Client)
    }

    /// Writes it down where [`all`] finds it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self) -> Result<PathBuf> {
        let path = folder().join(format!("{}.capture", self.name));
        fs_err::write(&path, text::print(self))?;
        Ok(path)
    }
}

/// All conversations, by name.
///
/// # Errors
/// If a file cannot be read, or is none of ours.
pub fn all() -> Result<Vec<Conversation>> {
    let mut files = fs_err::read_dir(folder())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "capture"));
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Conversation> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    text::parse(&name, &fs_err::read_to_string(path)?).with_context(|| format!("cannot read {}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("wire")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conversation_can_be_read_and_has_something_to_replay() {
        let all = all().unwrap();
        assert!(all.len() > 15, "only {} conversations", all.len());
        for one in &all {
            let asked = one.packets.iter().filter(|packet| packet.from == Side::Client).count();
            assert!(asked > 0 && asked < one.packets.len(), "{} is no conversation", one.name);
            assert_eq!(text::parse(&one.name, &text::print(one)).unwrap(), *one);
        }
    }

    #[test]
    fn between_them_they_speak_every_protocol() {
        let all = all().unwrap();
        for (protocol, name) in Protocol::ALL {
            assert!(all.iter().any(|one| one.asked(protocol).count() > 0), "nobody speaks {name}");
        }
    }
}
