//! Where a machine's pod runs in a cluster. On one host it says nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// Where a machine's pod runs in a cluster. On one host it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scheduling {
    /// Labels that its node has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Whether the machines of a set are on nodes of their own.
    #[serde(default)]
    pub anti_affinity: AntiAffinity,
}

/// Whether the machines of a set are on nodes of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AntiAffinity {
    /// If there are enough nodes.
    #[default]
    Preferred,
    /// Always: one for which there is no node waits.
    Required,
    /// It does not matter.
    None,
}

/// A taint that is tolerated, as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; any if absent, with `operator: Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How it is looked at.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The taint's value, with `operator: Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// Seconds for which a `NoExecute` taint is tolerated; for good if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<u32>,
}

/// How a taint is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// It has this value.
    #[default]
    Equal,
    /// It is there, whatever its value.
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// No new pods come.
    NoSchedule,
    /// No new pods come if they can be elsewhere.
    PreferNoSchedule,
    /// Pods go, too.
    NoExecute,
}

impl Scheduling {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is well-formed and still wrong.
    pub(super) fn check(&self, at: &str) -> Vec<Problem> {
        let wrong = |toleration: &Toleration| match toleration {
            Toleration { key: None, operator: TolerationOperator::Equal, .. } => {
                Some(("key", "name the taint's key, or tolerate all by `operator: Exists`"))
            }
            Toleration { operator: TolerationOperator::Exists, value: Some(_), .. } => {
                Some(("value", "with `operator: Exists` the value does not matter"))
            }
            Toleration { toleration_seconds: Some(_), effect, .. } if *effect != Some(TaintEffect::NoExecute) => {
                Some(("tolerationSeconds", "this needs `effect: NoExecute`"))
            }
            _ => None,
        };
        let tolerations = self.tolerations.iter().enumerate();
        let found = tolerations.filter_map(|(index, toleration)| Some((index, wrong(toleration)?)));
        found
            .map(|(index, (field, message))| Problem::new(format!("{at}.tolerations[{index}].{field}"), message))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_that_tolerate_nothing() {
        let text = r#"{"tolerations":[{},{"operator":"Exists"},{"key":"a","value":"b","effect":"NoSchedule"},
            {"key":"a","operator":"Exists","value":"b"},{"key":"a","tolerationSeconds":3}]}"#;
        let scheduling: Scheduling = serde_json::from_str(text).unwrap();
        let fields: Vec<_> = scheduling.check("spec.scheduling").into_iter().map(|problem| problem.field).collect();
        let wanted = [
            "spec.scheduling.tolerations[0].key",
            "spec.scheduling.tolerations[3].value",
            "spec.scheduling.tolerations[4].tolerationSeconds",
        ];
        assert_eq!(fields, wanted);
    }
}
