//! What the farm's configuration of LTSP means for machines that no object names: known only when they come.
//!
//! Nodes that objects name have it in their own configuration already.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::node::Mode;
use stoke_api::objects::RootMode;
use stoke_boot::lts::translate::Translation;
use stoke_boot::lts::{Conf, Machine};

use crate::config::{Identity, Serving};

/// The configuration, if the farm has one.
pub(crate) fn read(config: &stoke_api::workload::FarmConfig) -> Option<Conf> {
    Conf::of_files(config.ltsp.lts_conf.as_ref(), config.ltsp.ltsp_conf.as_ref())
}

impl Serving {
    /// What it means for a machine that no object names.
    pub(crate) fn stranger(&self, identity: &Identity<'_>, mac: MacAddr, address: Ipv4Addr) -> Option<Translation> {
        let (conf, Identity::Stranger(_)) = (self.ltsp.as_ref()?, identity) else { return None };
        let (server, hostname) = (Some(self.config.address.into()), identity.name());
        Some(conf.translate(&Machine { macs: &[mac], address: Some(address), hostname: &hostname, server }))
    }

    /// Where the root of a machine is that comes from this address.
    pub fn mode(&self, identity: &Identity<'_>, mac: MacAddr, address: Ipv4Addr) -> Mode {
        let own = match identity {
            Identity::Known(node) => node.root,
            Identity::Stranger(_) => self.stranger(identity, mac, address).and_then(|translation| translation.root),
        };
        let own = own.filter(|root| self.config.disk.is_some() || *root != RootMode::Disk);
        match own.unwrap_or(self.config.root) {
            RootMode::Auto => Mode::Auto,
            RootMode::Ram => Mode::Ram,
            RootMode::Nfs => Mode::Nfs,
            RootMode::Disk => Mode::Disk,
            // `Aoe` is refused where the object is checked.
            RootMode::Nbd | RootMode::Aoe => Mode::Nbd,
        }
    }
}
