//! The DNS sockets: questions about the LAN's names are answered, the others go to the upstream servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use stoke_dns::{Decision, Relayed, relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dhcp::not_served;
use crate::metrics::count;
use crate::run::Shared;
use crate::state::now_ms;

const PORT: u16 = 53;
/// How long one upstream server has for one question.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);
/// How long a client may keep a connection without asking (RFC 7766 section 6.2.3: seconds).
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that may wait to be taken.
const BACKLOG: i32 = 128;
/// Questions that may wait for upstream servers at a time.
const IN_FLIGHT: usize = 512;
/// Connections at a time.
const CONNECTIONS: usize = 128;

/// What bounds the work of one address.
#[derive(Debug)]
pub(crate) struct Limits {
    in_flight: Semaphore,
    connections: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: Semaphore::new(IN_FLIGHT), connections: Semaphore::new(CONNECTIONS) }
    }
}

/// The sockets of one address.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them.
    ///
    /// # Errors
    /// Naming port, address and what to do.
    pub(crate) fn bind(address: IpAddr) -> anyhow::Result<Self> {
        let place = |protocol: &str| format!("DNS on {protocol} port {PORT} of {address}");
        let udp = bind(address, Type::DGRAM).and_then(|socket| UdpSocket::from_std(socket.into()));
        let udp = udp.map_err(|error| not_served(&place("UDP"), 'u', PORT, error))?;
        let tcp = bind(address, Type::STREAM).and_then(|socket| {
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        });
        let tcp = tcp.map_err(|error| not_served(&place("TCP"), 't', PORT, error))?;
        Ok(Self { udp: Arc::new(udp), tcp })
    }

    /// Answers until told to stop.
    pub(crate) async fn serve(self, shared: Arc<Shared>, stop: CancellationToken) {
        let limits = Arc::new(Limits::default());
        let udp = serve_udp(self.udp, shared.clone(), limits.clone());
        let tcp = serve_tcp(self.tcp, shared, limits);
        tokio::select! {
            () = stop.cancelled() => {}
            () = udp => {}
            () = tcp => {}
        }
    }
}

/// A socket at the port. Of IPv6 the address may come later: it is the node agent that lays it.
fn bind(address: IpAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address((address, PORT).into()), kind, None)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        // Connections of the process before this one may linger.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::from((address, PORT)).into())?;
    Ok(socket)
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>, limits: Arc<Limits>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!("receiving DNS: {error}");
                continue;
            }
        };
        let packet = buffer.get(..length).unwrap_or_default();
        match decide(&shared, packet) {
            Decision::Answer(answer) => reply(&socket, &answer, client).await,
            Decision::Ignore => {}
            Decision::Forward => {
                let (packet, socket) = (packet.to_vec(), socket.clone());
                let (shared, limits) = (shared.clone(), limits.clone());
                tokio::spawn(async move {
                    if let Some(answer) = forward(&shared, &limits, &packet, Transport::Udp).await {
                        reply(&socket, &answer, client).await;
                    }
                });
            }
        }
    }
}

async fn reply(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, "cannot send a DNS answer: {error}");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, limits: Arc<Limits>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("accepting a DNS client: {error}");
                // Out of descriptors most likely; others must close some first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (shared, limits) = (shared.clone(), limits.clone());
        tokio::spawn(async move {
            let Ok(_permit) = limits.connections.try_acquire() else { return };
            if let Err(error) = converse(stream, &shared, &limits).await {
                tracing::debug!("DNS by TCP: {error}");
            }
        });
    }
}

/// One client's questions, one after the other.
async fn converse(mut stream: TcpStream, shared: &Shared, limits: &Limits) -> io::Result<()> {
    while let Ok(packet) = timeout(IDLE_LIMIT, read_message(&mut stream)).await {
        let packet = packet?;
        let answer = match decide(shared, &packet) {
            Decision::Answer(answer) => Some(answer),
            Decision::Forward => forward(shared, limits, &packet, Transport::Tcp).await,
            Decision::Ignore => None,
        };
        let Some(answer) = answer else { return Ok(()) };
        timeout(IDLE_LIMIT, write_message(&mut stream, &answer)).await??;
    }
    Ok(())
}

/// RFC 1035 section 4.2.2: two bytes of length before each message.
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    // In one piece (RFC 7766 section 8).
    stream.write_all(&[length.to_be_bytes().as_slice(), message].concat()).await
}

fn decide(shared: &Shared, packet: &[u8]) -> Decision {
    let zone = shared.state().zone(now_ms() / 1000);
    let decision = zone.decide(packet);
    let outcome = match &decision {
        Decision::Answer(_) => "answered",
        Decision::Forward => "forwarded",
        Decision::Ignore => "ignored",
    };
    count(&shared.metrics.questions, "outcome", outcome);
    decision
}

/// How a question came, and so goes on. A truncated answer goes to the client as it is: it asks again by TCP.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Udp,
    Tcp,
}

/// The upstream servers' answer; a failure if none of them gives one.
async fn forward(shared: &Shared, limits: &Limits, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    if let Ok(_permit) = limits.in_flight.try_acquire() {
        for upstream in upstreams(shared) {
            match timeout(UPSTREAM_LIMIT, ask(upstream, packet, transport)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%upstream, "asking a name server: {error}"),
                Err(_) => tracing::debug!(%upstream, "the name server does not answer"),
            }
        }
    }
    count(&shared.metrics.questions, "outcome", "failed");
    relay::failure(packet)
}

/// Without our own addresses: a question must not go round in circles.
fn upstreams(shared: &Shared) -> Vec<IpAddr> {
    let state = shared.state();
    let own = |address: &IpAddr| state.config.subnets.iter().any(|subnet| IpAddr::V4(subnet.gateway) == *address);
    state.config.upstreams.iter().filter(|address| !own(address)).copied().collect()
}

async fn ask(upstream: IpAddr, packet: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    let relayed = Relayed::new(packet, random_id()?).ok_or(io::ErrorKind::InvalidInput)?;
    match transport {
        Transport::Udp => ask_udp(upstream, &relayed).await,
        Transport::Tcp => ask_tcp(upstream, &relayed).await,
    }
}

/// By a socket, and so a port, of its own: both must be guessed (RFC 5452 section 9.2).
async fn ask_udp(upstream: IpAddr, relayed: &Relayed) -> io::Result<Vec<u8>> {
    let any = match upstream {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect((upstream, PORT)).await?;
    socket.send(relayed.packet()).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = relayed.accept(buffer.get(..length).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(upstream: IpAddr, relayed: &Relayed) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((upstream, PORT)).await?;
    write_message(&mut stream, relayed.packet()).await?;
    let answer = read_message(&mut stream).await?;
    relayed.accept(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_be_bytes(id))
}
