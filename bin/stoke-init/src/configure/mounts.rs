//! Mounts and swap, as fstab(5): systemd makes its units from it, and people find them where they look.

use std::fmt::Write as _;

use anyhow::Result;
use stoke_api::objects::{MountEntry, NodeConfig};

use super::root::Root;

const FSTAB: &str = "etc/fstab";
/// Mount points of an installed system's own disk. An image has none: its root is over it already.
const OF_THE_IMAGE: [&str; 3] = ["/", "/boot", "/boot/efi"];

/// Writes the mounts into the image's fstab.
pub(super) fn write(root: Root<'_>, config: &NodeConfig) -> Result<()> {
    let before = root.read(FSTAB);
    // LTSP empties it first; its script puts the image's lines back if they shall stay.
    let image = if config.compatibility.is_some() { "" } else { &before };
    let after = fstab(image, config);
    if before == after { Ok(()) } else { root.write(FSTAB, after, 0o644) }
}

/// The image's lines without those of its own disk and of places that the configuration has, then the configuration's.
fn fstab(image: &str, config: &NodeConfig) -> String {
    let kept = |line: &&str| {
        let mut fields = line.split_whitespace();
        match (fields.next(), fields.next()) {
            (Some(device), _) if device.starts_with('#') => true,
            (Some(_), Some(place)) => {
                let ours = config.mounts.iter().any(|mount| escaped(&mount.path) == place);
                !ours && !OF_THE_IMAGE.contains(&place)
            }
            _ => true,
        }
    };
    let mut text: String = image.lines().filter(kept).flat_map(|line| [line, "\n"]).collect();
    for mount in &config.mounts {
        text.push_str(&line(mount));
    }
    for swap in &config.swap {
        let _ = writeln!(text, "{} none swap sw,nofail 0 0", escaped(&swap.device));
    }
    text
}

fn line(mount: &MountEntry) -> String {
    let options = if mount.options.is_empty() { "defaults".to_owned() } else { mount.options.join(",") };
    let kind = mount.fs_type.as_deref().unwrap_or("auto");
    format!("{} {} {kind} {options} 0 0\n", escaped(&mount.device), escaped(&mount.path))
}

/// White space as fstab(5) and getmntent(3) have it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
        .replace('#', "\\043")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> NodeConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_images_own_disk_is_not_there() {
        let image =
            "# <file system>\nUUID=1 / ext4 defaults 0 1\nUUID=2 /boot/efi vfat defaults 0 1\ntmpfs /tmp tmpfs x 0 0\n";
        assert_eq!(fstab(image, &NodeConfig::default()), "# <file system>\ntmpfs /tmp tmpfs x 0 0\n");
        assert_eq!(fstab("", &NodeConfig::default()), "");
    }

    #[test]
    fn mounts_and_swap_are_lines_and_go_over_the_images() {
        let config = config(
            r#"{"mounts":[
                {"path":"/tmp","device":"tmpfs","type":"tmpfs","options":["size=1G","nodev"]},
                {"path":"/srv/my data","device":"LABEL=data"}],
              "swap":[{"device":"PARTLABEL=swap"}]}"#,
        );
        let wanted = "tmpfs /tmp tmpfs size=1G,nodev 0 0\nLABEL=data /srv/my\\040data auto defaults 0 0\n\
                      PARTLABEL=swap none swap sw,nofail 0 0\n";
        assert_eq!(fstab("tmpfs /tmp tmpfs x 0 0\n", &config), wanted);
    }
}
