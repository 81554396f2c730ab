//! How long a packet to a client may be.
//!
//! The kernel knows the MTU of the first link, and of the path if routers told of a smaller one. Where they do not tell (a
//! tunnel whose ICMP is filtered), a client acknowledges the options and never gets the first block: its next transfers then
//! have smaller ones.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::transfer::Limits;

/// Headers around a block's content: IPv4 (20) or IPv6 (40), UDP (8), TFTP (4).
const AROUND: [u32; 2] = [32, 52];
/// Blocks that are tried when full ones do not arrive: what most tunnels leave of 1500; the least that IPv6 carries
/// (RFC 8200, section 5); what needs no option.
const SMALLER: [u16; 3] = [1408, 1228, 512];
/// Clients whose paths are remembered.
const CLIENTS: usize = 1024;
/// How long.
const MEMORY: Duration = Duration::from_hours(1);

/// What is known of paths.
pub(super) struct Paths {
    local: IpAddr,
    /// Asks the kernel, by being connected. Made when first needed.
    probe: Option<UdpSocket>,
    reduced: HashMap<IpAddr, (u16, Instant)>,
}

impl Paths {
    pub(super) fn new(local: IpAddr) -> Self {
        Self { local, probe: None, reduced: HashMap::new() }
    }

    /// The limits for a client.
    pub(super) fn limits(&mut self, client: SocketAddr, limits: Limits, now: Instant) -> Limits {
        let [v4, v6] = AROUND;
        let around = if client.is_ipv4() { v4 } else { v6 };
        let fits = self.mtu(client).map(|mtu| mtu.saturating_sub(around));
        // A path that takes less than 512 bytes reassembles what is cut, or nothing works there.
        let fits = fits.map_or(u16::MAX, |fits| u16::try_from(fits).unwrap_or(u16::MAX)).max(512);
        let reduced = self.reduced.get(&client.ip()).filter(|(_, since)| now.duration_since(*since) < MEMORY);
        let reduced = reduced.map_or(u16::MAX, |(block, _)| *block);
        Limits { block: limits.block.min(fits).min(reduced), ..limits }
    }

    fn mtu(&mut self, client: SocketAddr) -> Option<u32> {
        let probe = match &mut self.probe {
            Some(probe) => probe,
            none => none.insert(UdpSocket::bind((self.local, 0)).ok()?),
        };
        probe.connect(client).ok()?;
        if client.is_ipv4() { sockopt::ip_mtu(probe).ok() } else { sockopt::ipv6_mtu(probe).ok() }
    }

    /// Takes note that blocks of this size do not arrive; returns the size that is tried next, if there is a smaller one.
    pub(super) fn too_long(&mut self, client: IpAddr, block: u16, now: Instant) -> Option<u16> {
        let smaller = SMALLER.into_iter().find(|smaller| *smaller < block)?;
        if self.reduced.len() >= CLIENTS {
            let oldest = self.reduced.iter().min_by_key(|(_, (_, since))| *since).map(|(client, _)| *client);
            oldest.and_then(|oldest| self.reduced.remove(&oldest));
        }
        self.reduced.insert(client, (smaller, now));
        Some(smaller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_arrive_is_made_smaller() {
        let client: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (mut paths, now) = (Paths::new(client.ip()), Instant::now());
        let asked = Limits::for_mtu(1500);
        assert_eq!(paths.limits(client, asked, now), asked);
        assert_eq!(paths.too_long(client.ip(), 1468, now), Some(1408));
        assert_eq!(paths.limits(client, asked, now).block, 1408);
        assert_eq!(paths.too_long(client.ip(), 1408, now), Some(1228));
        assert_eq!(paths.too_long(client.ip(), 1228, now), Some(512));
        assert_eq!(paths.too_long(client.ip(), 512, now), None);
        assert_eq!(paths.limits(client, asked, now + MEMORY), asked);
    }

    #[test]
    fn memory_of_paths_is_bounded() {
        let (mut paths, now) = (Paths::new([127, 0, 0, 1].into()), Instant::now());
        for last in 0..5000_u32 {
            paths.too_long(std::net::Ipv4Addr::from(last).into(), 1468, now);
        }
        assert_eq!(paths.reduced.len(), CLIENTS);
    }
}
