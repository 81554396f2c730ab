//! The DHCP sockets: requests come by UDP, replies to clients without an address go out as frames.
//!
//! A thread for each port reads as fast as packets come, so that the time at which one came is known and the kernel's
//! queue stays short; one thread (`answering`) takes them from the intake.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::LinkName;
use stoke_dhcp::{Destination, Record, Reply};
use stoke_sys::datagrams::{BATCH, Inbox};
use stoke_sys::packet::LinkSocket;
use tokio_util::sync::CancellationToken;

use crate::frame;
use crate::intake::Packet;
use crate::journal::Surroundings;
use crate::metrics::count;
use crate::proxy::Port;
use crate::run::Shared;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Of boot servers (PXE specification 2.1, section 2.2).
const BOOT_PORT: u16 = 4011;
/// Room in the socket's queue: a storm of a thousand requests is about a megabyte in the kernel's reckoning.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How soon a listener sees that it shall end.
const PAUSE: Duration = Duration::from_millis(100);
/// Longer than any Ethernet packet that has not been cut into pieces.
const LONGEST: usize = 4096;

/// Sends replies wherever they go.
#[derive(Debug)]
pub(crate) struct Outlet {
    link: LinkSocket,
    udp: Arc<UdpSocket>,
}

impl Outlet {
    fn open(interface: &LinkName, udp: Arc<UdpSocket>) -> anyhow::Result<Self> {
        let link = LinkSocket::open(interface.as_str()).with_context(|| {
            format!("cannot send on interface {interface}; is it there? `ip link show {interface}`")
        })?;
        Ok(Self { link, udp })
    }

    /// Sends a reply. One that fails is lost like any packet: the client asks again.
    pub(crate) fn send(&self, reply: &Reply) {
        if let Err(error) = self.try_send(reply) {
            tracing::warn!(to = ?reply.to, "cannot send a DHCP reply: {error}");
        }
    }

    fn try_send(&self, reply: &Reply) -> io::Result<()> {
        let udp = |address, port| self.udp.send_to(&reply.bytes, (address, port)).map(|_| ());
        match reply.to {
            Destination::Relay(relay) => udp(relay, SERVER_PORT),
            Destination::Routed(client) => udp(client, CLIENT_PORT),
            Destination::Link { mac, address } => {
                let from = SocketAddrV4::new(reply.from, SERVER_PORT);
                let to = SocketAddrV4::new(address, CLIENT_PORT);
                let packet = frame::datagram(from, to, &reply.bytes).ok_or(ErrorKind::InvalidInput)?;
                self.link.send(&packet, mac.0)
            }
            // Only what came to the boot server's port is answered so, by that port's own socket.
            Destination::Back => Err(ErrorKind::InvalidInput.into()),
        }
    }
}

/// A port that is listened on.
#[derive(Debug)]
pub(crate) struct Listener {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Listens on a port of an interface.
    ///
    /// # Errors
    /// Naming port, interface and what to do.
    pub(crate) fn start(
        interface: &LinkName,
        port: Port,
        shared: &Arc<Shared>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let socket = Arc::new(bind(interface, port)?);
        if port == Port::Dhcp {
            shared.set_outlet(Some(Outlet::open(interface, socket.clone())?));
        }
        let (shared, stopping) = (shared.clone(), stop.clone());
        let name = format!("dhcp-{}", number(port));
        let run = move || listen(&socket, port, &shared, &stopping);
        let thread = std::thread::Builder::new().name(name).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Ends it. The port is free when this returns, but for replies that are still sent from it.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("a DHCP listener did not end as it should");
        }
    }
}

fn number(port: Port) -> u16 {
    match port {
        Port::Dhcp => SERVER_PORT,
        Port::Boot => BOOT_PORT,
    }
}

fn bind(interface: &LinkName, port: Port) -> anyhow::Result<UdpSocket> {
    let (number, name) = match port {
        Port::Dhcp => (SERVER_PORT, "DHCP"),
        Port::Boot => (BOOT_PORT, "ProxyDHCP"),
    };
    let socket = on_interface(interface)?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
    let place = format!("{name} on UDP port {number} of {interface}");
    socket.bind(&address.into()).map_err(|error| not_served(&place, 'u', number, error))?;
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!("the receive buffer stays small: {error}");
    }
    socket.set_read_timeout(Some(PAUSE))?;
    socket.set_write_timeout(Some(PAUSE))?;
    Ok(socket.into())
}

/// A UDP socket of one interface, not bound yet.
///
/// # Errors
/// If there is no such interface.
pub(crate) fn on_interface(interface: &LinkName) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket
        .bind_device(Some(interface.as_str().as_bytes()))
        .with_context(|| format!("cannot use interface {interface}; is it there? `ip link show {interface}`"))?;
    Ok(socket)
}

/// Why something is not served at a `place`, with the next step.
pub(crate) fn not_served(place: &str, protocol: char, port: u16, error: io::Error) -> anyhow::Error {
    if error.kind() != ErrorKind::AddrInUse {
        return anyhow::Error::new(error).context(format!("cannot serve {place}"));
    }
    // Only those of this process' network namespace count, which is seldom the one of who reads this.
    let here = format!("in the network namespace of process {}", std::process::id());
    anyhow::anyhow!(
        "cannot serve {place}: another program has the port; `ss -{protocol}lnp sport = :{port}` {here} shows which"
    )
}

fn listen(socket: &Arc<UdpSocket>, port: Port, shared: &Shared, stop: &CancellationToken) {
    let (mut first, mut more) = ([0; LONGEST], Inbox::new(LONGEST));
    let packet = |bytes: &[u8], source, at| {
        let back = (port == Port::Boot).then(|| socket.clone());
        Packet { bytes: bytes.into(), source, port, back, at }
    };
    while !stop.is_cancelled() {
        match socket.recv_from(&mut first) {
            Ok((length, SocketAddr::V4(source))) => {
                // Under load there are others behind it.
                let followed = more.receive(socket, BATCH).is_ok();
                let at = Instant::now();
                let others = more.datagrams().filter(|_| followed).filter_map(|(source, bytes)| match source {
                    SocketAddr::V4(source) => Some(packet(bytes, source, at)),
                    SocketAddr::V6(_) => None,
                });
                let first = packet(first.get(..length).unwrap_or_default(), source, at);
                let lost = shared.intake.put(std::iter::once(first).chain(others));
                (0..lost).for_each(|_| count(&shared.metrics.dropped, "reason", "overload"));
            }
            Ok(_) => {}
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(error) => {
                // An ICMP error about an earlier reply, or the interface is down for now; the socket goes on.
                tracing::debug!("receiving DHCP: {error}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// What the journal's thread uses: replies go out where requests came in.
pub(crate) struct Committed(pub(crate) Arc<Shared>);

impl Surroundings for Committed {
    fn send(&mut self, reply: &Reply) {
        if let Some(outlet) = self.0.outlet() {
            outlet.send(reply);
        }
    }

    fn table_length(&mut self) -> usize {
        self.0.state().server.leases().len()
    }

    fn snapshot(&mut self) -> Vec<Record> {
        self.0.state().server.leases().records().collect()
    }

    fn concluded(&mut self, records: usize, failure: Option<String>) {
        let metrics = &self.0.metrics;
        metrics.records.inc_by(records as u64);
        metrics.batches.inc();
        let mut state = self.0.state();
        if state.failure != failure {
            if let Some(failure) = &failure {
                tracing::error!("{failure}");
            } else {
                tracing::info!("leases are written again");
            }
            state.failure = failure;
        }
    }
}
