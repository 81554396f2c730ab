//! The JSON schema of each kind, derived from its types: what files are checked against, what `stoke explain` shows.

use std::sync::OnceLock;

use schemars::schema_for;
use serde_json::Value;

use crate::objects::{
    FarmSpec, FarmStatus, ImageSpec, ImageStatus, Kind, LanSpec, LanStatus, MachineSetSpec, MachineSetStatus,
    MachineSpec, MachineStatus, Object, ServerSpec, ServerStatus,
};

/// The schema of a kind: its root, or any part of it, with the definitions that the parts refer to.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'a> {
    root: &'a Value,
    /// As it is written at the field: description and default are here.
    field: &'a Value,
    /// Behind all references.
    node: &'a Value,
    definition: Option<&'a str>,
}

/// The sort of value that a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Sort {
    Object,
    Map,
    List,
    String,
    Choice,
    Integer,
    Number,
    Boolean,
    /// The name of an object, or namespace and name.
    Reference,
    Any,
}

/// The schema of a kind.
pub fn of(kind: Kind) -> Schema<'static> {
    static ALL: OnceLock<Vec<(Kind, Value)>> = OnceLock::new();
    let all = ALL.get_or_init(|| Kind::ALL.map(|kind| (kind, derive(kind))).to_vec());
    let found = all.iter().find(|(of, _)| *of == kind).map_or(&Value::Null, |(_, schema)| schema);
    Schema::new(found, found)
}

fn derive(kind: Kind) -> Value {
    match kind {
        Kind::Image => schema_for!(Object<ImageSpec, ImageStatus>),
        Kind::Lan => schema_for!(Object<LanSpec, LanStatus>),
        Kind::Farm => schema_for!(Object<FarmSpec, FarmStatus>),
        Kind::Server => schema_for!(Object<ServerSpec, ServerStatus>),
        Kind::Machine => schema_for!(Object<MachineSpec, MachineStatus>),
        Kind::MachineSet => schema_for!(Object<MachineSetSpec, MachineSetStatus>),
    }
    .to_value()
}

impl<'a> Schema<'a> {
    fn new(root: &'a Value, field: &'a Value) -> Self {
        let (mut node, mut definition) = (field, None);
        // Bounded: a chain of references is at most as long as there are definitions.
        for _ in 0..64 {
            let Some(inner) = reference(node) else { break };
            let Some(name) = inner.strip_prefix("#/$defs/") else { break };
            let Some(next) = root.get("$defs").and_then(|all| all.get(name)) else { break };
            (node, definition) = (next, Some(name));
        }
        Self { root, field, node, definition }
    }

    /// What it is, in the words of the type's own documentation.
    pub fn description(&self) -> &'a str {
        let text = |value: &'a Value| value.get("description").and_then(Value::as_str);
        text(self.field).or_else(|| text(self.node)).unwrap_or_default()
    }

    /// What the type behind it is, if that says more than [`Self::description`].
    pub fn type_description(&self) -> Option<&'a str> {
        let text = self.node.get("description").and_then(Value::as_str)?;
        (text != self.description()).then_some(text)
    }

    /// What it is if it is not written.
    pub fn default(&self) -> Option<&'a Value> {
        self.field.get("default")
    }

    /// The sort of value.
    pub fn sort(&self) -> Sort {
        if !self.choices().is_empty() {
            return Sort::Choice;
        }
        match self.type_name() {
            _ if self.definition == Some("TargetRef") => Sort::Reference,
            "object" if self.node.get("properties").is_some() || self.items().is_none() => Sort::Object,
            "object" => Sort::Map,
            "array" => Sort::List,
            "string" => Sort::String,
            "integer" => Sort::Integer,
            "number" => Sort::Number,
            "boolean" => Sort::Boolean,
            _ => Sort::Any,
        }
    }

    /// The sort of value in a word or two: `[]Subnet`, `Bytes`, `integer`.
    pub fn type_words(&self) -> String {
        match (self.sort(), self.items()) {
            (Sort::List, Some(items)) => format!("[]{}", items.type_words()),
            (Sort::Map, Some(items)) => format!("map of {}", items.type_words()),
            (_, _) => self.definition.unwrap_or_else(|| self.plain_type()).to_owned(),
        }
    }

    fn plain_type(&self) -> &'a str {
        match self.format() {
            "ipv4" => "IPv4 address",
            "ip" => "IP address",
            "cidr" => "IPv4 network",
            "cidr6" => "IPv6 network",
            _ => self.type_name(),
        }
    }

    fn type_name(&self) -> &'a str {
        match self.node.get("type") {
            Some(Value::String(name)) => name,
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|n| *n != "null").unwrap_or(""),
            _ => "",
        }
    }

    /// The name of the type, if it has one: `MacAddr`.
    pub fn definition(&self) -> Option<&'a str> {
        self.definition
    }

    /// The format of a string or number: `ipv4`, `uint16`.
    pub fn format(&self) -> &'a str {
        let text = |value: &'a Value| value.get("format").and_then(Value::as_str);
        text(self.node).or_else(|| text(self.field)).unwrap_or_default()
    }

    /// Words to choose from, with what each means.
    pub fn choices(&self) -> Vec<(&'a str, &'a str)> {
        let plain = self.node.get("enum").and_then(Value::as_array).into_iter().flatten();
        let plain = plain.filter_map(Value::as_str).map(|word| (word, ""));
        let described = self.node.get("oneOf").and_then(Value::as_array).into_iter().flatten().flat_map(|choice| {
            let text = choice.get("description").and_then(Value::as_str).unwrap_or_default();
            let several = choice.get("enum").and_then(Value::as_array).into_iter().flatten();
            choice.get("const").into_iter().chain(several).filter_map(Value::as_str).map(move |word| (word, text))
        });
        plain.chain(described).collect()
    }

    /// The smallest and the largest number allowed.
    pub fn range(&self) -> (Option<i128>, Option<i128>) {
        let bound = |name: &str| {
            let value = self.field.get(name).or_else(|| self.node.get(name))?;
            value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
        };
        let largest = match self.format() {
            "uint8" => Some(i128::from(u8::MAX)),
            "uint16" => Some(i128::from(u16::MAX)),
            "uint32" => Some(i128::from(u32::MAX)),
            "uint64" => Some(i128::from(u64::MAX)),
            _ => None,
        };
        (bound("minimum"), bound("maximum").or(largest))
    }

    /// What JSON Schema calls a keyword: `pattern`, `minimum`. What is said at the field goes before what its type says.
    pub fn keyword(&self, name: &str) -> Option<&'a Value> {
        self.field.get(name).or_else(|| self.node.get(name))
    }

    /// The fields of an object, by name.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let root = self.root;
        let fields = self.node.get("properties").and_then(Value::as_object).into_iter().flatten();
        fields.map(move |(name, field)| (name.as_str(), Self::new(root, field)))
    }

    /// One field of an object.
    pub fn field(&self, name: &str) -> Option<Self> {
        self.node.get("properties")?.get(name).map(|field| Self::new(self.root, field))
    }

    /// Whether an object must have the field.
    pub fn requires(&self, name: &str) -> bool {
        self.required().any(|required| required == name)
    }

    /// The fields that an object must have.
    pub fn required(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// What a list or map holds.
    pub fn items(&self) -> Option<Self> {
        let items = self.node.get("items").or_else(|| self.node.get("additionalProperties"))?;
        items.is_object().then(|| Self::new(self.root, items))
    }
}

/// The reference in a schema: `{"$ref": …}`, or that beside `null`.
fn reference(node: &Value) -> Option<&str> {
    fn direct(node: &Value) -> Option<&str> {
        node.get("$ref").and_then(Value::as_str)
    }
    let optional = || {
        let [first, second] = node.get("anyOf")?.as_array()?.as_slice() else { return None };
        direct(first).filter(|_| second.get("type").and_then(Value::as_str) == Some("null"))
    };
    direct(node).or_else(optional)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kind: Kind, path: &[&str]) -> Schema<'static> {
        path.iter().fold(of(kind), |schema, name| schema.items().unwrap_or(schema).field(name).unwrap())
    }

    #[test]
    fn each_field_of_each_kind_is_described() {
        fn walk(schema: Schema<'_>, path: &str) {
            assert!(!schema.description().is_empty() || schema.definition().is_some(), "{path}");
            assert_ne!(schema.sort(), Sort::Any, "{path}");
            let inside = schema.items().filter(|_| schema.sort() == Sort::List).unwrap_or(schema);
            inside.fields().for_each(|(name, field)| walk(field, &format!("{path}.{name}")));
        }
        for kind in Kind::ALL {
            walk(of(kind).field("spec").unwrap(), kind.singular());
        }
    }

    #[test]
    fn what_the_derived_schema_means() {
        let cpus = at(Kind::Machine, &["spec", "vm", "cpus"]);
        assert_eq!((cpus.sort(), cpus.range()), (Sort::Integer, (Some(1), Some(255))));
        let strategy = at(Kind::Machine, &["spec", "runStrategy"]);
        let words: Vec<_> = strategy.choices().iter().map(|(word, _)| *word).collect();
        assert_eq!(words, ["Always", "RerunOnFailure", "Once", "Manual", "Halted"]);
        let address = at(Kind::Machine, &["spec", "nics", "address"]);
        assert_eq!((address.format(), address.type_words().as_str()), ("ipv4", "IPv4 address"));
        assert_eq!(at(Kind::Lan, &["spec", "subnets"]).type_words(), "[]Subnet");
        assert!(at(Kind::Lan, &["spec"]).requires("subnets"));
    }
}
