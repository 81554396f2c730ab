//! What of an installed tree never ships: keys and identities of the machine that built it, logs, caches, leftovers.
//!
//! Pure: a path goes in, its [`Fate`] comes out. A path that the recipe writes itself always ships as it is.

use std::collections::BTreeSet;

/// What becomes of an entry of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ships.
    Keep,
    /// It does not ship.
    Drop,
    /// An empty file ships in its place.
    Empty,
    /// It ships with the date of password changes set to the tree's.
    Shadow,
}

/// The kind of an entry, as far as cleaning cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Directories whose content belongs to a running system, a cache or a build; the directories themselves stay.
const HOLLOW: [&str; 10] = [
    "dev/",
    "proc/",
    "sys/",
    "run/",
    "tmp/",
    "var/tmp/",
    "var/lib/apt/lists/",
    "var/crash/",
    "var/mail/",
    "lost+found/",
];

/// Directories whose files go and whose directories stay: services expect them with their owners.
const FILELESS: [&str; 2] = ["var/log/", "var/cache/"];

/// Files that identify one machine, or were made from the one that builds.
const DROPPED: [&str; 24] = [
    "etc/hostname",
    "etc/fstab",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/.pwd.lock",
    "etc/mtab",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
];

/// Links to kernels at the top of the tree.
const KERNEL_LINKS: [&str; 4] = ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"];

/// Caches that are state in truth: debconf's answers, needed by every later package operation.
const DEBCONF: [&str; 2] = ["var/cache/debconf/config.dat", "var/cache/debconf/templates.dat"];

/// The rules for one tree.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Paths that the recipe writes, without leading slash.
    own: BTreeSet<String>,
}

impl Rules {
    /// Rules that spare these absolute paths.
    pub fn sparing<'a>(own: impl IntoIterator<Item = &'a str>) -> Self {
        Self { own: own.into_iter().map(|path| path.trim_start_matches('/').to_owned()).collect() }
    }

    /// What becomes of the entry at `path`, written without leading `/` or `./`.
    pub fn fate(&self, path: &str, kind: EntryKind) -> Fate {
        let path = path.trim_end_matches('/');
        if self.own.contains(path) {
            return Fate::Keep;
        }
        let below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
        let fileless = kind == EntryKind::Other && below(&FILELESS) && !DEBCONF.contains(&path);
        if below(&HOLLOW) || fileless || DROPPED.contains(&path) || KERNEL_LINKS.contains(&path) || of_a_machine(path) {
            return Fate::Drop;
        }
        match path {
            // Empty, not missing: a missing one makes systemd run its first boot, which enables units by presets
            // (machine-id(5), "First Boot Semantics").
            "etc/machine-id" | "etc/resolv.conf" => Fate::Empty,
            "etc/shadow" => Fate::Shadow,
            _ => Fate::Keep,
        }
    }
}

/// Names with a pattern: host keys, kernels (they are parts of their own), package leftovers.
fn of_a_machine(path: &str) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else { return false };
    match folder {
        "etc/ssh" => name.starts_with("ssh_host_"),
        "boot" => ["vmlinuz-", "initrd.img-", "System.map-"].iter().any(|prefix| name.starts_with(prefix)),
        "var/lib/initramfs-tools" => true,
        "etc" | "etc/default" => [".dpkg-old", ".dpkg-dist", ".dpkg-new"].iter().any(|suffix| name.ends_with(suffix)),
        _ => false,
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

    fn fate(path: &str) -> Fate {
        Rules::default().fate(path, EntryKind::Other)
    }

    #[test]
    fn identities_logs_and_caches_never_ship() {
        let secret = [
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssh/ssh_host_rsa_key.pub",
            "var/lib/dbus/machine-id",
            "var/log/apt/history.log",
            "var/log/README",
            "var/cache/apt/pkgcache.bin",
            "var/cache/debconf/passwords.dat",
            "var/lib/apt/lists/mirror.example_debian_dists_bookworm_InRelease",
            "etc/shadow-",
            "etc/hostname",
            "dev/null",
            "tmp/x",
            "boot/vmlinuz-6.1.0-1-amd64",
            "initrd.img",
        ];
        for path in secret {
            assert_eq!(fate(path), Fate::Drop, "{path}");
        }
        assert_eq!(fate("etc/machine-id"), Fate::Empty);
        assert_eq!(fate("etc/resolv.conf"), Fate::Empty);
    }

    #[test]
    fn what_a_system_needs_ships() {
        for path in ["etc/ssh/sshd_config", "etc/passwd", "usr/bin/vmlinuz", "boot/config-6.1", "tmp", "dev", "var/log"]
        {
            assert_eq!(fate(path), Fate::Keep, "{path}");
        }
        assert_eq!(Rules::default().fate("var/log/journal/", EntryKind::Directory), Fate::Keep);
        assert_eq!(fate("var/cache/debconf/config.dat"), Fate::Keep);
    }

    #[test]
    fn what_the_recipe_writes_ships() {
        let rules = Rules::sparing(["/etc/hostname", "/var/log/keep"]);
        assert_eq!(rules.fate("etc/hostname", EntryKind::Other), Fate::Keep);
        assert_eq!(rules.fate("var/log/keep", EntryKind::Other), Fate::Keep);
    }

    #[test]
    fn the_day_of_the_build_is_not_in_shadow() {
        let shadow = "root:*:20000:0:99999:7:::\nnew:!:0:0::::\nodd::\n";
        assert_eq!(shadow_of_day(shadow, 7), "root:*:7:0:99999:7:::\nnew:!:0:0::::\nodd::\n");
    }
}
