//! Boot programs: their names on a farm's servers, what makes them, and which ones a farm needs.
//!
//! What this module never does: look for files. A host says which of them it has.

use stoke_api::objects::{BiosLoader, HttpLoader, LoaderSpec, UefiLoader};

/// Boot program of a BIOS: iPXE on the card's own UNDI driver.
pub const BIOS_PROGRAM: &str = "undionly.kpxe";
/// Boot program of x86-64 UEFI: iPXE on the firmware's own network driver.
pub const UEFI_PROGRAM: &str = "snponly.efi";
/// PXELINUX, the variant that loads by HTTP, too.
pub const PXELINUX: &str = "pxelinux.0";
/// The core that PXELINUX loads before anything else, from the folder that it came from.
pub const PXELINUX_CORE: &str = "ldlinux.c32";
/// GRUB for a BIOS. The name is the one that `grub-mknetdir` gives it.
pub const GRUB_BIOS: &str = "grub/i386-pc/core.0";
/// GRUB for x86-64 UEFI.
pub const GRUB_UEFI: &str = "grub/x86_64-efi/core.efi";
/// The distribution's shim, signed by Microsoft.
pub const SHIM: &str = "shimx64.efi";
/// The distribution's GRUB, signed by the distribution: the name under which shim loads it.
pub const SIGNED_GRUB: &str = "grubx64.efi";

/// Path on a farm's HTTP server of boot programs and loaders' configurations, without the final slash.
pub const HTTP_FOLDER: &str = "/v1/boot";

/// Debian's packages that hold a boot program, or that it is made with.
pub fn packages(program: &str) -> &'static str {
    match program {
        PXELINUX => "pxelinux",
        PXELINUX_CORE => "syslinux-common",
        GRUB_BIOS => "grub-pc-bin grub-common",
        GRUB_UEFI => "grub-efi-amd64-bin grub-common",
        SHIM => "shim-signed",
        SIGNED_GRUB => "grub-efi-amd64-signed",
        _ => "ipxe",
    }
}

/// The boot programs that a farm with these loaders needs, in the order in which they are loaded.
pub fn needed(loader: LoaderSpec) -> Vec<&'static str> {
    let bios: &[&str] = match loader.bios {
        BiosLoader::Ipxe => &[BIOS_PROGRAM],
        BiosLoader::Pxelinux => &[PXELINUX, PXELINUX_CORE],
        BiosLoader::Grub => &[GRUB_BIOS],
    };
    let uefi: &[&str] = match loader.uefi {
        UefiLoader::Ipxe => &[UEFI_PROGRAM],
        UefiLoader::Kernel => &[],
        UefiLoader::Grub => &[GRUB_UEFI],
        UefiLoader::Shim => &[SHIM, SIGNED_GRUB],
    };
    let http: &[&str] = match loader.http {
        HttpLoader::Shim if loader.uefi != UefiLoader::Shim => &[SHIM, SIGNED_GRUB],
        _ => &[],
    };
    [bios, uefi, http].concat()
}

/// What is missing of [`needed`], in one sentence with the next step; `None` if nothing is.
pub fn missing<'a>(loader: LoaderSpec, has: impl Fn(&str) -> bool + 'a) -> Option<String> {
    let missing: Vec<_> = needed(loader).into_iter().filter(|program| !has(program)).collect();
    if missing.is_empty() {
        return None;
    }
    let mut wanted: Vec<_> = missing.iter().flat_map(|program| packages(program).split(' ')).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let verb = if missing.len() == 1 { "is" } else { "are" };
    Some(format!("{} {verb} missing: apt-get install {}", missing.join(", "), wanted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_packages() {
        assert_eq!(missing(LoaderSpec::default(), |_| true), None);
        let loader = LoaderSpec { bios: BiosLoader::Pxelinux, uefi: UefiLoader::Shim, http: HttpLoader::Shim };
        assert_eq!(needed(loader), [PXELINUX, PXELINUX_CORE, SHIM, SIGNED_GRUB]);
        let told = "ldlinux.c32, grubx64.efi are missing: apt-get install grub-efi-amd64-signed syslinux-common";
        assert_eq!(missing(loader, |name| name == PXELINUX || name == SHIM).as_deref(), Some(told));
        let told = "undionly.kpxe, snponly.efi are missing: apt-get install ipxe";
        assert_eq!(missing(LoaderSpec::default(), |_| false).as_deref(), Some(told));
    }
}
