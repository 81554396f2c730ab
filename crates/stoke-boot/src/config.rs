//! One node's configuration out of that of its scopes, and for each value the scope that it came from.
//!
//! The scopes come widest first. A narrower one's value goes over a wider one's: each field by itself, maps by their keys,
//! lists of things entry by entry as [`LISTS`] says, other lists as a whole, but for those in [`APPENDED`]. The merge works
//! on the configuration as JSON, so that a field that is added to it needs nothing here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use stoke_api::ObjectRef;
use stoke_api::objects::NodeConfig;
use stoke_api::objects::node_config::{APPENDED, LISTS};

/// Where a scope's configuration is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// For people: `farm/lab`, `class storage of farm/lab`, `lts.conf [default]`, `default`.
    pub name: String,
    /// The object that has it, if one does.
    pub object: Option<ObjectRef>,
    /// The field of that object: `spec.classes[1].config`.
    pub field: String,
}

impl Source {
    /// A scope that is no part of an object.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), object: None, field: String::new() }
    }

    /// A scope that is a field of an object.
    pub fn object(object: &ObjectRef, field: impl Into<String>) -> Self {
        Self { name: object.to_string(), object: Some(object.clone()), field: field.into() }
    }
}

/// One scope.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Where it is written.
    pub source: Source,
    /// What it says.
    pub config: &'a NodeConfig,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The scope whose value holds.
    pub source: Source,
    /// The field within that scope's configuration: `mounts[0]`.
    pub field: String,
    /// Scopes that said something else, widest first.
    pub over: Vec<Source>,
}

impl Origin {
    /// The field as the object has it: `spec.classes[1].config.mounts[0]`.
    pub fn whole_field(&self) -> String {
        if self.source.field.is_empty() { self.field.clone() } else { format!("{}.{}", self.source.field, self.field) }
    }
}

/// What came of the scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The configuration.
    pub config: NodeConfig,
    /// By the path of each value, where it came from. Entries of lists are named by what is unique in them:
    /// `mounts[/var/lib/data]`, `sysctls[vm.swappiness]`, `dns.servers`, `kernelArguments[panic=10]`.
    pub origins: BTreeMap<String, Origin>,
}

/// Merges scopes, the widest first.
pub fn merge(scopes: &[Scope<'_>]) -> Merged {
    let mut merge = Merge::default();
    for scope in scopes {
        if let Ok(Value::Object(fields)) = serde_json::to_value(scope.config) {
            merge.scope = Some(&scope.source);
            let mut whole = std::mem::take(&mut merge.whole);
            merge.object(&mut whole, fields, &Place::default());
            merge.whole = whole;
        }
    }
    // What was made of valid configurations by their own rules is one again.
    let config = serde_json::from_value(Value::Object(merge.whole)).unwrap_or_default();
    Merged { config, origins: merge.origins }
}

/// Merges without asking for origins, of which most callers have no use.
pub fn merged(scopes: &[Scope<'_>]) -> NodeConfig {
    match scopes {
        [] => NodeConfig::default(),
        [only] => only.config.clone(),
        _ => merge(scopes).config,
    }
}

#[derive(Default)]
struct Merge<'a> {
    whole: Map<String, Value>,
    origins: BTreeMap<String, Origin>,
    scope: Option<&'a Source>,
}

/// A place in the configuration, in three forms.
#[derive(Clone, Default)]
struct Place {
    /// As in [`LISTS`]: `runtime.dropIns`.
    list: String,
    /// By keys: `sysctls[vm.swappiness]`.
    path: String,
    /// As in the object: `mounts[0]`.
    field: String,
}

impl Place {
    /// A field here. Keys of maps are written in brackets, since they have dots of their own.
    fn field(&self, name: &str, is_map: bool) -> Self {
        let join = |path: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let path = if is_map { format!("{}[{name}]", self.path) } else { join(&self.path) };
        Self { list: join(&self.list), path, field: join(&self.field) }
    }

    fn entry(&self, key: &str, index: usize) -> Self {
        let (path, field) = (format!("{}[{key}]", self.path), format!("{}[{index}]", self.field));
        Self { list: self.list.clone(), path, field }
    }
}

/// Maps of words by names that people choose; all other objects have fields.
const MAPS: [&str; 3] = ["sysctls", "kubelet.labels", "kubelet.extraArgs"];

impl Merge<'_> {
    fn object(&mut self, into: &mut Map<String, Value>, from: Map<String, Value>, at: &Place) {
        let is_map = MAPS.contains(&at.list.as_str());
        for (name, value) in from {
            let place = at.field(&name, is_map);
            match value {
                Value::Object(fields) => {
                    let slot = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(inner) = slot {
                        self.object(inner, fields, &place);
                    }
                }
                Value::Array(entries) => {
                    let slot = into.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = slot {
                        self.list(list, entries, &place);
                    }
                }
                word => {
                    let differs = into.get(&name).is_some_and(|before| *before != word);
                    into.insert(name, word);
                    self.comes_from_here(&place, differs);
                }
            }
        }
    }

    fn list(&mut self, into: &mut Vec<Value>, from: Vec<Value>, at: &Place) {
        if APPENDED.contains(&at.list.as_str()) {
            for (index, word) in from.into_iter().enumerate() {
                let place = at.entry(word.as_str().unwrap_or_default(), index);
                if !into.contains(&word) {
                    into.push(word);
                    self.comes_from_here(&place, false);
                }
            }
            return;
        }
        let Some((_, keys)) = LISTS.iter().find(|(list, _)| *list == at.list) else {
            let differs = !into.is_empty() && *into != from;
            *into = from;
            return self.comes_from_here(at, differs);
        };
        for (index, entry) in from.into_iter().enumerate() {
            let key = key_of(&entry, keys);
            let place = at.entry(&key, index);
            if let Some(before) = into.iter_mut().find(|before| key_of(before, keys) == key) {
                let differs = *before != entry;
                *before = entry;
                self.comes_from_here(&place, differs);
            } else {
                into.push(entry);
                self.comes_from_here(&place, false);
            }
        }
    }

    /// Writes down that the value comes from the scope that is merged just now, over another one's if that differs.
    fn comes_from_here(&mut self, at: &Place, differs: bool) {
        let Some(source) = self.scope.cloned() else { return };
        let mut over = Vec::new();
        if let Some(before) = self.origins.remove(&at.path) {
            over = before.over;
            if differs {
                over.push(before.source);
            }
        }
        self.origins.insert(at.path.clone(), Origin { source, field: at.field.clone(), over });
    }
}

/// What is unique in an entry: the first of the fields that it has.
fn key_of(entry: &Value, keys: &[&str]) -> String {
    let key = keys.iter().find_map(|key| entry.get(key));
    key.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The value at a path of [`Merged::origins`], as JSON.
pub fn value_at(config: &NodeConfig, path: &str) -> Option<Value> {
    let whole = serde_json::to_value(config).ok()?;
    let (field, key) = match path.split_once('[') {
        Some((field, rest)) => (field, rest.strip_suffix(']')),
        None => (path, None),
    };
    let found = field.split('.').try_fold(&whole, |value, name| value.get(name))?;
    match (key, found) {
        (None, value) => Some(value.clone()),
        (Some(key), Value::Object(map)) => map.get(key).cloned(),
        (Some(key), Value::Array(entries)) => {
            let keys = LISTS.iter().find(|(list, _)| *list == field).map(|(_, keys)| *keys).unwrap_or_default();
            entries.iter().find(|entry| entry.as_str() == Some(key) || key_of(entry, keys) == key).cloned()
        }
        _ => None,
    }
}

/// All sources that said something, widest first as the scopes were.
pub fn sources(merged: &Merged) -> BTreeSet<&Source> {
    merged.origins.values().flat_map(|origin| origin.over.iter().chain([&origin.source])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::objects::Kind;
    use stoke_api::schema::{self, Schema, Sort};

    fn config(text: &str) -> NodeConfig {
        serde_json::from_str(text).unwrap()
    }

    fn merge_of(scopes: &[(&str, &str)]) -> Merged {
        let configs: Vec<_> = scopes.iter().map(|(name, text)| (Source::named(*name), config(text))).collect();
        let scopes: Vec<_> = configs.iter().map(|(source, config)| Scope { source: source.clone(), config }).collect();
        merge(&scopes)
    }

    fn from(merged: &Merged, path: &str) -> (String, String, Vec<String>) {
        let origin = merged.origins.get(path).unwrap_or_else(|| panic!("{path} in {:?}", merged.origins.keys()));
        let over = origin.over.iter().map(|source| source.name.clone()).collect();
        (origin.source.name.clone(), origin.field.clone(), over)
    }

    #[test]
    fn a_narrower_scope_goes_over_a_wider_one_field_by_field() {
        let merged = merge_of(&[
            (
                "farm",
                r#"{"timezone":"Etc/UTC","dns":{"servers":["10.0.0.1"],"search":["a"]},"sysctls":{"a":"1","b.c":"1"}}"#,
            ),
            ("class", r#"{"dns":{"servers":["10.0.0.2","10.0.0.3"]},"sysctls":{"b.c":"2"}}"#),
            ("server", r#"{"timezone":"Europe/Berlin","sysctls":{"b.c":"2"}}"#),
        ]);
        let wanted = r#"{"timezone":"Europe/Berlin","dns":{"servers":["10.0.0.2","10.0.0.3"],"search":["a"]},
            "sysctls":{"a":"1","b.c":"2"}}"#;
        assert_eq!(merged.config, config(wanted));
        assert_eq!(from(&merged, "timezone"), ("server".into(), "timezone".into(), vec!["farm".into()]));
        assert_eq!(from(&merged, "dns.servers"), ("class".into(), "dns.servers".into(), vec!["farm".into()]));
        assert_eq!(from(&merged, "dns.search"), ("farm".into(), "dns.search".into(), vec![]));
        // The server says what the class says: nothing is overridden but the farm's.
        assert_eq!(from(&merged, "sysctls[b.c]"), ("server".into(), "sysctls.b.c".into(), vec!["farm".into()]));
    }

    #[test]
    fn entries_are_replaced_whole_and_keep_their_place() {
        let merged = merge_of(&[
            (
                "farm",
                r#"{"mounts":[{"path":"/a","device":"LABEL=a","options":["nofail"]},{"path":"/b","device":"LABEL=b"}]}"#,
            ),
            ("server", r#"{"mounts":[{"path":"/c","device":"LABEL=c"},{"path":"/a","device":"LABEL=x"}]}"#),
        ]);
        let mounts: Vec<_> = merged.config.mounts.iter().map(|m| (m.path.as_str(), m.device.as_str())).collect();
        assert_eq!(mounts, [("/a", "LABEL=x"), ("/b", "LABEL=b"), ("/c", "LABEL=c")]);
        assert!(merged.config.mounts[0].options.is_empty());
        assert_eq!(from(&merged, "mounts[/a]"), ("server".into(), "mounts[1]".into(), vec!["farm".into()]));
        assert_eq!(from(&merged, "mounts[/b]"), ("farm".into(), "mounts[1]".into(), vec![]));
    }

    #[test]
    fn kernel_arguments_add_up() {
        let merged = merge_of(&[
            ("farm", r#"{"kernelArguments":["panic=10","quiet"]}"#),
            ("server", r#"{"kernelArguments":["quiet","debug"]}"#),
        ]);
        assert_eq!(merged.config.kernel_arguments, ["panic=10", "quiet", "debug"]);
        assert_eq!(from(&merged, "kernelArguments[debug]").0, "server");
        assert_eq!(from(&merged, "kernelArguments[quiet]").0, "farm");
    }

    #[test]
    fn each_value_has_an_origin_and_each_origin_a_value() {
        let whole = include_str!("../../stoke-api/src/objects/node_config/whole.json");
        let merged = merge_of(&[("farm", "{}"), ("server", whole)]);
        assert_eq!(merged.config, config(whole));
        for path in merged.origins.keys() {
            assert!(value_at(&merged.config, path).is_some(), "{path}");
        }
        let fields: Map<String, Value> = serde_json::from_str(whole).unwrap();
        for field in fields.keys() {
            let has = |path: &String| {
                path.strip_prefix(field.as_str()).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            };
            assert!(merged.origins.keys().any(has), "{field}");
        }
    }

    /// A list of things that the merge does not know would be replaced as a whole, a map would be taken for fields.
    #[test]
    fn each_list_and_map_of_the_schema_is_known() {
        fn walk(schema: Schema<'_>, path: &str) {
            for (name, field) in schema.fields() {
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                match (field.sort(), field.items()) {
                    (Sort::Map, _) => assert!(MAPS.contains(&path.as_str()), "{path}"),
                    (Sort::List, Some(items)) if items.sort() == Sort::Object => {
                        let (_, keys) =
                            LISTS.iter().find(|(list, _)| *list == path).unwrap_or_else(|| panic!("{path}"));
                        assert!(keys.iter().all(|key| items.field(key).is_some()), "{path}");
                        walk(items, &path);
                    }
                    (Sort::Object, _) => walk(field, &path),
                    _ => {}
                }
            }
        }
        walk(schema::of(Kind::Farm).field("spec").unwrap().field("config").unwrap(), "");
    }
}
