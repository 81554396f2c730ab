//! What a pod may have of what it asks for.

use ipnet::Ipv4Net;
use stoke_api::agent::{AgentConfig, PodGrant, PortGrant, PortKind};
use stoke_net::interface::Interface;
use stoke_net::label::LinkRole;
use stoke_net::ports::PortRequest;
use stoke_net::wanted::Lan;
use stoke_net::{Label, LanKey};

/// What the labels of a pod's ports begin with.
pub(super) fn owner_prefix(pod: &str) -> String {
    format!("{pod} ")
}

fn of_pod<'a>(config: &'a AgentConfig, pod: &str) -> Option<&'a PodGrant> {
    config.pods.iter().find(|grant| grant.pod == pod)
}

/// The port to be made for this request, with whose it is by our own knowledge; `None` if it is not granted.
pub(super) fn tap(config: &AgentConfig, pod: &str, asked: &PortRequest) -> Option<PortRequest> {
    let grant = of_pod(config, pod)?;
    let lan = LanKey::of(&asked.lan);
    let fits = |port: &&PortGrant| match port.kind {
        PortKind::Tap { mac } => LanKey::of(&port.lan) == lan && asked.mac.is_none_or(|asked| asked == mac),
        PortKind::Interface { .. } => false,
    };
    let port = grant.ports.iter().find(fits)?;
    let PortKind::Tap { mac } = port.kind else { return None };
    Some(PortRequest { lan: port.lan.clone(), mac: Some(mac), label: format!("{pod} {}", grant.owner) })
}

/// The interfaces that the pod may have; `None` if there is none, or a LAN of them is not on this node yet. A pod that is
/// granted no port at all needs none: it is on another network, and asks so that it is known.
pub(super) fn interfaces(config: &AgentConfig, pod: &str, node: &str) -> Option<Vec<(PortGrant, Interface)>> {
    let grant = of_pod(config, pod)?;
    let ports = grant.ports.iter().filter(|port| matches!(port.kind, PortKind::Interface { .. }));
    let interfaces: Option<Vec<_>> = ports.map(|port| interface(config, grant, port, node)).collect();
    interfaces.filter(|interfaces| !interfaces.is_empty() || grant.ports.is_empty())
}

fn interface(config: &AgentConfig, grant: &PodGrant, port: &PortGrant, node: &str) -> Option<(PortGrant, Interface)> {
    let PortKind::Interface { name, mac, addresses, address6, gateway, forwards, masquerade } = &port.kind else {
        return None;
    };
    let key = LanKey::of(&port.lan);
    let plan = config.lans.iter().find(|lan| LanKey::of(&lan.plan.lan) == key)?;
    let on_node = Lan::on_node(plan, node);
    let lan = Lan {
        bridge: name.clone(),
        mac: *mac,
        addresses: addresses.iter().copied().collect::<std::collections::BTreeSet<Ipv4Net>>(),
        address6: *address6,
        masquerade: *masquerade,
        uplinks: std::collections::BTreeSet::new(),
        overlay: None,
        hosted: true,
        ..on_node
    };
    let role = LinkRole::Port(format!("{} {} {name}", grant.pod, grant.owner));
    let label = Label { installation: config.installation.parse().ok()?, lan: key, role };
    Some((port.clone(), Interface { lan, label, gateway: *gateway, forwards: *forwards || *masquerade }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AgentConfig {
        let lan = |name: &str| serde_json::json!({"kind": "Lan", "namespace": "default", "name": name});
        let config = serde_json::json!({
            "installation": "0a1b2c3d",
            "lans": [{"plan": {
                "lan": lan("lab"), "bridge": "lab0", "mac": "52:54:00:aa:00:01", "mtu": 1450,
                "addresses": [], "masquerade": false, "uplinks": []
            }}],
            "pods": [
                {"pod": "m", "owner": {"kind": "Machine", "namespace": "default", "name": "a"},
                 "ports": [{"lan": lan("lab"), "kind": {"tap": {"mac": "52:54:00:00:00:01"}}}]},
                {"pod": "r", "owner": {"kind": "Lan", "namespace": "default", "name": "lab"},
                 "ports": [{"lan": lan("lab"), "kind": {"interface": {
                    "name": "lan0", "mac": "52:54:00:aa:00:01", "addresses": ["10.10.0.1/24"], "masquerade": true
                 }}}]},
                {"pod": "early", "owner": {"kind": "Lan", "namespace": "default", "name": "far"},
                 "ports": [{"lan": lan("far"), "kind": {"interface": {
                    "name": "lan0", "mac": "52:54:00:aa:00:02", "addresses": []
                 }}}]},
                {"pod": "elsewhere", "owner": {"kind": "Farm", "namespace": "default", "name": "rack"}, "ports": []}
            ]
        });
        serde_json::from_value(config).unwrap()
    }

    fn asked(lan: &str, mac: Option<&str>) -> PortRequest {
        let lan = serde_json::json!({"kind": "Lan", "namespace": "default", "name": lan});
        serde_json::from_value(serde_json::json!({"lan": lan, "mac": mac, "label": "machine/b/of-somebody-else"}))
            .unwrap()
    }

    #[test]
    fn a_pod_gets_what_it_was_granted_under_its_own_name() {
        let granted = tap(&config(), "m", &asked("lab", Some("52:54:00:00:00:01"))).unwrap();
        assert_eq!(granted.label, "m machine/a");
        assert_eq!(tap(&config(), "m", &asked("lab", None)).unwrap().mac, granted.mac);
    }

    #[test]
    fn a_pod_gets_nothing_else() {
        let config = config();
        assert_eq!(tap(&config, "m", &asked("lab", Some("52:54:00:00:00:02"))), None, "another address");
        assert_eq!(tap(&config, "m", &asked("far", None)), None, "another lan");
        assert_eq!(tap(&config, "r", &asked("lab", None)), None, "another kind");
        assert_eq!(tap(&config, "x", &asked("lab", None)), None, "another pod");
        assert_eq!(interfaces(&config, "m", "node-1"), None, "another kind");
        assert_eq!(interfaces(&config, "early", "node-1"), None, "a lan that is not here yet");
        assert_eq!(interfaces(&config, "elsewhere", "node-1"), Some(vec![]), "it needs none");
    }

    #[test]
    fn an_interface_has_the_lans_mtu_and_the_grants_addresses() {
        let interfaces = interfaces(&config(), "r", "node-1").unwrap();
        let [(_, interface)] = interfaces.as_slice() else { panic!("{interfaces:?}") };
        assert_eq!((interface.lan.mtu, interface.lan.bridge.as_str()), (1450, "lan0"));
        assert!(interface.lan.hosted && interface.lan.masquerade);
        assert_eq!(interface.lan.mac.to_string(), "52:54:00:aa:00:01");
    }
}
