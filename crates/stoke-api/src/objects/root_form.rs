//! `Image.spec.forms.netboot.root`: the read-only file system of an image, and what of the tree goes into it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// The root file system of a netboot form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootForm {
    /// File system.
    #[serde(default)]
    pub format: RootFormat,
    /// Compression; `Zstd` for squashfs and `Lz4hc` for EROFS if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// What never ships, beside `exclude`.
    #[serde(default, skip_serializing_if = "Cleanup::is_default")]
    pub cleanup: Cleanup,
    /// Paths that do not ship: absolute, with `*` for anything within a name and `**` for anything at all. What lies below
    /// a path goes with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Paths that ship although the clean-up would take them, written as in `exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
}

/// A read-only file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RootFormat {
    /// squashfs.
    #[default]
    Squashfs,
    /// EROFS.
    Erofs,
}

/// How the blocks of a root are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// zstd: the smallest. For squashfs.
    Zstd,
    /// lz4: the fastest to write and to read, and the largest.
    Lz4,
    /// lz4 that is looked for longer: reads as fast, a little smaller.
    Lz4hc,
}

/// What of a tree never ships.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cleanup {
    /// For trees that a recipe made: what identifies one machine, logs, caches, leftovers of package operations.
    #[default]
    Image,
    /// For trees copied from a machine that ran: also its people (user ids 1000 to 59999) and what they own or left behind:
    /// homes, root's own files, `/srv`, `/media`, `/mnt`, spools, databases, connections.
    Machine,
}

impl Cleanup {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl RootForm {
    /// The compression, wanted or by default.
    pub fn compression(&self) -> Compression {
        self.compression.unwrap_or(match self.format {
            RootFormat::Squashfs => Compression::Zstd,
            RootFormat::Erofs => Compression::Lz4hc,
        })
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if (self.format, self.compression()) == (RootFormat::Erofs, Compression::Zstd) {
            let message = "EROFS is made with Lz4 or Lz4hc here; for Zstd use format: Squashfs";
            problems.push(Problem::new("spec.forms.netboot.root.compression", message));
        }
        for (name, patterns) in [("exclude", &self.exclude), ("keep", &self.keep)] {
            for (index, pattern) in patterns.iter().enumerate().filter(|(_, pattern)| !is_pattern(pattern)) {
                let field = format!("spec.forms.netboot.root.{name}[{index}]");
                problems.push(Problem::new(field, format!("{pattern:?} is no absolute path below /")));
            }
        }
    }
}

fn is_pattern(text: &str) -> bool {
    let parts = text.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
    parts.is_some_and(|rest| !rest.is_empty() && rest.split('/').all(|part| !["", ".", ".."].contains(&part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_cannot_be_made_are_told_by_field() {
        let form = RootForm {
            format: RootFormat::Erofs,
            compression: Some(Compression::Zstd),
            exclude: vec!["/usr/share/doc".into(), "/".into()],
            keep: vec!["etc/fstab".into(), "/var/../etc".into(), "/boot/vmlinuz-*".into()],
            ..RootForm::default()
        };
        let mut problems = Vec::new();
        form.check(&mut problems);
        let fields: Vec<_> =
            problems.iter().map(|problem| problem.field.replace("spec.forms.netboot.root.", "")).collect();
        assert_eq!(fields, ["compression", "exclude[1]", "keep[0]", "keep[1]"]);
    }
}
