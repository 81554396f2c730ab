//! From what is there to what is wanted.
//!
//! [`lan`] gives the steps of one LAN and [`namespace`] those that belong to none: what is left of LANs that are gone,
//! the packet filter, forwarding. A LAN that cannot be as wanted fails alone. [`teardown`] gives the steps to nothing.
//! All are pure; a plan from what its own steps led to is empty.

use std::collections::BTreeSet;

use ipnet::IpNet;
use stoke_api::names::LinkName;

use crate::firewall::Table;
use crate::label::{Home, Installation, Label, LinkRole};
use crate::observed::{BridgeOptions, Link, LinkKind, Observed};
use crate::step::Step;
use crate::wanted::{Lan, Wanted};

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
        steps.extend(port(&interface, None, lan, observed.ipv6));
    }
    let ports = observed.labelled(installation).filter(|(_, _, label)| label.lan == lan.key);
    for (name, link, label) in ports {
        let wanted = match &label.role {
            LinkRole::Bridge => false,
            LinkRole::Port(_) => true,
            LinkRole::Uplink { interface, .. } => lan.uplinks.contains(interface),
        };
        steps.extend(wanted.then(|| port(name, Some(link), lan, observed.ipv6)).into_iter().flatten());
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
    let table = Table::of(wanted);
    let name = table.name.clone();
    match (&observed.table, wanted.lans.is_empty()) {
        (Some(_), true) => steps.push(Step::DeleteTable { name }),
        (there, false) if there.as_ref() != Some(&table) => steps.push(Step::LoadTable { table }),
        _ => {}
    }
    // Only after the table: without it everything would be let through.
    if !wanted.lans.is_empty() && !observed.forwarding {
        steps.push(Step::Forward);
    }
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
        LinkRole::Bridge => Some(Step::Delete { link: name.clone() }),
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
    let trusts = link.manners.trusts_addresses || !observed.ipv6;
    steps.extend((!trusts).then(|| Step::TrustAddresses { link: name.clone() }));
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
    steps.extend(ipv6.then(|| Step::TrustAddresses { link: name.clone() }));
    let addresses = lan.bridge_addresses(ipv6).into_iter();
    steps.extend(addresses.map(|address| Step::AddAddress { link: name.clone(), address }));
    steps.push(Step::Up { link: name.clone() });
    steps
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

/// The steps that make a link a port of the LAN; `None` for one that is about to come.
fn port(name: &LinkName, link: Option<&Link>, lan: &Lan, ipv6: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let silent = !ipv6 || link.is_some_and(|link| link.manners.silent);
    steps.extend((!silent).then(|| Step::Silence { link: name.clone() }));
    let attached = link.and_then(|link| link.master.as_ref()) == Some(&lan.bridge);
    // The MTU before the port: one with a smaller MTU would pull the bridge down with it.
    let mtu = link.is_some_and(|link| link.mtu != u32::from(lan.mtu) && link.kind == LinkKind::Tap);
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
