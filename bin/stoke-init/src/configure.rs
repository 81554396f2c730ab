//! Puts the node's configuration into its new root, before anything of it runs.
//!
//! All of it goes into the writable layer, so nothing of it is left at the next boot. What a step needs and the image
//! does not have (no sshd, no time zones) is left out; what cannot be written is an error.

use std::fs::{self, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use stoke_api::objects::{NodeConfig, User};

use crate::accounts::{Account, Accounts};
use crate::hostkey;

/// The resident looks here for the system being up; the unit below makes it.
pub(crate) const READY_FILE: &str = "/run/stokehold/ready";
const UNIT: &str = "stokehold-ready.service";

/// What is applied.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) name: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) dns: &'a [Ipv4Addr],
    pub(crate) machine_id: &'a str,
    pub(crate) config: &'a NodeConfig,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Public host keys.
    pub(crate) ssh_host_keys: Vec<String>,
    /// Whether the system will say when it is up.
    pub(crate) says_ready: bool,
}

/// Applies the settings to the root at `root`.
pub(crate) fn apply(root: &Path, settings: &Settings<'_>) -> Result<Applied> {
    let root = Root(root);
    let hostname = settings.config.hostname.as_deref().unwrap_or(settings.name);
    root.write("etc/hostname", &format!("{hostname}\n"), 0o644)?;
    root.write("etc/hosts", &hosts(hostname, settings.domain, settings.address), 0o644)?;
    root.write("etc/resolv.conf", &resolv_conf(settings.domain, settings.dns), 0o644)?;
    root.write("etc/machine-id", &format!("{}\n", settings.machine_id), 0o444)?;
    time_zone(&root, settings.config.timezone.as_deref().unwrap_or("Etc/UTC"))?;
    users(&root, &settings.config.users)?;
    Ok(Applied { ssh_host_keys: host_keys(&root, hostname)?, says_ready: ready_unit(&root)? })
}

/// The kernel's host name: the node's own, which may have a domain.
pub(crate) fn hostname<'a>(name: &'a str, config: &'a NodeConfig) -> &'a str {
    config.hostname.as_deref().unwrap_or(name)
}

fn hosts(hostname: &str, domain: &str, address: Ipv4Addr) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let full = match (hostname.contains('.'), domain.is_empty()) {
        (false, false) => format!("{hostname}.{domain}"),
        _ => hostname.to_owned(),
    };
    let names = if full == short { full } else { format!("{full} {short}") };
    format!("127.0.0.1 localhost\n{address} {names}\n::1 localhost ip6-localhost ip6-loopback\n")
}

fn resolv_conf(domain: &str, dns: &[Ipv4Addr]) -> String {
    let search = if domain.is_empty() { String::new() } else { format!("search {domain}\n") };
    dns.iter().fold(search, |text, server| text + &format!("nameserver {server}\n"))
}

/// localtime(5): a link into the zone files, if the image has that zone.
fn time_zone(root: &Root<'_>, zone: &str) -> Result<()> {
    let target = format!("usr/share/zoneinfo/{zone}");
    if !root.has(&target) {
        return Ok(());
    }
    root.write("etc/timezone", &format!("{zone}\n"), 0o644)?;
    root.link("etc/localtime", &format!("/{target}"))
}

fn users(root: &Root<'_>, users: &[User]) -> Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let before =
        Accounts { passwd: root.read("etc/passwd"), shadow: root.read("etc/shadow"), group: root.read("etc/group") };
    let mut accounts = before.clone();
    let shell = if root.has("bin/bash") { "/bin/bash" } else { "/bin/sh" };
    let owners: Vec<_> = users.iter().map(|user| (user, accounts.ensure(&user.name, shell))).collect();
    for (file, old, new, mode) in [
        ("etc/passwd", &before.passwd, &accounts.passwd, 0o644),
        ("etc/group", &before.group, &accounts.group, 0o644),
        ("etc/shadow", &before.shadow, &accounts.shadow, 0o640),
    ] {
        if old != new {
            root.replace(file, new, mode)?;
        }
    }
    owners.into_iter().try_for_each(|(user, account)| keys(root, user, &account))
}

/// The account's home and its `authorized_keys`, as sshd wants them: nobody else may write there.
fn keys(root: &Root<'_>, user: &User, account: &Account) -> Result<()> {
    let home = account.home.trim_start_matches('/').to_owned();
    let ssh = format!("{home}/.ssh");
    root.folder(&home, 0o700, account)?;
    root.folder(&ssh, 0o700, account)?;
    let lines: String = user.ssh_authorized_keys.iter().flat_map(|key| [key.trim(), "\n"]).collect();
    let file = format!("{ssh}/authorized_keys");
    root.write(&file, &lines, 0o600)?;
    root.own(&file, account)
}

/// Public halves of the node's host keys; one is made if the image has sshd and no key.
fn host_keys(root: &Root<'_>, hostname: &str) -> Result<Vec<String>> {
    if !root.has("usr/sbin/sshd") {
        return Ok(Vec::new());
    }
    let file = "etc/ssh/ssh_host_ed25519_key";
    let public = format!("{file}.pub");
    if !root.has(file) {
        let key = hostkey::generate(&format!("root@{hostname}"))?;
        root.write(file, &key.private, 0o600)?;
        root.write(&public, &format!("{} root@{hostname}\n", key.public), 0o644)?;
    }
    let text = root.read(&public);
    let words: Vec<_> = text.split_whitespace().take(2).collect();
    Ok(if words.len() == 2 { vec![words.join(" ")] } else { Vec::new() })
}

/// A unit that leaves a file when the system is up and takes it away when it goes down, for the resident to see.
fn ready_unit(root: &Root<'_>) -> Result<bool> {
    let folder = "etc/systemd/system";
    if !root.has("usr/lib/systemd/systemd") && !root.has("lib/systemd/systemd") {
        return Ok(false);
    }
    let unit = format!(
        "[Unit]\nDescription=Tell the boot farm that this node is up\nAfter=multi-user.target\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch {READY_FILE}\n\
         ExecStop=/bin/rm -f {READY_FILE}\n"
    );
    root.write(&format!("{folder}/{UNIT}"), &unit, 0o644)?;
    root.link(&format!("{folder}/multi-user.target.wants/{UNIT}"), &format!("/{folder}/{UNIT}"))?;
    Ok(true)
}

/// The new root. Names are relative to it.
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes a file. A link of that name is replaced, not followed.
    fn write(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.path(name);
        let write = || -> io::Result<()> {
            remove(&path)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, "")?;
            // Before the content: it may be secret.
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
            fs::write(&path, text)
        };
        write().with_context(|| format!("could not write /{name}"))
    }

    /// Writes a file that keeps its owner and group.
    fn replace(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        if self.has(name) {
            return fs::write(self.path(name), text).with_context(|| format!("could not write /{name}"));
        }
        self.write(name, text, mode)
    }

    fn link(&self, name: &str, target: &str) -> Result<()> {
        let path = self.path(name);
        let link = || -> io::Result<()> {
            remove(&path)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            symlink(target, &path)
        };
        link().with_context(|| format!("could not link /{name} to {target}"))
    }

    /// A folder of this account; one that is there keeps its rights.
    fn folder(&self, name: &str, mode: u32, account: &Account) -> Result<()> {
        let path = self.path(name);
        if path.is_dir() {
            return Ok(());
        }
        let parents = fs::DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(&path));
        let result = parents.and_then(|()| fs::DirBuilder::new().mode(mode).create(&path));
        result.with_context(|| format!("could not make /{name}"))?;
        self.own(name, account)
    }

    fn own(&self, name: &str, account: &Account) -> Result<()> {
        let path = self.path(name);
        chown(&path, Some(account.uid), Some(account.gid)).with_context(|| format!("could not give /{name} away"))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    const KEY: &str = "ssh-ed25519 AAAA admin@desk";

    /// A root as an image has it.
    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in ["usr/sbin/sshd", "usr/lib/systemd/systemd", "usr/share/zoneinfo/Europe/Berlin", "bin/bash"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join("root")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
        fs::write(root.path().join("etc/shadow"), "root:*:1::::::\n").unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", root.path().join("etc/resolv.conf")).unwrap();
        root
    }

    fn config() -> NodeConfig {
        let user = |name: &str| User { name: name.into(), ssh_authorized_keys: vec![KEY.into()], ..User::default() };
        NodeConfig {
            timezone: Some("Europe/Berlin".into()),
            users: vec![user("admin"), user("root")],
            ..NodeConfig::default()
        }
    }

    fn applied(root: &Path, config: &NodeConfig) -> Applied {
        let settings = Settings {
            name: "node-1",
            domain: "lab.internal",
            address: Ipv4Addr::new(10, 10, 0, 21),
            dns: &[Ipv4Addr::new(10, 10, 0, 1)],
            machine_id: "0123",
            config,
        };
        apply(root, &settings).unwrap()
    }

    #[test]
    fn a_node_gets_its_names_zone_and_resolver() {
        let root = image();
        applied(root.path(), &config());
        let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(read("etc/hostname"), "node-1\n");
        assert!(read("etc/hosts").contains("\n10.10.0.21 node-1.lab.internal node-1\n"));
        assert_eq!(read("etc/resolv.conf"), "search lab.internal\nnameserver 10.10.0.1\n");
        assert!(!root.path().join("etc/resolv.conf").is_symlink());
        assert_eq!(
            fs::read_link(root.path().join("etc/localtime")).unwrap(),
            Path::new("/usr/share/zoneinfo/Europe/Berlin")
        );
    }

    #[test]
    fn accounts_get_homes_and_keys_that_only_they_can_write() {
        let root = image();
        applied(root.path(), &config());
        for (file, owner) in [("home/admin/.ssh/authorized_keys", 1000), ("root/.ssh/authorized_keys", 0)] {
            let path = root.path().join(file);
            let about = path.metadata().unwrap();
            assert_eq!((about.mode() & 0o777, about.uid(), about.gid()), (0o600, owner, owner), "{file}");
            assert_eq!(fs::read_to_string(path).unwrap(), format!("{KEY}\n"));
        }
        assert_eq!(root.path().join("home/admin").metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(root.path().join("home").metadata().unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn the_host_key_is_made_once_and_reported() {
        let root = image();
        let first = applied(root.path(), &config());
        assert!(first.says_ready);
        assert!(first.ssh_host_keys[0].starts_with("ssh-ed25519 AAAA"));
        assert_eq!(applied(root.path(), &config()), first);
        let mode = root.path().join("etc/ssh/ssh_host_ed25519_key").metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_image_without_sshd_and_systemd_gets_neither_key_nor_unit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(applied(root.path(), &NodeConfig::default()), Applied::default());
        assert!(!root.path().join("etc/localtime").is_symlink());
    }
}
