//! The same for IPv6: who has which address, and who asked for a boot.

use std::borrow::Cow;

use stoke_api::MacAddr;
use stoke_api::report::Stranger;
use stoke_api::workload::{FarmBoot, RouterHost};
use stoke_boot::policy::{Asker, farm_of, recognise};
use stoke_boot::policy6::{answer6, client6};
use stoke_dhcp::v6::{Answer, Binding, Boot, Config, Identity, MessageType, Packet, Server};
use stoke_dns::Zone;

use super::State;
use super::answer::for_host;

impl State {
    /// Goes over to what the configuration says of IPv6. `station` is the interface's own link-layer address.
    pub(crate) fn configure6(&mut self, station: [u8; 6]) {
        let wanted = self.config.ipv6.as_ref().map(|ipv6| Config {
            // DUID-LL (RFC 8415 section 11.4): the bridge's address is made from the LAN's name, so it stays.
            duid: [[0, 3, 0, 1].as_slice(), &station].concat(),
            prefix: ipv6.prefix,
            server: ipv6.address,
            domain: self.config.domain.clone(),
        });
        match (wanted, self.server6.as_mut()) {
            (Some(wanted), Some(server)) => server.reconfigure(wanted),
            (wanted, _) => self.server6 = wanted.map(Server::new),
        }
        self.zone_until = 0;
    }

    /// Answers a DHCPv6 request.
    pub(crate) fn answer6(&mut self, request: &Packet, client: &Identity, now_ms: u64) -> Answer {
        let (vendor, user) = (request.vendor_class().unwrap_or_default(), request.user_class().unwrap_or_default());
        let asker = recognise(&client6(vendor, user, request.architectures()));
        let begins = matches!(request.kind, MessageType::Solicit | MessageType::InformationRequest);
        if let Some(asker) = asker.filter(|asker| begins && asker.is_firmware()) {
            self.note_boot6(client, asker, now_ms);
        }
        let farm = self.farm6(client);
        let boot = asker.zip(farm).and_then(|(asker, farm)| answer6(&asker, client.mac, &farm));
        let boot = boot.map(|answer| Boot { url: answer.url, http: answer.http });
        let Some(server) = self.server6.as_mut() else { return Answer::default() };
        let answer = server.handle(request, client, boot.as_ref(), now_ms / 1000);
        if answer.kind == Some(MessageType::Reply) {
            self.zone_until = 0;
        }
        answer
    }

    /// Clients that have an IPv6 address.
    pub(super) fn bindings6(&self, now: u64) -> impl Iterator<Item = &Binding> {
        self.server6.iter().flat_map(move |server| server.bindings(now))
    }

    /// The host that an object names: by link-layer address before UUID, for there are boards that all have the same.
    fn host6(&self, client: &Identity) -> Option<&RouterHost> {
        let hosts = &self.config.hosts;
        let by_mac = client.mac.and_then(|mac| hosts.iter().find(|host| host.macs.contains(&mac)));
        let uuid = client.uuid.map(uuid::Uuid::from_bytes);
        let has = |host: &&RouterHost, uuid: uuid::Uuid| {
            let own = host.uuid.as_deref().and_then(|own| uuid::Uuid::parse_str(own).ok());
            // Firmware differs on the order of the first three fields.
            own.is_some_and(|own| own == uuid || own.to_bytes_le() == *uuid.as_bytes())
        };
        by_mac.or_else(|| uuid.and_then(|uuid| hosts.iter().find(|host| has(host, uuid))))
    }

    fn farm6(&self, client: &Identity) -> Option<Cow<'_, FarmBoot>> {
        let host = self.host6(client);
        let farm = farm_of(host.map(|host| host.farm.as_deref()), &self.config.farms)?;
        Some(for_host(farm, host))
    }

    fn note_boot6(&mut self, client: &Identity, asker: Asker, now_ms: u64) {
        if let Some(owner) = self.host6(client).map(|host| host.owner.to_string()) {
            self.note_request(owner, client.mac, asker, now_ms);
        } else if let Some(mac) = client.mac {
            let uuid = client.uuid.map(|uuid| uuid::Uuid::from_bytes(uuid).to_string());
            self.remember(Stranger { mac, uuid, client: format!("{asker}, IPv6"), last_seen: now_ms / 1000 });
        }
    }

    /// The names with the IPv6 addresses that machines have. What a machine without object calls itself counts only if
    /// nobody else has the name.
    pub(super) fn with_names6(&self, mut zone: Zone, now: u64) -> Zone {
        if let Some(ipv6) = &self.config.ipv6 {
            zone.insert6(Zone::ROUTER, ipv6.address);
        }
        let host = |mac: MacAddr| self.config.hosts.iter().find(|host| host.macs.contains(&mac));
        let (named, others): (Vec<_>, Vec<_>) = self
            .bindings6(now)
            .map(|binding| (binding, binding.mac.and_then(host)))
            .partition(|(_, host)| host.is_some());
        for (binding, host) in named {
            if let Some(host) = host {
                zone.insert6(&host.hostname, binding.address);
            }
        }
        for (binding, _) in others {
            let own = |name: &&str| !zone.contains(name) || binding.mac.is_some_and(|mac| self.is_called(mac, name));
            if let Some(name) = binding.hostname.as_deref().filter(own) {
                zone.insert6(name, binding.address);
            }
        }
        zone
    }

    /// Whether a machine without object goes by this name over IPv4.
    fn is_called(&self, mac: MacAddr, name: &str) -> bool {
        self.server.leases().of(mac).is_some_and(|lease| lease.hostname.as_deref() == Some(name))
    }
}
