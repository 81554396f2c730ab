//! The boot programs that this host has: found where distributions put them, or made of GRUB's modules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use stoke_boot::loaders;

/// A boot program, and where distributions put it: Debian and Ubuntu, Fedora, Arch; last, what an installation brings.
const PLACES: [(&str, &[&str]); 7] = [
    (
        loaders::BIOS_PROGRAM,
        &["/usr/lib/ipxe/undionly.kpxe", "/usr/share/ipxe/undionly.kpxe", "/usr/lib/stokehold/boot/undionly.kpxe"],
    ),
    (
        loaders::UEFI_PROGRAM,
        &["/usr/lib/ipxe/snponly.efi", "/usr/share/ipxe/snponly.efi", "/usr/lib/stokehold/boot/snponly.efi"],
    ),
    ("ipxe.efi", &["/usr/lib/ipxe/ipxe.efi", "/usr/share/ipxe/ipxe.efi", "/usr/lib/stokehold/boot/ipxe.efi"]),
    (
        loaders::PXELINUX,
        &["/usr/lib/PXELINUX/lpxelinux.0", "/usr/share/syslinux/lpxelinux.0", "/usr/lib/syslinux/bios/lpxelinux.0"],
    ),
    (
        loaders::PXELINUX_CORE,
        &[
            "/usr/lib/syslinux/modules/bios/ldlinux.c32",
            "/usr/share/syslinux/ldlinux.c32",
            "/usr/lib/syslinux/bios/ldlinux.c32",
        ],
    ),
    (loaders::SHIM, &["/usr/lib/shim/shimx64.efi.signed", "/boot/efi/EFI/fedora/shimx64.efi"]),
    (loaders::SIGNED_GRUB, &["/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"]),
];

/// GRUB's core for a platform: what `grub-mkimage` calls it, and the modules that reach the network there.
struct Core {
    name: &'static str,
    modules: &'static str,
    format: &'static str,
    network: &'static [&'static str],
}

const CORES: [Core; 2] = [
    Core { name: loaders::GRUB_BIOS, modules: "i386-pc", format: "i386-pc-pxe", network: &["pxe"] },
    Core {
        name: loaders::GRUB_UEFI,
        modules: "x86_64-efi",
        format: "x86_64-efi",
        network: &["efinet", "efi_gop", "all_video"],
    },
];

/// All that a core needs, so that it loads nothing more: each module would be a transfer of its own.
const MODULES: [&str; 11] =
    ["tftp", "http", "linux", "normal", "configfile", "echo", "sleep", "test", "serial", "boot", "reboot"];
/// Where the core looks for its configuration: in normal mode it asks for `grub.cfg-01-MAC` there first.
const PREFIX: &str = "/grub";

/// The boot programs that are there: name to file. GRUB's cores are made in `folder` if GRUB is installed and they are not
/// there, or are of an older GRUB.
pub fn boot_programs(folder: &Path) -> BTreeMap<String, PathBuf> {
    let exists = |paths: &[&str]| paths.iter().map(PathBuf::from).find(|path| path.exists());
    let found = PLACES.iter().filter_map(|(name, paths)| Some(((*name).to_owned(), exists(paths)?)));
    let made = CORES.iter().filter_map(|core| Some((core.name.to_owned(), core.ensure(folder)?)));
    found.chain(made).collect()
}

impl Core {
    /// The file; `None` if it is not there and cannot be made, which then is in the log.
    fn ensure(&self, folder: &Path) -> Option<PathBuf> {
        let modules = Path::new("/usr/lib/grub").join(self.modules);
        // The kernel of GRUB, which all else is put behind: each version has its own.
        let kernel = std::fs::metadata(modules.join("kernel.img")).ok()?;
        let age = kernel.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let file = folder.join(format!("grub-{}-{}-{}", self.modules, kernel.len(), age.as_secs()));
        if file.exists() {
            return Some(file);
        }
        match self.make(&modules, folder, &file) {
            Ok(()) => Some(file),
            Err(error) => {
                tracing::warn!(program = self.name, "cannot make GRUB's core: {error}");
                None
            }
        }
    }

    fn make(&self, modules: &Path, folder: &Path, file: &Path) -> std::io::Result<()> {
        fs_err::create_dir_all(folder)?;
        let staged = file.with_extension(format!("tmp{}", std::process::id()));
        let mut command = Command::new("grub-mkimage");
        command.args(["--format", self.format, "--prefix", PREFIX, "--directory"]).arg(modules);
        command.arg("--output").arg(&staged).args(self.network).args(MODULES).stdin(Stdio::null());
        let output = command.output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(std::io::Error::other(format!("grub-mkimage: {}", words.trim())));
        }
        fs_err::rename(&staged, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_of_grub_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let found = boot_programs(folder.path());
        for (name, magic) in [(loaders::GRUB_BIOS, None), (loaders::GRUB_UEFI, Some(b"MZ"))] {
            let file = found.get(name).unwrap_or_else(|| panic!("{name}: install {}", loaders::packages(name)));
            let content = fs_err::read(file).unwrap();
            assert!(content.len() > 100_000 && magic.is_none_or(|magic| content.starts_with(magic)), "{name}");
            fs_err::write(file, "kept").unwrap();
        }
        assert_eq!(boot_programs(folder.path()), found);
        assert_eq!(fs_err::read_to_string(&found[loaders::GRUB_BIOS]).unwrap(), "kept");
    }
}
