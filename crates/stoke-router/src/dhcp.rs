//! The DHCP sockets: requests come by UDP, replies to clients without an address go out as frames.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::LinkName;
use stoke_dhcp::{Destination, Record, Reply, Request};
use stoke_sys::packet::LinkSocket;
use tokio_util::sync::CancellationToken;

use crate::frame;
use crate::journal::{Commit, Surroundings, Writer};
use crate::metrics::count;
use crate::proxy::Port;
use crate::run::Shared;
use crate::state::now_ms;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Of boot servers (PXE specification 2.1, section 2.2).
const BOOT_PORT: u16 = 4011;
/// Room in the socket's queue: a storm of a thousand requests is about a megabyte in the kernel's reckoning.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Sends replies wherever they go.
#[derive(Debug)]
pub(crate) struct Outlet {
    link: LinkSocket,
    udp: UdpSocket,
}

impl Outlet {
    /// Opens the way for frames beside that for packets.
    ///
    /// # Errors
    /// If the interface is not there.
    pub(crate) fn open(interface: &LinkName, udp: UdpSocket) -> anyhow::Result<Self> {
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
            // Only what came to the boot server's port is answered so, by that port's own socket.
            Destination::Back => Err(io::ErrorKind::InvalidInput.into()),
            Destination::Link { mac, address } => {
                let from = SocketAddrV4::new(reply.from, SERVER_PORT);
                let to = SocketAddrV4::new(address, CLIENT_PORT);
                let packet = frame::datagram(from, to, &reply.bytes).ok_or(io::ErrorKind::InvalidInput)?;
                self.link.send(&packet, mac.0)
            }
        }
    }
}

/// Opens the server's port on one interface.
///
/// # Errors
/// Naming port, interface and what to do.
pub(crate) fn bind(interface: &LinkName, port: Port) -> anyhow::Result<UdpSocket> {
    let (number, name) = match port {
        Port::Dhcp => (SERVER_PORT, "DHCP"),
        Port::Boot => (BOOT_PORT, "ProxyDHCP"),
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket
        .bind_device(Some(interface.as_str().as_bytes()))
        .with_context(|| format!("cannot use interface {interface}; is it there? `ip link show {interface}`"))?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
    let place = format!("{name} on UDP port {number} of {interface}");
    socket.bind(&address.into()).map_err(|error| not_served(&place, 'u', number, error))?;
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!("the receive buffer stays small: {error}");
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Why something is not served at a `place`, with the next step.
pub(crate) fn not_served(place: &str, protocol: char, port: u16, error: io::Error) -> anyhow::Error {
    if error.kind() != io::ErrorKind::AddrInUse {
        return anyhow::Error::new(error).context(format!("cannot serve {place}"));
    }
    // Only those of this process' network namespace count, which is seldom the one of who reads this.
    let here = format!("in the network namespace of process {}", std::process::id());
    anyhow::anyhow!(
        "cannot serve {place}: another program has the port; `ss -{protocol}lnp sport = :{port}` {here} shows which"
    )
}

/// Answers requests until told to stop.
pub(crate) async fn serve(
    socket: tokio::net::UdpSocket,
    port: Port,
    shared: Arc<Shared>,
    writer: Writer,
    stop: CancellationToken,
) {
    let mut buffer = vec![0; 2048];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, SocketAddr::V4(source))) => {
                let back = handle(buffer.get(..length).unwrap_or_default(), *source.ip(), port, &shared, &writer);
                if let Some(reply) = back
                    && let Err(error) = socket.send_to(&reply.bytes, source).await
                {
                    tracing::warn!(%source, "cannot send a ProxyDHCP reply: {error}");
                }
            }
            Ok(_) => {}
            // An ICMP error about an earlier reply; the socket goes on.
            Err(error) => tracing::debug!("receiving DHCP: {error}"),
        }
    }
}

/// Answers a packet; what goes back to where it came from is for the caller.
fn handle(packet: &[u8], source: Ipv4Addr, port: Port, shared: &Shared, writer: &Writer) -> Option<Reply> {
    let metrics = &shared.metrics;
    let request = match Request::parse(packet) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%source, "{error}");
            count(&metrics.dropped, "reason", "malformed");
            return None;
        }
    };
    count(&metrics.requests, "type", format!("{:?}", request.kind));
    let answer = shared.state().answer(&request, source, port, now_ms());
    tracing::debug!(mac = %request.mac, request = ?request.kind, reply = ?answer.kind, address = ?answer.address, "DHCP");
    if answer.exhausted {
        tracing::warn!(mac = %request.mac, "no address is left for it; make the pools larger");
        count(&metrics.dropped, "reason", "exhausted");
    }
    if let Some(kind) = answer.kind {
        count(&metrics.replies, "type", format!("{kind:?}"));
    }
    match (answer.record, answer.reply) {
        (Some(record), reply) => {
            if !writer.commit(Commit { records: vec![record], reply }) {
                count(&metrics.dropped, "reason", "disk");
            }
        }
        (None, Some(reply)) if reply.to == Destination::Back => return Some(reply),
        (None, Some(reply)) => {
            if let Some(outlet) = shared.outlet.get() {
                outlet.send(&reply);
            }
        }
        (None, None) => {}
    }
    None
}

/// What the journal's thread uses: replies go out where requests came in.
pub(crate) struct Committed(pub(crate) Arc<Shared>);

impl Surroundings for Committed {
    fn send(&mut self, reply: &Reply) {
        if let Some(outlet) = self.0.outlet.get() {
            outlet.send(reply);
        }
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
