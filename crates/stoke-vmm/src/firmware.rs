//! The firmware of this host, and a machine's own firmware variables.

use std::io;
use std::path::{Path, PathBuf};

use stoke_api::workload::FirmwareKind;

use crate::spec::{FirmwareFiles, VmFiles};

/// Where distributions put OVMF: its code, and the template of its variables. Debian and Ubuntu, Fedora, Arch.
const OVMF: [(&str, &str); 3] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];

/// Where the option ROM is with which a BIOS boots from a virtio interface.
const NETWORK_ROM: [&str; 2] = ["/usr/lib/ipxe/qemu/pxe-virtio.rom", "/usr/share/qemu/pxe-virtio.rom"];

/// Why a machine has no firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// No UEFI on this host.
    #[error("UEFI firmware is missing ({} and others do not exist): install the package ovmf", OVMF[0].0)]
    NoUefi,
    /// No network boot for BIOS machines on this host.
    #[error("the network boot ROM is missing ({} does not exist): install the package ipxe-qemu", NETWORK_ROM[0])]
    NoNetworkRom,
    /// The machine's own variables could not be made.
    #[error("cannot make the firmware variables {path}")]
    Variables {
        /// The file.
        path: PathBuf,
        /// The system's reason, with the file that it is about.
        source: io::Error,
    },
}

/// The firmware files for a machine; makes its variables if it has none yet.
///
/// # Errors
/// If a package is missing, or the state folder cannot be written.
pub fn prepare(kind: FirmwareKind, files: &VmFiles) -> Result<FirmwareFiles, FirmwareError> {
    match kind {
        FirmwareKind::Bios => {
            let found = NETWORK_ROM.iter().any(|path| Path::new(path).exists());
            found.then_some(FirmwareFiles::Bios).ok_or(FirmwareError::NoNetworkRom)
        }
        FirmwareKind::Uefi => {
            let exist = |(code, vars): &&(&str, &str)| Path::new(code).exists() && Path::new(vars).exists();
            let (code, template) = OVMF.iter().find(exist).ok_or(FirmwareError::NoUefi)?;
            let vars = files.firmware_variables();
            copy_once(Path::new(template), &vars)
                .map_err(|source| FirmwareError::Variables { path: vars.clone(), source })?;
            Ok(FirmwareFiles::Uefi { code: code.into(), vars })
        }
    }
}

/// Copies by way of a second name, so that a crash leaves the whole file or none.
fn copy_once(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    let new = to.with_extension("new");
    fs_err::copy(from, &new)?;
    fs_err::File::open(&new)?.sync_all()?;
    fs_err::rename(&new, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), folder.path());
        let first = prepare(FirmwareKind::Uefi, &files).unwrap();
        fs_err::write(files.firmware_variables(), "a boot entry").unwrap();
        assert_eq!(prepare(FirmwareKind::Uefi, &files).unwrap(), first);
        assert_eq!(fs_err::read_to_string(files.firmware_variables()).unwrap(), "a boot entry");
    }

    #[test]
    fn a_copy_that_was_cut_off_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), folder.path());
        fs_err::write(files.firmware_variables().with_extension("new"), "half").unwrap();
        prepare(FirmwareKind::Uefi, &files).unwrap();
        assert_eq!(fs_err::metadata(files.firmware_variables()).unwrap().len(), 540_672);
    }
}
