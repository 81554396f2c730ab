//! From what is there to what is wanted.
//!
//! [`lan`] gives the steps of one LAN and [`namespace`] those that belong to none: what is left of LANs that are gone,
//! the packet filter, forwarding. A LAN that cannot be as wanted fails alone. [`teardown`] gives the steps to nothing.
//! All are pure; a plan from what its own steps led to is empty.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use stoke_api::names::LinkName;

use crate::firewall::Table;
use crate::interface::Interface;
use crate::label::{Home, Installation, Label, LinkRole};
use crate::observed::{BridgeOptions, Link, LinkKind, Manners, Observed};
use crate::step::Step;
use crate::wanted::{Lan, Tunnel, Wanted};

/// Why a LAN cannot be as wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The bridge's name is taken.
    #[error("a link named {0} exists and is not ours; remove it, or give the lan another name")]
    Foreign(LinkName),
    /// The uplink does not exist.
    #[error("the host has no interface {interface}; it has {}", names(.exists))]
    NoSuchInterface {
        /// What was asked for.
        interface: LinkName,
        /// What the host has.
        exists: BTreeSet<LinkName>,
    },
    /// The uplink is how the host reaches others.
    #[error(
        "{0} carries the host's default route: as an uplink it would cut off the host; use another interface, or move \
         the route first"
    )]
    DefaultRoute(LinkName),
    /// We may not take interfaces.
    #[error("only root can let the host's interface {0} join a lan; run stoke as root, or remove it from uplinks")]
    NotRoot(LinkName),
}

fn names(names: &BTreeSet<LinkName>) -> String {
    let names: Vec<&str> = names.iter().map(LinkName::as_str).collect();
    if names.is_empty() { "none that could join".to_owned() } else { names.join(", ") }
}

/// The steps for one LAN, in an order in which each can succeed. Empty if nothing is to do.
///
/// # Errors
/// If the LAN cannot be as wanted; nothing of it should be changed then.
pub fn lan(installation: &Installation, lan: &Lan, observed: &Observed) -> Result<Vec<Step>, PlanError> {
    let taken = uplinks_to_take(installation, lan, observed)?;
    let mut steps = bridge(installation, lan, observed)?;
    steps.extend(uplinks_to_return(installation, lan, observed));
    for interface in taken {
        let label = uplink_label(installation, lan, &interface);
        steps.push(Step::TakeUplink { interface: interface.clone(), label });
        steps.extend(port(&interface, None, false, lan, observed.ipv6));
    }
    steps.extend(tunnel(installation, lan, observed)?);
    let ports = observed.labelled(installation).filter(|(_, _, label)| label.lan == lan.key);
    for (name, link, label) in ports {
        let wanted = match &label.role {
            LinkRole::Bridge | LinkRole::Overlay => false,
            LinkRole::Port(_) => true,
            LinkRole::Uplink { interface, .. } => lan.uplinks.contains(interface),
        };
        // An uplink's MTU is its owner's, and that of what is at its other end.
        let ours = matches!(label.role, LinkRole::Port(_));
        steps.extend(wanted.then(|| port(name, Some(link), ours, lan, observed.ipv6)).into_iter().flatten());
    }
    Ok(steps)
}

/// The steps that belong to no single LAN: to be carried out after those of all LANs.
pub fn namespace(wanted: &Wanted, observed: &Observed) -> Vec<Step> {
    let mut steps = leftovers(wanted, observed);
    steps.extend(filter(wanted, observed));
    steps
}

/// The steps that end what is left of LANs that are gone.
pub fn leftovers(wanted: &Wanted, observed: &Observed) -> Vec<Step> {
    let keys: BTreeSet<_> = wanted.lans.iter().map(|lan| &lan.key).collect();
    let stale = observed.labelled(&wanted.installation).filter(|(_, _, label)| !keys.contains(&label.lan));
    // A port stays although its LAN is gone: it belongs to a process that still runs, and goes with it.
    let stale = stale.filter_map(|(name, _, label)| give_up(name, label));
    let misnamed = wanted.lans.iter().flat_map(|lan| renamed_bridges(&wanted.installation, lan, observed));
    stale.chain(misnamed).collect()
}

/// The steps of packet filter and forwarding.
pub fn filter(wanted: &Wanted, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    // Where the namespace is no station it forwards nothing: there is nothing to filter.
    let hosted = Wanted { lans: wanted.lans.iter().filter(|lan| lan.hosted).cloned().collect(), ..wanted.clone() };
    let table = Table::of(&hosted);
    let name = table.name.clone();
    match (&observed.table, hosted.lans.is_empty()) {
        (Some(_), true) => steps.push(Step::DeleteTable { name }),
        (there, false) if there.as_ref() != Some(&table) => steps.push(Step::LoadTable { table }),
        _ => {}
    }
    // Only after the table: without it everything would be let through.
    if !hosted.lans.is_empty() && !observed.forwarding {
        steps.push(Step::Forward);
    }
    steps
}

/// The steps in a pod's namespace, in which the LAN's "bridge" is its interface there. A pod that is the LAN's router forwards
/// between the LAN's subnets, without translation; if the LAN masquerades also to `way_out`, its other interface.
pub fn interface(
    installation: &Installation,
    Interface { lan, label, forwards, .. }: &Interface,
    way_out: Option<&LinkName>,
    observed: &Observed,
) -> Vec<Step> {
    let Some(link) = observed.links.get(&lan.bridge) else { return Vec::new() };
    let name = &lan.bridge;
    let mut steps = Vec::new();
    let labelled = link.label.as_ref() == Some(label);
    steps.extend((!labelled).then(|| Step::SetLabel { link: name.clone(), label: label.clone() }));
    steps.extend((link.mac != lan.mac).then(|| Step::SetMac { link: name.clone(), mac: lan.mac }));
    steps.extend((link.mtu != u32::from(lan.mtu)).then(|| Step::SetMtu { link: name.clone(), mtu: lan.mtu }));
    steps.extend(manners(lan, link.manners, observed.ipv6));
    steps.extend(addresses(lan, link, observed.ipv6));
    steps.extend((!link.up).then(|| Step::Up { link: name.clone() }));
    // Without a way out there is nothing behind which to hide, and subnets see each other as they are.
    let seen = Lan { masquerade: lan.masquerade && way_out.is_some(), ..lan.clone() };
    let lans = if *forwards { vec![seen] } else { Vec::new() };
    let way_out = way_out.unwrap_or(name).clone();
    steps.extend(filter(&Wanted { installation: installation.clone(), lans, way_out }, observed));
    steps
}

/// The steps to a namespace without anything of the installation.
pub fn teardown(installation: &Installation, observed: &Observed) -> Vec<Step> {
    let ports = observed.labelled(installation).filter(|(_, _, label)| matches!(label.role, LinkRole::Port(_)));
    let ports = ports.map(|(name, _, _)| Step::Delete { link: name.clone() });
    let others = observed.labelled(installation).filter_map(|(name, _, label)| give_up(name, label));
    let table = observed.table.as_ref().map(|table| Step::DeleteTable { name: table.name.clone() });
    ports.chain(others).chain(table).collect()
}

/// The step that ends a bridge or an uplink; ports end with their processes.
fn give_up(name: &LinkName, label: &Label) -> Option<Step> {
    match &label.role {
        LinkRole::Bridge | LinkRole::Overlay => Some(Step::Delete { link: name.clone() }),
        LinkRole::Uplink { interface, home } => {
            Some(Step::ReturnUplink { link: name.clone(), interface: interface.clone(), home: home.clone() })
        }
        LinkRole::Port(_) => None,
    }
}

/// Bridges of the LAN that have another name than the wanted one.
fn renamed_bridges<'a>(
    installation: &'a Installation,
    lan: &'a Lan,
    observed: &'a Observed,
) -> impl Iterator<Item = Step> {
    let of_lan = |label: &Label| label.lan == lan.key && label.role == LinkRole::Bridge;
    let bridges = observed.labelled(installation).filter(move |(name, _, label)| of_lan(label) && **name != lan.bridge);
    bridges.map(|(name, _, _)| Step::Delete { link: name.clone() })
}

fn bridge(installation: &Installation, lan: &Lan, observed: &Observed) -> Result<Vec<Step>, PlanError> {
    let Some(link) = observed.links.get(&lan.bridge) else { return Ok(new_bridge(installation, lan, observed.ipv6)) };
    let label = lan.label(installation);
    if !is_ours(link, &label, lan) {
        return Err(PlanError::Foreign(lan.bridge.clone()));
    }
    let name = &lan.bridge;
    let mut steps = Vec::new();
    steps.extend((link.label.as_ref() != Some(&label)).then(|| Step::SetLabel { link: name.clone(), label }));
    steps.extend((link.mac != lan.mac).then(|| Step::SetMac { link: name.clone(), mac: lan.mac }));
    steps.extend((link.mtu != u32::from(lan.mtu)).then(|| Step::SetMtu { link: name.clone(), mtu: lan.mtu }));
    let options = link.kind != LinkKind::Bridge(BridgeOptions::OURS);
    steps.extend(options.then(|| Step::SetBridgeOptions { bridge: name.clone() }));
    steps.extend(manners(lan, link.manners, observed.ipv6));
    steps.extend(addresses(lan, link, observed.ipv6));
    steps.extend((!link.up).then(|| Step::Up { link: name.clone() }));
    Ok(steps)
}

/// Whether the bridge is ours: by its label, or because we died before it had one. Nobody else makes a bridge with our
/// name and our MAC and neither address nor alias.
fn is_ours(link: &Link, label: &Label, lan: &Lan) -> bool {
    let unfinished = link.label.is_none() && link.mac == lan.mac && link.addresses.is_empty() && !link.up;
    matches!(link.kind, LinkKind::Bridge(_)) && (link.label.as_ref() == Some(label) || unfinished)
}

fn new_bridge(installation: &Installation, lan: &Lan, ipv6: bool) -> Vec<Step> {
    let name = &lan.bridge;
    let mut steps = vec![
        Step::CreateBridge { bridge: name.clone(), mac: lan.mac, mtu: lan.mtu },
        Step::SetLabel { link: name.clone(), label: lan.label(installation) },
    ];
    steps.extend(manners(lan, Manners::default(), ipv6));
    let addresses = lan.bridge_addresses(ipv6).into_iter();
    steps.extend(addresses.map(|address| Step::AddAddress { link: name.clone(), address }));
    steps.push(Step::Up { link: name.clone() });
    steps
}

/// What the bridge does by itself.
fn manners(lan: &Lan, there: Manners, ipv6: bool) -> Option<Step> {
    match lan.hosted {
        _ if !ipv6 => None,
        true => (!there.trusts_addresses).then(|| Step::TrustAddresses { link: lan.bridge.clone() }),
        false => (!there.silent).then(|| Step::Silence { link: lan.bridge.clone() }),
    }
}

/// The steps of the LAN's tunnel.
fn tunnel(installation: &Installation, lan: &Lan, observed: &Observed) -> Result<Vec<Step>, PlanError> {
    let name = lan.tunnel_name(installation);
    let label = lan.tunnel_label(installation);
    let link = observed.links.get(&name);
    let Some(wanted) = &lan.overlay else {
        let ours = link.filter(|link| link.label.as_ref() == Some(&label));
        return Ok(ours.map(|_| Step::Delete { link: name }).into_iter().collect());
    };
    let Some(link) = link else { return Ok(new_tunnel(&name, label, wanted, lan, observed)) };
    if link.label.as_ref() != Some(&label) && !(link.label.is_none() && !link.up && is_tunnel(link)) {
        return Err(PlanError::Foreign(name));
    }
    if link.kind != LinkKind::Tunnel(wanted.path) {
        let mut steps = vec![Step::Delete { link: name.clone() }];
        steps.extend(new_tunnel(&name, label, wanted, lan, observed));
        return Ok(steps);
    }
    let mut steps = Vec::new();
    steps.extend((link.label.as_ref() != Some(&label)).then(|| Step::SetLabel { link: name.clone(), label }));
    steps.extend(peers(&name, wanted, &link.peers));
    steps.extend(port(&name, Some(link), true, lan, observed.ipv6));
    Ok(steps)
}

fn is_tunnel(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Tunnel(_))
}

fn new_tunnel(name: &LinkName, label: Label, wanted: &Tunnel, lan: &Lan, observed: &Observed) -> Vec<Step> {
    let mut steps = vec![
        Step::CreateTunnel { tunnel: name.clone(), path: wanted.path, mtu: lan.mtu },
        Step::SetLabel { link: name.clone(), label },
    ];
    steps.extend(peers(name, wanted, &BTreeSet::new()));
    steps.extend(observed.ipv6.then(|| Step::Silence { link: name.clone() }));
    steps.push(Step::Attach { port: name.clone(), bridge: lan.bridge.clone() });
    steps.push(Step::Up { link: name.clone() });
    steps
}

/// Only what differs: what is sent to the others goes on.
fn peers(name: &LinkName, wanted: &Tunnel, there: &BTreeSet<IpAddr>) -> Vec<Step> {
    let gone = there.difference(&wanted.peers).map(|peer| Step::RemovePeer { tunnel: name.clone(), peer: *peer });
    let new = wanted.peers.difference(there).map(|peer| Step::AddPeer { tunnel: name.clone(), peer: *peer });
    gone.chain(new).collect()
}

fn addresses(lan: &Lan, link: &Link, ipv6: bool) -> Vec<Step> {
    let wanted = lan.bridge_addresses(ipv6);
    // Link-local addresses that we did not ask for are the kernel's own.
    let kernels = |address: &&IpNet| matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let extra = link.addresses.difference(&wanted).filter(|address| !kernels(address));
    let remove = extra.map(|address| Step::RemoveAddress { link: lan.bridge.clone(), address: *address });
    let missing = wanted.difference(&link.addresses);
    let add = missing.map(|address| Step::AddAddress { link: lan.bridge.clone(), address: *address });
    remove.chain(add).collect()
}

/// The steps that make a link a port of the LAN; `None` for one that is about to come. `ours`: we made it, and it follows the
/// LAN's MTU.
fn port(name: &LinkName, link: Option<&Link>, ours: bool, lan: &Lan, ipv6: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let silent = !ipv6 || link.is_some_and(|link| link.manners.silent);
    steps.extend((!silent).then(|| Step::Silence { link: name.clone() }));
    let attached = link.and_then(|link| link.master.as_ref()) == Some(&lan.bridge);
    // The MTU before the port: one with a smaller MTU would pull the bridge down with it.
    let mtu = ours && link.is_some_and(|link| link.mtu != u32::from(lan.mtu));
    steps.extend(mtu.then(|| Step::SetMtu { link: name.clone(), mtu: lan.mtu }));
    steps.extend((!attached).then(|| Step::Attach { port: name.clone(), bridge: lan.bridge.clone() }));
    let up = link.is_some_and(|link| link.up);
    steps.extend((!up).then(|| Step::Up { link: name.clone() }));
    steps
}

fn uplink_label(installation: &Installation, lan: &Lan, interface: &LinkName) -> Label {
    let role = LinkRole::Uplink { interface: interface.clone(), home: Home::default() };
    Label { installation: installation.clone(), lan: lan.key.clone(), role }
}

/// Uplinks that are still in the host's namespace.
fn uplinks_to_take(installation: &Installation, lan: &Lan, observed: &Observed) -> Result<Vec<LinkName>, PlanError> {
    // One that another LAN of ours has is returned by that LAN's plan; the next plan of this one takes it.
    let absent = lan.uplinks.iter().filter(|interface| observed.uplink(installation, interface).is_none());
    absent.map(|interface| may_take(interface, observed).map(|()| interface.clone())).collect()
}

fn may_take(interface: &LinkName, observed: &Observed) -> Result<(), PlanError> {
    let Some(host) = &observed.host else { return Err(PlanError::NotRoot(interface.clone())) };
    match host.get(interface) {
        Some(link) if link.default_route => Err(PlanError::DefaultRoute(interface.clone())),
        Some(link) if !link.loopback => Ok(()),
        _ => {
            let real = host.iter().filter(|(_, link)| !link.loopback);
            let exists = real.map(|(name, _)| name.clone()).collect();
            Err(PlanError::NoSuchInterface { interface: interface.clone(), exists })
        }
    }
}

/// Uplinks of this LAN that it should no longer have.
fn uplinks_to_return<'a>(
    installation: &'a Installation,
    lan: &'a Lan,
    observed: &'a Observed,
) -> impl Iterator<Item = Step> {
    observed.labelled(installation).filter(|(_, _, label)| label.lan == lan.key).filter_map(|(name, _, label)| {
        let LinkRole::Uplink { interface, .. } = &label.role else { return None };
        if lan.uplinks.contains(interface) { None } else { give_up(name, label) }
    })
}
