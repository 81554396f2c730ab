//! Which address a client can have.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::objects::Pool;

use crate::config::{Mode, Reservation, Subnet};
use crate::lease::{Lease, Record};
use crate::server::{DECLINED, Server};
use crate::wire::Request;

/// How many addresses of the pools are looked at for one that nobody ever had, before one is taken that is free again.
/// Pools of this size are looked through entirely.
const PROBES: u32 = 256;

/// What it means that a station answers for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It has the address from us, or the address is none of ours.
    Expected,
    /// Somebody uses it who did not get it from us. What to write down, if that keeps others from getting it.
    Foreign(Option<Record>),
}

impl Server {
    /// The address for a client: its own by an object, its last one, the one it asks for, any.
    pub(crate) fn choose(&mut self, request: &Request, now: u64) -> Option<Ipv4Addr> {
        let own = self.reserved_address(request);
        let last = self.leases.of(request.mac).map(|lease| lease.address);
        let known = [own, last, request.requested()].into_iter().flatten();
        let known = known.into_iter().find(|address| self.grantable(request, *address, now));
        known.or_else(|| self.unused(request, now))
    }

    /// An address of the pools that nobody ever had, the search beginning where the client's hash says, so that it
    /// mostly gets the same one even from a server without memory; else the one whose lease is over longest.
    fn unused(&mut self, request: &Request, now: u64) -> Option<Ipv4Addr> {
        let place = (request.link(), now);
        if self.config.mode == Mode::Reservations || self.full == Some(place) {
            return None;
        }
        let size = self.pools_of(request).map(Pool::size).fold(0, u32::saturating_add);
        let start = u32::try_from(hash(request.mac) % u64::from(size.max(1))).unwrap_or(0);
        let fresh = |address: &Ipv4Addr| self.leases.at(*address).is_none() && self.grantable(request, *address, now);
        let candidates = || (start..size).chain(0..start).filter_map(|index| nth(self.pools_of(request), index));
        let near = usize::try_from(PROBES).unwrap_or(usize::MAX);
        let free_again = || {
            let over = self.leases.over(now).map(|lease| lease.address);
            over.into_iter().find(|address| self.grantable(request, *address, now))
        };
        let found = candidates().take(near).find(fresh).or_else(free_again);
        let found = found.or_else(|| candidates().skip(near).find(fresh));
        if found.is_none() {
            self.full = Some(place);
        }
        found
    }

    fn pools_of(&self, request: &Request) -> impl Iterator<Item = &Pool> {
        self.subnets_of(request).flat_map(|subnet| &subnet.pools)
    }

    /// Whether the client can be given the address.
    pub(crate) fn grantable(&self, request: &Request, address: Ipv4Addr, now: u64) -> bool {
        let own = self.reservation(request).filter(|host| host.address == Some(address));
        let Some(subnet) = self.subnets_of(request).find(|subnet| subnet.is_host(address)) else { return false };
        let pooled = subnet.pools(address) && self.config.mode != Mode::Reservations;
        let of_other = own.is_none() && self.reserved.at(address).is_some();
        (pooled || own.is_some()) && !of_other && self.is_free(request.mac, own, address, now)
    }

    /// Whether the client has the address and may go on with it.
    pub(crate) fn keeps(&self, request: &Request, address: Ipv4Addr, now: u64) -> bool {
        let has = self.leases.at(address).is_some_and(|lease| lease.mac == request.mac && lease.expires > now);
        let of_other = self.reserved_address(request) != Some(address) && self.reserved.at(address).is_some();
        has && !of_other && self.subnets_of(request).any(|subnet| subnet.is_host(address))
    }

    /// Whether nobody else has the address. A client that is known by more than its interfaces takes its own address along
    /// from one to another.
    fn is_free(&self, mac: MacAddr, own: Option<&Reservation>, address: Ipv4Addr, now: u64) -> bool {
        let moves = |lease: &Lease| {
            lease.reserved && own.is_some_and(|host| !host.is_by_mac() && !host.macs.contains(&lease.mac))
        };
        let leased = |lease: &Lease| lease.mac != mac && lease.expires > now && !moves(lease);
        let offered = self.offers.holder(address, now).is_some_and(|holder| holder != mac);
        !self.leases.at(address).is_some_and(leased) && !offered && !self.leases.is_declined(address, now)
    }

    /// The reservation that has the address.
    pub(crate) fn reserved_by(&self, address: Ipv4Addr) -> Option<&Reservation> {
        self.reserved.at(address).and_then(|index| self.config.reservations.get(index))
    }

    pub(crate) fn reserved_address(&self, request: &Request) -> Option<Ipv4Addr> {
        self.reservation(request).and_then(|host| host.address)
    }

    /// The subnets that a client can be in: that of its relay, or all of the segment and, if it renews, its own.
    pub(crate) fn subnets_of(&self, request: &Request) -> impl Iterator<Item = &Subnet> {
        let (link, client) = (request.link(), request.client);
        self.config.subnets.iter().filter(move |subnet| match link {
            Some(link) => subnet.cidr.contains(&link),
            None => !subnet.relayed || subnet.cidr.contains(&client),
        })
    }

    /// Takes note of a station on the segment that answers for an address. An address that its client has now says
    /// nothing, whoever answers: machines with several interfaces answer on each for all of their addresses.
    pub fn sighted(&mut self, address: Ipv4Addr, mac: MacAddr, now: u64) -> Sighting {
        if let Some(host) = self.reserved_by(address) {
            let theirs = !host.is_by_mac() || host.macs.contains(&mac);
            return if theirs { Sighting::Expected } else { Sighting::Foreign(None) };
        }
        let pooled = self.config.subnets.iter().any(|subnet| !subnet.relayed && subnet.pools(address));
        let last = self.leases.at(address);
        let has = last.is_some_and(|lease| lease.expires > now || lease.mac == mac);
        let holder = self.offers.holder(address, now);
        let for_other = holder.is_some_and(|holder| holder != mac);
        let leased = last.is_some_and(|lease| lease.expires > now);
        if !pooled || leased || (has && !for_other) || holder == Some(mac) {
            return Sighting::Expected;
        }
        if self.leases.declined_until(address).is_some_and(|until| until > now + DECLINED / 2) {
            return Sighting::Foreign(None);
        }
        let record = Record::Declined { address, until: now + DECLINED };
        self.leases.apply(record.clone());
        Sighting::Foreign(Some(record))
    }

    /// Addresses of the segment's pools, and the one at an index if nobody has it now: where to look for somebody who uses
    /// it all the same.
    pub fn idle_address(&self, index: u32, now: u64) -> Option<Ipv4Addr> {
        let address = nth(self.local_pools(), index)?;
        let leased = self.leases.at(address).is_some_and(|lease| lease.expires > now);
        (!leased).then_some(address)
    }

    /// Number of addresses in the pools of the segment.
    pub fn pooled_addresses(&self) -> u32 {
        self.local_pools().map(Pool::size).fold(0, u32::saturating_add)
    }

    fn local_pools(&self) -> impl Iterator<Item = &Pool> {
        self.config.subnets.iter().filter(|subnet| !subnet.relayed).flat_map(|subnet| &subnet.pools)
    }
}

fn hash(mac: MacAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    mac.hash(&mut hasher);
    hasher.finish()
}

/// The address at an index of several pools in a row.
fn nth<'a>(pools: impl Iterator<Item = &'a Pool>, mut index: u32) -> Option<Ipv4Addr> {
    for pool in pools {
        if index < pool.size() {
            return Some(Ipv4Addr::from(u32::from(pool.first) + index));
        }
        index -= pool.size();
    }
    None
}
