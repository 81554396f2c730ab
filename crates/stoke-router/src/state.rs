//! What the services share: configuration, leases, names, who asked for a boot.

mod answer;
mod ipv6;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stoke_api::MacAddr;
use stoke_api::objects::DhcpMode;
use stoke_api::report::{LeaseReport, RouterReport, Stranger};
use stoke_api::workload::{RouterConfig, RouterHost};
use stoke_boot::policy::Asker;
use stoke_dhcp::{Record, Request, Server};
use stoke_dns::Zone;

use crate::alarms::Alarms;
use crate::guard::Guard;
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
    /// DHCPv6, if the LAN has IPv6.
    server6: Option<stoke_dhcp::v6::Server>,
    /// Why acknowledgements are held back, if they are.
    pub(crate) failure: Option<String>,
    zone: Arc<Zone>,
    /// When the zone no longer follows from the leases, in seconds since 1970; 0 after a change.
    zone_until: u64,
    strangers: BTreeMap<MacAddr, Stranger>,
    boot_requests: BTreeMap<String, u64>,
    guard: Guard,
    alarms: Alarms,
}

impl State {
    /// The state from configuration and journal.
    ///
    /// # Errors
    /// If the configuration cannot be served.
    pub(crate) fn new(config: RouterConfig, records: Vec<Record>) -> anyhow::Result<Self> {
        let server = Server::new(config::dhcp(&config)?, records);
        let zone = Arc::new(plan::zone(&config, server.leases(), 0)?);
        Ok(Self {
            config,
            server,
            server6: None,
            failure: None,
            zone,
            zone_until: 0,
            strangers: BTreeMap::new(),
            boot_requests: BTreeMap::new(),
            guard: Guard::default(),
            alarms: Alarms::default(),
        })
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
        if self.config.dhcp != DhcpMode::Authoritative {
            self.alarms.forget_rogues();
        }
        Ok(records)
    }

    /// The host that an object names. Hosts and reservations are the same list.
    fn host(&self, request: &Request) -> Option<&RouterHost> {
        self.server.reservation_index(request).and_then(|index| self.config.hosts.get(index))
    }

    fn note_boot(&mut self, request: &Request, asker: Asker, now_ms: u64) {
        let Some(host) = self.host(request) else { return self.note_stranger(request, asker, now_ms / 1000) };
        self.note_request(host.owner.to_string(), Some(request.mac), asker, now_ms);
    }

    fn note_request(&mut self, owner: String, mac: Option<MacAddr>, asker: Asker, now_ms: u64) {
        let last = self.boot_requests.get(&owner).copied();
        let same_boot = asker.is_ipxe() && last.is_some_and(|last| now_ms.saturating_sub(last) < SAME_BOOT);
        if !same_boot {
            let mac = mac.map(tracing::field::display);
            tracing::info!(machine = owner, mac, client = %asker, "asks for a boot");
            self.boot_requests.insert(owner, now_ms);
        }
    }

    fn note_stranger(&mut self, request: &Request, asker: Asker, now: u64) {
        let uuid = request.uuid().map(|uuid| uuid::Uuid::from_bytes(uuid).to_string());
        self.remember(Stranger { mac: request.mac, uuid, client: asker.to_string(), last_seen: now });
    }

    fn remember(&mut self, stranger: Stranger) {
        let (mac, client) = (stranger.mac, &stranger.client);
        if !self.strangers.contains_key(&mac) {
            tracing::info!(%mac, client, "asks for a boot; no object names it");
        }
        self.strangers.insert(mac, stranger);
        while self.strangers.len() > STRANGERS {
            let oldest = self.strangers.values().min_by_key(|stranger| stranger.last_seen).map(|stranger| stranger.mac);
            oldest.and_then(|mac| self.strangers.remove(&mac));
        }
    }

    /// A DHCP server was heard. Whether it is one more that should not be there.
    pub(crate) fn heard_server(&mut self, server: Ipv4Addr, now: u64) -> bool {
        let ours = self.server.config().own_addresses().any(|own| own == server);
        !ours && self.config.dhcp == DhcpMode::Authoritative && self.alarms.rogue(server, now)
    }

    /// The router's first own address.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.server.config().own_addresses().next()
    }

    /// The address of a host's interface: its own, else that of its lease.
    pub(crate) fn address_of(&self, mac: MacAddr, now: u64) -> Option<Ipv4Addr> {
        let own = self.config.hosts.iter().find(|host| host.macs.contains(&mac)).and_then(|host| host.address);
        let lease = || self.server.leases().of(mac).filter(|lease| lease.expires > now).map(|lease| lease.address);
        own.or_else(lease)
    }

    /// The names as they are now.
    pub(crate) fn zone(&mut self, now: u64) -> Arc<Zone> {
        if now >= self.zone_until {
            match plan::zone(&self.config, self.server.leases(), now) {
                Ok(zone) => self.zone = Arc::new(self.with_names6(zone, now)),
                Err(error) => tracing::warn!("the names cannot be made anew: {error:#}"),
            }
            let ends = self.server.leases().current(now).map(|lease| lease.expires);
            let ends = ends.chain(self.bindings6(now).map(|binding| binding.expires)).min();
            self.zone_until = ends.unwrap_or(u64::MAX);
        }
        self.zone.clone()
    }

    /// What the role says of itself.
    pub(crate) fn report(&self, now: u64) -> RouterReport {
        let mut report = RouterReport {
            ready: self.failure.is_none(),
            failure: self.failure.clone(),
            leases: self.leases(now),
            capacity: self.server.capacity(),
            strangers: self.strangers.values().cloned().collect(),
            boot_requests: self.boot_requests.clone(),
            ..RouterReport::default()
        };
        self.alarms.tell(&mut report, now);
        report
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Port;
    use stoke_api::objects::{LoaderSpec, UnknownClients};
    use stoke_api::workload::{Architecture, FarmBoot, RouterSubnet};
    use stoke_api::{Kind, ObjectRef};
    use stoke_dhcp::wire::{Options, option};

    const HOUR: u64 = 3_600_000;

    fn object(kind: Kind, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: Some("default".parse().unwrap()), name: name.parse().unwrap() }
    }

    fn config() -> RouterConfig {
        let gateway = Ipv4Addr::new(10, 77, 0, 1);
        let pools = vec!["10.77.0.100-10.77.0.199".parse().unwrap()];
        let farm = FarmBoot {
            addresses: vec![gateway],
            addresses6: vec![],
            http_port: 80,
            node_port: 8443,
            kernels: [(Architecture::Amd64, "/v1/blob/sha256/ab.efi".into())].into(),
            loader: LoaderSpec::default(),
            unknown_clients: UnknownClients::Ignore,
        };
        let host = RouterHost {
            owner: object(Kind::Machine, "node-1"),
            hostname: "node-1".into(),
            macs: vec!["52:54:00:77:00:01".parse().unwrap()],
            uuid: None,
            client_id: None,
            address: Some(Ipv4Addr::new(10, 77, 0, 21)),
            farm: Some("default/lab".into()),
            kernels: [].into(),
        };
        RouterConfig {
            lan: object(Kind::Lan, "lab"),
            interface: "lan0".parse().unwrap(),
            mtu: 1500,
            subnets: vec![RouterSubnet {
                cidr: "10.77.0.0/24".parse().unwrap(),
                gateway,
                default_route: true,
                pools,
                relayed: false,
            }],
            dhcp: DhcpMode::Authoritative,
            reservations: vec![],
            ipv6: None,
            domain: "lab.internal".into(),
            upstreams: vec![],
            hosts: vec![host],
            farms: [("default/lab".into(), farm)].into(),
            leases: "/nowhere".into(),
            forwards: vec![],
            seed: None,
        }
    }

    fn state() -> State {
        State::new(config(), vec![]).unwrap()
    }

    fn ask(state: &mut State, packet: &[u8], now_ms: u64) -> Options {
        let request = Request::parse(packet).unwrap();
        let answer = state.answer(&request, Ipv4Addr::UNSPECIFIED, Port::Dhcp, now_ms);
        Options::parse(&answer.answer.reply.expect("a reply").bytes[240..])
    }

    macro_rules! capture {
        ($name:literal) => {
            include_bytes!(concat!("../tests/captures/", $name)).as_slice()
        };
    }

    #[test]
    fn firmware_as_it_really_asks_is_told_what_it_boots() {
        let script = "http://10.77.0.1/v1/boot.ipxe?mac=52:54:00:77:00:01";
        let cases = [
            (capture!("ipxe-rom-bios.discover"), script, None),
            (capture!("ipxe-rom-bios.request"), script, None),
            (capture!("ovmf-pxe.discover"), "snponly.efi", Some("PXEClient")),
            (capture!("ovmf-pxe.request"), "snponly.efi", Some("PXEClient")),
            (capture!("ovmf-http.discover"), "http://10.77.0.1/v1/blob/sha256/ab.efi", Some("HTTPClient")),
            (capture!("ovmf-http.request"), "http://10.77.0.1/v1/blob/sha256/ab.efi", Some("HTTPClient")),
        ];
        let mut state = state();
        for (packet, file, class) in cases {
            let told = ask(&mut state, packet, HOUR);
            assert_eq!(told.get(option::BOOT_FILE), Some(file.as_bytes()));
            assert_eq!(told.get(option::VENDOR_CLASS), class.map(str::as_bytes), "{file}");
            assert!(told.get(option::MACHINE_ID).is_some(), "option 97 goes back");
            let skips_discovery = told.get(option::VENDOR_SPECIFIC) == Some(&[6, 1, 8, 255]);
            assert_eq!(skips_discovery, class == Some("PXEClient"), "{file}");
            assert_eq!(told.get(option::ETHERBOOT).is_some(), class.is_none(), "{file}");
        }
    }

    #[test]
    fn a_boot_begins_with_firmware_and_ipxe_after_it_begins_no_other() {
        let mut state = state();
        let mut at = |packet, now| {
            ask(&mut state, packet, now);
            state.boot_requests["machine/node-1"]
        };
        assert_eq!(at(capture!("ovmf-pxe.discover"), HOUR), HOUR);
        assert_eq!(at(capture!("ipxe-rom-bios.discover"), HOUR + 30_000), HOUR);
        // iPXE long after is a card's ROM that boots anew.
        assert_eq!(at(capture!("ipxe-rom-bios.discover"), 2 * HOUR), 2 * HOUR);
        assert_eq!(at(capture!("ovmf-pxe.discover"), 2 * HOUR + 5), 2 * HOUR + 5);
    }

    #[test]
    fn firmware_that_nothing_is_here_for_is_told_of_until_it_has_something() {
        let mut state = state();
        let told = |state: &State| state.report(HOUR / 1000).unbootable;
        let mut packet = capture!("ovmf-pxe.discover").to_vec();
        let at = packet.windows(4).position(|option| option == [93, 2, 0, 7]).unwrap() + 3;
        for (architecture, reason) in [
            (6, "no boot program for architecture 6, UEFI ia32"),
            (41, "no boot program for architecture 41, Raspberry Pi"),
            (11, "the farm's image has no kernel for arm64"),
        ] {
            packet[at] = architecture;
            let answer = ask(&mut state, &packet, HOUR);
            assert_eq!(answer.get(option::BOOT_FILE), None, "an address and nothing more");
            let machine = told(&state).pop().unwrap();
            assert_eq!((machine.mac.to_string().as_str(), machine.reason.as_str()), ("52:54:00:77:00:01", reason));
        }
        packet[at] = 7;
        ask(&mut state, &packet, HOUR);
        assert_eq!(told(&state), []);
    }

    #[test]
    fn strangers_are_remembered_up_to_a_bound_the_oldest_go() {
        let mut state = state();
        let mut packet = capture!("ovmf-pxe.discover").to_vec();
        for number in 0..300_u16 {
            packet[32..34].copy_from_slice(&number.to_be_bytes());
            packet[31] = 0xee;
            let request = Request::parse(&packet).unwrap();
            state.answer(&request, Ipv4Addr::UNSPECIFIED, Port::Dhcp, u64::from(number) * 1000);
        }
        let strangers = state.report(0).strangers;
        assert_eq!(strangers.len(), STRANGERS);
        assert_eq!(strangers.iter().map(|stranger| stranger.last_seen).min(), Some(300 - 256));
    }

    #[test]
    fn names_end_with_their_leases() {
        let mut state = state();
        let mut packet = capture!("ovmf-pxe.request").to_vec();
        // Another machine, which asks for an address of the pool and says its name.
        packet[33] = 9;
        let own = packet.windows(6).position(|option| option == [50, 4, 10, 77, 0, 21]).unwrap();
        packet[own + 5] = 150;
        let end = packet.iter().rposition(|byte| *byte == 255).unwrap();
        packet.splice(end..=end, [12, 4, b'r', b'a', b'c', b'k', 255]);
        let request = Request::parse(&packet).unwrap();
        assert!(state.answer(&request, Ipv4Addr::UNSPECIFIED, Port::Dhcp, HOUR).answer.record.is_some());
        let now = HOUR / 1000;
        assert!(state.zone(now).contains("rack") && state.zone(now + 3599).contains("rack"));
        assert!(!state.zone(now + 3600).contains("rack"));
    }
}
