//! What the configuration means to `stoke-net`.

use anyhow::Context as _;
use stoke_api::workload::NodeAgentConfig;
use stoke_net::wanted::{Lan, Wanted};

use crate::egress;

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
