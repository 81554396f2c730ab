//! Which reservation a request is about: found by index, so that a thousand objects cost no more than one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;

use crate::config::{ClientId, Reservation, swapped};
use crate::wire::Request;

/// Reservations by what clients say of themselves; the numbers are their places in the list.
#[derive(Debug, Default)]
pub(crate) struct Index {
    addresses: BTreeMap<Ipv4Addr, usize>,
    macs: BTreeMap<MacAddr, Vec<usize>>,
    client_ids: BTreeMap<Vec<u8>, Vec<usize>>,
    uuids: BTreeMap<[u8; 16], Vec<usize>>,
    circuits: BTreeMap<Vec<u8>, Vec<usize>>,
}

impl Index {
    pub(crate) fn new(reservations: &[Reservation]) -> Self {
        let mut index = Self::default();
        for (place, host) in reservations.iter().enumerate() {
            if let Some(address) = host.address {
                index.addresses.entry(address).or_insert(place);
            }
            host.macs.iter().for_each(|mac| index.macs.entry(*mac).or_default().push(place));
            for form in host.client_id.iter().flat_map(ClientId::forms) {
                index.client_ids.entry(form).or_default().push(place);
            }
            for form in host.uuid.iter().flat_map(|uuid| [*uuid, swapped(*uuid)]) {
                index.uuids.entry(form).or_default().push(place);
            }
            host.circuit_id.iter().for_each(|id| index.circuits.entry(id.clone()).or_default().push(place));
        }
        index
    }

    /// The place of the reservation that a request is about: by link-layer address before client identifier before UUID,
    /// because there are boards that all have the same; by its port last, where others may have been before.
    pub(crate) fn find(&self, reservations: &[Reservation], request: &Request) -> Option<usize> {
        let of = |found: Option<&Vec<usize>>| {
            let places = found.map(Vec::as_slice).unwrap_or_default();
            places.iter().copied().find(|place| reservations.get(*place).is_some_and(|host| host.is_of(request)))
        };
        of(self.macs.get(&request.mac))
            .or_else(|| of(self.client_ids.get(request.client_id()?)))
            .or_else(|| of(self.uuids.get(&request.uuid()?)))
            .or_else(|| (!self.circuits.is_empty()).then(|| of(self.circuits.get(&request.circuit_id()?)))?)
    }

    /// The place of the reservation that has the address.
    pub(crate) fn at(&self, address: Ipv4Addr) -> Option<usize> {
        self.addresses.get(&address).copied()
    }

    /// All addresses that somebody has.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.keys().copied()
    }
}
