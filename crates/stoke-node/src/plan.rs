//! What laying the LANs would do, as lines for people.

use std::collections::BTreeMap;

use stoke_api::workload::NodeAgentConfig;
use stoke_net::observed::Observed;
use stoke_net::wanted::{Lan, Wanted};
use stoke_net::{Step, kernel};

use crate::config;

/// What laying the LANs on a host without any would do. Needs no right: only the names of the host's interfaces are
/// looked at, if any is to join. A running agent is asked by `POST /plan` on its admin socket instead.
pub fn plan_lines(config: &NodeAgentConfig) -> Vec<String> {
    let host = rustix::process::geteuid().is_root().then(kernel::host_interfaces);
    let host = host.and_then(Result::ok);
    let observed = Observed { ipv6: true, host, ..Observed::default() };
    match config::wanted(config) {
        Ok(wanted) => lines(&wanted, &observed),
        Err(error) => vec![format!("{error:#}")],
    }
}

/// The lines from what is there to what is wanted: steps, and LANs that cannot be.
pub(crate) fn lines(wanted: &Wanted, observed: &Observed) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, lan) in wanted.lans.iter().enumerate() {
        match steps(wanted, index, observed) {
            Ok(steps) => lines.extend(steps.iter().map(ToString::to_string)),
            Err(reason) => lines.push(format!("lan {} cannot be laid: {reason}", lan.key)),
        }
    }
    lines.extend(namespace_steps(wanted, observed).iter().map(ToString::to_string));
    lines
}

/// The steps of one LAN, or why there are none.
pub(crate) fn steps(wanted: &Wanted, index: usize, observed: &Observed) -> Result<Vec<Step>, String> {
    let Some(lan) = wanted.lans.get(index) else { return Ok(Vec::new()) };
    let earlier = wanted.lans.get(..index).unwrap_or_default();
    if let Some(conflict) = config::conflict(lan, earlier) {
        return Err(conflict);
    }
    stoke_net::plan::lan(&wanted.installation, lan, observed).map_err(|error| error.to_string())
}

/// The steps of the namespace itself. A LAN that cannot be beside the others has no say in the packet filter; what
/// there is of it from better times stays.
pub(crate) fn namespace_steps(wanted: &Wanted, observed: &Observed) -> Vec<Step> {
    let fits =
        |(index, lan): &(usize, &Lan)| config::conflict(lan, wanted.lans.get(..*index).unwrap_or_default()).is_none();
    let lans = wanted.lans.iter().enumerate().filter(fits).map(|(_, lan)| lan.clone()).collect();
    let mut steps = stoke_net::plan::leftovers(wanted, observed);
    steps.extend(stoke_net::plan::filter(&Wanted { lans, ..wanted.clone() }, observed));
    steps
}

/// Failures by LAN, in the order of the configuration.
pub(crate) type Failures = BTreeMap<stoke_net::LanKey, String>;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeAgentConfig {
        let lan = |name: &str, address: &str, masquerade: bool| {
            serde_json::json!({
                "lan": {"kind": "Lan", "namespace": "default", "name": name}, "bridge": format!("{name}0"),
                "mac": "52:54:00:aa:00:01", "mtu": 1500, "addresses": [address], "masquerade": masquerade, "uplinks": []
            })
        };
        let lans =
            [lan("lab", "10.10.0.1/24", true), lan("safe", "10.20.0.1/24", false), lan("twin", "10.10.0.9/16", true)];
        let config = serde_json::json!({
            "installation": "0a1b2c3d", "lans": lans, "egress": true, "portsSocket": "/run/ports.sock"
        });
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn from_nothing() {
        insta::assert_snapshot!(plan_lines(&config()).join("\n"));
    }
}
