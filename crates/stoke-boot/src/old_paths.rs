//! Paths that a DHCP server hands out which was set up for an older farm and is left as it is.
//!
//! The files of LTSP 5 are below `ltsp/ARCHITECTURE`: PXELINUX, GRUB's cores, the settings of nodes. A machine that asks for
//! one of its boot programs gets ours for that firmware. iPXE would be sent to the same path again and load itself for ever,
//! so it gets a script instead, by which it finds the farm.
//!
//! What this module never does: I/O.

use std::net::IpAddr;

use stoke_api::objects::{BiosLoader, LoaderSpec, UefiLoader};

use crate::loaders::{BIOS_PROGRAM, GRUB_BIOS, GRUB_UEFI, PXELINUX, SHIM, UEFI_PROGRAM};
use crate::render::SCRIPT_PATH;

/// The block size that iPXE asks for over TFTP, and nobody else: 1432 (`net/udp/tftp.c` of iPXE). OVMF asks for 1468, PXELINUX
/// for 1408, GRUB for 1024, shim for 512.
pub const IPXE_BLOCK: u64 = 1432;

/// What an old path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldPath {
    /// A boot program for a BIOS.
    Bios,
    /// A boot program for x86-64 UEFI.
    Uefi,
    /// A script of iPXE.
    Script,
    /// LTSP's settings of nodes.
    Settings,
}

/// What a boot program of an old path is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The boot program of this name.
    Named(&'static str),
    /// The image's unified kernel image.
    Kernel,
}

impl OldPath {
    /// Reads a plain name: without leading slash, in lower case.
    pub fn parse(name: &str) -> Option<Self> {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let in_folder = |wanted: &str| folder == wanted || folder.ends_with(&format!("/{wanted}"));
        match file {
            "core.efi" if in_folder("grub/x86_64-efi") => Some(Self::Uefi),
            "core.0" if in_folder("grub/i386-pc") => Some(Self::Bios),
            "pxelinux.0" | "lpxelinux.0" | "gpxelinux.0" => Some(Self::Bios),
            "bootx64.efi" | "syslinux.efi" => Some(Self::Uefi),
            // Of later versions, which have iPXE in one folder for all.
            BIOS_PROGRAM if in_folder("ltsp") => Some(Self::Bios),
            UEFI_PROGRAM | "ipxe.efi" if in_folder("ltsp") => Some(Self::Uefi),
            "ltsp.ipxe" => Some(Self::Script),
            "lts.conf" => Some(Self::Settings),
            _ => None,
        }
    }

    /// The boot program that it stands for, if it is one.
    pub fn program(self, loader: LoaderSpec) -> Option<Program> {
        match self {
            Self::Bios => Some(Program::Named(match loader.bios {
                BiosLoader::Ipxe => BIOS_PROGRAM,
                BiosLoader::Pxelinux => PXELINUX,
                BiosLoader::Grub => GRUB_BIOS,
            })),
            Self::Uefi => Some(match loader.uefi {
                UefiLoader::Ipxe => Program::Named(UEFI_PROGRAM),
                UefiLoader::Kernel => Program::Kernel,
                UefiLoader::Grub => Program::Named(GRUB_UEFI),
                UefiLoader::Shim => Program::Named(SHIM),
            }),
            Self::Script | Self::Settings => None,
        }
    }
}

/// The script by which iPXE finds the farm: `base` is its HTTP server, and it serves TFTP at `tftp`. An iPXE that speaks no
/// HTTP loads one that does.
pub fn find_farm(base: &str, tftp: (IpAddr, u16)) -> String {
    let (address, port) = tftp;
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let host = if port == 69 { host } else { format!("{host}:{port}") };
    let lines = [
        "#!ipxe".to_owned(),
        ":again".to_owned(),
        "echo Stokehold: the farm is asked what to boot".to_owned(),
        format!("chain --replace {base}{SCRIPT_PATH}?mac=${{netX/mac}}&uuid=${{uuid}} ||"),
        format!("iseq ${{platform}} efi && chain tftp://{host}/{UEFI_PROGRAM} ||"),
        format!("iseq ${{platform}} pcbios && chain tftp://{host}/{BIOS_PROGRAM} ||"),
        "sleep 3".to_owned(),
        "goto again".to_owned(),
    ];
    lines.join("\n") + "\n"
}

/// What a node of an older farm gets as its settings.
pub const SETTINGS: &str = "# Nodes of this farm are configured by Farm and Server objects.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_older_farms() {
        for (name, wanted) in [
            ("ltsp/amd64/grub/x86_64-efi/core.efi", Some(OldPath::Uefi)),
            ("ltsp/amd64/grub/i386-pc/core.0", Some(OldPath::Bios)),
            ("ltsp/i386/pxelinux.0", Some(OldPath::Bios)),
            ("pxelinux.0", Some(OldPath::Bios)),
            ("ltsp/grub/x86_64-efi/core.efi", Some(OldPath::Uefi)),
            ("ltsp/undionly.kpxe", Some(OldPath::Bios)),
            ("ltsp/snponly.efi", Some(OldPath::Uefi)),
            ("ltsp/ltsp.ipxe", Some(OldPath::Script)),
            ("ltsp/amd64/lts.conf", Some(OldPath::Settings)),
            ("undionly.kpxe", None),
            ("snponly.efi", None),
            ("ltsp/amd64/grub/i386-efi/core.efi", None),
            ("ltsp/amd64/vmlinuz", None),
        ] {
            assert_eq!(OldPath::parse(name), wanted, "{name}");
        }
    }

    #[test]
    fn each_stands_for_what_the_farm_boots() {
        let loader = LoaderSpec::default();
        assert_eq!(OldPath::Bios.program(loader), Some(Program::Named(BIOS_PROGRAM)));
        assert_eq!(OldPath::Uefi.program(loader), Some(Program::Named(UEFI_PROGRAM)));
        let loader = LoaderSpec { uefi: UefiLoader::Kernel, bios: BiosLoader::Grub, ..loader };
        assert_eq!(OldPath::Uefi.program(loader), Some(Program::Kernel));
        assert_eq!(OldPath::Bios.program(loader), Some(Program::Named(GRUB_BIOS)));
        assert_eq!(OldPath::Settings.program(loader), None);
    }

    #[test]
    fn the_script_of_an_old_path() {
        insta::assert_snapshot!(find_farm("http://10.10.0.1", ([10, 10, 0, 1].into(), 69)));
    }
}
