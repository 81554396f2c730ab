//! Kernel modules: those of the hardware that is there, and those that a root needs.
//!
//! The files are those that `depmod` writes. Everything about them is pure; [`Loader`] does the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, read_dir, read_to_string};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

/// Where the kernel has drivers of disks.
const DISKS: [&str; 6] =
    ["/drivers/ata/", "/drivers/block/", "/drivers/message/", "/drivers/nvme/", "/drivers/scsi/", "/drivers/mmc/"];

/// What modules there are, what they need and what they drive.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// Module to path below the modules' folder, and the modules that it needs, nearest first.
    modules: HashMap<String, (String, Vec<String>)>,
    /// Patterns of device names with the module that drives them, by the bus in front of the colon.
    aliases: HashMap<String, Vec<(String, String)>>,
    /// What is part of the kernel.
    builtin: BTreeSet<String>,
    /// What should be loaded before and after.
    before: BTreeMap<String, Vec<String>>,
    after: BTreeMap<String, Vec<String>>,
}

impl Catalogue {
    /// Reads the four files. A file that is missing says nothing.
    pub(crate) fn read(folder: &Path) -> Self {
        let text = |name: &str| read_to_string(folder.join(name)).unwrap_or_default();
        Self::parse(&text("modules.dep"), &text("modules.alias"), &text("modules.builtin"), &text("modules.softdep"))
    }

    fn parse(dep: &str, alias: &str, builtin: &str, softdep: &str) -> Self {
        let mut catalogue = Self::default();
        dep.lines().for_each(|line| catalogue.take_dependency(line));
        alias.lines().for_each(|line| catalogue.take_alias(line));
        catalogue.builtin = builtin.lines().map(module_name).collect();
        softdep.lines().for_each(|line| catalogue.take_soft_dependency(line));
        catalogue
    }

    /// `kernel/a/b.ko: kernel/c/d.ko …`
    fn take_dependency(&mut self, line: &str) {
        let Some((path, needs)) = line.split_once(':') else { return };
        let needs = needs.split_whitespace().map(module_name).collect();
        self.modules.insert(module_name(path), (path.to_owned(), needs));
    }

    /// `alias PATTERN MODULE`
    fn take_alias(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
            let entry = (pattern.to_owned(), canonical(module));
            self.aliases.entry(bus(pattern).to_owned()).or_default().push(entry);
        }
    }

    /// `softdep MODULE pre: A B post: C`
    fn take_soft_dependency(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { return };
        let mut list = None;
        for word in words {
            match word {
                "pre:" => list = Some(&mut self.before),
                "post:" => list = Some(&mut self.after),
                other => {
                    if let Some(list) = &mut list {
                        list.entry(canonical(module)).or_default().push(canonical(other));
                    }
                }
            }
        }
    }

    /// Modules that drive a device of this name (the file `modalias`).
    fn drivers(&self, device: &str) -> Vec<&str> {
        let of_bus = self.aliases.get(bus(device)).map(Vec::as_slice).unwrap_or_default();
        let matching = of_bus.iter().filter(|(pattern, _)| matches(pattern.as_bytes(), device.as_bytes()));
        matching.map(|(_, module)| module.as_str()).collect()
    }

    /// Whether a module drives disks: by its place in the kernel's sources.
    fn drives_disks(&self, module: &str) -> bool {
        let path = self.modules.get(&canonical(module)).map(|(path, _)| path.as_str()).unwrap_or_default();
        DISKS.iter().any(|folder| path.contains(folder))
    }

    /// The module and what it needs, in the order of loading, without what is part of the kernel.
    fn closure(&self, module: &str) -> Vec<String> {
        let mut order = Vec::new();
        self.visit(&canonical(module), &mut order, &mut BTreeSet::new());
        order
    }

    fn visit(&self, module: &str, order: &mut Vec<String>, seen: &mut BTreeSet<String>) {
        if !seen.insert(module.to_owned()) {
            return;
        }
        let soft = |list: &BTreeMap<String, Vec<String>>| list.get(module).cloned().unwrap_or_default();
        for before in soft(&self.before) {
            self.visit(&before, order, seen);
        }
        let Some((_, needs)) = self.modules.get(module) else { return };
        // `depmod` lists the nearest first, which has to come last.
        for need in needs.iter().rev() {
            self.visit(need, order, seen);
        }
        order.push(module.to_owned());
        for after in soft(&self.after) {
            self.visit(&after, order, seen);
        }
    }
}

/// What is in front of the first colon: patterns never have wildcards there.
fn bus(name: &str) -> &str {
    name.split_once(':').map_or("", |(bus, _)| bus)
}

/// `kernel/fs/squashfs/squashfs.ko` is `squashfs`; the kernel takes `-` and `_` for the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split('.').next().unwrap_or(file))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether a pattern of `modules.alias` fits: `*`, `?` and `[…]`, as in `fnmatch(3)`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*'] => true,
        [b'*', rest @ ..] => (0..=text.len()).any(|at| text.get(at..).is_some_and(|text| matches(rest, text))),
        [b'[', rest @ ..] => {
            let (Some(end), [first, text @ ..]) = (rest.iter().position(|byte| *byte == b']'), text) else {
                return false;
            };
            let (set, rest) = rest.split_at(end);
            in_set(set, *first) && matches(rest.get(1..).unwrap_or_default(), text)
        }
        [b'?', rest @ ..] => text.split_first().is_some_and(|(_, text)| matches(rest, text)),
        [byte, rest @ ..] => text.split_first().is_some_and(|(first, text)| first == byte && matches(rest, text)),
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (low..=high).contains(&&byte) || in_set(rest, byte),
        [one, rest @ ..] => *one == byte || in_set(rest, byte),
        [] => false,
    }
}

/// Loads modules and remembers which.
#[derive(Debug)]
pub(crate) struct Loader {
    folder: PathBuf,
    catalogue: Catalogue,
    done: BTreeSet<String>,
    failed: Vec<String>,
    disks: bool,
}

impl Loader {
    /// For the kernel that runs.
    pub(crate) fn new() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = Path::new("/lib/modules").join(release);
        let catalogue = Catalogue::read(&folder);
        Self { folder, catalogue, done: BTreeSet::new(), failed: Vec::new(), disks: false }
    }

    /// Loads what drives the devices that are there, until no new device appears. Returns how many modules that were.
    /// A driver that does not load is noted, not an error: the one that matters may be another.
    pub(crate) fn load_for_hardware(&mut self) -> usize {
        let (before, mut asked) = (self.done.len(), BTreeSet::new());
        loop {
            let new: Vec<_> = devices().into_iter().filter(|device| asked.insert(device.clone())).collect();
            if new.is_empty() {
                return self.done.len() - before;
            }
            for device in new {
                let wanted = |driver: &&str| self.disks || !self.catalogue.drives_disks(driver);
                let drivers = self.catalogue.drivers(&device).into_iter().filter(wanted);
                let drivers: Vec<_> = drivers.map(str::to_owned).collect();
                for driver in drivers {
                    if let Err(error) = self.load(&driver, c"") {
                        self.failed.push(format!("{error:#}"));
                    }
                }
            }
        }
    }

    /// Loads what drives the disks that are there, too: nobody who does not use one waits for them.
    pub(crate) fn load_for_disks(&mut self) {
        self.disks = true;
        self.load_for_hardware();
    }

    /// Drivers that did not load, and why.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failed
    }

    /// Loads a module and what it needs.
    ///
    /// # Errors
    /// If it is neither a file nor part of the kernel, or the kernel refuses it.
    pub(crate) fn load(&mut self, module: &str, parameters: &std::ffi::CStr) -> Result<()> {
        let module = canonical(module);
        if self.catalogue.builtin.contains(&module) || self.done.contains(&module) {
            return Ok(());
        }
        let order = self.catalogue.closure(&module);
        if order.is_empty() {
            anyhow::bail!("the kernel module {module} is not in this initramfs ({})", self.folder.display());
        }
        for name in order {
            let own = if name == module { parameters } else { c"" };
            self.insert(&name, own)?;
        }
        Ok(())
    }

    fn insert(&mut self, name: &str, parameters: &std::ffi::CStr) -> Result<()> {
        if self.done.contains(name) {
            return Ok(());
        }
        let Some((path, _)) = self.catalogue.modules.get(name) else { return Ok(()) };
        let path = self.folder.join(path);
        let file = File::open(&path).with_context(|| format!("kernel module {}", path.display()))?;
        match rustix::system::finit_module(file, parameters, 0) {
            Ok(()) | Err(Errno::EXIST) => {
                self.done.insert(name.to_owned());
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("could not load the kernel module {name}")),
        }
    }
}

/// The names of all devices that buses have found.
fn devices() -> BTreeSet<String> {
    let folders = read_dir("/sys/bus").into_iter().flatten().flatten().map(|bus| bus.path().join("devices"));
    let devices = folders.filter_map(|folder| read_dir(folder).ok()).flatten().flatten();
    let names = devices.filter_map(|device| read_to_string(device.path().join("modalias")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEP: &str = "kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/net/net_failover.ko\n\
        kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\nkernel/net/core/failover.ko:\n\
        kernel/crypto/crc32c_generic.ko:\nkernel/fs/btrfs.ko:\nkernel/drivers/md/dm-verity.ko:\n";
    const ALIAS: &str = "alias virtio:d00000001v* virtio_net\nalias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\n\
        alias pci:v00008086d000010[AF]Esv*sd*bc*sc*i* igb\n";

    fn catalogue() -> Catalogue {
        Catalogue::parse(DEP, ALIAS, "kernel/fs/ext4/ext4.ko\n", "softdep btrfs pre: crc32c-generic\n")
    }

    #[test]
    fn what_is_needed_comes_first() {
        assert_eq!(catalogue().closure("virtio_net"), ["failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn soft_dependencies_and_both_spellings_of_a_name() {
        assert_eq!(catalogue().closure("btrfs"), ["crc32c_generic", "btrfs"]);
        assert_eq!(catalogue().closure("dm-verity"), ["dm_verity"]);
        assert_eq!(catalogue().closure("missing"), [""; 0]);
        assert!(catalogue().builtin.contains("ext4"));
    }

    #[test]
    fn drivers_of_disks_are_known_by_their_place() {
        let dep = "kernel/drivers/nvme/host/nvme-core.ko:\nkernel/drivers/block/virtio_blk.ko.xz:\nkernel/drivers/block/nbd.ko:\n";
        let catalogue = Catalogue::parse(&format!("{dep}{DEP}"), "", "", "");
        let drives = ["nvme_core", "virtio-blk", "virtio_net", "missing"].map(|name| catalogue.drives_disks(name));
        assert_eq!(drives, [true, true, false, false]);
    }

    #[test]
    fn devices_find_their_drivers() {
        let catalogue = catalogue();
        assert_eq!(catalogue.drivers("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(catalogue.drivers("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"), ["e1000"]);
        assert_eq!(catalogue.drivers("pci:v00008086d000010AEsv1sd1bc02sc00i00"), ["igb"]);
        assert_eq!(catalogue.drivers("pci:v00008086d000010BEsv1sd1bc02sc00i00"), [""; 0]);
        assert_eq!(catalogue.drivers("acpi:PNP0501:"), [""; 0]);
    }

    #[test]
    fn sets_have_ranges() {
        assert!(matches(b"[0-9a]x", b"7x") && matches(b"[0-9a]x", b"ax"));
        assert!(!matches(b"[0-9]x", b"ax") && !matches(b"[0-9", b"1"));
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[a*?\\[\\]-]{0,10}", text in "[a-c]{0,10}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn a_text_fits_itself_and_a_star(text in "[a-zA-Z0-9:]{0,30}") {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()) && matches(b"*", text.as_bytes()));
        }
    }
}
