//! What nodes and people write: JSON of the node API, YAML of objects.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stoke_api::node::{Baked, Hello, Manifest, Orders, Report};

/// A message of the node API, either way: what is understood is written as something that means the same.
pub fn messages(input: &[u8]) {
    round::<Hello>(input);
    round::<Report>(input);
    round::<Manifest>(input);
    round::<Orders>(input);
    round::<Baked>(input);
}

pub(crate) fn round<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(input: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(input) else { return };
    let again = serde_json::to_vec(&message).ok().and_then(|text| serde_json::from_slice(&text).ok());
    assert_eq!(again, Some(message));
}

/// A file of objects: problems are told, and what is understood can be written down.
pub fn objects(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match stoke_api::load::load_text(Path::new("input.yaml"), text) {
        Ok(loaded) => {
            for (object, _) in &loaded.objects {
                let value = serde_json::to_value(object).unwrap_or_default();
                let again: Option<stoke_api::AnyObject> = serde_json::from_value(value).ok();
                assert_eq!(again.as_ref(), Some(object));
            }
        }
        Err(findings) => assert!(findings.iter().all(|finding| !finding.message.is_empty())),
    }
}
