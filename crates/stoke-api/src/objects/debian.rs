//! `Image.spec.source.debian`: a recipe of Debian packages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// A root tree from Debian packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DebianSource {
    /// Suite, for example `bookworm`.
    pub suite: String,
    /// Mirror; the one that this host uses if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Components of the archive.
    #[serde(default = "main")]
    pub components: Vec<String>,
    /// Key ring that the archive is signed with; the host's Debian key ring if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<String>,
    /// Packages, beside the essential ones. A kernel (`linux-image-amd64`) and an init system belong here.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Lock file, made by `stoke image lock`: exactly its packages are installed. Relative to the file that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Files written into the tree after the packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<RecipeFile>,
    /// Commands run while the tree is built.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

fn main() -> Vec<String> {
    vec!["main".to_owned()]
}

/// A file of the recipe; keyed by `path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecipeFile {
    /// Absolute path in the image.
    pub path: String,
    /// Its content.
    pub content: String,
    /// Permission bits in octal, as text.
    #[serde(default = "mode_0644")]
    pub mode: String,
}

fn mode_0644() -> String {
    "0644".to_owned()
}

/// Shell commands, run as root of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hooks {
    /// Run inside the tree when all packages are installed and all files written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub customize: Vec<String>,
}

impl Hooks {
    fn is_empty(&self) -> bool {
        self.customize.is_empty()
    }
}

impl DebianSource {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let word = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.contains(char::is_whitespace);
        for (index, package) in self.packages.iter().enumerate() {
            if !word(package) {
                let field = format!("spec.source.debian.packages[{index}]");
                problems.push(Problem::new(field, format!("{package:?} is no package name")));
            }
        }
        if !word(&self.suite) {
            problems.push(Problem::new("spec.source.debian.suite", format!("{:?} is no suite name", self.suite)));
        }
        for (index, file) in self.files.iter().enumerate() {
            let field = |name: &str| format!("spec.source.debian.files[{index}].{name}");
            let inside = file.path.starts_with('/') && !file.path.split('/').any(|part| part == "..");
            if !inside {
                problems.push(Problem::new(field("path"), format!("{:?} is no absolute path", file.path)));
            }
            if u32::from_str_radix(&file.mode, 8).is_ok_and(|mode| mode <= 0o7777) {
                continue;
            }
            problems.push(Problem::new(field("mode"), format!("{:?} is no octal mode such as 0644", file.mode)));
        }
    }
}
