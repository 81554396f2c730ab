//! Options of a mount, as the specification's table of them says. Pure.

use stoke_sys::mounts::attribute;

/// What the options of a mount mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// Attributes that the mount gets and loses.
    pub set: u64,
    pub clear: u64,
    /// The same, for all mounts below it too.
    pub recursive_set: u64,
    pub recursive_clear: u64,
    /// `MS_SHARED` and so on, and whether for all below too.
    pub propagation: Vec<(u64, bool)>,
    /// A bind mount, and whether of all below too.
    pub bind: Option<bool>,
    /// A tmpfs that begins with what was at its place.
    pub copy_up: bool,
    /// Mapped ids; `true` for all mounts below too.
    pub mapped: Option<bool>,
    /// Flags of the whole file system, by their names.
    pub flags: Vec<&'static str>,
    /// What the file system itself understands.
    pub data: Vec<String>,
}

/// What an option does.
#[derive(Clone, Copy)]
enum Effect {
    Set(u64),
    Clear(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    Propagation(u64, bool),
    Bind(bool),
    Flag(&'static str),
    Mapped(bool),
    CopyUp,
    Nothing,
}
use Effect::{Bind, Clear, CopyUp, Flag, Mapped, Nothing, Propagation, RecursiveClear, RecursiveSet, Set};

/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` of Linux' `include/uapi/linux/mount.h`.
const UNBINDABLE: u64 = 1 << 17;
const PRIVATE: u64 = 1 << 18;
const SLAVE: u64 = 1 << 19;
const SHARED: u64 = 1 << 20;

const TABLE: [(&str, Effect); 66] = [
    ("async", Nothing),
    ("atime", Clear(attribute::NOATIME)),
    ("bind", Bind(false)),
    ("defaults", Nothing),
    ("dev", Clear(attribute::NODEV)),
    ("diratime", Clear(attribute::NODIRATIME)),
    ("dirsync", Flag("dirsync")),
    ("exec", Clear(attribute::NOEXEC)),
    ("idmap", Mapped(false)),
    ("iversion", Flag("iversion")),
    ("lazytime", Flag("lazytime")),
    ("loud", Nothing),
    ("mand", Flag("mand")),
    ("noatime", Set(attribute::NOATIME)),
    ("nodev", Set(attribute::NODEV)),
    ("nodiratime", Set(attribute::NODIRATIME)),
    ("noexec", Set(attribute::NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Nothing),
    ("nomand", Nothing),
    ("norelatime", Nothing),
    ("nostrictatime", Clear(attribute::STRICTATIME)),
    ("nosuid", Set(attribute::NOSUID)),
    ("nosymfollow", Set(attribute::NOSYMFOLLOW)),
    ("private", Propagation(PRIVATE, false)),
    ("ratime", RecursiveClear(attribute::NOATIME)),
    ("rbind", Bind(true)),
    ("rdev", RecursiveClear(attribute::NODEV)),
    ("rdiratime", RecursiveClear(attribute::NODIRATIME)),
    ("relatime", Set(attribute::RELATIME)),
    ("rexec", RecursiveClear(attribute::NOEXEC)),
    ("ridmap", Mapped(true)),
    ("rnoatime", RecursiveSet(attribute::NOATIME)),
    ("rnodev", RecursiveSet(attribute::NODEV)),
    ("rnodiratime", RecursiveSet(attribute::NODIRATIME)),
    ("rnoexec", RecursiveSet(attribute::NOEXEC)),
    ("rnorelatime", Nothing),
    ("rnostrictatime", RecursiveClear(attribute::STRICTATIME)),
    ("rnosuid", RecursiveSet(attribute::NOSUID)),
    ("rnosymfollow", RecursiveSet(attribute::NOSYMFOLLOW)),
    ("ro", Set(attribute::RDONLY)),
    ("rprivate", Propagation(PRIVATE, true)),
    ("rrelatime", RecursiveSet(attribute::RELATIME)),
    ("rro", RecursiveSet(attribute::RDONLY)),
    ("rrw", RecursiveClear(attribute::RDONLY)),
    ("rshared", Propagation(SHARED, true)),
    ("rslave", Propagation(SLAVE, true)),
    ("rstrictatime", RecursiveSet(attribute::STRICTATIME)),
    ("rsuid", RecursiveClear(attribute::NOSUID)),
    ("rsymfollow", RecursiveClear(attribute::NOSYMFOLLOW)),
    ("runbindable", Propagation(UNBINDABLE, true)),
    ("rw", Clear(attribute::RDONLY)),
    ("shared", Propagation(SHARED, false)),
    ("silent", Nothing),
    ("slave", Propagation(SLAVE, false)),
    ("strictatime", Set(attribute::STRICTATIME)),
    ("suid", Clear(attribute::NOSUID)),
    ("symfollow", Clear(attribute::NOSYMFOLLOW)),
    ("sync", Flag("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(UNBINDABLE, false)),
    ("remount", Nothing),
    ("user", Nothing),
    ("nouser", Nothing),
    ("auto", Nothing),
    ("noauto", Nothing),
];

/// The options that are known here, as `features` prints them.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = TABLE.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

/// `MS_SHARED` and so on of a word like `rslave`, and whether for all mounts below too.
pub(super) fn propagation(word: &str) -> Option<(u64, bool)> {
    TABLE.iter().find_map(|(name, effect)| match effect {
        Propagation(flag, recursive) if *name == word => Some((*flag, *recursive)),
        _ => None,
    })
}

impl MountOptions {
    /// Reads options; what is not in the table is for the file system.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            match TABLE.iter().find(|(name, _)| name == option) {
                Some((_, effect)) => parsed.add(*effect),
                None => parsed.data.push(option.clone()),
            }
        }
        parsed
    }

    fn add(&mut self, effect: Effect) {
        match effect {
            // The later of two that contradict each other holds. How access times are kept is one value, not bits.
            Set(attribute) => (self.clear, self.set) = turn(self.clear, self.set, attribute),
            Clear(attribute) => (self.set, self.clear) = (self.set & !attribute, self.clear | attribute),
            RecursiveSet(attribute) => {
                (self.recursive_clear, self.recursive_set) = turn(self.recursive_clear, self.recursive_set, attribute);
            }
            RecursiveClear(attribute) => {
                self.recursive_set &= !attribute;
                self.recursive_clear |= attribute;
            }
            Propagation(flag, recursive) => self.propagation.push((flag, recursive)),
            Bind(recursive) => self.bind = Some(recursive),
            Flag(name) => self.flags.push(name),
            Mapped(recursive) => self.mapped = Some(recursive),
            CopyUp => self.copy_up = true,
            Nothing => {}
        }
    }

    /// What has to be cleared so that what is set can be (mount_setattr(2)): access times are one field.
    pub(crate) fn cleared(set: u64, clear: u64) -> u64 {
        if (set | clear) & attribute::ATIME == 0 { clear } else { clear | attribute::ATIME }
    }
}

fn turn(clear: u64, set: u64, attribute: u64) -> (u64, u64) {
    let is_time = attribute & attribute::ATIME != 0 || attribute == attribute::RELATIME;
    let set = if is_time { set & !attribute::ATIME } else { set };
    (clear & !attribute, set | attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_later_option_holds() {
        assert_eq!(parse("ro,rw").set, 0);
        assert_eq!(parse("ro,rw").clear, attribute::RDONLY);
        assert_eq!(parse("rw,ro").set, attribute::RDONLY);
        assert_eq!(parse("noatime,strictatime").set, attribute::STRICTATIME);
        assert_eq!(parse("strictatime,relatime").set, 0);
    }

    #[test]
    fn what_is_not_in_the_table_is_for_the_file_system() {
        let parsed = parse("rbind,rro,rslave,size=64k,mode=0755,sync");
        assert_eq!(parsed.data, ["size=64k", "mode=0755"]);
        assert_eq!(parsed.flags, ["sync"]);
        assert_eq!(parsed.bind, Some(true));
        assert_eq!(parsed.recursive_set, attribute::RDONLY);
        assert_eq!(parsed.propagation, [(SLAVE, true)]);
    }

    #[test]
    fn access_times_are_cleared_as_one() {
        assert_eq!(MountOptions::cleared(attribute::NOATIME, 0), attribute::ATIME);
        assert_eq!(MountOptions::cleared(attribute::RDONLY, attribute::NOSUID), attribute::NOSUID);
    }
}
