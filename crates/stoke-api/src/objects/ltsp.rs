//! Configuration of an LTSP farm, taken as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// A file of LTSP: by its path, or what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LtspFile {
    /// The file, from the folder of the file that names it. It is read where objects are loaded from files, and again
    /// when it changes. Never in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The files that it includes, by the names that it calls them. With `file` they are read, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub included: BTreeMap<String, String>,
}

impl LtspFile {
    /// What messages call it.
    pub fn name(&self, otherwise: &str) -> String {
        self.file.as_ref().map_or_else(|| otherwise.to_owned(), |file| file.display().to_string())
    }

    pub(super) fn check(&self, at: &str) -> Vec<Problem> {
        match (&self.file, &self.content) {
            (None, None) => {
                vec![Problem::new(at, "say where it is, or what is in it: {file: PATH} or {content: TEXT}")]
            }
            (Some(_), None) => {
                let message = "a file is read where objects are loaded from files: say what is in it";
                vec![Problem::new(format!("{at}.file"), message)]
            }
            (_, Some(_)) => Vec::new(),
        }
    }
}

/// What a node has besides its configuration, so that people's scripts find it where they look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compatibility {
    /// The paths and variables that nodes of LTSP have: `/rofs`, `/run/ltsp`, `/run/net-INTERFACE.conf`.
    Ltsp,
    /// The same, and what the image's own `/etc/lts.conf` says goes under the rest of the configuration.
    LtspOfImage,
}

/// What is wrong with a farm's two.
pub(super) fn check(lts: Option<&LtspFile>, ltsp: Option<&LtspFile>) -> Vec<Problem> {
    let mut problems: Vec<_> = lts.map(|file| file.check("spec.ltsConf")).unwrap_or_default();
    problems.extend(ltsp.map(|file| file.check("spec.ltspConf")).unwrap_or_default());
    if lts.is_some() && ltsp.is_some() {
        let message = "a farm has the configuration of one LTSP: ltsConf is of version 5, ltspConf of later ones";
        problems.push(Problem::new("spec.ltspConf", message));
    }
    problems
}
