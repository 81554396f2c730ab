//! What a configuration means to `stoke-net`.

use anyhow::Context as _;
use stoke_api::agent::AgentConfig;
use stoke_api::workload::{LanPlan, NodeAgentConfig};
use stoke_net::wanted::{Lan, Wanted};

use crate::egress;

/// What a node agent works towards.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// The LANs, as `stoke-net` knows them.
    pub(crate) wanted: Wanted,
    /// The LANs, as they are reported.
    pub(crate) plans: Vec<LanPlan>,
    /// Whether the namespace has a way out.
    pub(crate) egress: bool,
}

impl Goal {
    /// On one host alone.
    ///
    /// # Errors
    /// If the installation's name is none.
    pub(crate) fn alone(config: &NodeAgentConfig) -> anyhow::Result<Self> {
        Ok(Self { wanted: wanted(config)?, plans: config.lans.clone(), egress: config.egress })
    }

    /// On the node of this name, one of several.
    ///
    /// # Errors
    /// If the installation's name is none.
    pub(crate) fn on_node(config: &AgentConfig, node: &str) -> anyhow::Result<Self> {
        let installation = config.installation.parse()?;
        let way_out = egress::INTERFACE.parse().context("the way out has no valid name")?;
        let lans = config.lans.iter().map(|lan| Lan::on_node(lan, node)).collect();
        let plans = config.lans.iter().map(|lan| lan.plan.clone()).collect();
        Ok(Self { wanted: Wanted { installation, lans, way_out }, plans, egress: false })
    }
}

/// The LANs that the configuration asks for.
///
/// # Errors
/// If the installation's name is none.
pub(crate) fn wanted(config: &NodeAgentConfig) -> anyhow::Result<Wanted> {
    let installation = config.installation.parse()?;
    let way_out = egress::INTERFACE.parse().context("the way out has no valid name")?;
    Ok(Wanted { installation, lans: config.lans.iter().map(Lan::from).collect(), way_out })
}

/// Why this LAN cannot be beside the ones that are named before it.
pub(crate) fn conflict(lan: &Lan, earlier: &[Lan]) -> Option<String> {
    earlier.iter().find_map(|other| {
        let pairs = lan.addresses.iter().flat_map(|ours| other.addresses.iter().map(move |theirs| (ours, theirs)));
        let overlap = pairs.into_iter().find(|(ours, theirs)| ours.contains(*theirs) || theirs.contains(*ours));
        let (ours, theirs) = overlap?;
        let (ours, theirs, key) = (ours.trunc(), theirs.trunc(), &other.key);
        Some(format!("its subnet {ours} overlaps {theirs} of lan {key} on this host; choose another one"))
    })
}
