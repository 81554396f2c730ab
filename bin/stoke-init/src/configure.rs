//! Puts the node's configuration into its new root, before anything of it runs.
//!
//! All of it goes into the writable layer, so nothing of it is left at the next boot. What a step needs and the image
//! does not have (no sshd, no time zones) is left out, and remarked if the configuration asks for it; what cannot be
//! written is an error. One module for each group of fields; [`apply`] tells the order. Files come after what the typed
//! fields write, but for mounts, which go into the fstab that a file may have replaced, and hooks, which come last of all.

mod files;
mod hooks;
mod kernel;
mod kubernetes;
mod mounts;
mod names;
mod network;
mod root;
mod units;
mod users;

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use stoke_api::objects::NodeConfig;
use stoke_api::trust::Hex;

pub(crate) use self::files::Secrets;
pub(crate) use self::hooks::{ENTER, OUTPUT, enter, failures, run_before_init};
pub(crate) use self::network::BootLink;
use self::root::Root;
use self::units::{UNITS, has_systemd};
use crate::hostkey;

/// The resident looks here for the system being up; the unit below makes it.
pub(crate) const READY_FILE: &str = "/run/stokehold/ready";
/// The resident looks here for a system that did not come up; the unit below makes it.
pub(crate) const EMERGENCY_FILE: &str = "/run/stokehold/emergency";
/// The unit that says that the system is up.
const READY_UNIT: &str = "stokehold-ready.service";
const EMERGENCY_UNIT: &str = "stokehold-emergency.service";

/// What is applied.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) name: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) dns: &'a [Ipv4Addr],
    pub(crate) machine_id: &'a str,
    pub(crate) boot: BootLink,
    pub(crate) config: &'a NodeConfig,
    pub(crate) secrets: &'a Secrets,
    /// The private SSH host key of earlier boots.
    pub(crate) host_key: Option<&'a str>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Public host keys.
    pub(crate) ssh_host_keys: Vec<String>,
    /// The private one, if it was made now.
    pub(crate) new_host_key: Option<Hex>,
    /// Whether the system will say when it is up.
    pub(crate) says_ready: bool,
    /// What the configuration asks for and the image cannot do.
    pub(crate) remarks: Vec<String>,
}

/// What the configuration asks for and the image cannot do, collected.
#[derive(Debug, Default)]
pub(crate) struct Remarks(Vec<String>);

impl Remarks {
    fn add(&mut self, remark: impl Into<String>) {
        self.0.push(remark.into());
    }

    fn into_lines(self) -> Vec<String> {
        self.0
    }
}

/// Applies the settings to the root at `root`.
pub(crate) fn apply(root: &Path, settings: &Settings<'_>) -> Result<Applied> {
    let (root, config, mut remarks) = (Root(root), settings.config, Remarks::default());
    let hostname = hostname(settings.name, config);
    let hosts = names::hosts(hostname, settings.domain, settings.address, &config.hosts);
    root.write("etc/hostname", format!("{hostname}\n"), 0o644)?;
    root.write("etc/hosts", hosts, 0o644)?;
    root.write("etc/resolv.conf", names::resolv_conf(&config.dns, settings.domain, settings.dns), 0o644)?;
    root.write("etc/machine-id", format!("{}\n", settings.machine_id), 0o444)?;
    names::time_zone(root, config.timezone.as_deref(), &mut remarks)?;
    names::ntp(root, &config.ntp, &mut remarks)?;
    users::write(root, &config.users)?;
    network::write(root, &config.interfaces, &settings.boot, &mut remarks)?;
    kernel::write(root, config)?;
    units::write(root, &config.units, &mut remarks)?;
    kubernetes::runtime(root, &config.runtime, &mut remarks)?;
    kubernetes::kubelet(root, &config.kubelet, &mut remarks)?;
    files::write(root, &config.files, settings.secrets)?;
    mounts::write(root, config)?;
    let (ssh_host_keys, new_host_key) = host_keys(root, hostname, settings.host_key)?;
    let says_ready = state_units(root)?;
    hooks::write(root, &config.hooks, &mut remarks)?;
    Ok(Applied { ssh_host_keys, new_host_key, says_ready, remarks: remarks.into_lines() })
}

/// The kernel's host name: the node's own, which may have a domain.
pub(crate) fn hostname<'a>(name: &'a str, config: &'a NodeConfig) -> &'a str {
    config.hostname.as_deref().unwrap_or(name)
}

/// A remark if this boot lacks kernel arguments of the configuration: whoever has started the kernel knows nothing of them.
pub(crate) fn missing_arguments(config: &NodeConfig, cmdline: &str) -> Option<String> {
    let given: Vec<_> = cmdline.split_whitespace().collect();
    let missing: Vec<_> =
        config.kernel_arguments.iter().filter(|argument| !given.contains(&argument.as_str())).collect();
    let words = missing.iter().map(|argument| argument.as_str()).collect::<Vec<_>>().join(" ");
    let why = "a unified kernel image has those of its image only; iPXE, GRUB, PXELINUX and kexec give a node its own";
    (!missing.is_empty()).then(|| format!("kernelArguments: this boot is without {words}: {why}"))
}

/// Public halves of the node's host keys. If the image has sshd and no key, it gets the one of earlier boots, or a new one,
/// which is returned, too.
fn host_keys(root: Root<'_>, hostname: &str, earlier: Option<&str>) -> Result<(Vec<String>, Option<Hex>)> {
    if !root.has("usr/sbin/sshd") {
        return Ok((Vec::new(), None));
    }
    let file = "etc/ssh/ssh_host_ed25519_key";
    let (public, mut new) = (format!("{file}.pub"), None);
    if !root.has(file) {
        let key = match earlier.and_then(hostkey::restore) {
            Some(key) => key,
            None => hostkey::generate(&format!("root@{hostname}"))?,
        };
        root.write(file, &key.private, 0o600)?;
        root.write(&public, format!("{} root@{hostname}\n", key.public), 0o644)?;
        new = (earlier != Some(key.private.as_str())).then(|| Hex(key.private.into_bytes()));
    }
    let text = root.read(&public);
    let words: Vec<_> = text.split_whitespace().take(2).collect();
    Ok((if words.len() == 2 { vec![words.join(" ")] } else { Vec::new() }, new))
}

/// A unit that leaves a file when the system is up and takes it away when it goes down, and one that leaves a file when it
/// ends where somebody must look after it, for the resident to see.
fn state_units(root: Root<'_>) -> Result<bool> {
    if !has_systemd(root) {
        return Ok(false);
    }
    let ready = format!(
        "[Unit]\nDescription=Tell the boot farm that this node is up\nAfter=multi-user.target\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch {READY_FILE}\n\
         ExecStop=/bin/rm -f {READY_FILE}\n"
    );
    // Without the dependencies that every unit has: in that state there is no basic system.
    let emergency = format!(
        "[Unit]\nDescription=Tell the boot farm that this node does not come up\nDefaultDependencies=no\n\n\
         [Service]\nType=oneshot\nExecStart=/bin/touch {EMERGENCY_FILE}\n"
    );
    for (unit, text, target) in
        [(READY_UNIT, ready, "multi-user.target"), (EMERGENCY_UNIT, emergency, "emergency.target")]
    {
        root.write(&format!("{UNITS}/{unit}"), text, 0o644)?;
        root.link(&format!("{UNITS}/{target}.wants/{unit}"), &format!("/{UNITS}/{unit}"))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use stoke_api::objects::User;

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
            boot: BootLink { name: "eth0".into(), mac: "52:54:00:00:00:01".parse().unwrap() },
            config,
            secrets: &Secrets::new(),
            host_key: None,
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
        let again = applied(root.path(), &config());
        assert_eq!(again.ssh_host_keys, first.ssh_host_keys);
        assert!(first.new_host_key.is_some() && again.new_host_key.is_none());
        let mode = root.path().join("etc/ssh/ssh_host_ed25519_key").metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_host_key_of_earlier_boots_is_taken() {
        let first = applied(image().path(), &config());
        let private = String::from_utf8(first.new_host_key.clone().unwrap().0).unwrap();
        let (root, config, secrets) = (image(), config(), Secrets::new());
        let boot = BootLink { name: "eth0".into(), mac: "52:54:00:00:00:01".parse().unwrap() };
        let settings = Settings {
            name: "node-1",
            domain: "",
            address: Ipv4Addr::new(10, 10, 0, 21),
            dns: &[],
            machine_id: "0123",
            boot,
            config: &config,
            secrets: &secrets,
            host_key: Some(&private),
        };
        let second = apply(root.path(), &settings).unwrap();
        assert_eq!((second.ssh_host_keys, second.new_host_key), (first.ssh_host_keys, None));
        assert_eq!(fs::read_to_string(root.path().join("etc/ssh/ssh_host_ed25519_key")).unwrap(), private);
    }

    #[test]
    fn an_image_without_sshd_and_systemd_gets_neither_key_nor_unit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(applied(root.path(), &NodeConfig::default()), Applied::default());
        assert!(!root.path().join("etc/localtime").is_symlink());
    }

    #[test]
    fn arguments_that_the_kernel_was_not_given_are_remarked() {
        let config = NodeConfig { kernel_arguments: vec!["panic=10".into(), "quiet".into()], ..NodeConfig::default() };
        assert_eq!(missing_arguments(&config, "console=ttyS0 quiet panic=10"), None);
        let remark = missing_arguments(&config, "console=ttyS0 quiet panic=1").unwrap();
        assert!(remark.starts_with("kernelArguments: this boot is without panic=10: "), "{remark}");
    }

    #[test]
    fn all_of_a_configuration_is_applied_or_remarked() {
        let root = image();
        let whole = include_str!("../../../crates/stoke-api/src/objects/node_config/whole.json");
        let mut config: NodeConfig = serde_json::from_str(whole).unwrap();
        let secret = config.files.iter().find_map(|file| file.secret.clone()).unwrap().to_string();
        let secrets = Secrets::from([(secret, b"hush".to_vec())]);
        config.interfaces.retain(|interface| !interface.is_virtual());
        let boot = BootLink { name: "eth0".into(), mac: "52:54:00:00:00:01".parse().unwrap() };
        let (address, dns) = (Ipv4Addr::new(10, 10, 0, 21), []);
        let settings = Settings {
            name: "n",
            domain: "",
            address,
            dns: &dns,
            machine_id: "0",
            boot,
            config: &config,
            secrets: &secrets,
            host_key: None,
        };
        let applied = apply(root.path(), &settings).unwrap();
        let lacks = |group: &str| applied.remarks.iter().any(|remark| remark.starts_with(group));
        for group in ["ntp", "interfaces", "units: the image has no ssh.service", "runtime", "kubelet"] {
            assert!(lacks(group), "{group} in {:?}", applied.remarks);
        }
        let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert!(read("etc/hosts").contains("10.10.0.5 store.lab.internal store\n"));
        assert!(read("etc/resolv.conf").starts_with("search lab.internal example.com\nnameserver 10.10.0.2\n"));
        assert!(read("etc/fstab").contains("LABEL=data /var/lib/data ext4 nofail,noatime 0 0\n"));
        assert!(read("etc/sysctl.d/99-zz-stokehold.conf").contains("vm.swappiness = 10\n"));
        assert_eq!(read("etc/modules-load.d/stokehold.conf"), "br_netfilter\nloop\n");
        assert_eq!(read("etc/modprobe.d/zz-stokehold.conf"), "options loop max_loop=16\n");
        assert_eq!(read("etc/motd"), "welcome\n");
        assert_eq!(read("etc/app/token"), "hush");
        assert!(read("etc/group").contains("sudo:x:") && read("etc/passwd").contains("ops:x:2000:"));
    }
}
