//! Classes of a farm's nodes: what those have in common that a selector chooses.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NodeConfig, Problem};
use crate::names::{Bytes, ObjectName};

/// Configuration of those nodes of a farm that its selector chooses. It goes over the farm's own, and over that of classes
/// that are written before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FarmClass {
    /// Its name, unique in the farm.
    pub name: ObjectName,
    /// Which nodes are in it; all if empty.
    #[serde(default)]
    pub selector: ClassSelector,
    /// What they get.
    #[serde(default)]
    pub config: NodeConfig,
}

/// Chooses nodes: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassSelector {
    /// Labels of the `Server` or `Machine`, each with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// More that must hold of its labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
    /// What the machine is, as it says itself when it boots.
    #[serde(default, skip_serializing_if = "InventorySelector::is_empty")]
    pub inventory: InventorySelector,
}

/// Something that must hold of a label, as in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// How it is looked at.
    pub operator: LabelOperator,
    /// The values, with `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there, whatever its value.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// Chooses machines by what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InventorySelector {
    /// Maker and model as SMBIOS has them, in any case; `*` stands for any text: `*PowerEdge*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The least memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<Bytes>,
    /// The most memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Bytes>,
    /// The least processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_cpus: Option<u32>,
    /// The most processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpus: Option<u32>,
}

/// What a machine is, as it says itself when it boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Maker and model by SMBIOS.
    #[serde(default)]
    pub product: String,
    /// Memory that Linux can use: less than what is built in.
    #[serde(default)]
    pub memory: Bytes,
    /// Number of processors.
    #[serde(default)]
    pub cpus: u32,
}

impl ClassSelector {
    /// Whether the labels are as it says. The inventory is another matter: it is known only when the machine has booted.
    pub fn fits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        fits(&self.match_labels, &self.match_expressions, labels)
    }

    fn check(&self, at: &str, problems: &mut Vec<Problem>) {
        check_expressions(&self.match_expressions, at, problems);
        let inventory = &self.inventory;
        let crossed = |low: Option<u64>, high: Option<u64>| low.zip(high).is_some_and(|(low, high)| low > high);
        if crossed(inventory.min_memory.map(|bytes| bytes.0), inventory.max_memory.map(|bytes| bytes.0)) {
            problems.push(Problem::new(
                format!("{at}.inventory.maxMemory"),
                "no machine has less than minMemory and is in it",
            ));
        }
        if crossed(inventory.min_cpus.map(u64::from), inventory.max_cpus.map(u64::from)) {
            problems
                .push(Problem::new(format!("{at}.inventory.maxCpus"), "no machine has less than minCpus and is in it"));
        }
        if inventory.product.as_deref().is_some_and(str::is_empty) {
            problems
                .push(Problem::new(format!("{at}.inventory.product"), "write the maker or model, with * for any text"));
        }
    }
}

/// Whether labels are as a selector says.
pub(super) fn fits(
    wanted: &BTreeMap<String, String>,
    expressions: &[LabelExpression],
    labels: &BTreeMap<String, String>,
) -> bool {
    let has = |(name, value): (&String, &String)| labels.get(name) == Some(value);
    wanted.iter().all(has) && expressions.iter().all(|expression| expression.holds(labels))
}

/// What is wrong with a selector's expressions.
pub(super) fn check_expressions<'a>(
    expressions: impl IntoIterator<Item = &'a LabelExpression>,
    at: &str,
    problems: &mut Vec<Problem>,
) {
    for (index, expression) in expressions.into_iter().enumerate() {
        let wants_values = matches!(expression.operator, LabelOperator::In | LabelOperator::NotIn);
        if wants_values == expression.values.is_empty() {
            let message = if wants_values { "name at least one value" } else { "this operator takes no values" };
            problems.push(Problem::new(format!("{at}.matchExpressions[{index}].values"), message));
        }
    }
}

impl LabelExpression {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let is_one_of = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => is_one_of,
            LabelOperator::NotIn => !is_one_of,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

impl InventorySelector {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a machine is as it says.
    pub fn fits(&self, machine: &Inventory) -> bool {
        self.product.as_deref().is_none_or(|pattern| like(pattern, &machine.product))
            && self.min_memory.is_none_or(|least| machine.memory >= least)
            && self.max_memory.is_none_or(|most| machine.memory <= most)
            && self.min_cpus.is_none_or(|least| machine.cpus >= least)
            && self.max_cpus.is_none_or(|most| machine.cpus <= most)
    }
}

/// Whether a text is like a pattern in which `*` stands for any text, in any case.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let Some((first, others)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = others.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// What is wrong with the classes of a farm.
pub(super) fn check(classes: &[FarmClass]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, class) in classes.iter().enumerate() {
        let at = format!("spec.classes[{index}]");
        if classes.iter().take(index).any(|earlier| earlier.name == class.name) {
            let message = format!("{:?} is already the name of another class", class.name.as_str());
            problems.push(Problem::new(format!("{at}.name"), message));
        }
        if class.config.hostname.is_some() {
            problems.push(Problem::new(format!("{at}.config.hostname"), "a host name is one node's, not a class's"));
        }
        class.selector.check(&format!("{at}.selector"), &mut problems);
        problems.extend(class.config.check(&format!("{at}.config")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_choose_as_in_kubernetes() {
        let selector = |text: &str| serde_json::from_str::<ClassSelector>(text).unwrap();
        let node = labels(&[("role", "storage"), ("rack", "1")]);
        for (text, fits) in [
            ("{}", true),
            (r#"{"matchLabels":{"role":"storage"}}"#, true),
            (r#"{"matchLabels":{"role":"storage","rack":"2"}}"#, false),
            (r#"{"matchExpressions":[{"key":"rack","operator":"In","values":["1","3"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"rack","operator":"NotIn","values":["1"]}]}"#, false),
            (r#"{"matchExpressions":[{"key":"gpu","operator":"NotIn","values":["1"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"gpu","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"gpu","operator":"DoesNotExist"}]}"#, true),
        ] {
            assert_eq!(selector(text).fits_labels(&node), fits, "{text}");
        }
    }

    #[test]
    fn machines_are_chosen_by_what_they_are() {
        let machine = Inventory { product: "Dell Inc. PowerEdge R740".into(), memory: Bytes(64 << 30), cpus: 32 };
        let fits = |text: &str| serde_json::from_str::<InventorySelector>(text).unwrap().fits(&machine);
        for text in [
            r"{}",
            r#"{"product":"*poweredge*","minMemory":"64Gi","maxCpus":32}"#,
            r#"{"product":"Dell*R740"}"#,
            r#"{"product":"*"}"#,
            r#"{"product":"dell inc. poweredge r740"}"#,
        ] {
            assert!(fits(text), "{text}");
        }
        for text in [
            r#"{"product":"PowerEdge"}"#,
            r#"{"product":"Dell*R74"}"#,
            r#"{"product":"*R740*R740"}"#,
            r#"{"minMemory":"65Gi"}"#,
            r#"{"maxMemory":"1Gi"}"#,
            r#"{"minCpus":33}"#,
        ] {
            assert!(!fits(text), "{text}");
        }
    }

    #[test]
    fn classes_that_cannot_be() {
        let text = r#"[
            {"name":"a","selector":{"matchExpressions":[{"key":"x","operator":"In"},{"key":"x","operator":"Exists","values":["1"]}]}},
            {"name":"a","selector":{"inventory":{"minMemory":"2Gi","maxMemory":"1Gi"}},"config":{"hostname":"n","timezone":"/x"}}]"#;
        let classes: Vec<FarmClass> = serde_json::from_str(text).unwrap();
        let fields: Vec<_> = check(&classes).into_iter().map(|problem| problem.field).collect();
        let wanted = [
            "spec.classes[0].selector.matchExpressions[0].values",
            "spec.classes[0].selector.matchExpressions[1].values",
            "spec.classes[1].name",
            "spec.classes[1].config.hostname",
            "spec.classes[1].selector.inventory.maxMemory",
            "spec.classes[1].config.timezone",
        ];
        assert_eq!(fields, wanted);
    }
}
