//! Laying LANs: observe, plan, apply, until nothing is left to do.

use std::collections::BTreeMap;

use stoke_api::names::LinkName;
use stoke_net::label::LinkRole;
use stoke_net::observed::Observed;
use stoke_net::wanted::Wanted;
use stoke_net::{Installation, Label, LanKey, Links, Step, apply};

use crate::plan::{self, Failures};

/// How often is looked again. An uplink that goes from one LAN to another needs two looks, all else one.
const ROUNDS: u32 = 4;

/// Ports by their links, each with its LAN and what its label says of its owner.
pub(crate) type Ports = BTreeMap<LinkName, (LanKey, String)>;

/// What came of laying.
#[derive(Debug, Default)]
pub(crate) struct Laid {
    /// LANs that are not as wanted, and why.
    pub(crate) failures: Failures,
    /// Why the packet filter or forwarding is not as wanted.
    pub(crate) filter_failure: Option<String>,
    /// Steps that were carried out.
    pub(crate) steps: u64,
    /// The ports that are there, and whose they are.
    pub(crate) ports: Ports,
}

/// Makes the namespace as wanted. A LAN that fails leaves the others alone.
///
/// # Errors
/// If what is there cannot be read.
pub(crate) fn lay<L: Links>(links: &mut L, wanted: &Wanted) -> Result<Laid, L::Error> {
    let mut laid = Laid::default();
    for _ in 0..ROUNDS {
        let before = laid.steps;
        laid.failures.clear();
        let observed = links.observe(&wanted.installation)?;
        for index in 0..wanted.lans.len() {
            lay_one(links, wanted, index, &observed, &mut laid);
        }
        let observed = if laid.steps == before { observed } else { links.observe(&wanted.installation)? };
        let steps = plan::namespace_steps(wanted, &observed);
        laid.ports = ports(&wanted.installation, &observed);
        laid.filter_failure = carry_out(links, &steps, &mut laid.steps).err();
        if laid.steps == before {
            break;
        }
    }
    Ok(laid)
}

fn ports(installation: &Installation, observed: &Observed) -> Ports {
    let port = |(name, _, label): (&LinkName, _, &Label)| match &label.role {
        LinkRole::Port(owner) => Some((name.clone(), (label.lan.clone(), owner.clone()))),
        _ => None,
    };
    observed.labelled(installation).filter_map(port).collect()
}

fn lay_one<L: Links>(links: &mut L, wanted: &Wanted, index: usize, observed: &Observed, laid: &mut Laid) {
    let Some(lan) = wanted.lans.get(index) else { return };
    let steps = plan::steps(wanted, index, observed);
    if let Err(reason) = steps.and_then(|steps| carry_out(links, &steps, &mut laid.steps)) {
        laid.failures.insert(lan.key.clone(), reason);
    }
}

fn carry_out<L: Links>(links: &mut L, steps: &[Step], done: &mut u64) -> Result<(), String> {
    for step in steps {
        apply(links, std::slice::from_ref(step)).map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        tracing::info!(%step, "applied");
        *done += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use stoke_net::fake::FakeLinks;
    use stoke_net::observed::HostLink;

    fn wanted(first: serde_json::Value, second: serde_json::Value) -> Wanted {
        let lan = |name: &str, third: u8, uplinks| {
            let lan = serde_json::json!({
                "lan": {"kind": "Lan", "namespace": "default", "name": name}, "bridge": format!("{name}0"),
                "mac": format!("52:54:00:aa:00:{third:02x}"), "mtu": 1500, "addresses": [format!("10.10.{third}.1/24")],
                "masquerade": true, "uplinks": uplinks
            });
            serde_json::from_value::<stoke_api::workload::LanPlan>(lan).unwrap()
        };
        let lans = [lan("a", 1, first), lan("b", 2, second)];
        let lans = lans.iter().map(stoke_net::wanted::Lan::from).collect();
        Wanted { installation: "0a".parse().unwrap(), lans, way_out: "out".parse().unwrap() }
    }

    fn host() -> FakeLinks {
        FakeLinks::with_host(BTreeMap::from([("eth1".parse().unwrap(), HostLink::default())]))
    }

    #[test]
    fn an_uplink_goes_from_one_lan_to_the_other() {
        let mut links = host();
        let (eth1, none) = (serde_json::json!(["eth1"]), serde_json::json!([]));
        lay(&mut links, &wanted(none.clone(), eth1.clone())).unwrap();
        let laid = lay(&mut links, &wanted(eth1.clone(), none.clone())).unwrap();
        assert!(laid.failures.is_empty(), "{laid:?}");
        let eth = &links.state.links[&"eth1".parse().unwrap()];
        assert_eq!(eth.master, Some("a0".parse().unwrap()));
        assert_eq!(lay(&mut links, &wanted(eth1, none)).unwrap().steps, 0);
    }

    #[test]
    fn a_lan_that_no_longer_fits_keeps_its_bridge() {
        let mut links = host();
        let none = serde_json::json!([]);
        let mut wanted = wanted(none.clone(), none);
        lay(&mut links, &wanted).unwrap();
        wanted.lans[0].addresses = ["10.10.2.1/16".parse().unwrap()].into();
        let laid = lay(&mut links, &wanted).unwrap();
        assert!(laid.failures[&wanted.lans[1].key].starts_with("its subnet 10.10.2.0/24 overlaps 10.10.0.0/16"));
        assert!(links.state.links.contains_key(&"b0".parse().unwrap()), "machines are on it");
    }

    #[test]
    fn a_lan_that_fails_leaves_the_other_alone() {
        let mut links = host();
        let laid = lay(&mut links, &wanted(serde_json::json!(["eth7"]), serde_json::json!([]))).unwrap();
        let failures: Vec<_> = laid.failures.into_iter().map(|(lan, reason)| format!("{lan}: {reason}")).collect();
        assert_eq!(failures, ["default/a: the host has no interface eth7; it has eth1"]);
        assert!(links.state.links.contains_key(&"b0".parse().unwrap()));
        assert!(!links.state.links.contains_key(&"a0".parse().unwrap()), "nothing of a lan that cannot be");
    }
}
