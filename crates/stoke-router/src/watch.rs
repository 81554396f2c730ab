//! Watches the LAN for what should not be there: stations that use addresses of the pools without having got them from us,
//! and other DHCP servers.
//!
//! ```text
//!  ARP that passes by      who has an address of the pools that nobody got     -> it rests, a conflict is reported
//!  a probe (RFC 5227)      of each address of the pools in turn; and of each
//!                          that is offered for the first time, at once         -> the same
//!  a DISCOVER of our own   once a minute; any OFFER that comes                 -> another server is reported
//! ```
//!
//! No client waits for any of it. An address that somebody uses is mostly known before it is ever offered; one that is
//! not is found between offer and request, and the request is refused.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stoke_api::objects::DhcpMode;
use stoke_api::{LinkName, MacAddr};
use stoke_dhcp::others;
use stoke_sys::packet::ArpSocket;
use tokio_util::sync::CancellationToken;

use crate::arp;
use crate::dhcp::on_interface;
use crate::journal::{Commit, Writer};
use crate::run::Shared;
use crate::state::now_ms;

/// How long nothing is done if nothing comes.
const TICK: Duration = Duration::from_millis(100);
/// Addresses probed in a tick in the first round through the pools, which no client waits for.
const FIRST_ROUND: u32 = 4;
/// Ticks between two addresses afterwards.
const LATER: u32 = 10;
/// Packets taken before the clock is looked at again.
const BURST: usize = 256;
/// Probes of offered addresses in a second; a storm may not become one of ARP.
const OFFERS: u32 = 200;
/// How soon other servers are asked for, and how often.
const FIRST_QUESTION: Duration = Duration::from_secs(1);
const QUESTION: Duration = Duration::from_mins(1);
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// Asks who has an address.
#[derive(Debug)]
pub(crate) struct Prober {
    socket: Arc<ArpSocket>,
    /// The second, and the questions in it.
    asked: Mutex<(u64, u32)>,
}

impl Prober {
    /// Asks for an address that was offered, unless too many were already in this second.
    pub(crate) fn offered(&self, address: Ipv4Addr, now: u64) {
        let mut asked = self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if asked.0 != now {
            *asked = (now, 0);
        }
        asked.1 += 1;
        let fits = asked.1 <= OFFERS;
        drop(asked);
        if fits {
            self.ask(None, address);
        }
    }

    /// A question that is lost is asked again in the next round.
    fn ask(&self, sender: Option<Ipv4Addr>, address: Ipv4Addr) {
        let packet = arp::question(self.station(), sender, address);
        if let Err(error) = self.socket.broadcast(&packet) {
            tracing::debug!(%address, "cannot ask who has it: {error}");
        }
    }

    /// Link-layer address of the interface.
    pub(crate) fn station(&self) -> MacAddr {
        MacAddr(self.socket.hardware_address())
    }
}

/// The watch on one interface.
#[derive(Debug)]
pub(crate) struct Watch {
    prober: Arc<Prober>,
    /// Where other servers' replies come; without it they are not looked for.
    replies: Option<UdpSocket>,
    /// The next address of the pools, and whether all were probed once.
    next: u32,
    went_round: bool,
    ticks: u32,
    question_at: Instant,
}

impl Watch {
    /// Opens the sockets: the watch, and what offered addresses are probed by.
    ///
    /// # Errors
    /// If the interface is not there.
    pub(crate) fn open(interface: &LinkName) -> io::Result<(Self, Arc<Prober>)> {
        let socket = Arc::new(ArpSocket::open(interface.as_str())?);
        let prober = Arc::new(Prober { socket, asked: Mutex::default() });
        let replies = match listen(interface) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%interface, "other DHCP servers are not looked for: {error:#}");
                None
            }
        };
        let question_at = Instant::now() + FIRST_QUESTION;
        let watch = Self { prober: prober.clone(), replies, next: 0, went_round: false, ticks: 0, question_at };
        Ok((watch, prober))
    }

    /// Watches until told to stop.
    pub(crate) fn run(mut self, shared: &Shared, writer: &Writer, stop: &CancellationToken) {
        let mut tick = Instant::now();
        while !stop.is_cancelled() {
            if let Err(error) = self.wait() {
                tracing::debug!("watching the LAN: {error}");
                std::thread::sleep(TICK);
            }
            self.hear_stations(shared, writer);
            self.hear_servers(shared);
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.tick(shared);
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let readable = PollFlags::IN;
        let mut fds = vec![PollFd::from_borrowed_fd(self.prober.socket.as_fd(), readable)];
        fds.extend(self.replies.iter().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), readable)));
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        match poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_stations(&self, shared: &Shared, writer: &Writer) {
        let mut packet = [0; 64];
        for _ in 0..BURST {
            let Ok(length) = self.prober.socket.receive(&mut packet) else { return };
            let Some((address, mac)) = arp::sender(packet.get(..length).unwrap_or_default()) else { continue };
            let record = shared.state().sighted(address, mac, now_ms() / 1000);
            // If the journal is busy, the address rests all the same as long as the router runs.
            if let Some(record) = record {
                writer.commit(Commit { records: vec![record], reply: None });
            }
        }
    }

    fn hear_servers(&self, shared: &Shared) {
        let mut packet = [0; 2048];
        for _ in 0..BURST {
            let received = self.replies.as_ref().and_then(|socket| socket.recv_from(&mut packet).ok());
            let Some((length, SocketAddr::V4(source))) = received else { return };
            let Some(server) = others::server_of(packet.get(..length).unwrap_or_default()) else { continue };
            let (news, own) = {
                let mut state = shared.state();
                (state.heard_server(server, now_ms() / 1000), state.gateway())
            };
            if news {
                let from = source.ip();
                tracing::warn!(%server, %from, "another DHCP server answers on this LAN, where ours should be the only one");
                // Its answer tells its station.
                self.prober.ask(own, server);
            }
        }
    }

    fn tick(&mut self, shared: &Shared) {
        let mode = shared.state().config.dhcp;
        if mode != DhcpMode::Authoritative {
            return;
        }
        self.ticks = self.ticks.wrapping_add(1);
        let probes = if self.went_round { u32::from(self.ticks.is_multiple_of(LATER)) } else { FIRST_ROUND };
        for _ in 0..probes {
            self.probe_next(shared);
        }
        if Instant::now() >= self.question_at {
            self.question_at = Instant::now() + QUESTION;
            self.ask_for_servers();
        }
    }

    fn probe_next(&mut self, shared: &Shared) {
        let (address, size) = {
            let state = shared.state();
            (state.server.idle_address(self.next, now_ms() / 1000), state.server.pooled_addresses())
        };
        self.next += 1;
        if self.next >= size {
            (self.next, self.went_round) = (0, true);
        }
        if let Some(address) = address {
            self.prober.ask(None, address);
        }
    }

    fn ask_for_servers(&self) {
        let Some(socket) = &self.replies else { return };
        let xid = u32::try_from(now_ms() & 0xffff_ffff).unwrap_or_default();
        let packet = others::probe(self.prober.station(), xid);
        if let Err(error) = socket.send_to(&packet, (Ipv4Addr::BROADCAST, SERVER_PORT)) {
            tracing::debug!("cannot ask for other DHCP servers: {error}");
        }
    }
}

fn listen(interface: &LinkName) -> anyhow::Result<UdpSocket> {
    let socket = on_interface(interface)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).into())?;
    Ok(socket.into())
}
