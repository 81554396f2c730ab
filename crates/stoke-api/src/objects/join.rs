//! How nodes of a farm join a Kubernetes cluster by themselves.
//!
//! A node gets at each boot what it needs: the kubelet's configuration, the cluster's CA, and a kubeconfig with a token that
//! was made for this boot of this node, handed out as its other secrets are ([`crate::trust`]). Whoever has the cluster makes
//! the token and approves what the node asks for with it; the objects never have it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::node_config::{label_key, label_value, taint};
use super::{Problem, SecretRef};
use crate::meta::ObjectRef;
use crate::names::ObjectName;

/// The name that secrets of joining nodes have in a [`SecretRef`]. No `Secret` of the cluster is meant.
pub const JOIN_SECRET: &str = "stokehold-join";

/// How nodes of a farm join a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinSpec {
    /// The API server as nodes reach it: `https://10.10.0.5:6443`. What the cluster says of itself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// A kubeconfig of another cluster, which may make tokens there and approve requests for certificates. The cluster that
    /// Stokehold runs in if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SecretRef>,
    /// Labels of the cluster's nodes; those of `config.kubelet` go over them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints that they register with, `KEY=VALUE:EFFECT` or `KEY:EFFECT`, unless `config.kubelet` names some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<String>,
    /// Seconds that a boot's token can be used.
    #[serde(default = "quarter_of_an_hour")]
    #[schemars(range(min = 60, max = 86400))]
    pub token_seconds: u32,
}

fn quarter_of_an_hour() -> u32 {
    900
}

impl Default for JoinSpec {
    fn default() -> Self {
        Self {
            server: None,
            cluster: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            token_seconds: quarter_of_an_hour(),
        }
    }
}

impl JoinSpec {
    /// What is well-formed and still wrong.
    pub(super) fn check(&self, at: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem =
            |field: String, message: String| problems.push(Problem::new(format!("{at}.{field}"), message));
        let url = |url: &String| {
            let rest = url.strip_prefix("https://").unwrap_or_default();
            rest.is_empty() || rest.contains(|c: char| c.is_whitespace() || c.is_control() || "/\"'@".contains(c))
        };
        if let Some(server) = self.server.as_ref().filter(|server| url(server)) {
            problem("server".to_owned(), format!("{server:?} is no URL such as https://10.10.0.5:6443"));
        }
        for (name, value) in self.labels.iter().filter(|(name, value)| !label_key(name) || !label_value(value)) {
            problem(format!("labels.{name}"), format!("\"{name}={value}\" is no label of Kubernetes"));
        }
        for (index, text) in self.taints.iter().enumerate().filter(|(_, text)| !taint(text)) {
            problem(format!("taints[{index}]"), format!("{text:?} is no taint: KEY=VALUE:EFFECT"));
        }
        if !(60..=86400).contains(&self.token_seconds) {
            problem("tokenSeconds".to_owned(), format!("{} is not between 60 and 86400", self.token_seconds));
        }
        problems.extend(self.cluster.iter().flat_map(|cluster| cluster.check(&format!("{at}.cluster"))));
        problems
    }
}

/// The secret by which a node gets its bootstrap kubeconfig.
pub fn join_secret(node: &ObjectRef) -> SecretRef {
    let namespace = node.namespace.as_ref().map(|namespace| format!("{namespace}.")).unwrap_or_default();
    let key = format!("{}.{namespace}{}", node.kind.singular(), node.name);
    SecretRef { secret: JOIN_SECRET.parse::<ObjectName>().ok(), key: Some(key), file: None, namespace: None }
}

/// Whether a secret is one of a joining node: nobody reads it from anywhere, it is made.
pub fn is_join_secret(secret: &SecretRef) -> bool {
    secret.secret.as_ref().is_some_and(|name| name.as_str() == JOIN_SECRET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Kind;

    #[test]
    fn joins_that_cannot_be() {
        let fields = |text: &str| {
            let join: JoinSpec = serde_json::from_str(text).unwrap();
            join.check("spec.join").into_iter().map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(fields("{}"), [""; 0]);
        assert_eq!(
            fields(r#"{"server":"https://10.10.0.5:6443","labels":{"a/b":"c"},"taints":["a:NoSchedule"]}"#),
            [""; 0]
        );
        let wrong = r#"{"server":"http://a","labels":{"-":"c"},"taints":["a"],"tokenSeconds":1,"cluster":{}}"#;
        let wanted = ["server", "labels.-", "taints[0]", "tokenSeconds", "cluster"].map(|f| format!("spec.join.{f}"));
        assert_eq!(fields(wrong), wanted);
    }

    #[test]
    fn each_node_has_a_secret_of_its_own() {
        let node = |kind, namespace: Option<&str>, name: &str| {
            join_secret(&ObjectRef {
                kind,
                namespace: namespace.map(|n| n.parse().unwrap()),
                name: name.parse().unwrap(),
            })
        };
        let server = node(Kind::Server, None, "a");
        assert!(is_join_secret(&server));
        assert_eq!(server.to_string(), "stokehold-join/server.a");
        assert_eq!(node(Kind::Machine, Some("n"), "a").to_string(), "stokehold-join/machine.n.a");
    }
}
