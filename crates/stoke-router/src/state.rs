//! What the services share: configuration, leases, names, who asked for a boot.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stoke_api::MacAddr;
use stoke_api::report::{LeaseReport, RouterReport, Stranger};
use stoke_api::workload::{RouterConfig, RouterHost};
use stoke_boot::policy::{Asker, answer, farm_of, recognise};
use stoke_dhcp::{Answer, MessageType, Record, Request, Server};
use stoke_dns::Zone;

use crate::{config, plan};

/// Machines without object that are remembered.
const STRANGERS: usize = 256;
/// iPXE that asks this soon after the firmware belongs to the same boot, in milliseconds.
const SAME_BOOT: u64 = 120_000;

/// The shared state. One lock guards it; nobody waits for anything while holding that.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: RouterConfig,
    pub(crate) server: Server,
    /// Why acknowledgements are held back, if they are.
    pub(crate) failure: Option<String>,
    zone: Arc<Zone>,
    /// When the zone no longer follows from the leases, in seconds since 1970; 0 after a change.
    zone_until: u64,
    strangers: BTreeMap<MacAddr, Stranger>,
    boot_requests: BTreeMap<String, u64>,
}

impl State {
    /// The state from configuration and journal.
    ///
    /// # Errors
    /// If the configuration cannot be served.
    pub(crate) fn new(config: RouterConfig, records: Vec<Record>) -> anyhow::Result<Self> {
        let server = Server::new(config::dhcp(&config)?, records);
        let zone = Arc::new(plan::zone(&config, server.leases(), 0)?);
        let (strangers, boot_requests) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { config, server, failure: None, zone, zone_until: 0, strangers, boot_requests })
    }

    /// Goes over to another configuration; what to write to the journal.
    ///
    /// # Errors
    /// If it cannot be served; nothing has changed then.
    pub(crate) fn reconfigure(&mut self, config: RouterConfig, now: u64) -> anyhow::Result<Vec<Record>> {
        config::check_same(&self.config, &config)?;
        let dhcp = config::dhcp(&config)?;
        self.zone = Arc::new(plan::zone(&config, self.server.leases(), now)?);
        let records = self.server.reconfigure(dhcp, now);
        let known = |mac: &MacAddr| config.hosts.iter().any(|host| host.macs.contains(mac));
        self.strangers.retain(|mac, _| !known(mac));
        let owners = config.hosts.iter().map(|host| host.owner.to_string()).collect::<Vec<_>>();
        self.boot_requests.retain(|owner, _| owners.contains(owner));
        self.zone_until = 0;
        self.config = config;
        Ok(records)
    }

    /// Answers a DHCP request.
    pub(crate) fn answer(&mut self, request: &Request, source: Ipv4Addr, now_ms: u64) -> Answer {
        let asker = recognise(&plan::boot_client(request));
        if request.kind == MessageType::Discover
            && let Some(asker) = asker.filter(Asker::is_firmware)
        {
            self.note_boot(request, asker, now_ms);
        }
        let named = self.host(request).map(|host| host.farm.as_deref());
        let farm = farm_of(named, &self.config.farms);
        let boot = asker.zip(farm).and_then(|(asker, farm)| answer(&asker, request.mac, farm));
        let boot = boot.map(plan::boot_options);
        let answer = self.server.handle(request, source, boot.as_ref(), now_ms / 1000);
        if answer.record.is_some() {
            self.zone_until = 0;
        }
        answer
    }

    /// The host that an object names. Hosts and reservations are the same list.
    fn host(&self, request: &Request) -> Option<&RouterHost> {
        self.server.reservation_index(request).and_then(|index| self.config.hosts.get(index))
    }

    fn note_boot(&mut self, request: &Request, asker: Asker, now_ms: u64) {
        let Some(host) = self.host(request) else { return self.note_stranger(request, asker, now_ms / 1000) };
        let owner = host.owner.to_string();
        let last = self.boot_requests.get(&owner).copied();
        let same_boot = asker.is_ipxe() && last.is_some_and(|last| now_ms.saturating_sub(last) < SAME_BOOT);
        if !same_boot {
            tracing::info!(machine = owner, mac = %request.mac, client = %asker, "asks for a boot");
            self.boot_requests.insert(owner, now_ms);
        }
    }

    fn note_stranger(&mut self, request: &Request, asker: Asker, now: u64) {
        let uuid = request.uuid().map(|uuid| uuid::Uuid::from_bytes(uuid).to_string());
        let (mac, client) = (request.mac, asker.to_string());
        if !self.strangers.contains_key(&mac) {
            tracing::info!(%mac, client, "asks for a boot; no object names it");
        }
        self.strangers.insert(mac, Stranger { mac, uuid, client, last_seen: now });
        while self.strangers.len() > STRANGERS {
            let oldest = self.strangers.values().min_by_key(|stranger| stranger.last_seen).map(|stranger| stranger.mac);
            oldest.and_then(|mac| self.strangers.remove(&mac));
        }
    }

    /// The names as they are now.
    pub(crate) fn zone(&mut self, now: u64) -> Arc<Zone> {
        if now >= self.zone_until {
            match plan::zone(&self.config, self.server.leases(), now) {
                Ok(zone) => self.zone = Arc::new(zone),
                Err(error) => tracing::warn!("the names cannot be made anew: {error:#}"),
            }
            let ends = self.server.leases().current(now).map(|lease| lease.expires).min();
            self.zone_until = ends.unwrap_or(u64::MAX);
        }
        self.zone.clone()
    }

    /// What the role says of itself.
    pub(crate) fn report(&self, now: u64) -> RouterReport {
        RouterReport {
            ready: self.failure.is_none(),
            failure: self.failure.clone(),
            leases: self.leases(now),
            capacity: self.server.capacity(),
            strangers: self.strangers.values().cloned().collect(),
            boot_requests: self.boot_requests.clone(),
        }
    }

    fn leases(&self, now: u64) -> Vec<LeaseReport> {
        let report = |lease: &stoke_dhcp::Lease| LeaseReport {
            mac: lease.mac,
            address: lease.address,
            hostname: self.zone.name_of(lease.address).map(str::to_owned),
            expires: lease.expires,
        };
        self.server.leases().current(now).map(report).collect()
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
