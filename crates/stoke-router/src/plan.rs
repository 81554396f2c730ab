//! What follows from configuration and leases, without touching anything.

use stoke_api::node::DHCP_OPTION_FARM;
use stoke_api::workload::{RouterConfig, RouterSubnet};
use stoke_boot::policy::{Answer, Client};
use stoke_dhcp::wire::option;
use stoke_dhcp::{BootOptions, Leases, Record, Request};
use stoke_dns::Zone;

/// `PXE_DISCOVERY_CONTROL` (6) with bit 3: take the boot file of this very reply and look for no boot server; then the
/// end of the encapsulation (PXE specification 2.1, table 2-1).
const PXE_NO_DISCOVERY: [u8; 4] = [6, 1, 8, 255];
/// iPXE's `no-pxedhcp`: there is no ProxyDHCP server to wait for (`src/include/ipxe/dhcp.h` of iPXE).
const IPXE_NO_PROXY: [u8; 3] = [176, 1, 1];

/// What the request says that matters for booting.
pub(crate) fn boot_client(request: &Request) -> Client {
    let bytes = |code| request.options.get(code).map(<[u8]>::to_vec);
    Client {
        vendor_class: bytes(option::VENDOR_CLASS).unwrap_or_default(),
        architectures: request.architectures(),
        user_class: bytes(option::USER_CLASS).unwrap_or_default(),
        etherboot: bytes(option::ETHERBOOT),
    }
}

/// The policy's answer as DHCP says it.
pub(crate) fn boot_options(answer: Answer) -> BootOptions {
    match answer {
        Answer::Program { server, file, ipxe } => {
            let mut options = vec![
                (option::TFTP_SERVER, server.to_string().into_bytes()),
                (option::BOOT_FILE, file.as_bytes().to_vec()),
            ];
            if ipxe {
                options.push((option::ETHERBOOT, IPXE_NO_PROXY.to_vec()));
            } else {
                options.push((option::VENDOR_CLASS, b"PXEClient".to_vec()));
                options.push((option::VENDOR_SPECIFIC, PXE_NO_DISCOVERY.to_vec()));
            }
            BootOptions { next_server: Some(server), file: Some(file), options }
        }
        Answer::HttpBoot { url } => {
            let class = (option::VENDOR_CLASS, b"HTTPClient".to_vec());
            BootOptions { options: vec![class, (option::BOOT_FILE, url.into_bytes())], ..BootOptions::default() }
        }
        Answer::Script { url } => {
            let file = (option::BOOT_FILE, url.clone().into_bytes());
            let options = vec![file, (option::ETHERBOOT, IPXE_NO_PROXY.to_vec())];
            BootOptions { next_server: None, file: Some(url), options }
        }
        Answer::NodeApi { url } => {
            BootOptions { options: vec![(DHCP_OPTION_FARM, url.into_bytes())], ..BootOptions::default() }
        }
    }
}

/// What became of a request, for people: `OFFER 10.10.0.21 snponly.efi`.
pub(crate) fn result(answer: &stoke_dhcp::Answer, program: Option<&str>, refusal: Option<&String>) -> String {
    let kind = match (answer.kind, &answer.record) {
        (Some(kind), _) => format!("{kind:?}").to_uppercase(),
        (None, Some(Record::Declined { .. })) => "the address rests".to_owned(),
        (None, Some(_)) => "the lease ends".to_owned(),
        (None, None) if answer.exhausted => "no address is left".to_owned(),
        (None, None) => "no answer".to_owned(),
    };
    let address = answer.address.map(|address| address.to_string());
    let program = answer.kind.and(program).map(str::to_owned);
    let refusal = refusal.map(|refusal| format!("({refusal})"));
    [Some(kind), address, program, refusal].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The names of the machines: those that objects name by their address and lease, then the others by what they call
/// themselves, as long as nobody else has the name.
///
/// # Errors
/// If the domain is no name.
pub(crate) fn zone(config: &RouterConfig, leases: &Leases, now: u64) -> anyhow::Result<Zone> {
    // The router of a subnet behind a relay is another one.
    let own = config.subnets.iter().find(|subnet| !subnet.relayed).map(|subnet| subnet.gateway);
    let router = |subnet: &RouterSubnet| own.filter(|_| subnet.relayed).unwrap_or(subnet.gateway);
    let subnets = config.subnets.iter().map(|subnet| (subnet.cidr, router(subnet))).collect::<Vec<_>>();
    let mut zone = Zone::new(&config.domain, &subnets)?;
    for host in &config.hosts {
        let current = host.macs.iter().filter_map(|mac| leases.of(*mac)).filter(|lease| lease.expires > now);
        for address in current.map(|lease| lease.address).chain(host.address) {
            zone.insert(&host.hostname, address);
        }
    }
    for other in &config.reservations {
        zone.insert(&other.name, other.address);
    }
    let named = |mac| config.hosts.iter().any(|host| host.macs.contains(&mac));
    for lease in leases.current(now).filter(|lease| !named(lease.mac)) {
        if let Some(name) = lease.hostname.as_deref().filter(|name| !zone.contains(name)) {
            zone.insert(name, lease.address);
        }
    }
    Ok(zone)
}
