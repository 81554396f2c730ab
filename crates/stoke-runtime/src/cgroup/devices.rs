//! Which device nodes a container may make and open. The plan is pure; version 1 has a file for it.

use super::{Group, Version};
use crate::error::{Context as _, Error, Result};
use crate::spec::DeviceRule;

/// What every container may do, after the configuration's rules: make any node, and use the harmless devices and its own
/// terminals. The same as other runtimes allow.
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// One line for `devices.allow` or `devices.deny` (Linux' `Documentation/admin-guide/cgroup-v1/devices.rst`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which of the files.
    pub allow: bool,
    /// What is written.
    pub text: String,
}

/// The lines for the configuration's rules, in their order.
///
/// # Errors
/// If a rule cannot be meant.
pub fn plan(rules: &[DeviceRule]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for rule in rules {
        for text in texts(rule)? {
            lines.push(Line { allow: rule.allow, text });
        }
    }
    lines.extend(ALWAYS.iter().map(|text| Line { allow: true, text: (*text).to_owned() }));
    Ok(lines)
}

fn texts(rule: &DeviceRule) -> Result<Vec<String>> {
    let field = "linux.resources.devices";
    if !rule.access.chars().all(|character| "rwm".contains(character)) {
        return Err(Error::field(field, format!("{:?} is no access", rule.access)));
    }
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok("*".to_owned()),
        Some(number) if number >= 0 => Ok(number.to_string()),
        Some(number) => Err(Error::field(field, format!("{number} is no device number"))),
    };
    let numbers = format!("{}:{}", number(rule.major)?, number(rule.minor)?);
    let access = if rule.access.is_empty() { "rwm" } else { &rule.access };
    let kinds: &[&str] = match rule.kind.as_str() {
        "" | "a" if numbers == "*:*" && access.len() == 3 => return Ok(vec!["a *:* rwm".to_owned()]),
        "" | "a" => &["b", "c"],
        "b" => &["b"],
        "c" | "u" => &["c"],
        other => return Err(Error::field(field, format!("{other:?} is no type of a device"))),
    };
    Ok(kinds.iter().map(|kind| format!("{kind} {numbers} {access}")).collect())
}

/// Applies rules to a group. Without rules of the configuration nothing is restricted.
pub fn apply(group: &Group, rules: &[DeviceRule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let Some(hierarchy) = group.view().find("devices").filter(|hierarchy| hierarchy.version == Version::V1) else {
        let only_allows = rules.iter().all(|rule| rule.allow);
        let reason =
            "this host has no devices controller of cgroups version 1, and that of version 2 is not supported yet";
        return if only_allows { Ok(()) } else { Err(Error::field("linux.resources.devices", reason)) };
    };
    let folder = group.folder(hierarchy);
    for line in plan(rules)? {
        let file = folder.join(if line.allow { "devices.allow" } else { "devices.deny" });
        let what = || format!("linux.resources.devices: cannot write {:?} to {}", line.text, file.display());
        std::fs::write(&file, &line.text).context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(rule: &str) -> String {
        let rule: DeviceRule = serde_json::from_str(rule).unwrap();
        plan(&[rule]).map_or_else(
            |error| error.line(),
            |lines| {
                lines
                    .iter()
                    .take(lines.len() - ALWAYS.len())
                    .map(|line| line.text.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            },
        )
    }

    #[test]
    fn rules_become_lines() {
        assert_eq!(first(r#"{"allow": false, "access": "rwm"}"#), "a *:* rwm");
        assert_eq!(first(r#"{"allow": false, "type": "a"}"#), "a *:* rwm");
        assert_eq!(first(r#"{"allow": true, "type": "a", "access": "r"}"#), "b *:* r, c *:* r");
        assert_eq!(first(r#"{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}"#), "c 10:229 rw");
        assert_eq!(first(r#"{"allow": true, "type": "b", "major": 8, "access": "m"}"#), "b 8:* m");
        assert!(first(r#"{"allow": true, "access": "x"}"#).starts_with("linux.resources.devices: "));
    }
}
