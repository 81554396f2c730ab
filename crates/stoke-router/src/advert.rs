//! Router solicitations are answered, so that nobody waits for an answer.
//!
//! iPXE configures IPv4 and IPv6 together and waits about twelve seconds for a router advertisement (RFC 4861) that a
//! LAN without IPv6 never sends. Ours says that there is nothing: router lifetime 0, so no default router; neither M nor
//! O, so no DHCPv6, which iPXE would then wait for; no prefix, so no address. Nobody gets an address or a route by it.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::LinkName;
use stoke_sys::packet::LinkSocket;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::run::Shared;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// RFC 4861 section 4.1.
const SOLICITATION: u8 = 133;
/// Its fixed part.
const SOLICITATION_SIZE: usize = 8;
/// RFC 4861 section 4.2.
const ADVERTISEMENT: u8 = 134;
/// RFC 4861 section 6.1.2: what came through a router is ignored.
const HOP_LIMIT: u32 = 255;

/// The empty advertisement; the kernel fills in the checksum.
fn advertisement(station: [u8; 6]) -> Vec<u8> {
    // Type, code, checksum; hop limit unspecified, no flags, router lifetime 0, reachable time and retransmission
    // timer unspecified.
    let fixed = [ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Source link-layer address (section 4.6.1): type 1, one unit of eight bytes.
    [fixed.as_slice(), &[1, 1], &station].concat()
}

/// RFC 4861 section 6.2.6: back to who asked, or to all if it has no address yet.
fn addressee(source: Ipv6Addr) -> Ipv6Addr {
    if source.is_unicast_link_local() { source } else { ALL_NODES }
}

/// The socket of one interface.
#[derive(Debug)]
pub(crate) struct Advertiser {
    /// A raw socket: tokio has no type for one, and this type's calls are the same that it needs.
    socket: UdpSocket,
    index: u32,
    packet: Vec<u8>,
}

impl Advertiser {
    /// Opens it.
    ///
    /// # Errors
    /// If the interface is not there or has no IPv6.
    pub(crate) fn open(interface: &LinkName) -> anyhow::Result<Self> {
        let link = LinkSocket::open(interface.as_str()).with_context(|| format!("cannot use interface {interface}"))?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(interface.as_str().as_bytes()))?;
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
        socket.set_multicast_hops_v6(HOP_LIMIT)?;
        socket.join_multicast_v6(&ALL_ROUTERS, link.index())?;
        socket.set_nonblocking(true)?;
        let (index, packet) = (link.index(), advertisement(link.hardware_address()));
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, index, packet })
    }

    /// Answers solicitations until told to stop.
    pub(crate) async fn serve(self, shared: Arc<Shared>, stop: CancellationToken) {
        loop {
            let answered = tokio::select! {
                () = stop.cancelled() => return,
                answered = self.answer_next() => answered,
            };
            match answered {
                Ok(answered) => drop(shared.metrics.solicitations.inc_by(answered.into())),
                Err(error) => tracing::debug!("router solicitation: {error}"),
            }
        }
    }

    /// Whether the next packet was a solicitation.
    async fn answer_next(&self) -> io::Result<bool> {
        let Some(source) = self.solicitation().await? else { return Ok(false) };
        self.answer(source).await?;
        Ok(true)
    }

    /// The next packet: who sent it, if it is a solicitation. The kernel has checked the checksum.
    async fn solicitation(&self) -> io::Result<Option<Ipv6Addr>> {
        let mut packet = [0; 64];
        let (length, from) = self.socket.recv_from(&mut packet).await?;
        let wanted = length >= SOLICITATION_SIZE && packet.starts_with(&[SOLICITATION, 0]);
        Ok(match from {
            SocketAddr::V6(from) if wanted => Some(*from.ip()),
            _ => None,
        })
    }

    async fn answer(&self, source: Ipv6Addr) -> io::Result<()> {
        self.socket.send_to(&self.packet, SocketAddrV6::new(addressee(source), 0, 0, self.index)).await?;
        tracing::debug!(%source, "router solicitation answered");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertisement_promises_nothing() {
        let station = [2, 0, 0, 0, 0, 1];
        let packet = advertisement(station);
        assert_eq!(packet.len(), 24);
        assert_eq!(packet[0], ADVERTISEMENT);
        assert!(packet[1..16].iter().all(|byte| *byte == 0), "a lifetime, flag or timer is set");
        assert_eq!(packet[16..], [1, 1, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn who_has_no_address_yet_is_answered_with_all_others() {
        let station = "fe80::1".parse().unwrap();
        assert_eq!(addressee(station), station);
        assert_eq!(addressee(Ipv6Addr::UNSPECIFIED), ALL_NODES);
        assert_eq!(addressee("2001:db8::1".parse().unwrap()), ALL_NODES);
    }
}
