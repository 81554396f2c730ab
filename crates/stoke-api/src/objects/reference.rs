//! References between objects of namespaces, and who may refer to what.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::class::{LabelExpression, check_expressions, fits};
use super::{Kind, Problem};
use crate::meta::ObjectRef;
use crate::names::{ObjectName, ParseError};

/// An object of another one's namespace, by its name; or of any, as `{namespace, name}`, if the target's `access` allows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetRef {
    /// The target's namespace; that of the object that refers if absent.
    pub namespace: Option<ObjectName>,
    /// The target's name.
    pub name: ObjectName,
}

impl TargetRef {
    /// The object that is meant by one in the namespace of `owner`.
    pub fn of(&self, owner: &ObjectRef, kind: Kind) -> ObjectRef {
        let namespace = self.namespace.clone().or_else(|| owner.namespace.clone());
        ObjectRef { kind, namespace, name: self.name.clone() }
    }
}

impl From<ObjectName> for TargetRef {
    fn from(name: ObjectName) -> Self {
        Self { namespace: None, name }
    }
}

impl FromStr for TargetRef {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse::<ObjectName>().map(Self::from)
    }
}

impl fmt::Display for TargetRef {
    /// `NAME`, or `NAMESPACE/NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// As it is written when there is a namespace.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Whole {
    /// Namespace of the target; that of this object if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<ObjectName>,
    /// Name of the target.
    name: ObjectName,
}

impl Serialize for TargetRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.namespace {
            None => self.name.serialize(serializer),
            Some(_) => Whole { namespace: self.namespace.clone(), name: self.name.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TargetRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrWhole;
        impl<'de> Visitor<'de> for NameOrWhole {
            type Value = TargetRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or {namespace, name}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TargetRef, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TargetRef, A::Error> {
                let whole = Whole::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map_err(|error| A::Error::custom(error.to_string()))?;
                Ok(TargetRef { namespace: whole.namespace, name: whole.name })
            }
        }
        deserializer.deserialize_any(NameOrWhole)
    }
}

/// Two forms in one field: a cluster's schema cannot say that, so it leaves what is in there to us.
impl JsonSchema for TargetRef {
    fn schema_name() -> Cow<'static, str> {
        "TargetRef".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<ObjectName>();
        let described = |text: &str| {
            let mut schema = name.clone();
            schema.insert("description".to_owned(), text.into());
            schema
        };
        json_schema!({
            "description": "The name of an object of this namespace, or `{namespace, name}` of one whose `access` allows it.",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "namespace": described("Namespace of the target; this object's own if absent."),
                "name": described("Name of the target.")
            },
            "required": ["name"]
        })
    }
}

/// Who may refer to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// Namespaces whose objects may.
    #[serde(default)]
    pub namespaces: AccessFrom,
    /// Which namespaces, with `namespaces: Selector`. Each has the label `kubernetes.io/metadata.name` with its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Namespaces whose objects may refer to an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessFrom {
    /// Its own.
    #[default]
    Same,
    /// All.
    All,
    /// Its own, and those that `selector` chooses by their labels.
    Selector,
}

/// Chooses by labels, as in Kubernetes: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels, each with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// More that must hold of the labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

/// The label that Kubernetes gives each namespace: its name.
pub const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

impl LabelSelector {
    /// Whether labels are as it says.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        fits(&self.match_labels, &self.match_expressions, labels)
    }
}

impl Access {
    /// Whether it is as if nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether objects of another namespace with these labels may refer to the object.
    pub fn allows(&self, namespace: &ObjectName, labels: Option<&BTreeMap<String, String>>) -> bool {
        match self.namespaces {
            AccessFrom::Same => false,
            AccessFrom::All => true,
            AccessFrom::Selector => {
                let mut labels = labels.cloned().unwrap_or_default();
                labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_string());
                self.selector.as_ref().is_some_and(|selector| selector.fits(&labels))
            }
        }
    }

    /// What is well-formed and still wrong.
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match (self.namespaces, &self.selector) {
            (AccessFrom::Selector, None) => {
                let message = "say which namespaces: {matchLabels: {kubernetes.io/metadata.name: NAME}}";
                problems.push(Problem::new("spec.access.selector", message));
            }
            (AccessFrom::Same | AccessFrom::All, Some(_)) => {
                problems.push(Problem::new("spec.access.selector", "this needs `namespaces: Selector`"));
            }
            _ => {}
        }
        let expressions = self.selector.iter().flat_map(|selector| &selector.match_expressions);
        check_expressions(expressions, "spec.access.selector", &mut problems);
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_name_or_both() {
        let parsed = |text: &str| serde_json::from_str::<TargetRef>(text).map(|target| target.to_string());
        assert_eq!(parsed("\"lab\"").unwrap(), "lab");
        assert_eq!(parsed(r#"{"namespace":"infra","name":"lab"}"#).unwrap(), "infra/lab");
        assert_eq!(parsed(r#"{"name":"lab"}"#).unwrap(), "lab");
        for wrong in ["\"A\"", "{}", r#"{"name":"a","nam":"b"}"#, "1", r#"{"namespace":"b"}"#] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        for text in ["\"lab\"", r#"{"namespace":"infra","name":"lab"}"#] {
            let target: TargetRef = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&target).unwrap(), text);
        }
    }

    #[test]
    fn who_may_refer() {
        let access = |text: &str| serde_json::from_str::<Access>(text).unwrap();
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        assert!(!access("{}").allows(&one, Some(&labels)));
        assert!(access(r#"{"namespaces":"All"}"#).allows(&one, None));
        let by_name =
            access(r#"{"namespaces":"Selector","selector":{"matchLabels":{"kubernetes.io/metadata.name":"one"}}}"#);
        assert!(by_name.allows(&one, None) && !by_name.allows(&other, Some(&labels)));
        let by_label = access(r#"{"namespaces":"Selector","selector":{"matchLabels":{"team":"a"}}}"#);
        assert!(by_label.allows(&one, Some(&labels)) && !by_label.allows(&one, None));
        // A namespace cannot call itself by another one's name.
        let forged = BTreeMap::from([(NAMESPACE_LABEL.to_owned(), "one".to_owned())]);
        assert!(!by_name.allows(&other, Some(&forged)));
    }

    #[test]
    fn access_that_cannot_be() {
        let fields = |text: &str| {
            let access: Access = serde_json::from_str(text).unwrap();
            access.check().into_iter().map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(r#"{"namespaces":"Selector"}"#), ["spec.access.selector"]);
        assert_eq!(fields(r#"{"selector":{}}"#), ["spec.access.selector"]);
        let empty = r#"{"namespaces":"Selector","selector":{"matchExpressions":[{"key":"a","operator":"In"}]}}"#;
        assert_eq!(fields(empty), ["spec.access.selector.matchExpressions[0].values"]);
    }
}
