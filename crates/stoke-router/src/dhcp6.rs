//! DHCPv6: one socket, on which requests come and from which replies go back where they came from.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::LinkName;
use stoke_dhcp::v6::{Identity, Packet};
use stoke_sys::packet::LinkSocket;
use tokio_util::sync::CancellationToken;

use crate::dhcp::not_served;
use crate::metrics::count;
use crate::run::Shared;
use crate::state::now_ms;

const SERVER_PORT: u16 = 547;
/// RFC 8415 section 7.1: where clients ask, and where relays do that know no server.
const ALL_SERVERS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3)];
/// Room in the socket's queue, as for IPv4.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Opens the server's port on one interface.
///
/// # Errors
/// Naming port, interface and what to do.
pub(crate) fn bind(interface: &LinkName) -> anyhow::Result<UdpSocket> {
    let link = LinkSocket::open(interface.as_str()).with_context(|| format!("cannot use interface {interface}"))?;
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    socket.bind_device(Some(interface.as_str().as_bytes()))?;
    let place = format!("DHCPv6 on UDP port {SERVER_PORT} of {interface}");
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVER_PORT));
    socket.bind(&address.into()).map_err(|error| not_served(&place, 'u', SERVER_PORT, error))?;
    for group in &ALL_SERVERS {
        socket.join_multicast_v6(group, link.index())?;
    }
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!("the receive buffer stays small: {error}");
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Link-layer address of the interface.
///
/// # Errors
/// If it is not there.
pub(crate) fn station(interface: &LinkName) -> anyhow::Result<[u8; 6]> {
    let link = LinkSocket::open(interface.as_str()).with_context(|| format!("cannot use interface {interface}"))?;
    Ok(link.hardware_address())
}

/// Answers requests until told to stop.
pub(crate) async fn serve(socket: tokio::net::UdpSocket, shared: Arc<Shared>, stop: CancellationToken) {
    let mut buffer = vec![0; 4096];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, source) = match received {
            Ok((length, SocketAddr::V6(source))) => (length, source),
            Ok(_) => continue,
            // An ICMP error about an earlier reply; the socket goes on.
            Err(error) => {
                tracing::debug!("receiving DHCPv6: {error}");
                continue;
            }
        };
        // Back to the address and port that the request came from: a client's 546, a relay's 547 (RFC 8415 section
        // 18.3.10), or what another client uses.
        if let Some(reply) = answer(buffer.get(..length).unwrap_or_default(), source, &shared)
            && let Err(error) = socket.send_to(&reply, source).await
        {
            tracing::warn!(%source, "cannot send a DHCPv6 reply: {error}");
        }
    }
}

fn answer(packet: &[u8], source: SocketAddrV6, shared: &Shared) -> Option<Vec<u8>> {
    let metrics = &shared.metrics;
    let request = match Packet::parse(packet) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%source, "{error}");
            count(&metrics.dropped6, "reason", "malformed");
            return None;
        }
    };
    count(&metrics.requests6, "type", format!("{:?}", request.kind));
    let client = Identity::of(&request, *source.ip());
    let answer = shared.state().answer6(&request, &client, now_ms());
    let mac = client.mac.map(tracing::field::display);
    tracing::debug!(mac, request = ?request.kind, reply = ?answer.kind, addresses = ?answer.addresses, "DHCPv6");
    match answer.kind {
        Some(kind) => count(&metrics.replies6, "type", format!("{kind:?}")),
        None => count(&metrics.dropped6, "reason", "not for us"),
    }
    answer.reply
}
