//! A network namespace in memory: what the kernel does for our steps, for tests of who uses them.

use std::collections::BTreeMap;

use stoke_api::names::LinkName;

use crate::apply::Links;
use crate::label::{Home, Installation, Label, LinkRole};
use crate::observed::{BridgeOptions, HostLink, Link, LinkKind, Manners, Observed};
use crate::step::Step;

/// A namespace in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeLinks {
    /// What is there.
    pub state: Observed,
}

/// What the fake refuses, as the kernel would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FakeError {
    /// The link is not there.
    #[error("there is no link {0}")]
    NoLink(LinkName),
    /// The name is taken.
    #[error("there is a link {0} already")]
    Exists(LinkName),
    /// There is no host namespace to take from or give to.
    #[error("there is no host namespace")]
    NoHost,
}

impl FakeLinks {
    /// An empty namespace, with IPv6, that may take these interfaces of a host.
    pub fn with_host(host: BTreeMap<LinkName, HostLink>) -> Self {
        Self { state: Observed { ipv6: true, host: Some(host), ..Observed::default() } }
    }

    fn link(&mut self, name: &LinkName) -> Result<&mut Link, FakeError> {
        self.state.links.get_mut(name).ok_or_else(|| FakeError::NoLink(name.clone()))
    }

    fn create(&mut self, name: &LinkName, link: Link) -> Result<(), FakeError> {
        if self.state.links.contains_key(name) {
            return Err(FakeError::Exists(name.clone()));
        }
        self.state.links.insert(name.clone(), link);
        Ok(())
    }

    /// Adds a link without anything, as a TAP is when it is made.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn add(&mut self, name: &LinkName, label: Option<Label>) -> Result<(), FakeError> {
        self.create(name, Link { kind: LinkKind::Tap, label, ..bare() })
    }

    fn delete(&mut self, name: &LinkName) -> Result<(), FakeError> {
        self.state.links.remove(name).ok_or_else(|| FakeError::NoLink(name.clone()))?;
        let ports = self.state.links.values_mut().filter(|link| link.master.as_ref() == Some(name));
        ports.for_each(|port| port.master = None);
        Ok(())
    }

    fn take(&mut self, interface: &LinkName, label: &Label) -> Result<(), FakeError> {
        let host = self.state.host.as_mut().ok_or(FakeError::NoHost)?;
        host.remove(interface).ok_or_else(|| FakeError::NoLink(interface.clone()))?;
        let role = LinkRole::Uplink { interface: interface.clone(), home: Home::default() };
        self.create(interface, Link { label: Some(Label { role, ..label.clone() }), ..bare() })
    }

    fn give_back(&mut self, link: &LinkName, interface: &LinkName) -> Result<(), FakeError> {
        self.delete(link)?;
        let host = self.state.host.as_mut().ok_or(FakeError::NoHost)?;
        host.insert(interface.clone(), HostLink::default());
        Ok(())
    }

    fn change_link(&mut self, step: &Step) -> Result<(), FakeError> {
        match step {
            Step::SetLabel { link, label } => self.link(link)?.label = Some(label.clone()),
            Step::AddPeer { tunnel, peer } => {
                self.link(tunnel)?.peers.insert(*peer);
            }
            Step::RemovePeer { tunnel, peer } => {
                self.link(tunnel)?.peers.remove(peer);
            }
            Step::SetMac { link, mac } => self.link(link)?.mac = *mac,
            Step::SetMtu { link, mtu } => self.link(link)?.mtu = u32::from(*mtu),
            Step::SetBridgeOptions { bridge } => self.link(bridge)?.kind = LinkKind::Bridge(BridgeOptions::OURS),
            Step::TrustAddresses { link } => self.link(link)?.manners.trusts_addresses = true,
            Step::AddAddress { link, address } => {
                self.link(link)?.addresses.insert(*address);
            }
            Step::RemoveAddress { link, address } => {
                self.link(link)?.addresses.remove(address);
            }
            Step::Up { link } => self.link(link)?.up = true,
            Step::Silence { link } => self.link(link)?.manners.silent = true,
            Step::Attach { port, bridge } => {
                self.link(bridge)?;
                self.link(port)?.master = Some(bridge.clone());
            }
            _ => {}
        }
        Ok(())
    }
}

fn bare() -> Link {
    Link {
        kind: LinkKind::Other,
        mac: stoke_api::names::MacAddr([2, 0, 0, 0, 0, 0xfa]),
        mtu: 1500,
        up: false,
        label: None,
        master: None,
        addresses: std::collections::BTreeSet::new(),
        manners: Manners::default(),
        peers: std::collections::BTreeSet::new(),
    }
}

impl Links for FakeLinks {
    type Error = FakeError;

    fn observe(&mut self, _: &Installation) -> Result<Observed, FakeError> {
        Ok(self.state.clone())
    }

    fn execute(&mut self, step: &Step) -> Result<(), FakeError> {
        match step {
            Step::CreateBridge { bridge, mac, mtu } => {
                let kind = LinkKind::Bridge(BridgeOptions::OURS);
                self.create(bridge, Link { kind, mac: *mac, mtu: u32::from(*mtu), ..bare() })
            }
            Step::CreateTunnel { tunnel, path, mtu } => {
                self.state.host.as_ref().ok_or(FakeError::NoHost)?;
                self.create(tunnel, Link { kind: LinkKind::Tunnel(*path), mtu: u32::from(*mtu), ..bare() })
            }
            Step::TakeUplink { interface, label } => self.take(interface, label),
            Step::ReturnUplink { link, interface, .. } => self.give_back(link, interface),
            Step::Delete { link } => self.delete(link),
            Step::LoadTable { table } => {
                self.state.table = Some(table.clone());
                Ok(())
            }
            Step::DeleteTable { .. } => {
                self.state.table = None;
                Ok(())
            }
            Step::Forward => {
                self.state.forwarding = true;
                Ok(())
            }
            step => self.change_link(step),
        }
    }
}
