//! A client that runs many transfers in one thread and looks at every byte.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stoke_sys::datagrams::{BATCH, Inbox};
use testbed::World;

/// After this long without a packet the last word is said again, as firmware does.
const AGAIN: Duration = Duration::from_secs(1);
/// So often.
const PATIENCE: u32 = 8;

/// What is asked for.
pub(super) struct Ask {
    pub(super) server: SocketAddr,
    pub(super) name: String,
    pub(super) block: u16,
    pub(super) window: u16,
}

/// Fetches a file `count` times at once from a host; returns how many got all of `content` and nothing else.
pub(super) fn fetch(host: &World, ask: &Ask, content: &[u8], count: usize, limit: Duration) -> Result<usize> {
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| -> Result<usize> {
            host.enter()?;
            run(ask, content, count, Instant::now() + limit)
        });
        clients.join().map_err(|_| anyhow!("the client's thread panicked"))?
    })
}

fn run(ask: &Ask, content: &[u8], count: usize, end: Instant) -> Result<usize> {
    let mut inbox = Inbox::new(2048);
    let mut clients = (0..count).map(|_| Client::start(ask)).collect::<Result<Vec<_>>>()?;
    let mut whole = 0;
    while !clients.is_empty() && Instant::now() < end {
        let readable = readable(&clients)?;
        let now = Instant::now();
        for (client, readable) in clients.iter_mut().zip(readable) {
            if readable {
                client.receive(&mut inbox, content, now)?;
            }
            client.look_at_clock(now)?;
        }
        clients.retain(|client| match client.over {
            None => true,
            Some(complete) => {
                whole += usize::from(complete);
                false
            }
        });
    }
    Ok(whole)
}

fn readable(clients: &[Client]) -> Result<Vec<bool>> {
    let mut fds: Vec<_> = clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    /// Whether the server's port for this transfer is known.
    answered: bool,
    block: usize,
    window: u64,
    /// Blocks that arrived in order, and how many of them are not acknowledged.
    arrived: u64,
    unsaid: u64,
    /// Whether the server was already told that something is missing.
    told: bool,
    last: Vec<u8>,
    heard: Instant,
    again: u32,
    over: Option<bool>,
}

impl Client {
    fn start(ask: &Ask) -> Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_nonblocking(true)?;
        let (block, window) = (ask.block.to_string(), ask.window.to_string());
        let mut last = vec![0, 1];
        let mut fields = vec![ask.name.as_str(), "octet", "blksize", &block];
        if ask.window > 1 {
            fields.extend(["windowsize", window.as_str()]);
        }
        for field in fields {
            last.extend(field.bytes().chain([0]));
        }
        let heard = Instant::now();
        let (arrived, unsaid, again) = (0, 0, 0);
        let (answered, told, over) = (false, false, None);
        // Without an answer to the options, RFC 1350 holds.
        let (block, window, server) = (512, 1, ask.server);
        let client = Self { socket, server, answered, block, window, arrived, unsaid, told, last, heard, again, over };
        client.send()?;
        Ok(client)
    }

    fn send(&self) -> Result<()> {
        match self.socket.send_to(&self.last, self.server) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, inbox: &mut Inbox, content: &[u8], now: Instant) -> Result<()> {
        if inbox.receive(&self.socket, BATCH).is_err() {
            return Ok(());
        }
        for (from, bytes) in inbox.datagrams() {
            if self.answered && from != self.server {
                continue;
            }
            (self.server, self.answered, self.heard, self.again) = (from, true, now, 0);
            match bytes {
                [0, 3, high, low, data @ ..] => self.data(u16::from_be_bytes([*high, *low]), data, content)?,
                [0, 6, options @ ..] => self.options(options)?,
                _ => self.over = Some(false),
            }
        }
        Ok(())
    }

    fn options(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = bytes.split(|byte| *byte == 0).map(|field| std::str::from_utf8(field).unwrap_or_default());
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match name {
                "blksize" => self.block = value.parse()?,
                "windowsize" => self.window = value.parse()?,
                _ => {}
            }
        }
        self.acknowledge()
    }

    fn data(&mut self, number: u16, data: &[u8], content: &[u8]) -> Result<()> {
        let next = self.arrived + 1;
        if u64::from(number) != next % 65536 {
            // One word for each gap is enough (RFC 7440, section 4).
            let word = if self.told { Ok(()) } else { self.acknowledge() };
            self.told = true;
            return word;
        }
        let from = usize::try_from(self.arrived)? * self.block;
        let wanted = content.get(from..content.len().min(from + self.block));
        if wanted != Some(data) {
            self.over = Some(false);
            return Ok(());
        }
        (self.arrived, self.told) = (next, false);
        self.unsaid += 1;
        let last = data.len() < self.block;
        if last || self.unsaid == self.window {
            self.acknowledge()?;
        }
        if last {
            self.over = Some(true);
        }
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<()> {
        let [.., high, low] = self.arrived.to_be_bytes();
        self.last = vec![0, 4, high, low];
        self.unsaid = 0;
        self.send()
    }

    fn look_at_clock(&mut self, now: Instant) -> Result<()> {
        if now.saturating_duration_since(self.heard) < AGAIN * (self.again + 1) {
            return Ok(());
        }
        self.again += 1;
        if self.again > PATIENCE {
            self.over = Some(false);
            return Ok(());
        }
        if self.answered { self.acknowledge() } else { self.send() }
    }
}
