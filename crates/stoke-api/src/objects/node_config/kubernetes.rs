//! Container runtime and kubelet of a node.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DropIn;
use super::check::{At, one_line};

/// Settings of the container runtime, whichever the image has: containerd, CRI-O or podman.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeSpec {
    /// Where images of a registry are asked for first; keyed by `registry`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registry_mirrors: Vec<RegistryMirror>,
    /// Parts of the runtime's own configuration, in TOML; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_ins: Vec<DropIn>,
}

impl RuntimeSpec {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where images of a registry are asked for first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryMirror {
    /// The registry, as image names have it: `docker.io`.
    pub registry: String,
    /// URLs of what is asked in its place, in this order; at last the registry itself.
    pub endpoints: Vec<String>,
}

/// Settings of the kubelet, as Kubernetes' own packages start it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeletSpec {
    /// Labels of the cluster's node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints that it registers with: `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<String>,
    /// Further arguments, without the two dashes: `max-pods: "200"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_args: BTreeMap<String, String>,
}

impl KubeletSpec {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Effects of a taint (Kubernetes' concepts, "Taints and Tolerations").
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Arguments that have a field of their own.
const FIELDS: [(&str, &str); 2] = [("node-labels", "labels"), ("register-with-taints", "taints")];

impl RuntimeSpec {
    pub(super) fn check(&self, at: &mut At<'_>) {
        at.unique("registryMirrors", "registry", self.registry_mirrors.iter().map(|mirror| mirror.registry.clone()));
        at.unique("dropIns", "name", self.drop_ins.iter().map(|drop_in| drop_in.name.clone()));
        for (index, mirror) in self.registry_mirrors.iter().enumerate() {
            mirror.check(&mut at.inside(format!("registryMirrors[{index}]")));
        }
        for (index, drop_in) in self.drop_ins.iter().enumerate() {
            drop_in.check(&mut at.inside(format!("dropIns[{index}]")));
        }
    }
}

impl RegistryMirror {
    fn check(&self, at: &mut At<'_>) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if self.registry.is_empty() || self.registry.starts_with('.') || !self.registry.chars().all(allowed) {
            at.problem("registry", format!("{:?} is no registry such as docker.io or 10.10.0.5:5000", self.registry));
        }
        if self.endpoints.is_empty() {
            at.problem("endpoints", "name at least one URL");
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            let refused = |c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '@';
            if rest.is_none_or(|rest| rest.is_empty() || rest.contains(refused)) {
                at.problem(
                    format!("endpoints[{index}]"),
                    format!("{endpoint:?} is no URL such as http://10.10.0.5:5000"),
                );
            }
        }
    }
}

impl KubeletSpec {
    pub(super) fn check(&self, at: &mut At<'_>) {
        for (name, value) in self.labels.iter().filter(|(name, value)| !label_key(name) || !label_value(value)) {
            at.problem(format!("labels.{name}"), format!("\"{name}={value}\" is no label of Kubernetes"));
        }
        for (index, text) in self.taints.iter().enumerate().filter(|(_, text)| !taint(text)) {
            let message = format!("{text:?} is no taint: KEY=VALUE:EFFECT, where EFFECT is {}", EFFECTS.join(", "));
            at.problem(format!("taints[{index}]"), message);
        }
        for (name, value) in &self.extra_args {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if let Some((_, field)) = FIELDS.iter().find(|(argument, _)| argument == name) {
                at.problem(format!("extraArgs.{name}"), format!("this has a field of its own: {field}"));
            } else if name.starts_with('-') || name.is_empty() || !name.chars().all(allowed) {
                at.problem(format!("extraArgs.{name}"), "write the argument's name without dashes before it");
            } else if !one_line(value) || value.contains(['"', '\'', '\\', ' ', '$']) {
                at.problem(format!("extraArgs.{name}"), "a value is one word without quotes");
            }
        }
    }
}

/// A key as Kubernetes has it: a name of at most 63 letters, digits, `-`, `_` and `.`, a domain and a slash before it.
pub(in crate::objects) fn label_key(key: &str) -> bool {
    let (domain, name) = key.rsplit_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let domain = domain.is_none_or(|domain| !domain.is_empty() && domain.len() <= 253 && domain.chars().all(allowed));
    domain && !name.is_empty() && label_value(name)
}

pub(in crate::objects) fn label_value(value: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= 63 && value.chars().all(allowed) && value.starts_with(ends) && value.ends_with(ends))
}

pub(in crate::objects) fn taint(text: &str) -> bool {
    let Some((pair, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    EFFECTS.contains(&effect) && label_key(key) && label_value(value)
}
