//! A boot program by TFTP, as firmware asks for it: `tsize`, `blksize`, `windowsize` (RFC 2347 to 2349, 7440).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

const PORT: u16 = 69;
const BLOCK: usize = 1468;
/// As OVMF asks.
const WINDOW: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 6;
const READ: u16 = 1;
const DATA: u16 = 3;
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

/// Loads a file.
pub(crate) fn load(from: Ipv4Addr, server: Ipv4Addr, name: &str) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((from, 0)).context("no port for TFTP")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut transfer =
        Transfer { socket, server: (server, PORT).into(), content: Vec::new(), block: 0, window: 1, since: 0 };
    transfer.run(name).with_context(|| format!("TFTP of {name} from {server}"))?;
    Ok(transfer.content)
}

struct Transfer {
    socket: UdpSocket,
    server: SocketAddr,
    content: Vec<u8>,
    /// The last block that came in its turn.
    block: u16,
    window: u16,
    /// Blocks since the last acknowledgement.
    since: u16,
}

impl Transfer {
    fn run(&mut self, name: &str) -> Result<()> {
        let mut last = request(name);
        self.socket.send_to(&last, self.server)?;
        let (mut buffer, mut failures) = ([0; 2048], 0);
        loop {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else {
                failures += 1;
                ensure!(failures < ATTEMPTS, "no answer after {} bytes", self.content.len());
                self.socket.send_to(&last, self.server)?;
                continue;
            };
            if from.ip() != self.server.ip() {
                continue;
            }
            self.server = from;
            failures = 0;
            match self.take(buffer.get(..length).unwrap_or_default())? {
                Next::Nothing => {}
                Next::Acknowledge { done } => {
                    last = acknowledgement(self.block);
                    self.socket.send_to(&last, self.server)?;
                    if done {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn take(&mut self, packet: &[u8]) -> Result<Next> {
        let two = |at: usize| packet.get(at..at + 2).and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
        match two(0) {
            Some(OPTIONS) => {
                let words: Vec<_> = packet.get(2..).unwrap_or_default().split(|byte| *byte == 0).collect();
                let window = words.chunks(2).find(|pair| pair.first() == Some(&&b"windowsize"[..]));
                let granted = window.and_then(|pair| std::str::from_utf8(pair.get(1)?).ok()?.parse().ok());
                self.window = granted.unwrap_or(1);
                Ok(Next::Acknowledge { done: false })
            }
            Some(DATA) => Ok(self.data(two(2).unwrap_or_default(), packet.get(4..).unwrap_or_default())),
            Some(ERROR) => bail!("refused: {}", String::from_utf8_lossy(packet.get(4..).unwrap_or_default())),
            _ => Ok(Next::Nothing),
        }
    }

    fn data(&mut self, number: u16, data: &[u8]) -> Next {
        if number != self.block.wrapping_add(1) {
            // One is missing: what came in its turn is named again (RFC 7440, section 4).
            self.since = 0;
            return Next::Acknowledge { done: false };
        }
        self.block = number;
        self.content.extend_from_slice(data);
        self.since += 1;
        let done = data.len() < BLOCK;
        if done || self.since >= self.window {
            self.since = 0;
            return Next::Acknowledge { done };
        }
        Next::Nothing
    }
}

enum Next {
    Nothing,
    Acknowledge { done: bool },
}

fn request(name: &str) -> Vec<u8> {
    let (block, window) = (BLOCK.to_string(), WINDOW.to_string());
    let words = [name, "octet", "tsize", "0", "blksize", &block, "windowsize", &window];
    let mut packet = READ.to_be_bytes().to_vec();
    for word in words {
        packet.extend(word.as_bytes());
        packet.push(0);
    }
    packet
}

fn acknowledgement(block: u16) -> Vec<u8> {
    [ACKNOWLEDGE.to_be_bytes(), block.to_be_bytes()].concat()
}
