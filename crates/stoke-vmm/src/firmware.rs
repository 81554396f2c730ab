//! The firmware of this host, and a machine's own firmware variables.

use std::io;
use std::path::{Path, PathBuf};

use stoke_api::workload::{FirmwareKind, TrustedKeys};
use stoke_secureboot::variables::Variable;
use stoke_secureboot::{KeySet, store};

use crate::spec::{FirmwareFiles, SecureWay, VmFiles};

/// Where a distribution puts OVMF. Debian and Ubuntu, Fedora, Arch.
struct Ovmf {
    code: &'static str,
    /// Template of the variables.
    vars: &'static str,
    /// Code that can do Secure Boot.
    secure_code: &'static str,
    /// Template of the variables with Microsoft's keys.
    microsoft: &'static str,
}

const OVMF: [Ovmf; 3] = [
    Ovmf {
        code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
        vars: "/usr/share/OVMF/OVMF_VARS_4M.fd",
        secure_code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        microsoft: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    },
    Ovmf {
        code: "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        vars: "/usr/share/edk2/ovmf/OVMF_VARS.fd",
        secure_code: "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
        microsoft: "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd",
    },
    Ovmf {
        code: "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        vars: "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
        secure_code: "/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd",
        microsoft: "/usr/share/edk2/x64/OVMF_VARS.secboot.4m.fd",
    },
];

/// Where the option ROM is with which a BIOS boots from a virtio interface.
const NETWORK_ROM: [&str; 2] = ["/usr/lib/ipxe/qemu/pxe-virtio.rom", "/usr/share/qemu/pxe-virtio.rom"];

/// Why a machine has no firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// No UEFI on this host.
    #[error("UEFI firmware is missing ({} and others do not exist): install the package ovmf", OVMF[0].code)]
    NoUefi,
    /// No UEFI with Secure Boot on this host.
    #[error("UEFI firmware with Secure Boot is missing ({} and others do not exist): install the package ovmf", OVMF[0].secure_code)]
    NoSecureUefi,
    /// Keys could not be put into the machine's variables.
    #[error("cannot put the farm's keys into the firmware variables {path}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
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

/// The firmware files for a machine that is off; makes its variables if it has none yet, and puts the keys into them that it
/// trusts.
///
/// # Errors
/// If a package is missing, or the state folder cannot be written.
pub fn prepare(
    kind: FirmwareKind,
    trusted: Option<&TrustedKeys>,
    files: &VmFiles,
) -> Result<FirmwareFiles, FirmwareError> {
    let vars = files.firmware_variables();
    let exist = |paths: [&str; 2]| paths.iter().all(|path| Path::new(path).exists());
    let made = |template: &str| {
        let made = copy_once(Path::new(template), &vars);
        made.map_err(|source| FirmwareError::Variables { path: vars.clone(), source })
    };
    match (kind, trusted) {
        (FirmwareKind::Bios, _) => {
            let found = NETWORK_ROM.iter().any(|path| Path::new(path).exists());
            found.then_some(FirmwareFiles::Bios).ok_or(FirmwareError::NoNetworkRom)
        }
        (FirmwareKind::Uefi, None) => {
            let found = OVMF.iter().find(|ovmf| exist([ovmf.code, ovmf.vars])).ok_or(FirmwareError::NoUefi)?;
            made(found.vars)?;
            Ok(FirmwareFiles::Uefi { code: found.code.into(), vars, secure: None })
        }
        (FirmwareKind::Uefi, Some(TrustedKeys::Microsoft)) => {
            let found = OVMF.iter().find(|ovmf| exist([ovmf.secure_code, ovmf.microsoft]));
            let found = found.ok_or(FirmwareError::NoSecureUefi)?;
            forget_other_keys(&vars, found.microsoft)
                .map_err(|source| FirmwareError::Variables { path: vars.clone(), source })?;
            made(found.microsoft)?;
            Ok(FirmwareFiles::Uefi { code: found.secure_code.into(), vars, secure: Some(SecureWay::Pxe) })
        }
        (FirmwareKind::Uefi, Some(TrustedKeys::Farm { folder, .. })) => {
            let found = OVMF.iter().find(|ovmf| exist([ovmf.secure_code, ovmf.vars]));
            let found = found.ok_or(FirmwareError::NoSecureUefi)?;
            made(found.vars)?;
            enroll(&vars, folder).map_err(|source| FirmwareError::Keys { path: vars.clone(), source })?;
            Ok(FirmwareFiles::Uefi { code: found.secure_code.into(), vars, secure: Some(SecureWay::Http) })
        }
    }
}

/// The platform key in a machine's variables; `None` if it has none.
fn platform_key(flash: &[u8]) -> Option<Vec<u8>> {
    store::get(flash, Variable::Pk.name(), Variable::Pk.vendor()).ok().flatten()
}

/// Removes variables that do not have the template's keys: nobody but the owner of the old ones could change them.
fn forget_other_keys(vars: &Path, template: &str) -> io::Result<()> {
    if vars.exists() && platform_key(&fs_err::read(vars)?) != platform_key(&fs_err::read(template)?) {
        fs_err::remove_file(vars)?;
    }
    Ok(())
}

/// Puts a farm's keys into a machine's variables, unless they are there.
fn enroll(vars: &Path, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let missing = || format!("there are no keys at {}", folder.display());
    let lists = KeySet::find(folder).ok_or_else(missing)?.lists()?;
    let mut flash = fs_err::read(vars)?;
    let has = |(variable, list): &(Variable, Vec<u8>)| {
        store::get(&flash, variable.name(), variable.vendor()).ok().flatten().as_ref() == Some(list)
    };
    if lists.iter().all(has) {
        return Ok(());
    }
    store::enroll(&mut flash, &lists, jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).datetime())?;
    let new = vars.with_extension("new");
    fs_err::write(&new, flash)?;
    fs_err::File::open(&new)?.sync_all()?;
    Ok(fs_err::rename(&new, vars)?)
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
        let first = prepare(FirmwareKind::Uefi, None, &files).unwrap();
        fs_err::write(files.firmware_variables(), "a boot entry").unwrap();
        assert_eq!(prepare(FirmwareKind::Uefi, None, &files).unwrap(), first);
        assert_eq!(fs_err::read_to_string(files.firmware_variables()).unwrap(), "a boot entry");
    }

    #[test]
    fn a_copy_that_was_cut_off_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), folder.path());
        fs_err::write(files.firmware_variables().with_extension("new"), "half").unwrap();
        prepare(FirmwareKind::Uefi, None, &files).unwrap();
        assert_eq!(fs_err::metadata(files.firmware_variables()).unwrap().len(), 540_672);
    }

    #[test]
    fn a_machine_trusts_whom_it_is_told_to_and_forgets_it_when_it_is_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let files = VmFiles::new(folder.path(), folder.path());
        let keys = |name: &str| KeySet::create(&folder.path().join(name), name).unwrap();
        let farm = |keys: &KeySet| TrustedKeys::Farm { folder: keys.folder().to_owned(), fingerprint: String::new() };
        let trusted = |trusted: &TrustedKeys| {
            prepare(FirmwareKind::Uefi, Some(trusted), &files).unwrap();
            platform_key(&fs_err::read(files.firmware_variables()).unwrap()).unwrap()
        };
        let (ours, others) = (keys("ours"), keys("others"));
        let list = |keys: &KeySet| keys.lists().unwrap().into_iter().find(|(v, _)| *v == Variable::Pk).unwrap().1;
        assert_eq!(trusted(&farm(&ours)), list(&ours));
        let before = fs_err::read(files.firmware_variables()).unwrap();
        assert_eq!(trusted(&farm(&ours)), list(&ours));
        assert_eq!(fs_err::read(files.firmware_variables()).unwrap(), before, "they were there");
        assert_eq!(trusted(&farm(&others)), list(&others));
        let microsoft = trusted(&TrustedKeys::Microsoft);
        assert_ne!(microsoft, list(&others));
        assert_eq!(trusted(&TrustedKeys::Microsoft), microsoft);
    }
}
