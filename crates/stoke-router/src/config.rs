//! The configuration as the DHCP server wants it.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use stoke_api::objects::DhcpMode;
use stoke_api::workload::{RouterConfig, RouterHost};
use stoke_dhcp::{ClientId, Config, Mode, Reservation, Subnet};

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
    if config.subnets.iter().all(|subnet| subnet.relayed) {
        bail!("every subnet of {} is behind a relay; the router needs an address on one of its own", config.lan);
    }
    let subnet = |subnet: &stoke_api::workload::RouterSubnet| Subnet {
        cidr: subnet.cidr,
        gateway: subnet.gateway,
        // Behind a relay the gateway is another router, which leads to this one at least.
        default_route: subnet.default_route || subnet.relayed,
        relayed: subnet.relayed,
        pools: subnet.pools.clone(),
    };
    // Hosts come first: their places are those in the list of hosts.
    let hosts = config.hosts.iter().map(of_host);
    let others = config.reservations.iter().map(of_other);
    Ok(Config {
        mode: mode(config.dhcp),
        subnets: config.subnets.iter().map(subnet).collect(),
        reservations: hosts.chain(others).collect::<anyhow::Result<_>>()?,
        domain: config.domain.clone(),
        mtu: config.mtu,
        lease_time: LEASE_TIME,
    })
}

/// `Off` opens no socket, so it does not matter what the server would do.
fn mode(mode: DhcpMode) -> Mode {
    match mode {
        DhcpMode::Authoritative | DhcpMode::Off => Mode::Authoritative,
        DhcpMode::Reservations => Mode::Reservations,
        DhcpMode::Relayed => Mode::Relayed,
        DhcpMode::Proxy => Mode::Proxy,
    }
}

fn of_host(host: &RouterHost) -> anyhow::Result<Reservation> {
    Ok(Reservation {
        macs: host.macs.clone(),
        uuid: uuid(host.uuid.as_deref()).with_context(|| format!("the UUID of {} is none", host.owner))?,
        client_id: host.client_id.as_deref().map(ClientId::parse),
        circuit_id: None,
        all: false,
        address: host.address,
        hostname: host.hostname.clone(),
    })
}

fn of_other(other: &stoke_api::objects::Reservation) -> anyhow::Result<Reservation> {
    let circuit = |text: &str| stoke_dhcp::config::bytes(text).unwrap_or_else(|| text.as_bytes().to_vec());
    Ok(Reservation {
        macs: other.mac.into_iter().collect(),
        uuid: uuid(other.uuid.as_deref()).with_context(|| format!("the UUID of reservation {} is none", other.name))?,
        client_id: other.client_id.as_deref().map(ClientId::parse),
        circuit_id: other.circuit_id.as_deref().map(circuit),
        all: true,
        address: Some(other.address),
        hostname: other.name.clone(),
    })
}

fn uuid(text: Option<&str>) -> Result<Option<[u8; 16]>, uuid::Error> {
    Ok(text.map(uuid::Uuid::parse_str).transpose()?.map(uuid::Uuid::into_bytes))
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
pub(crate) fn own_addresses(config: &RouterConfig) -> Vec<IpAddr> {
    let gateways = config.subnets.iter().filter(|subnet| !subnet.relayed).map(|subnet| IpAddr::V4(subnet.gateway));
    gateways.chain(config.ipv6.as_ref().map(|ipv6| IpAddr::V6(ipv6.address))).collect()
}
