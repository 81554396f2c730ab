//! Which kernel modules an initramfs carries: what a network card, a disk and our root need, with all that these depend on.
//!
//! Pure, over the index files that depmod(8) writes (`modules.dep(5)`, `modules.softdep`, `modules.alias`,
//! `modules.builtin`). The index files in the initramfs speak of its own modules only.

use std::collections::{BTreeMap, BTreeSet};

/// What `stoke-init` cannot do without; a kernel that has neither module nor builtin for one of these cannot boot a node.
/// The packet socket is for DHCP.
pub const REQUIRED: [&str; 6] = ["af_packet", "dm-mod", "dm-verity", "loop", "nbd", "overlay"];

/// Of these, what the kernel has: file systems of roots with the checksum that EROFS asks for, and hashing with the processor's help. NFS in version 3 alone: version
/// 4 is as large as all the rest of NFS, and every boot would pay for it.
const ROOT: [&str; 7] =
    ["squashfs", "erofs", "crc32c_generic", "nfsv3", "sha256_ssse3", "sha256-ssse3", "sha256_generic"];

/// Buses and entropy that network cards of virtual machines need.
const BUSES: [&str; 5] = ["virtio_pci", "virtio_mmio", "virtio_rng", "hv_vmbus", "pci-hyperv"];

/// Drivers of network cards: virtual ones, and the ones that are in servers. Cards that only work with firmware files
/// are left out where the common ones of their maker do without.
const NETWORK_CARDS: [&str; 48] = [
    "virtio_net",
    "vmxnet3",
    "hv_netvsc",
    "xen-netfront",
    "ena",
    "gve",
    "mana",
    "e1000",
    "e1000e",
    "igb",
    "igbvf",
    "igc",
    "ixgb",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    "e100",
    "r8169",
    "8139cp",
    "8139too",
    "tg3",
    "b44",
    "bnxt_en",
    "bnx2",
    "mlx4_en",
    "mlx5_core",
    "be2net",
    "enic",
    "cxgb4",
    "cxgb4vf",
    "qede",
    "sfc",
    "atlantic",
    "amd-xgbe",
    "ionic",
    "hinic",
    "sky2",
    "skge",
    "forcedeth",
    "alx",
    "atl1c",
    "atl1e",
    "jme",
    "ne2k-pci",
    "pcnet32",
    "tulip",
];

/// Drivers of disks, for nodes that keep their root on one: virtual ones, and the controllers that are in servers.
const DISKS: [&str; 15] = [
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "nvme",
    "ahci",
    "ata_piix",
    "hv_storvsc",
    "vmw_pvscsi",
    "xen-blkfront",
    "megaraid_sas",
    "mpt3sas",
    "hpsa",
    "smartpqi",
    "aacraid",
    "mptsas",
];

/// The index files of a kernel's modules.
#[derive(Clone, Debug, Default)]
pub struct Indexes {
    /// `modules.dep`.
    pub dep: String,
    /// `modules.alias`.
    pub alias: String,
    /// `modules.softdep`.
    pub softdep: String,
    /// `modules.builtin`.
    pub builtin: String,
}

/// The modules of an initramfs, and the index files that speak of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Paths below `lib/modules/VERSION`, as the kernel's package has them.
    pub files: BTreeSet<String>,
    /// `modules.dep` for them, by uncompressed names.
    pub dep: String,
    /// `modules.alias` for them.
    pub alias: String,
    /// `modules.softdep` for them.
    pub softdep: String,
}

/// What is missing for a boot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no {}", .0.join(", "))]
pub struct MissingModules(pub Vec<&'static str>);

/// Chooses the modules of an initramfs.
///
/// # Errors
/// If one of [`REQUIRED`] is neither there nor built in.
pub fn select(indexes: &Indexes) -> Result<Selection, MissingModules> {
    let known = Known::new(indexes);
    let has = |name: &&str| known.by_name.contains_key(&canonical(name)) || known.builtin.contains(&canonical(name));
    let missing: Vec<_> = REQUIRED.into_iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        return Err(MissingModules(missing));
    }
    let mut files = BTreeSet::new();
    for name in REQUIRED.iter().chain(&ROOT).chain(&BUSES).chain(&NETWORK_CARDS).chain(&DISKS) {
        known.add(&canonical(name), &mut files);
    }
    let names: BTreeSet<String> = files.iter().map(|path| name_of(path)).collect();
    let about_ours = |line: &&str, word: usize| {
        line.split_whitespace().nth(word).is_some_and(|name| names.contains(&canonical(name)))
    };
    let lines =
        |text: &str, word| text.lines().filter(|line| about_ours(line, word)).flat_map(|line| [line, "\n"]).collect();
    let dep = indexes.dep.lines().filter(|line| line.split_once(':').is_some_and(|(path, _)| files.contains(path)));
    Ok(Selection {
        dep: dep.map(|line| plain_line(line) + "\n").collect(),
        alias: lines(&indexes.alias, 2),
        softdep: lines(&indexes.softdep, 1),
        files: files.into_iter().map(str::to_owned).collect(),
    })
}

/// What a kernel has, by module name.
struct Known<'a> {
    by_name: BTreeMap<String, (&'a str, Vec<&'a str>)>,
    before: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

impl<'a> Known<'a> {
    fn new(indexes: &'a Indexes) -> Self {
        let entries = indexes.dep.lines().filter_map(|line| line.split_once(':'));
        let by_name =
            entries.map(|(path, needs)| (name_of(path), (path, needs.split_whitespace().collect()))).collect();
        let mut before: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in indexes.softdep.lines() {
            let mut words = line.split_whitespace().skip(1);
            let Some(name) = words.next() else { continue };
            let first = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| !word.ends_with(':'));
            before.entry(canonical(name)).or_default().extend(first.map(canonical));
        }
        Self { by_name, before, builtin: indexes.builtin.lines().map(name_of).collect() }
    }

    /// Adds a module, what it depends on, and what should be loaded before it.
    fn add(&self, name: &str, files: &mut BTreeSet<&'a str>) {
        let Some((path, needs)) = self.by_name.get(name) else { return };
        if !files.insert(*path) {
            return;
        }
        for need in needs {
            self.add(&name_of(need), files);
        }
        for first in self.before.get(name).into_iter().flatten() {
            self.add(first, files);
        }
    }
}

/// The name of the module in a file: the kernel takes `-` and `_` for the same.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split_once(".ko").map_or(file, |(name, _)| name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A path without the ending of its compression.
pub fn plain(path: &str) -> &str {
    path.strip_suffix(".xz").or_else(|| path.strip_suffix(".zst")).unwrap_or(path)
}

fn plain_line(line: &str) -> String {
    let (path, needs) = line.split_once(':').unwrap_or((line, ""));
    let needs: Vec<_> = needs.split_whitespace().map(plain).collect();
    let gap = if needs.is_empty() { "" } else { " " };
    format!("{}:{gap}{}", plain(path), needs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes() -> Indexes {
        let required = "kernel/dm-mod.ko:\nkernel/dm-verity.ko: kernel/dm-bufio.ko kernel/dm-mod.ko\nkernel/dm-bufio.ko:\n\
                        kernel/loop.ko:\nkernel/nbd.ko:\nkernel/overlay.ko:\n";
        let others = "kernel/r8169.ko.xz: kernel/libphy.ko.xz\nkernel/libphy.ko.xz:\nkernel/realtek.ko.xz: kernel/libphy.ko.xz\n\
                      kernel/amdgpu.ko:\n";
        Indexes {
            dep: required.to_owned() + others,
            alias: "# Aliases\nalias pci:v1* r8169\nalias pci:v2* amdgpu\n".to_owned(),
            softdep: "softdep r8169 pre: realtek post: other\nsoftdep amdgpu pre: x\n".to_owned(),
            builtin: "kernel/net/packet/af_packet.ko\n".to_owned(),
        }
    }

    #[test]
    fn with_what_they_depend_on_and_nothing_else() {
        let selection = select(&indexes()).unwrap();
        assert!(selection.files.contains("kernel/realtek.ko.xz") && selection.files.contains("kernel/dm-bufio.ko"));
        assert!(!selection.files.iter().any(|path| path.contains("amdgpu")));
        assert_eq!(selection.alias, "alias pci:v1* r8169\n");
        assert_eq!(selection.softdep, "softdep r8169 pre: realtek post: other\n");
        assert!(selection.dep.contains("kernel/r8169.ko: kernel/libphy.ko\n"), "{}", selection.dep);
    }

    #[test]
    fn a_kernel_without_nbd_is_refused_by_name() {
        let mut indexes = indexes();
        indexes.dep = indexes.dep.replace("kernel/nbd.ko:\n", "");
        assert_eq!(select(&indexes).unwrap_err().to_string(), "the kernel has no nbd");
    }
}
