//! How images are named: `[NAMESPACE/]NAME[:VERSION][@sha256:…]`. A version is named by the first digits of its digest.

use std::fmt;
use std::str::FromStr;

use stoke_api::ObjectName;
use stoke_api::meta::DEFAULT_NAMESPACE;
use stoke_image::Store;
use stoke_image::store::Version;

use crate::failure::Failure;

/// Fewer digits may name several versions.
const SHORTEST: usize = 4;

/// An image, and perhaps one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageName {
    namespace: ObjectName,
    name: ObjectName,
    /// The first hexadecimal digits of a digest.
    version: Option<String>,
}

impl ImageName {
    /// `NAMESPACE/NAME`, as the store knows it.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether a version is named.
    pub(super) fn has_version(&self) -> bool {
        self.version.is_some()
    }

    /// The same image, of this version.
    pub(super) fn of_version(&self, version: &str) -> anyhow::Result<Self> {
        let version = digits(version).ok_or_else(|| no_version(version))?;
        Ok(Self { version: Some(version), ..self.clone() })
    }

    /// The version that is meant: the one that is handed out if none is named.
    pub(super) fn find(&self, store: &Store) -> anyhow::Result<Version> {
        let versions = store.versions(&self.key())?;
        if versions.is_empty() {
            return Err(self.unknown(store));
        }
        let Some(digits) = &self.version else {
            let found = versions.into_iter().find(|version| version.handed_out);
            return found.ok_or_else(|| self.unknown(store));
        };
        let mut found = versions.into_iter().filter(|version| version.image.digest.hex().starts_with(digits.as_str()));
        match (found.next(), found.next()) {
            (Some(version), None) => Ok(version),
            (None, _) => Err(Failure::hinted(
                format!("{} has no version {digits}", self.key()),
                format!("list them: stoke image list {}", self.key()),
            )),
            (Some(_), Some(_)) => Err(Failure::hinted(
                format!("{digits} begins several versions of {}", self.key()),
                "write more of its digits",
            )),
        }
    }

    fn unknown(&self, store: &Store) -> anyhow::Error {
        let names = store.names().unwrap_or_default();
        let message = format!("there is no image {}", self.key());
        match stoke_api::load::nearest(&self.key(), names.iter().map(String::as_str)) {
            Some(near) => Failure::hinted(message, format!("did you mean {near}?")),
            None => Failure::hinted(message, "list them: stoke image list"),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())?;
        self.version.iter().try_for_each(|version| write!(f, ":{version}"))
    }
}

impl FromStr for ImageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("{why}; write [NAMESPACE/]NAME[:VERSION]");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (path, version) = match rest.split_once(':') {
            Some((path, version)) => (path, Some(version)),
            None => (rest, None),
        };
        let (namespace, name) = path.split_once('/').unwrap_or((DEFAULT_NAMESPACE, path));
        let word = |word: &str| word.parse::<ObjectName>().map_err(|error| wrong(error.to_string()));
        let version = digest.or(version);
        let version = version.map(|text| digits(text).ok_or_else(|| no_version(text).to_string())).transpose()?;
        Ok(Self { namespace: word(namespace)?, name: word(name)?, version })
    }
}

fn no_version(text: &str) -> anyhow::Error {
    let message = format!("{text:?} is no version: the first {SHORTEST} or more digits of its digest");
    Failure::usage(message, "stoke image list shows versions")
}

/// Hexadecimal digits, with or without `sha256:` before them.
fn digits(text: &str) -> Option<String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let good = (SHORTEST..=64).contains(&digits.len()) && digits.bytes().all(hex);
    good.then(|| digits.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_write() {
        let digest = "sha256:".to_owned() + &"ab".repeat(32);
        let cases = [
            ("node", "default/node"),
            ("lab/node", "lab/node"),
            ("node:0a1b2c", "default/node:0a1b2c"),
            (&format!("node@{digest}"), &format!("default/node:{}", "ab".repeat(32))),
            (&format!("node:0a1b@{digest}"), &format!("default/node:{}", "ab".repeat(32))),
        ];
        for (text, wanted) in cases {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), wanted);
        }
        for text in ["", "Node", "a/b/c", "node:", "node:abc", "node:wxyz", "node@sha512:abcd", "node:0A1B"] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
