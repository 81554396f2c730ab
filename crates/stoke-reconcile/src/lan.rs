//! `Lan`: a bridge in the installation's namespace (one `node` workload for all LANs) and a router.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use stoke_api::objects::{Egress, Ipv6Spec, Kind, LanStatus};
use stoke_api::workload::{
    FarmBoot, LanPlan, NodeAgentConfig, Role, RouterConfig, RouterHost, RouterIpv6, RouterSubnet, Workload,
};
use stoke_api::{LinkName, ObjectRef};

use crate::check::hostname;
use crate::names::{self, key, machine_uuid, nic_mac};
use crate::observed::{Desired, Layout};
use crate::status::{Status, Waiting, push, ready_condition};
use crate::view::{Lan, View, sibling};
use crate::{alarms, farm, places, ports, rehearsal, server};

/// The name of the workload that lays LANs.
const NODE: &str = "node";

/// The workload that lays all LANs of a host. It stays when the last LAN goes, to clear it away.
pub(crate) fn node_agent(view: &View<'_>, desired: &mut Desired) {
    let laid = |(reference, lan): &(&ObjectRef, &Lan)| view.valid(reference).is_ok() && !lan.spec.external;
    let lans: Vec<_> = view.lans().filter(laid).collect();
    let environment = view.environment();
    let kept_for = || view.workload(NODE).filter(|seen| seen.kept).and_then(|seen| seen.workload.as_ref());
    let first = lans.first().map(|(reference, _)| (*reference).clone());
    let Some(owner) = first.or_else(|| kept_for().map(|workload| workload.owner.clone())) else { return };
    let config = NodeAgentConfig {
        installation: environment.installation.clone(),
        lans: lans.iter().filter_map(|(reference, lan)| plan(view, reference, lan)).collect(),
        // In pods each router has its own way out.
        egress: routed_here(view) && lans.iter().any(|(_, lan)| lan.spec.egress == Egress::Masquerade),
        ports_socket: places::ports_socket(view),
    };
    desired.workloads.push(Workload { owner, role: Role::Node(config) });
}

fn plan(view: &View<'_>, reference: &ObjectRef, lan: &Lan) -> Option<LanPlan> {
    let installation = &view.environment().installation;
    Some(LanPlan {
        lan: reference.clone(),
        bridge: bridge(view, reference)?,
        mac: names::bridge_mac(installation, reference),
        mtu: mtu(view, lan),
        addresses: if routed_here(view) { addresses(view, reference, lan) } else { Vec::new() },
        address6: lan.spec.ipv6.as_ref().filter(|_| routed_here(view)).and_then(router_address6),
        masquerade: routed_here(view) && lan.spec.egress == Egress::Masquerade,
        uplinks: lan.spec.uplinks.iter().map(|uplink| uplink.interface.clone()).collect(),
    })
}

/// The LAN's MTU: in a cluster what goes from node to node has an overlay's headers around it. Also where there is one node
/// so far: machines do not learn of another MTU while they run.
pub(crate) fn mtu(view: &View<'_>, lan: &Lan) -> u16 {
    view.environment().overlay_mtu.map_or(lan.spec.mtu, |most| lan.spec.mtu.min(most))
}

/// Whether the LANs' bridges are the interfaces that routers and farms serve on; in pods these have interfaces of their own.
fn routed_here(view: &View<'_>) -> bool {
    view.environment().layout == Layout::Host
}

fn router_address6(ipv6: &Ipv6Spec) -> Option<Ipv6Net> {
    Ipv6Net::new(ipv6.gateway(), ipv6.prefix.prefix_len()).ok()
}

/// The router's own addresses, then those of farms that serve on others.
fn addresses(view: &View<'_>, reference: &ObjectRef, lan: &Lan) -> Vec<Ipv4Net> {
    let own = lan.spec.subnets.iter().filter(|subnet| !subnet.relayed);
    let mut addresses: Vec<_> =
        own.clone().filter_map(|subnet| Ipv4Net::new(subnet.gateway(), subnet.cidr.prefix_len()).ok()).collect();
    let farms = view.farms().filter(|(name, farm)| farm::lan_of(name, farm) == *reference && view.valid(name).is_ok());
    for address in farms.flat_map(|(_, farm)| farm.spec.addresses.iter().copied()) {
        let subnet = own.clone().find(|subnet| subnet.cidr.contains(&address));
        let address = subnet.and_then(|subnet| Ipv4Net::new(address, subnet.cidr.prefix_len()).ok());
        addresses.extend(address.filter(|address| !addresses.contains(address)));
    }
    addresses
}

fn bridge(view: &View<'_>, reference: &ObjectRef) -> Option<LinkName> {
    names::bridge(&view.environment().installation, reference)
}

pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, lan: &Lan, desired: &mut Desired) {
    let workload = router_name(reference);
    if let Some(config) = router(view, reference, lan).filter(|_| view.passes(&workload, &laid(view, reference))) {
        desired.workloads.push(Workload { owner: reference.clone(), role: Role::Router(config) });
    }
    let report = view.router_report(&workload);
    let state = serves(view, reference).map(|()| {
        let external = || ("External", "somebody else's network: nothing of it is laid here".to_owned());
        if lan.spec.external { external() } else { ("Serving", bridge_words(view, reference)) }
    });
    let noticed = report.map(alarms::conditions).unwrap_or_default();
    let status = LanStatus {
        conditions: std::iter::once(ready_condition(&state)).chain(noticed).collect(),
        observed_generation: lan.metadata.generation.unwrap_or_default(),
        bridge: bridge(view, reference).filter(|_| !lan.spec.external).map(|name| name.to_string()).unwrap_or_default(),
        leases: report.map_or(0, |report| u32::try_from(report.leases.len()).unwrap_or(u32::MAX)),
        capacity: report.map_or(0, |report| report.capacity),
        vni: view.vni(reference),
    };
    push(desired, reference, &lan.status.conditions, Status::Lan(status));
}

fn bridge_words(view: &View<'_>, reference: &ObjectRef) -> String {
    let egress = view.node_report(NODE).and_then(|report| report.egress_failure.as_ref());
    let wants_out = view.lan(reference).is_some_and(|lan| lan.spec.egress == Egress::Masquerade);
    let bridge = bridge(view, reference).map(|name| format!("bridge {name}")).unwrap_or_default();
    let lan = view.lan(reference);
    let smaller = lan.map(|lan| (mtu(view, lan), lan.spec.mtu)).filter(|(mtu, wanted)| mtu < wanted);
    let smaller = smaller.map(|(mtu, _)| format!("; MTU {mtu}, as the network between the nodes allows"));
    let bridge = bridge + &smaller.unwrap_or_default();
    match egress.filter(|_| wants_out) {
        Some(failure) => format!("{bridge}; no way out: {failure}"),
        None => bridge,
    }
}

/// The name of a LAN's router workload.
pub(crate) fn router_name(lan: &ObjectRef) -> String {
    format!("router-{}", key(lan).replace('/', "-"))
}

/// Whether the LAN is somebody else's.
pub(crate) fn is_external(view: &View<'_>, lan: &ObjectRef) -> bool {
    view.lan(lan).is_some_and(|lan| lan.spec.external)
}

/// Whether the LAN's bridge is there, if it shall be.
pub(crate) fn laid(view: &View<'_>, lan: &ObjectRef) -> Result<(), Waiting> {
    view.valid(lan)?;
    if is_external(view, lan) {
        return Ok(());
    }
    view.started(NODE)?;
    let reports = view.node_report(NODE).map(|report| report.lans.as_slice()).unwrap_or_default();
    match reports.iter().find(|report| report.lan == *lan) {
        None => Err(Waiting::new("Laying", "the bridge is about to be made")),
        Some(report) => match &report.failure {
            Some(failure) => Err(Waiting::new("Failed", failure.clone())),
            None => Ok(()),
        },
    }
}

/// Whether the LAN gives addresses and names.
pub(crate) fn serves(view: &View<'_>, lan: &ObjectRef) -> Result<(), Waiting> {
    laid(view, lan)?;
    if is_external(view, lan) {
        return Ok(());
    }
    let router = router_name(lan);
    view.started(&router)?;
    match view.router_report(&router) {
        Some(report) if report.ready => Ok(()),
        Some(report) => {
            let why = report.failure.clone().unwrap_or_else(|| "the router is starting".to_owned());
            Err(Waiting::new(if report.failure.is_some() { "Failed" } else { "Starting" }, why))
        }
        None => Err(Waiting::new("Starting", "the router is starting")),
    }
}

/// Domain of a LAN's machines.
pub(crate) fn domain(reference: &ObjectRef, lan: &Lan) -> String {
    lan.spec.dns.domain.clone().unwrap_or_else(|| format!("{}.internal", reference.name))
}

fn router(view: &View<'_>, reference: &ObjectRef, lan: &Lan) -> Option<RouterConfig> {
    view.valid(reference).ok().filter(|()| !lan.spec.external)?;
    let subnet = |subnet: &stoke_api::objects::Subnet| RouterSubnet {
        cidr: subnet.cidr,
        gateway: subnet.gateway(),
        default_route: lan.spec.egress == Egress::Masquerade,
        pools: subnet.pools.clone(),
        relayed: subnet.relayed,
    };
    Some(RouterConfig {
        lan: reference.clone(),
        interface: places::interface(view, reference)?,
        mtu: mtu(view, lan),
        subnets: lan.spec.subnets.iter().map(subnet).collect(),
        dhcp: lan.spec.dhcp_mode(),
        reservations: lan.spec.dhcp.reservations.clone(),
        ipv6: lan.spec.ipv6.as_ref().map(|ipv6| RouterIpv6 { prefix: ipv6.prefix, address: ipv6.gateway() }),
        domain: domain(reference, lan),
        upstreams: upstreams(view, reference, lan),
        hosts: hosts(view, reference),
        farms: view.farms().filter_map(|(name, farm)| Some((key(name), boot(view, name, farm, reference)?))).collect(),
        leases: places::leases(view, reference),
        forwards: ports::forwards(view, reference),
        seed: places::seed(view),
    })
}

fn boot(view: &View<'_>, name: &ObjectRef, farm: &crate::view::Farm, lan: &ObjectRef) -> Option<FarmBoot> {
    let here = sibling(name, Kind::Lan, &farm.spec.lan) == *lan && view.valid(name).is_ok();
    here.then(|| farm::boot(view, name, farm)).flatten()
}

/// The servers that know other names. The node agent knows which can be asked from inside of the namespace; until it has
/// said so, a router that runs keeps those that it has.
fn upstreams(view: &View<'_>, reference: &ObjectRef, lan: &Lan) -> Vec<IpAddr> {
    if !lan.spec.dns.upstreams.is_empty() {
        return lan.spec.dns.upstreams.clone();
    }
    if lan.spec.egress == Egress::None {
        return Vec::new();
    }
    if let Some(report) = view.node_report(NODE) {
        return report.upstreams.clone();
    }
    match view.workload(&router_name(reference)).and_then(|seen| seen.workload.as_ref()).map(|seen| &seen.role) {
        Some(Role::Router(config)) => config.upstreams.clone(),
        _ => Vec::new(),
    }
}

fn hosts(view: &View<'_>, lan: &ObjectRef) -> Vec<RouterHost> {
    let servers = view.servers().filter(|(name, _)| view.valid(name).is_ok());
    let servers = servers.filter_map(|(name, spec)| server::host(view, name, spec, lan));
    let machines = view.machines().filter(|(name, _)| view.valid(name).is_ok());
    let here = |(name, farm): &(&ObjectRef, &crate::view::Farm)| farm::lan_of(name, farm) == *lan;
    let rehearsals = view.farms().filter(here).filter_map(|(name, farm)| rehearsal::host(view, name, farm));
    let machines = machines.flat_map(|(name, machine)| machine_hosts(view, name, machine, lan));
    servers.chain(machines).chain(rehearsals).collect()
}

/// One host for each interface on the LAN, since each may have an address of its own. The UUID tells machines apart, not
/// their interfaces, so only the first one on the LAN has it.
fn machine_hosts(
    view: &View<'_>,
    name: &ObjectRef,
    machine: &crate::view::Machine,
    lan: &ObjectRef,
) -> Vec<RouterHost> {
    let farm = machine.spec.farm.as_ref().map(|farm| sibling(name, Kind::Farm, farm));
    let serves_here = |farm: &ObjectRef| {
        view.farm(farm).is_some_and(|spec| sibling(farm, Kind::Lan, &spec.spec.lan) == *lan) && view.valid(farm).is_ok()
    };
    let farm = farm.filter(serves_here);
    let kernels = farm.as_ref().map(|farm| farm::kernels_of(view, farm, name)).unwrap_or_default();
    let farm = farm.map(|farm| key(&farm));
    let nics = machine.spec.nics.iter().filter(|nic| sibling(name, Kind::Lan, &nic.lan) == *lan);
    let host = |(index, nic): (usize, &stoke_api::objects::Nic)| RouterHost {
        owner: name.clone(),
        hostname: hostname(name, &machine.spec.config),
        macs: vec![nic_mac(name, nic)],
        client_id: None,
        uuid: (index == 0).then(|| machine_uuid(name, machine.metadata.uid.as_deref())),
        address: nic.address,
        farm: farm.clone(),
        kernels: kernels.clone(),
    };
    nics.enumerate().map(host).collect()
}
