//! The table of leases: at any time one client for each address, and one address for each client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use stoke_api::MacAddr;

/// An address given to a client. It stays in the table after its end, so that the client finds it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The client.
    pub mac: MacAddr,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// Whether an object gave the client this address.
    pub reserved: bool,
    /// The client's own idea of its name.
    pub hostname: Option<String>,
}

/// One change of the table; what is written to the journal. Applying one twice changes nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The client has the address until the lease expires, and no other.
    Leased(Lease),
    /// Somebody unknown uses the address.
    Declined {
        /// The address.
        address: Ipv4Addr,
        /// Not given out before this moment, in seconds since 1970.
        until: u64,
    },
    /// Nobody has the address, or had it in any way that matters.
    Forgotten(Ipv4Addr),
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    by_address: BTreeMap<Ipv4Addr, Lease>,
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
    /// When each ends.
    by_end: BTreeSet<(u64, Ipv4Addr)>,
    declined: BTreeMap<Ipv4Addr, u64>,
}

impl Leases {
    /// Takes a record in.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Leased(lease) => self.insert(lease),
            Record::Declined { address, until } => {
                self.remove(address);
                self.declined.insert(address, until);
            }
            Record::Forgotten(address) => {
                self.remove(address);
                self.declined.remove(&address);
            }
        }
    }

    fn insert(&mut self, lease: Lease) {
        if let Some(earlier) = self.by_mac.get(&lease.mac).copied() {
            self.remove(earlier);
        }
        self.remove(lease.address);
        self.declined.remove(&lease.address);
        self.by_mac.insert(lease.mac, lease.address);
        self.by_end.insert((lease.expires, lease.address));
        self.by_address.insert(lease.address, lease);
    }

    fn remove(&mut self, address: Ipv4Addr) {
        if let Some(lease) = self.by_address.remove(&address) {
            self.by_mac.remove(&lease.mac);
            self.by_end.remove(&(lease.expires, address));
        }
    }

    /// The lease on an address, over or not.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.by_address.get(&address)
    }

    /// The lease of a client, over or not.
    pub fn of(&self, mac: MacAddr) -> Option<&Lease> {
        self.by_mac.get(&mac).and_then(|address| self.at(*address))
    }

    /// Leases that are not over.
    pub fn current(&self, now: u64) -> impl Iterator<Item = &Lease> {
        self.by_address.values().filter(move |lease| lease.expires > now)
    }

    /// Leases that are over, the one that ended first before the others.
    pub fn over(&self, now: u64) -> impl Iterator<Item = &Lease> {
        let ended = self.by_end.range(..=(now, Ipv4Addr::BROADCAST));
        ended.filter_map(|(_, address)| self.by_address.get(address))
    }

    /// When the next lease ends that is not over, in seconds since 1970.
    pub fn next_end(&self, now: u64) -> Option<u64> {
        self.by_end.range((now + 1, Ipv4Addr::UNSPECIFIED)..).next().map(|(end, _)| *end)
    }

    /// Until when nobody gets the address, since somebody unknown uses it.
    pub fn declined_until(&self, address: Ipv4Addr) -> Option<u64> {
        self.declined.get(&address).copied()
    }

    /// Whether somebody unknown uses the address.
    pub fn is_declined(&self, address: Ipv4Addr, now: u64) -> bool {
        self.declined.get(&address).is_some_and(|until| *until > now)
    }

    /// Records that make this table from an empty one.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let declined =
            self.declined.iter().map(|(address, until)| Record::Declined { address: *address, until: *until });
        self.by_address.values().cloned().map(Record::Leased).chain(declined)
    }

    /// Number of records that make this table.
    pub fn len(&self) -> usize {
        self.by_address.len() + self.declined.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
