//! Where a farm's servers are, if its LAN is none of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, TftpMode};

/// Where the servers of a farm are, one for each of its `addresses`, if its LAN is `external`: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FarmPlacement {
    /// On the network of nodes themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<HostNetwork>,
    /// Each behind a Service of type `LoadBalancer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
}

/// Servers on the network of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostNetwork {
    /// The node that has each of the farm's `addresses`, in their order.
    pub nodes: Vec<String>,
}

/// Servers behind Services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// `loadBalancerClass` of the Services; the cluster's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Annotations of the Services, by which some load balancers choose addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl FarmPlacement {
    /// What is well-formed and still wrong.
    pub(super) fn check(&self, addresses: &[Ipv4Addr], tftp: TftpMode) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: String| problems.push(Problem::new(field, message));
        let unique = addresses.iter().collect::<BTreeSet<_>>().len();
        if addresses.is_empty() {
            problem("spec.addresses", "a farm with a placement says its addresses, one for each server".to_owned());
        } else if unique < addresses.len() {
            problem("spec.addresses", "each server has an address of its own".to_owned());
        }
        match (&self.host_network, &self.load_balancer) {
            (Some(host), None) => {
                let (nodes, wanted) = (host.nodes.len(), addresses.len());
                if nodes != wanted {
                    let message = format!("{nodes} nodes for {wanted} addresses: name the node that has each of them");
                    problem("spec.placement.hostNetwork.nodes", message);
                } else if host.nodes.iter().collect::<BTreeSet<_>>().len() < nodes {
                    let message = "two servers of one farm on one node fail together: name another node".to_owned();
                    problem("spec.placement.hostNetwork.nodes", message);
                }
            }
            (None, Some(_)) if tftp == TftpMode::Classic => {
                let message = "a load balancer loses what comes from another port than it was sent to: use SinglePort";
                problem("spec.boot.tftp", message.to_owned());
            }
            (None, Some(_)) => {}
            _ => problem("spec.placement", "say where: hostNetwork or loadBalancer".to_owned()),
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use crate::objects::FarmSpec;

    fn problems(rest: &str) -> Vec<String> {
        let text = format!("{{\"lan\":\"rack\",\"image\":\"node\",{rest}}}");
        let spec: FarmSpec = serde_json::from_str(&text).unwrap();
        spec.check().into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn each_server_has_an_address_and_a_place() {
        let two = r#""addresses":["10.0.0.5","10.0.0.6"]"#;
        let with = |addresses: &str, placement: &str| problems(&format!(r#"{addresses},"placement":{placement}"#));
        let none = r#""addresses":[]"#;
        assert_eq!(with(two, r#"{"hostNetwork":{"nodes":["a","b"]}}"#), [""; 0]);
        assert_eq!(with(two, r#"{"loadBalancer":{}}"#), [""; 0]);
        assert_eq!(with(two, r#"{"hostNetwork":{"nodes":["a"]}}"#), ["spec.placement.hostNetwork.nodes"]);
        assert_eq!(with(two, r#"{"hostNetwork":{"nodes":["a","a"]}}"#), ["spec.placement.hostNetwork.nodes"]);
        assert_eq!(with(none, r#"{"loadBalancer":{}}"#), ["spec.addresses"]);
        assert_eq!(with(two, "{}"), ["spec.placement"]);
        assert_eq!(with(two, r#"{"hostNetwork":{"nodes":["a","b"]},"loadBalancer":{}}"#), ["spec.placement"]);
    }

    #[test]
    fn tftp_by_many_ports_does_not_pass_a_load_balancer() {
        let placed = |placement: &str| {
            let boot = r#""boot":{"tftp":"Classic"},"addresses":["10.0.0.5"]"#;
            problems(&format!(r#"{boot},"placement":{placement}"#))
        };
        assert_eq!(placed(r#"{"loadBalancer":{}}"#), ["spec.boot.tftp"]);
        assert_eq!(placed(r#"{"hostNetwork":{"nodes":["a"]}}"#), [""; 0]);
    }
}
