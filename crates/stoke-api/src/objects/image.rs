//! `Image`: a source and the forms wanted of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::Condition;
use crate::names::Digest;

/// What an image is made of, and the forms wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSpec {
    /// Where the root tree comes from; exactly one variant.
    pub source: ImageSource,
    /// Architectures to build for.
    #[serde(default = "amd64")]
    pub architectures: Vec<Architecture>,
    /// The forms wanted.
    #[serde(default)]
    pub forms: Forms,
    /// How many older versions are kept.
    #[serde(default = "three")]
    pub revision_history_limit: u32,
}

fn amd64() -> Vec<Architecture> {
    vec![Architecture::Amd64]
}

fn three() -> u32 {
    3
}

/// An instruction set, by Debian's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    Amd64,
}

/// Where the root tree of an image comes from: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSource {
    /// A Debian or Ubuntu recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debian: Option<DebianSource>,
}

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

/// The forms of an image: each is made only if it is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forms {
    /// Kernel, initramfs, verified root and unified kernel image for machines that boot from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netboot: Option<NetbootForm>,
}

/// The form for machines that boot from the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetbootForm {
    /// The root file system.
    #[serde(default)]
    pub root: RootForm,
    /// Kernel arguments, behind the ones that Stokehold sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
}

/// The root file system of a netboot form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootForm {
    /// File system.
    #[serde(default)]
    pub format: RootFormat,
}

/// A read-only file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RootFormat {
    /// squashfs, zstd.
    #[default]
    Squashfs,
    /// EROFS, lz4hc.
    Erofs,
}

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Conditions: `Ready`, `Progressing`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// The newest published version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes of all parts of the newest version.
    #[serde(default)]
    pub size: u64,
    /// Version of its kernel.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
}

impl ImageSpec {
    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match &self.source.debian {
            None => problems.push(Problem::new("spec.source", "name one source: debian")),
            Some(debian) => debian.check(&mut problems),
        }
        if self.architectures.is_empty() {
            problems.push(Problem::new("spec.architectures", "name at least one architecture, for example amd64"));
        }
        if self.forms.netboot.is_none() {
            problems.push(Problem::new("spec.forms", "name at least one form: netboot: {}"));
        }
        problems
    }
}

impl DebianSource {
    fn check(&self, problems: &mut Vec<Problem>) {
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
