//! The configuration as the DHCP server wants it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use stoke_api::workload::{RouterConfig, RouterHost};
use stoke_dhcp::{Config, Reservation, Subnet};

/// Length of a lease in seconds. Short enough that a machine which came and went frees its address within the hour, long
/// enough that a router which is away for half of that is not missed.
const LEASE_TIME: u32 = 3600;

/// The DHCP server's part.
///
/// # Errors
/// If something in it cannot be: what the objects' own checks should have found.
pub(crate) fn dhcp(config: &RouterConfig) -> anyhow::Result<Config> {
    if config.subnets.is_empty() {
        bail!("{} has no subnet to serve", config.lan);
    }
    let subnet = |subnet: &stoke_api::workload::RouterSubnet| Subnet {
        cidr: subnet.cidr,
        server: subnet.gateway,
        default_route: subnet.default_route,
        pools: subnet.pools.clone(),
    };
    Ok(Config {
        subnets: config.subnets.iter().map(subnet).collect(),
        reservations: config.hosts.iter().map(reservation).collect::<anyhow::Result<_>>()?,
        domain: config.domain.clone(),
        mtu: config.mtu,
        lease_time: LEASE_TIME,
    })
}

fn reservation(host: &RouterHost) -> anyhow::Result<Reservation> {
    let uuid = host.uuid.as_deref().map(uuid::Uuid::parse_str).transpose();
    let uuid = uuid.with_context(|| format!("the UUID of {} is none", host.owner))?;
    Ok(Reservation {
        macs: host.macs.clone(),
        uuid: uuid.map(uuid::Uuid::into_bytes),
        address: host.address,
        hostname: host.hostname.clone(),
    })
}

/// What cannot change while the role runs: the sockets and the journal hang on it.
///
/// # Errors
/// Naming what changed and what to do.
pub(crate) fn check_same(old: &RouterConfig, new: &RouterConfig) -> anyhow::Result<()> {
    if old.interface != new.interface {
        bail!("the interface changed from {} to {}: stop the router and start it again", old.interface, new.interface);
    }
    if old.leases != new.leases {
        let (old, new) = (old.leases.display(), new.leases.display());
        bail!("the journal of leases changed from {old} to {new}: stop the router and start it again");
    }
    Ok(())
}

/// The router's own addresses.
pub(crate) fn gateways(config: &RouterConfig) -> Vec<Ipv4Addr> {
    config.subnets.iter().map(|subnet| subnet.gateway).collect()
}
