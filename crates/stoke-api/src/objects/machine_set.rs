//! `MachineSet`: machines from a template, each with a name, disks and an address of its own that stay the same.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MachineSpec, Pool, Problem};
use crate::Condition;

/// The most machines of a set.
const MOST: u32 = 10_000;

/// The label of a set's machines: the set's name.
pub const MACHINE_SET_LABEL: &str = "stokehold.dev/machine-set";

/// Machines from a template: `NAME-0`, `NAME-1` and so on. Each keeps its name, its link-layer addresses, its disks and its
/// address. When there are to be less, those with the highest numbers go; their disks come back with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineSetSpec {
    /// Number of machines.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 10000))]
    pub replicas: u32,
    /// Addresses of their first interfaces, in their order: `10.10.0.50-10.10.0.59`. From the LAN's pools if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Pool>,
    /// What each machine is.
    pub template: MachineTemplate,
}

fn one() -> u32 {
    1
}

/// What each machine of a set is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineTemplate {
    /// Labels and annotations of the machines.
    #[serde(default)]
    pub metadata: TemplateMetadata,
    /// As a `Machine` has it, without what only one machine may have.
    pub spec: MachineSpec,
}

/// Labels and annotations of the machines of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TemplateMetadata {
    /// Labels, by which selectors choose.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and programs that select nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is known of a set of machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineSetStatus {
    /// Conditions: `Ready`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// Machines that there are.
    #[serde(default)]
    pub replicas: u32,
    /// Machines that are ready.
    #[serde(default)]
    pub ready_replicas: u32,
    /// Chooses the machines, as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

impl MachineSetSpec {
    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let moved = |problem: Problem| Problem {
            // A machine's fields all begin with its spec.
            field: format!("spec.template.{}", problem.field),
            message: problem.message,
        };
        let mut problems: Vec<_> = self.template.spec.check().into_iter().map(moved).collect();
        let mut problem = |field: &str, message: String| problems.push(Problem::new(field, message));
        if self.replicas > MOST {
            problem("spec.replicas", format!("{} is more than {MOST}", self.replicas));
        }
        if let Some(addresses) = self.addresses.filter(|addresses| addresses.size() < self.replicas) {
            problem("spec.replicas", format!("spec.addresses has {} addresses", addresses.size()));
        }
        if self.addresses.is_some() && self.template.spec.nics.is_empty() {
            problem("spec.addresses", "the machines have no interface".to_owned());
        }
        if self.template.spec.config.hostname.is_some() {
            problem("spec.template.spec.config.hostname", "a host name is one machine's, not a set's".to_owned());
        }
        for (index, nic) in self.template.spec.nics.iter().enumerate() {
            if nic.mac.is_some() {
                let message = "this is one machine's; each machine gets one that is made from its name";
                problem(&format!("spec.template.spec.nics[{index}].mac"), message.to_owned());
            }
            if nic.address.is_some() {
                let message = "this is one machine's; name a range in spec.addresses";
                problem(&format!("spec.template.spec.nics[{index}].address"), message.to_owned());
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_machines_is_no_templates() {
        let text = r#"{"replicas":3,"addresses":"10.10.0.50-10.10.0.51","template":{"spec":{"vm":{"cpus":0},"farm":"lab",
            "config":{"hostname":"a"},"nics":[{"name":"a","lan":"lab","mac":"52:54:00:00:00:01","address":"10.10.0.2"}]}}}"#;
        let spec: MachineSetSpec = serde_json::from_str(text).unwrap();
        let fields: Vec<_> = spec.check().into_iter().map(|problem| problem.field).collect();
        let wanted = [
            "spec.template.spec.vm.cpus",
            "spec.replicas",
            "spec.template.spec.config.hostname",
            "spec.template.spec.nics[0].mac",
            "spec.template.spec.nics[0].address",
        ];
        assert_eq!(fields, wanted);
    }
}
