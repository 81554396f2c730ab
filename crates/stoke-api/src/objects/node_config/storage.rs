//! Mounts, swap and files of a node.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::check::{At, one_line};
use crate::names::ParseError;
use crate::objects::SecretRef;

/// A file system that is mounted, as in fstab(5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MountEntry {
    /// Where.
    pub path: String,
    /// What: `LABEL=data`, `UUID=…`, `/dev/disk/by-path/…`, `/dev/GROUP/VOLUME`, `10.10.0.5:/srv`, `tmpfs`.
    pub device: String,
    /// The file system; found out if absent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// Options. With `nofail` the node boots without it, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Swap space. Nothing is formatted: it is a swap area already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SwapEntry {
    /// A partition (`LABEL=swap`, `PARTLABEL=…`, `/dev/…`) or a file.
    pub device: String,
}

/// A file. One that is there is replaced, with what it is in folders that are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Its path.
    pub path: String,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What is in it, if that is a secret. It is fetched apart from the rest of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Its rights in octal: `"0644"`; of a secret `"0600"` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// Its owner, `USER` or `USER:GROUP`, by names of the image or of `users`, or by numbers; root if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether it goes to the end of the file that is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
}

impl FileEntry {
    /// Its rights.
    pub fn mode(&self) -> u32 {
        let absent = if self.secret.is_some() { 0o600 } else { 0o644 };
        self.mode.map_or(absent, |mode| mode.0)
    }
}

/// Rights of a file, written in octal: `0644`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileMode(pub u32);

impl FromStr for FileMode {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = (3..=5).contains(&text.len()) && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
        let value = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten();
        let wanted = "a file mode in octal such as \"0644\"";
        value.filter(|mode| *mode <= 0o7777).map(Self).ok_or(ParseError { text: text.to_owned(), wanted })
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for FileMode {
    fn schema_name() -> Cow<'static, str> {
        "FileMode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let description = "Rights of a file in octal, in quotes: \"0644\".";
        json_schema!({ "type": "string", "description": description, "pattern": "^[0-7]{3,5}$" })
    }
}

/// Where the kernel's own file systems are, and what is mounted before a node's configuration is read.
const TAKEN: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// Largest file in a configuration: it travels with every boot.
const LARGEST: usize = 1 << 20;

impl MountEntry {
    pub(super) fn check(&self, at: &mut At<'_>) {
        if let Some(wrong) = wrong_path(&self.path) {
            at.problem("path", wrong);
        } else if TAKEN.contains(&self.path.as_str()) {
            at.problem("path", format!("{} is there before a node is configured", self.path));
        }
        device(&self.device, at);
        if self.fs_type.as_deref().is_some_and(|kind| kind.is_empty() || kind.contains(char::is_whitespace)) {
            at.problem("type", "this is no type of a file system such as ext4");
        }
        for (index, option) in self.options.iter().enumerate() {
            let split = |c: char| c == ',' || c.is_whitespace() || c.is_control();
            if option.is_empty() || option.contains(split) {
                at.problem(format!("options[{index}]"), "one option a line, without commas or spaces");
            }
        }
    }
}

impl SwapEntry {
    pub(super) fn check(&self, at: &mut At<'_>) {
        device(&self.device, at);
    }
}

impl FileEntry {
    pub(super) fn check(&self, at: &mut At<'_>) {
        if let Some(wrong) = wrong_path(&self.path) {
            at.problem("path", wrong);
        }
        match (&self.content, &self.secret) {
            (Some(_), Some(_)) | (None, None) => at.problem("", "say what is in it: content or secret"),
            (Some(content), None) if content.len() > LARGEST => {
                at.problem("content", "more than 1Mi belongs into the image");
            }
            (None, Some(secret)) => at.extend(secret.check(&at.field("secret"))),
            (Some(_), None) => {}
        }
        let part = |part: &str| !part.is_empty() && one_line(part) && !part.contains([':', '/', ' ']);
        if let Some(owner) = self.owner.as_deref().filter(|owner| {
            let parts: Vec<_> = owner.split(':').collect();
            parts.len() > 2 || !parts.into_iter().all(part)
        }) {
            at.problem("owner", format!("{owner:?} is not USER or USER:GROUP"));
        }
    }
}

fn device(device: &str, at: &mut At<'_>) {
    if device.is_empty() || !one_line(device) {
        at.problem("device", "say what: LABEL=data, UUID=…, /dev/disk/by-path/…, 10.10.0.5:/srv");
    }
}

/// What is wrong with a path of the node.
fn wrong_path(path: &str) -> Option<&'static str> {
    let parts = || path.split('/').skip(1);
    match path {
        _ if !path.starts_with('/') => Some("write the whole path, from the slash on"),
        _ if !one_line(path) => Some("a path is one line"),
        "/" => None,
        _ if parts().any(|part| part.is_empty() || part == "." || part == "..") => {
            Some("write the path without \"..\", \".\" and without slashes that separate nothing")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("0644", 0o644), ("600", 0o600), ("04755", 0o4755)] {
            assert_eq!(text.parse(), Ok(FileMode(mode)));
            assert_eq!(FileMode(mode).to_string().parse(), Ok(FileMode(mode)));
        }
        for wrong in ["", "7", "0o644", "648", "rw-", "077777", "17777"] {
            assert!(wrong.parse::<FileMode>().is_err(), "{wrong}");
        }
    }
}
