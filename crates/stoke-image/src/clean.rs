//! What of an installed tree never ships: keys and identities of the machine that built it, logs, caches, leftovers.
//!
//! Pure: a path goes in, its [`Fate`] comes out. A path that the recipe writes itself always ships as it is.

pub mod accounts;
pub mod pattern;

use std::collections::BTreeSet;

use stoke_api::objects::{Cleanup, RootForm};

use self::accounts::AccountFile;
use self::pattern::Pattern;

/// What becomes of an entry of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ships.
    Keep,
    /// It does not ship.
    Drop,
    /// An empty file ships in its place.
    Empty,
    /// It ships without the day of the build, and without people if they stay behind.
    Accounts(AccountFile),
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

/// Directories whose content belongs to a machine that ran and to its people.
const HOLLOW_OF_MACHINES: [&str; 12] = [
    "cdrom/",
    "home/",
    "media/",
    "mnt/",
    "root/",
    "srv/",
    "etc/NetworkManager/system-connections/",
    "etc/cups/ppd/",
    "var/lib/NetworkManager/",
    "var/lib/dhcp/",
    "var/lib/mysql/",
    "var/lib/systemd/linger/",
];

/// Files of a machine that ran: printers, credentials of databases.
const DROPPED_OF_MACHINES: [&str; 5] = [
    "etc/cups/printers.conf",
    "etc/cups/printers.conf.O",
    "etc/cups/subscriptions.conf",
    "etc/mysql/debian.cnf",
    "var/lib/systemd/timesync/clock",
];

/// What version control keeps of `/etc`, with all below.
const HISTORIES: [&str; 7] =
    ["etc/.git", "etc/.gitignore", "etc/.bzr", "etc/.bzrignore", "etc/.hg", "etc/.hgignore", "etc/.etckeeper"];

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

/// At the top of the tree: links to kernels, and memory that was written out.
const AT_TOP: [&str; 6] = ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old", "swapfile", "swap.img"];

/// Caches that are state in truth: debconf's answers, needed by every later package operation.
const DEBCONF: [&str; 2] = ["var/cache/debconf/config.dat", "var/cache/debconf/templates.dat"];

/// The rules for one tree.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Paths that the recipe writes, without leading slash.
    own: BTreeSet<String>,
    cleanup: Cleanup,
    exclude: Vec<Pattern>,
    keep: Vec<Pattern>,
}

impl Rules {
    /// The rules of a form, which spare these absolute paths.
    pub fn of<'a>(form: &RootForm, own: impl IntoIterator<Item = &'a str>) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect();
        Self {
            own: own.into_iter().map(|path| path.trim_start_matches('/').to_owned()).collect(),
            cleanup: form.cleanup,
            exclude: patterns(&form.exclude),
            keep: patterns(&form.keep),
        }
    }

    /// Whether the people of the tree stay behind.
    pub fn without_people(&self) -> bool {
        self.cleanup == Cleanup::Machine
    }

    /// What becomes of the entry at `path`, written without leading `/` or `./`.
    pub fn fate(&self, path: &str, kind: EntryKind) -> Fate {
        let path = path.trim_end_matches('/');
        let on_the_way = kind == EntryKind::Directory && self.keep.iter().any(|pattern| pattern.leads_below(path));
        if self.own.contains(path) || on_the_way || self.keep.iter().any(|pattern| pattern.covers(path)) {
            return Fate::Keep;
        }
        if self.exclude.iter().any(|pattern| pattern.covers(path)) || self.never_ships(path, kind) {
            return Fate::Drop;
        }
        match (path, AccountFile::at(path)) {
            // Empty, not missing: a missing one makes systemd run its first boot, which enables units by presets
            // (machine-id(5), "First Boot Semantics").
            ("etc/machine-id" | "etc/resolv.conf", _) => Fate::Empty,
            (_, Some(file)) if file == AccountFile::Shadow || self.without_people() => Fate::Accounts(file),
            _ => Fate::Keep,
        }
    }

    fn never_ships(&self, path: &str, kind: EntryKind) -> bool {
        let below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
        let fileless = kind == EntryKind::Other && below(&FILELESS) && !DEBCONF.contains(&path);
        let history = || {
            HISTORIES
                .iter()
                .any(|top| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        let dropped = || DROPPED.contains(&path) || AT_TOP.contains(&path) || of_a_machine(path) || history();
        below(&HOLLOW) || fileless || dropped() || (self.without_people() && of_a_machine_that_ran(path, kind))
    }
}

fn of_a_machine_that_ran(path: &str, kind: EntryKind) -> bool {
    let spooled = kind == EntryKind::Other && path.starts_with("var/spool/");
    spooled || DROPPED_OF_MACHINES.contains(&path) || HOLLOW_OF_MACHINES.iter().any(|folder| path.starts_with(folder))
}

/// Names with a pattern: host keys, kernels (they are parts of their own), package leftovers.
fn of_a_machine(path: &str) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else { return false };
    match folder {
        "etc/ssh" => name.starts_with("ssh_host_"),
        "boot" => ["vmlinuz-", "initrd.img-", "System.map-"].iter().any(|prefix| name.starts_with(prefix)),
        "var/lib/initramfs-tools" => true,
        // Keeps services from starting while an image is built; on a node they shall.
        "usr/sbin" => name == "policy-rc.d",
        "etc" | "etc/default" => [".dpkg-old", ".dpkg-dist", ".dpkg-new"].iter().any(|suffix| name.ends_with(suffix)),
        _ => {
            let modules = folder.strip_prefix("usr/lib/modules/").or_else(|| folder.strip_prefix("lib/modules/"));
            let of_a_kernel = modules.is_some_and(|version| !version.contains('/'));
            of_a_kernel && ["vmlinuz", "initramfs.img", "initrd.img", "initrd"].contains(&name)
        }
    }
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
            "usr/lib/modules/6.12.5-200.fc41.x86_64/vmlinuz",
            "usr/lib/modules/6.12.5-200.fc41.x86_64/initramfs.img",
            "usr/sbin/policy-rc.d",
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
        for path in [
            "etc/ssh/sshd_config",
            "etc/passwd",
            "usr/bin/vmlinuz",
            "boot/config-6.1",
            "usr/lib/modules/6.1/extra/vmlinuz",
            "tmp",
            "dev",
            "var/log",
        ] {
            assert_eq!(fate(path), Fate::Keep, "{path}");
        }
        assert_eq!(Rules::default().fate("var/log/journal/", EntryKind::Directory), Fate::Keep);
        assert_eq!(fate("var/cache/debconf/config.dat"), Fate::Keep);
    }

    #[test]
    fn what_the_recipe_writes_ships() {
        let rules = Rules::of(&RootForm::default(), ["/etc/hostname", "/var/log/keep"]);
        assert_eq!(rules.fate("etc/hostname", EntryKind::Other), Fate::Keep);
        assert_eq!(rules.fate("var/log/keep", EntryKind::Other), Fate::Keep);
    }

    #[test]
    fn what_people_exclude_goes_and_what_they_keep_stays() {
        let form = RootForm {
            exclude: vec!["/usr/share/zoneinfo".to_owned(), "/opt/*/cache".to_owned()],
            keep: vec!["/usr/share/zoneinfo/Etc".to_owned(), "/var/log/app/template".to_owned()],
            ..RootForm::default()
        };
        let rules = Rules::of(&form, []);
        let file = |path: &str| rules.fate(path, EntryKind::Other);
        assert_eq!((file("usr/share/zoneinfo/Asia/Baku"), file("opt/x/cache/y")), (Fate::Drop, Fate::Drop));
        assert_eq!((file("usr/share/zoneinfo/Etc/UTC"), file("var/log/app/template")), (Fate::Keep, Fate::Keep));
        assert_eq!(rules.fate("usr/share/zoneinfo", EntryKind::Directory), Fate::Keep);
        assert_eq!(file("var/log/app/other"), Fate::Drop);
    }

    #[test]
    fn a_machine_that_ran_leaves_its_people_behind() {
        let machine = Rules::of(&RootForm { cleanup: Cleanup::Machine, ..RootForm::default() }, ["/root/.profile"]);
        for path in ["home/ann/x", "root/.ssh/id", "srv/data", "var/spool/cron/crontabs/ann", "var/lib/mysql/ibdata1"] {
            assert_eq!(machine.fate(path, EntryKind::Other), Fate::Drop, "{path}");
            assert_eq!(fate(path), Fate::Keep, "{path}");
        }
        assert_eq!(machine.fate("var/spool/cron/crontabs", EntryKind::Directory), Fate::Keep);
        assert_eq!(machine.fate("home", EntryKind::Directory), Fate::Keep);
        assert_eq!(machine.fate("root/.profile", EntryKind::Other), Fate::Keep);
        assert_eq!(machine.fate("etc/group", EntryKind::Other), Fate::Accounts(AccountFile::Group));
        assert_eq!((fate("etc/group"), fate("etc/shadow")), (Fate::Keep, Fate::Accounts(AccountFile::Shadow)));
    }

    #[test]
    fn histories_and_swap_never_ship() {
        for path in ["etc/.git", "etc/.git/config", "swapfile"] {
            assert_eq!(fate(path), Fate::Drop, "{path}");
        }
        assert_eq!((fate("etc/.gitattributes"), fate("usr/src/.git/config")), (Fate::Keep, Fate::Keep));
    }
}
