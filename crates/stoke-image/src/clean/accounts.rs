//! The account files of a tree: days of a build that must not be in them, and people who stay behind.

use std::collections::BTreeSet;

/// The ids of people: Debian's policy (9.2.2) gives these to ordinary accounts.
const PEOPLE: std::ops::Range<u32> = 1000..60_000;

/// A file of accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountFile {
    /// `/etc/passwd`
    Passwd,
    /// `/etc/group`
    Group,
    /// `/etc/shadow`
    Shadow,
    /// `/etc/gshadow`
    Gshadow,
    /// `/etc/subuid` and `/etc/subgid`
    Subids,
}

impl AccountFile {
    /// The file at a path, without leading slash.
    pub fn at(path: &str) -> Option<Self> {
        Some(match path {
            "etc/passwd" => Self::Passwd,
            "etc/group" => Self::Group,
            "etc/shadow" => Self::Shadow,
            "etc/gshadow" => Self::Gshadow,
            "etc/subuid" | "etc/subgid" => Self::Subids,
            _ => return None,
        })
    }
}

/// The people of a tree: their accounts and their own groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl People {
    /// Takes note of them, from `/etc/passwd` and `/etc/group`.
    pub fn learn(&mut self, file: AccountFile, text: &str) {
        let names = match file {
            AccountFile::Passwd => &mut self.users,
            AccountFile::Group => &mut self.groups,
            _ => return,
        };
        let person =
            |line: &&str| line.split(':').nth(2).is_some_and(|id| id.parse().is_ok_and(|id| PEOPLE.contains(&id)));
        names.extend(text.lines().filter(person).filter_map(|line| Some(line.split(':').next()?.to_owned())));
    }

    /// A file of accounts without them.
    pub fn removed_from(&self, file: AccountFile, text: &str) -> String {
        let of_people = |name: &str| match file {
            AccountFile::Passwd | AccountFile::Shadow | AccountFile::Subids => self.users.contains(name),
            AccountFile::Group | AccountFile::Gshadow => self.groups.contains(name),
        };
        let stays = |line: &&str| !of_people(line.split(':').next().unwrap_or_default());
        let line = |line: &str| match file {
            AccountFile::Group | AccountFile::Gshadow => self.leave(line),
            _ => line.to_owned(),
        };
        text.lines().filter(stays).map(|text| line(text) + "\n").collect()
    }

    /// A group without them: members are the last field, administrators in `gshadow` the one before.
    fn leave(&self, line: &str) -> String {
        let stays = |name: &&str| !self.users.contains(*name);
        let fields: Vec<&str> = line.split(':').collect();
        let names = |(index, field): (usize, &&str)| match index {
            0 | 1 => (*field).to_owned(),
            _ => field.split(',').filter(stays).collect::<Vec<_>>().join(","),
        };
        fields.iter().enumerate().map(names).collect::<Vec<_>>().join(":")
    }
}

/// `/etc/shadow` with every date of the last change set to `day` (days since 1970): `passwd` writes the day of the build.
pub fn shadow_of_day(shadow: &str, day: u64) -> String {
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        let day = day.to_string();
        match fields.get_mut(2) {
            // 0 means that the password must be changed: a decision, not a date.
            Some(changed) if !changed.is_empty() && *changed != "0" => *changed = &day,
            _ => {}
        }
        fields.join(":") + "\n"
    };
    shadow.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_leave_all_files_and_groups() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        let group = "root:x:0:\nsudo:x:27:ann,root\nann:x:1000:\nnogroup:x:65534:\n";
        let mut people = People::default();
        people.learn(AccountFile::Passwd, passwd);
        people.learn(AccountFile::Group, group);
        people.learn(AccountFile::Shadow, "root:x:1000\n");
        let removed = |file, text: &str| people.removed_from(file, text);
        assert!(!removed(AccountFile::Passwd, passwd).contains("ann"));
        assert_eq!(removed(AccountFile::Group, group), "root:x:0:\nsudo:x:27:root\nnogroup:x:65534:\n");
        assert_eq!(removed(AccountFile::Gshadow, "sudo:*:ann:ann,root\nann:!::\n"), "sudo:*::root\n");
        assert_eq!(removed(AccountFile::Shadow, "ann:x:1:\nroot:*:1:\n"), "root:*:1:\n");
        assert_eq!(removed(AccountFile::Subids, "ann:100000:65536\n"), "");
    }

    #[test]
    fn the_day_of_the_build_is_not_in_shadow() {
        let shadow = "root:*:20000:0:99999:7:::\nnew:!:0:0::::\nodd::\n";
        assert_eq!(shadow_of_day(shadow, 7), "root:*:7:0:99999:7:::\nnew:!:0:0::::\nodd::\n");
    }
}
