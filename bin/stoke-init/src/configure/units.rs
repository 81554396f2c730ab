//! Units of systemd: content, drop-ins, masks, and what `systemctl enable` would link (systemd.unit(5), `[Install]`).

use anyhow::Result;
use stoke_api::objects::UnitEntry;

use super::Remarks;
use super::root::Root;

/// Where units are written.
pub(super) const UNITS: &str = "etc/systemd/system";
/// Where the image's own are.
const VENDOR: [&str; 2] = ["usr/lib/systemd/system", "lib/systemd/system"];
/// How far `Also=` is followed.
const ALSO: u32 = 4;

/// Whether the image has systemd.
pub(super) fn has_systemd(root: Root<'_>) -> bool {
    root.first(&["usr/lib/systemd/systemd", "lib/systemd/systemd"]).is_some()
}

/// Applies all units.
pub(super) fn write(root: Root<'_>, units: &[UnitEntry], remarks: &mut Remarks) -> Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    if !has_systemd(root) {
        remarks.add("units: the image has no systemd");
        return Ok(());
    }
    units.iter().try_for_each(|unit| write_one(root, unit, remarks))
}

fn write_one(root: Root<'_>, unit: &UnitEntry, remarks: &mut Remarks) -> Result<()> {
    let own = format!("{UNITS}/{}", unit.name);
    if unit.masked {
        return root.link(&own, "/dev/null");
    }
    if let Some(content) = &unit.content {
        root.write(&own, content, 0o644)?;
    } else if unit.enabled == Some(true) {
        unmask(root, &unit.name)?;
    }
    for drop_in in &unit.drop_ins {
        root.write(&format!("{own}.d/{}", drop_in.file_name(".conf")), &drop_in.content, 0o644)?;
    }
    match unit.enabled {
        Some(true) => enable(root, &unit.name, remarks, ALSO),
        Some(false) => disable(root, &unit.name),
        None => Ok(()),
    }
}

/// Takes away a mask of the image.
pub(super) fn unmask(root: Root<'_>, name: &str) -> Result<()> {
    let own = format!("{UNITS}/{name}");
    if root.link_target(&own).as_deref() == Some("/dev/null") { root.remove(&own) } else { Ok(()) }
}

/// Links a unit to what wants it.
pub(super) fn enable(root: Root<'_>, name: &str, remarks: &mut Remarks, also: u32) -> Result<()> {
    let template = template_of(name);
    let folders = || [UNITS].into_iter().chain(VENDOR);
    let found = folders().map(|folder| format!("{folder}/{template}")).find(|file| root.has(file));
    let Some(file) = found else {
        remarks.add(format!("units: the image has no {name}"));
        return Ok(());
    };
    let install = Install::parse(&root.read(&file));
    if install.is_empty() {
        remarks.add(format!("units: {name} says nowhere what wants it ([Install]): it cannot be enabled"));
    }
    let target = format!("/{file}");
    for (words, ending) in [(&install.wanted_by, "wants"), (&install.required_by, "requires")] {
        for by in words {
            root.link(&format!("{UNITS}/{by}.{ending}/{name}"), &target)?;
        }
    }
    for alias in install.alias.iter().filter(|alias| *alias != name) {
        root.link(&format!("{UNITS}/{alias}"), &target)?;
    }
    for other in install.also.iter().filter(|_| also > 0) {
        enable(root, other, remarks, also - 1)?;
    }
    Ok(())
}

/// Takes away all links by which something wants a unit, and its aliases.
fn disable(root: Root<'_>, name: &str) -> Result<()> {
    for entry in root.list(UNITS) {
        let path = format!("{UNITS}/{entry}");
        let ending = entry.rsplit_once('.').map(|(_, ending)| ending);
        if ending == Some("wants") || ending == Some("requires") {
            let link = format!("{path}/{name}");
            if root.has(&link) {
                root.remove(&link)?;
            }
        } else if root.link_target(&path).is_some_and(|target| target.rsplit('/').next() == Some(name)) {
            root.remove(&path)?;
        }
    }
    Ok(())
}

/// The file of an instance: `getty@tty1.service` is made from `getty@.service`.
fn template_of(name: &str) -> String {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, "service"));
    match stem.split_once('@') {
        Some((template, _)) => format!("{template}@.{ending}"),
        None => name.to_owned(),
    }
}

/// The section `[Install]` of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    wanted_by: Vec<String>,
    required_by: Vec<String>,
    alias: Vec<String>,
    also: Vec<String>,
}

impl Install {
    fn parse(text: &str) -> Self {
        let (mut install, mut inside) = (Self::default(), false);
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == "[Install]";
                continue;
            }
            let Some((key, words)) = line.split_once('=').filter(|_| inside) else { continue };
            let words = words.split_whitespace().map(str::to_owned);
            match key.trim() {
                "WantedBy" => install.wanted_by.extend(words),
                "RequiredBy" => install.required_by.extend(words),
                "Alias" => install.alias.extend(words),
                "Also" => install.also.extend(words),
                _ => {}
            }
        }
        install
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("usr/lib/systemd/systemd", ""),
            (
                "usr/lib/systemd/system/ssh.service",
                "[Unit]\nWantedBy=nobody\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
            ),
            ("usr/lib/systemd/system/getty@.service", "[Install]\nWantedBy=getty.target\n"),
            ("usr/lib/systemd/system/bare.service", "[Service]\nExecStart=/bin/true\n"),
            ("usr/lib/systemd/system/net.service", "[Install]\nRequiredBy=a.target b.target\nAlso=ssh.service\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn applied(root: &tempfile::TempDir, units: &str) -> Vec<String> {
        let units: Vec<UnitEntry> = serde_json::from_str(units).unwrap();
        let mut remarks = Remarks::default();
        write(Root(root.path()), &units, &mut remarks).unwrap();
        remarks.into_lines()
    }

    fn target(root: &tempfile::TempDir, link: &str) -> String {
        fs::read_link(root.path().join(UNITS).join(link)).unwrap().display().to_string()
    }

    #[test]
    fn enabled_as_systemctl_does_it() {
        let root = image();
        let remarks =
            applied(&root, r#"[{"name":"net.service","enabled":true},{"name":"getty@tty3.service","enabled":true}]"#);
        assert_eq!(remarks, [""; 0]);
        let vendor = "/usr/lib/systemd/system";
        assert_eq!(target(&root, "a.target.requires/net.service"), format!("{vendor}/net.service"));
        assert_eq!(target(&root, "b.target.requires/net.service"), format!("{vendor}/net.service"));
        assert_eq!(target(&root, "multi-user.target.wants/ssh.service"), format!("{vendor}/ssh.service"));
        assert_eq!(target(&root, "sshd.service"), format!("{vendor}/ssh.service"));
        assert_eq!(target(&root, "getty.target.wants/getty@tty3.service"), format!("{vendor}/getty@.service"));
    }

    #[test]
    fn disabled_masked_and_unmasked() {
        let root = image();
        applied(&root, r#"[{"name":"ssh.service","enabled":true}]"#);
        applied(&root, r#"[{"name":"ssh.service","enabled":false}]"#);
        for gone in ["multi-user.target.wants/ssh.service", "sshd.service"] {
            assert!(!root.path().join(UNITS).join(gone).is_symlink(), "{gone}");
        }
        applied(&root, r#"[{"name":"ssh.service","masked":true}]"#);
        assert_eq!(target(&root, "ssh.service"), "/dev/null");
        applied(&root, r#"[{"name":"ssh.service","enabled":true}]"#);
        assert!(!root.path().join(UNITS).join("ssh.service").is_symlink());
        assert!(root.path().join(UNITS).join("multi-user.target.wants/ssh.service").is_symlink());
    }

    #[test]
    fn own_units_and_drop_ins() {
        let root = image();
        let remarks = applied(
            &root,
            r#"[{"name":"hello.service","enabled":true,"content":"[Install]\nWantedBy=x.target\n"},
                {"name":"ssh.service","dropIns":[{"name":"10-a","content":"[Service]\n"}]}]"#,
        );
        assert_eq!(remarks, [""; 0]);
        assert_eq!(target(&root, "x.target.wants/hello.service"), "/etc/systemd/system/hello.service");
        assert!(root.path().join(UNITS).join("ssh.service.d/10-a.conf").is_file());
    }

    #[test]
    fn what_cannot_be_enabled_is_told() {
        let root = image();
        let remarks =
            applied(&root, r#"[{"name":"no.service","enabled":true},{"name":"bare.service","enabled":true}]"#);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        fs::remove_file(root.path().join("usr/lib/systemd/systemd")).unwrap();
        assert_eq!(applied(&root, r#"[{"name":"ssh.service","masked":true}]"#), ["units: the image has no systemd"]);
    }
}
