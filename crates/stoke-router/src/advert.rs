//! Router advertisements (RFC 4861): of the LAN's prefix, if it has one; else of nothing, so that nobody waits.
//!
//! iPXE configures IPv4 and IPv6 together and waits about twelve seconds for a router advertisement that a LAN without
//! IPv6 never sends. Ours then says that there is nothing: router lifetime 0, so no default router; neither M nor
//! O, so no DHCPv6, which iPXE would then wait for; no prefix, so no address. Nobody gets an address or a route by it.
//!
//! With a prefix it says: make yourself an address in it (A), ask by DHCPv6 for another one and for what to boot (M, O;
//! firmware does what these say, and waits for an answer, which `dhcp6` gives at once), and ask the router for names (RFC
//! 8106). The router lifetime stays 0: IPv6 is not forwarded, the LAN is alone in it.
//!
//! Who asks is answered. All are told every few minutes, so that the prefix does not run out (section 6.2.4); and when
//! the prefix changes: the old one is then no longer preferred (section 6.2.5).

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::LinkName;
use stoke_api::workload::RouterIpv6;
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
/// How often all are told (section 6.2.1: at most half an hour, ten minutes if nothing else is said).
const INTERVAL: Duration = Duration::from_mins(5);

/// Flags: addresses, and everything else, by DHCPv6 (section 4.2).
const MANAGED_AND_OTHER: u8 = 0xc0;
/// Flags of a prefix (section 4.6.2): it is on this link, and clients may make addresses of it.
const ON_LINK_AND_AUTONOMOUS: u8 = 0xc0;
/// How long an address in the prefix is preferred and valid, in seconds: RFC 9096 section 3.3.
const PREFERRED: u32 = 2700;
const VALID: u32 = 5400;

/// An advertisement of these prefixes, each with whether it is (still) ours; the kernel fills in the checksum.
fn advertisement(station: [u8; 6], now: Option<&RouterIpv6>, before: Option<&RouterIpv6>) -> Vec<u8> {
    let flags = if now.is_some() { MANAGED_AND_OTHER } else { 0 };
    // Type, code, checksum; hop limit unspecified, flags, router lifetime 0, reachable time and retransmission timer
    // unspecified.
    let fixed = [ADVERTISEMENT, 0, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Source link-layer address (section 4.6.1): type 1, one unit of eight bytes.
    let mut packet = [fixed.as_slice(), &[1, 1], &station].concat();
    if let Some(ipv6) = now {
        packet.extend(prefix(ipv6, PREFERRED, VALID));
        packet.extend(name_server(ipv6));
    }
    if let Some(ended) = before.filter(|before| now.is_none_or(|now| now.prefix != before.prefix)) {
        packet.extend(prefix(ended, 0, VALID));
    }
    packet
}

/// Prefix information (section 4.6.2): type 3, four units.
fn prefix(ipv6: &RouterIpv6, preferred: u32, valid: u32) -> Vec<u8> {
    let head = [3, 4, ipv6.prefix.prefix_len(), ON_LINK_AND_AUTONOMOUS];
    let lifetimes = [valid, preferred, 0].map(u32::to_be_bytes).concat();
    [head.as_slice(), &lifetimes, &ipv6.prefix.network().octets()].concat()
}

/// Recursive DNS server (RFC 8106 section 5.1): type 25, three units for one address.
fn name_server(ipv6: &RouterIpv6) -> Vec<u8> {
    [[25, 3, 0, 0].as_slice(), &VALID.to_be_bytes(), &ipv6.address.octets()].concat()
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
    station: [u8; 6],
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
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, index: link.index(), station: link.hardware_address() })
    }

    /// Answers solicitations and tells all what has changed, until told to stop.
    pub(crate) async fn serve(self, shared: Arc<Shared>, stop: CancellationToken) {
        let prefix = || shared.state().config.ipv6.clone();
        let (mut told, mut again) = (None, tokio::time::interval(INTERVAL));
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                source = self.solicitation() => match source {
                    Ok(Some(source)) => {
                        shared.metrics.solicitations.inc();
                        tracing::debug!(%source, "router solicitation");
                        self.tell(addressee(source), prefix().as_ref(), None).await
                    }
                    other => other.map(drop),
                },
                () = shared.ipv6_changed.notified() => self.tell_all(prefix(), &mut told).await,
                _ = again.tick() => self.tell_all(prefix(), &mut told).await,
            };
            if let Err(error) = done {
                tracing::debug!("router advertisement: {error}");
            }
        }
    }

    /// Tells all of the prefix, and of the end of the one that they were told of before. Nothing if there is neither.
    async fn tell_all(&self, now: Option<RouterIpv6>, told: &mut Option<RouterIpv6>) -> io::Result<()> {
        if now.is_none() && told.is_none() {
            return Ok(());
        }
        self.tell(ALL_NODES, now.as_ref(), told.as_ref()).await?;
        *told = now;
        Ok(())
    }

    async fn tell(&self, whom: Ipv6Addr, now: Option<&RouterIpv6>, before: Option<&RouterIpv6>) -> io::Result<()> {
        let packet = advertisement(self.station, now, before);
        self.socket.send_to(&packet, SocketAddrV6::new(whom, 0, 0, self.index)).await.map(drop)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn ipv6(prefix: &str) -> RouterIpv6 {
        let address = prefix.replace("/64", "1").parse().unwrap();
        RouterIpv6 { prefix: prefix.parse().unwrap(), address }
    }

    #[test]
    fn without_a_prefix_the_advertisement_promises_nothing() {
        let packet = advertisement(STATION, None, None);
        assert_eq!(packet.len(), 24);
        assert_eq!(packet[0], ADVERTISEMENT);
        assert!(packet[1..16].iter().all(|byte| *byte == 0), "a lifetime, flag or timer is set");
        assert_eq!(packet[16..], [1, 1, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_prefix_is_advertised_with_dhcp_and_names_but_without_a_way_out() {
        let lab = ipv6("fd00:10::/64");
        let packet = advertisement(STATION, Some(&lab), Some(&lab));
        assert_eq!((packet[5], &packet[6..8]), (0xc0, [0, 0].as_slice()));
        let (prefix, server) = packet[24..].split_at(32);
        assert_eq!(prefix[..4], [3, 4, 64, 0xc0]);
        assert_eq!(prefix[4..12], [5400_u32.to_be_bytes(), 2700_u32.to_be_bytes()].concat());
        assert_eq!(prefix[16..], lab.prefix.network().octets());
        assert_eq!((&server[..2], &server[8..]), ([25, 3].as_slice(), lab.address.octets().as_slice()));
    }

    #[test]
    fn a_prefix_that_has_ended_is_no_longer_preferred() {
        let (old, new) = (ipv6("fd00:10::/64"), ipv6("fd00:20::/64"));
        for (now, before) in [(Some(&new), 24 + 32 + 24), (None, 24)] {
            let packet = advertisement(STATION, now, Some(&old));
            let ended = &packet[before..];
            assert_eq!(ended[8..12], [0; 4]);
            assert_eq!(ended[16..], old.prefix.network().octets());
        }
    }

    #[test]
    fn who_has_no_address_yet_is_answered_with_all_others() {
        let station = "fe80::1".parse().unwrap();
        assert_eq!(addressee(station), station);
        assert_eq!(addressee(Ipv6Addr::UNSPECIFIED), ALL_NODES);
        assert_eq!(addressee("2001:db8::1".parse().unwrap()), ALL_NODES);
    }
}
