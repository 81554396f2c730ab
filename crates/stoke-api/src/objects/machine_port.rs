//! Ports of a machine that a Service of a cluster leads to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::names::ObjectName;

/// A TCP port of a machine that a Service of its name leads to, in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachinePort {
    /// What the Service calls it.
    pub name: ObjectName,
    /// The machine's port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The Service's port; the same number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub service_port: Option<u16>,
}

/// From where a machine's Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// From inside of the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// At a port of every node, too.
    NodePort,
    /// At an address that the cluster's provider gives, too.
    LoadBalancer,
}

impl ServiceType {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As Kubernetes writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl MachinePort {
    /// The Service's port.
    pub fn of_service(&self) -> u16 {
        self.service_port.unwrap_or(self.port)
    }
}

/// What is well-formed and still wrong.
pub(super) fn check(ports: &[MachinePort], nics: usize) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !ports.is_empty() && nics == 0 {
        problems.push(Problem::new("spec.ports", "a machine without an interface has no ports that others reach"));
    }
    for (index, port) in ports.iter().enumerate() {
        let earlier = ports.get(..index).unwrap_or_default();
        let mut wrong = |field: &str, message: String| {
            problems.push(Problem::new(format!("spec.ports[{index}].{field}"), message));
        };
        if port.port == 0 || port.service_port == Some(0) {
            wrong("port", "0 is no port".to_owned());
        }
        if earlier.iter().any(|other| other.name == port.name) {
            wrong("name", format!("{:?} is already the name of another port", port.name.as_str()));
        }
        if earlier.iter().any(|other| other.of_service() == port.of_service()) {
            wrong("servicePort", format!("{} is already a port of the Service", port.of_service()));
        }
    }
    problems
}
