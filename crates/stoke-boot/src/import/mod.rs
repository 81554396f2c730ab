//! Objects made of what other systems were told: LTSP, kubefarm, dnsmasq-controller, matchbox.
//!
//! Every file adds to one [`Draft`]: a LAN, a farm with classes, its servers. Each key of a file is either used or has a
//! row that says why not: what nobody took out of a document is found at its end.

mod dnsmasq;
mod draft;
mod kubefarm;
mod ltsp;
mod matchbox;
mod range;

use serde_json::Value;

pub use draft::{Draft, Names};

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It is in this field of an object.
    Field(String),
    /// It has no meaning here: why.
    Nothing(String),
}

/// A key of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The file, with the line if that is known.
    pub file: String,
    /// The key: its path in the file.
    pub key: String,
    /// What became of it.
    pub became: Became,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `lts.conf` of LTSP 5.
    LtsConf,
    /// `ltsp.conf` of later versions.
    LtspConf,
    /// YAML or JSON: values of kubefarm, objects of dnsmasq-controller, groups and profiles of matchbox, a `ConfigMap` that
    /// has one of the others.
    Documents,
}

impl Format {
    /// What a file seems to be, by its name and by what is in it.
    pub fn guess(name: &str, text: &str) -> Self {
        let file = name.rsplit('/').next().unwrap_or(name);
        let begins = |section: &str| text.lines().any(|line| line.trim().eq_ignore_ascii_case(section));
        let later = ["[clients]", "[common]", "[server]", "[init/]"].into_iter().any(begins);
        match file.rsplit_once('.').map(|(_, ending)| ending) {
            Some("yaml" | "yml" | "json") => Self::Documents,
            _ if file == "ltsp.conf" || later => Self::LtspConf,
            _ if file.starts_with("lts") || begins("[default]") => Self::LtsConf,
            _ => Self::Documents,
        }
    }
}

/// A problem with a file that is none of those that can be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Why: lower case, no full stop.
    pub message: String,
}

impl Draft {
    /// Adds a configuration of LTSP.
    pub fn add_ltsp(&mut self, format: Format, file: &str, text: &str) {
        ltsp::add(self, format, file, text);
    }

    /// Adds a document.
    ///
    /// # Errors
    /// If it is none that is known.
    pub fn add_document(&mut self, file: &str, document: Value) -> Result<(), Unknown> {
        let has = |key: &str| document.get(key).is_some();
        let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "DhcpHosts" | "DhcpOptions" | "DnsHosts" | "DnsmasqOptions" => dnsmasq::add(self, file, &kind, document),
            "ConfigMap" => return config_map(self, file, document),
            _ if has("nodePools") || has("tags") || has("ltsp") => kubefarm::add(self, file, document),
            _ if has("profile") => matchbox::add_group(self, file, document),
            _ if has("boot") && has("id") => matchbox::add_profile(self, file, document),
            _ => {
                let message = "this is neither values of kubefarm, nor an object of dnsmasq-controller, nor a group or \
                               profile of matchbox, nor a ConfigMap of LTSP";
                return Err(Unknown { message: message.to_owned() });
            }
        }
        Ok(())
    }
}

/// The configurations in a `ConfigMap`, as LTSP's own farm in Kubernetes had it.
fn config_map(draft: &mut Draft, file: &str, mut document: Value) -> Result<(), Unknown> {
    let data = document.get_mut("data").map(Value::take).unwrap_or_default();
    let mut found = false;
    for (name, text) in data.as_object().into_iter().flatten() {
        let (Some(text), format) = (text.as_str(), Format::guess(name, text.as_str().unwrap_or_default())) else {
            continue;
        };
        if format == Format::Documents {
            draft.nothing(file, &format!("data.{name}"), "this is no configuration of LTSP");
        } else {
            found = true;
            draft.add_ltsp(format, &format!("{file}:{name}"), text);
        }
    }
    if found {
        Ok(())
    } else {
        Err(Unknown { message: "this ConfigMap has neither lts.conf nor ltsp.conf".to_owned() })
    }
}

/// Takes a field out of a document; `None` if it is not there or null.
fn take(from: &mut Value, key: &str) -> Option<Value> {
    from.as_object_mut()?.remove(key).filter(|value| !value.is_null())
}

/// A scalar as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// A list of texts, or one.
fn texts(value: Option<Value>) -> Vec<String> {
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
        Some(value) => text(&value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Entries of a list; none if it is no list.
fn entries(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(values)) => values,
        _ => Vec::new(),
    }
}

/// Fields of a map, in the order of their names; none if it is no map.
fn fields(value: Option<Value>) -> Vec<(String, Value)> {
    match value {
        Some(Value::Object(map)) => map.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// A name of an object out of any text: lower case, and dashes for what may not be there.
fn object_name(text: &str) -> String {
    let name: String = text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "node".to_owned() } else { name.get(..name.len().min(63)).unwrap_or(name).to_owned() }
}

#[cfg(test)]
mod tests;
