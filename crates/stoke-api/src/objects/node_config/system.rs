//! Accounts, kernel modules, units and hooks of a node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{At, one_line, plain_name};

/// An account on a node. `root` exists anyway and can be named to give it keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Login name.
    pub name: String,
    /// Its number; the next free one from 1000 on if absent. An account that is there keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_293_u32))]
    pub uid: Option<u32>,
    /// Groups that it is in beside its own; one that the image does not have is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Its shell; bash if the image has it, else sh. An account that is there keeps its own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Public keys that may log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_authorized_keys: Vec<String>,
}

/// A kernel module that is loaded when the system starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModuleEntry {
    /// Its name.
    pub name: String,
    /// Its options, as in modprobe.d(5): `timeout=5`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A unit of systemd: one of the image that is changed, or a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnitEntry {
    /// Its name with its type: `ssh.service`.
    pub name: String,
    /// Whether it starts with the system; as in the image if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether it cannot be started at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub masked: bool,
    /// The whole unit; that of the image if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What goes over it; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_ins: Vec<DropIn>,
}

/// A file that goes over another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DropIn {
    /// Its name without folder; the ending is added if it has none.
    pub name: String,
    /// What is in it.
    pub content: String,
}

/// A script. What it prints is kept on the node, and the end of it is told to the farm when it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// When it runs.
    #[serde(default)]
    pub when: HookTime,
    /// What runs: by the interpreter that its first line names (`#!`), else by the image's `/bin/sh`, each command of
    /// which must succeed.
    pub script: String,
    /// What its failure means.
    #[serde(default)]
    pub on_failure: HookFailure,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HookTime {
    /// Before the image's init, in its root, after all else of the configuration is there. There is a network and no
    /// service.
    PreInit,
    /// When the network is up, as systemd tells it.
    AfterNetwork,
    /// When the system is up.
    #[default]
    PostInit,
}

/// What a hook's failure means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HookFailure {
    /// The boot has failed: the node does not get ready.
    #[default]
    Fail,
    /// It is told, and the boot goes on.
    Continue,
}

/// Types of unit that can be written (systemd.unit(5)).
const UNIT_TYPES: [&str; 9] =
    [".service", ".socket", ".mount", ".automount", ".swap", ".target", ".path", ".timer", ".slice"];

impl User {
    pub(super) fn check(&self, at: &mut At<'_>) {
        if !login_name(&self.name) {
            at.problem("name", format!("{:?} is no login name", self.name));
        }
        for (index, group) in self.groups.iter().enumerate().filter(|(_, group)| !login_name(group)) {
            at.problem(format!("groups[{index}]"), format!("{group:?} is no name of a group"));
        }
        if self.uid == Some(0) || (self.name == "root" && self.uid.is_some()) {
            at.problem("uid", "0 is root's number, and root has no other");
        }
        if self.shell.as_deref().is_some_and(|shell| !shell.starts_with('/') || shell.contains(':') || !one_line(shell))
        {
            at.problem("shell", "write the whole path, from the slash on");
        }
        for (index, key) in self.ssh_authorized_keys.iter().enumerate() {
            let words = key.split_whitespace().count();
            if words < 2 || key.contains('\n') || key.contains("PRIVATE KEY") {
                let message = "this is no public key such as \"ssh-ed25519 AAAA… comment\"";
                at.problem(format!("sshAuthorizedKeys[{index}]"), message);
            }
        }
    }
}

fn login_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    starts && name.len() <= 32 && name.chars().all(allowed)
}

impl ModuleEntry {
    pub(super) fn check(&self, at: &mut At<'_>) {
        if !plain_name(&self.name) {
            at.problem("name", format!("{:?} is no name of a kernel module", self.name));
        }
        for (index, option) in self.options.iter().enumerate().filter(|(_, option)| !one_line(option)) {
            at.problem(format!("options[{index}]"), format!("{option:?} is not one line"));
        }
    }
}

impl UnitEntry {
    pub(super) fn check(&self, at: &mut At<'_>) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@\\".contains(c);
        let typed = UNIT_TYPES.iter().any(|ending| self.name.len() > ending.len() && self.name.ends_with(ending));
        if !typed || !self.name.chars().all(allowed) {
            at.problem("name", format!("{:?} is no unit such as ssh.service", self.name));
        }
        if self.masked && (self.enabled == Some(true) || self.content.is_some() || !self.drop_ins.is_empty()) {
            at.problem("masked", "a unit that cannot be started is neither enabled nor has it content");
        }
        at.unique("dropIns", "name", self.drop_ins.iter().map(|drop_in| drop_in.name.clone()));
        for (index, drop_in) in self.drop_ins.iter().enumerate() {
            drop_in.check(&mut at.inside(format!("dropIns[{index}]")));
        }
    }
}

impl DropIn {
    /// The name with its ending.
    pub fn file_name(&self, ending: &str) -> String {
        if self.name.ends_with(ending) { self.name.clone() } else { format!("{}{ending}", self.name) }
    }

    pub(super) fn check(&self, at: &mut At<'_>) {
        if !plain_name(&self.name) {
            at.problem("name", format!("{:?} is no name of a file", self.name));
        }
    }
}

impl Hook {
    pub(super) fn check(&self, at: &mut At<'_>) {
        if !plain_name(&self.name) {
            at.problem("name", format!("{:?} is no name: letters, digits, - and _", self.name));
        }
        if self.script.trim().is_empty() || self.script.contains('\0') {
            at.problem("script", "there is nothing to run");
        }
    }
}
