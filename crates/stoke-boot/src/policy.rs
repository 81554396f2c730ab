//! From what a DHCP client says of itself to what it is answered.
//!
//! [`recognise`] tells what asks: firmware, iPXE, `stoke-init`, or something that does not boot. [`answer`] tells what it
//! gets from its farm. The two passes of a PXE boot look like this:
//!
//! ```text
//! firmware, PXE         -> Program over TFTP, as the farm's loader for it wants: iPXE, PXELINUX, GRUB, shim, the kernel
//!   iPXE that can       -> Script by URL; what firmware gets if the loader is another one
//!   iPXE that cannot    -> Program: another iPXE, which can
//! firmware, UEFI HTTP   -> the unified kernel image by URL, or shim
//! stoke-init            -> URL of the node API
//! ```
//!
//! Who asks for a boot and gets nothing is told apart from who asks for none: [`boot`] says why.

use std::fmt;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::node::VENDOR_CLASS;
use stoke_api::objects::{BiosLoader, HttpLoader, UefiLoader, UnknownClients};
use stoke_api::workload::{Architecture, FarmBoot};

use crate::loaders::{self, BIOS_PROGRAM, UEFI_PROGRAM};

/// What a DHCP client says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Vendor class (option 60).
    pub vendor_class: Vec<u8>,
    /// Architectures (option 93), best first.
    pub architectures: Vec<u16>,
    /// User class (option 77).
    pub user_class: Vec<u8>,
    /// iPXE's own options (option 175), encapsulated.
    pub etherboot: Option<Vec<u8>>,
}

/// A processor architecture and firmware (IANA's registry "Processor Architecture Types", after RFC 4578).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// A BIOS on x86.
    Bios,
    /// UEFI on x86-64.
    Uefi64,
    /// UEFI, or U-Boot's, on 64-bit Arm.
    Arm64,
    /// One that no boot program is here for.
    Other(u16),
}

impl Platform {
    /// By the registry's number. 9 (EFI byte code) is what early x86-64 firmware says of itself. U-Boot (22, 24) starts
    /// UEFI programs with `bootefi`.
    fn of(architecture: u16) -> Self {
        match architecture {
            0 | 20 => Self::Bios,
            7 | 9 | 16 => Self::Uefi64,
            11 | 19 | 22 | 24 => Self::Arm64,
            other => Self::Other(other),
        }
    }
}

/// What the registry calls an architecture that no boot program is here for.
fn registered(number: u16) -> Option<&'static str> {
    Some(match number {
        6 | 15 => "UEFI ia32",
        10 | 18 => "UEFI arm32",
        21 | 23 => "U-Boot arm32",
        25 | 26 => "UEFI RISC-V 32",
        27 | 28 => "UEFI RISC-V 64",
        39 => "UEFI LoongArch 64",
        41 => "Raspberry Pi",
        _ => return None,
    })
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios => f.write_str("BIOS"),
            Self::Uefi64 => f.write_str("UEFI x86-64"),
            Self::Arm64 => f.write_str("UEFI arm64"),
            Self::Other(number) => match registered(*number) {
                Some(name) => write!(f, "architecture {number}, {name}"),
                None => write!(f, "architecture {number}"),
            },
        }
    }
}

/// What asks for a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Firmware that loads by TFTP.
    Pxe(Platform),
    /// Firmware that loads by HTTP.
    Http(Platform),
    /// iPXE, in a card's ROM or loaded by an earlier pass.
    Ipxe {
        /// What it runs on.
        platform: Platform,
        /// Whether it can run the script: load by HTTP, and start a Linux kernel of its platform.
        able: bool,
    },
    /// `stoke-init` in a booting node.
    Init,
}

impl Asker {
    /// Whether it is firmware or iPXE, so that a boot begins.
    pub fn is_firmware(&self) -> bool {
        !matches!(self, Self::Init)
    }

    /// Whether it is iPXE.
    pub fn is_ipxe(&self) -> bool {
        matches!(self, Self::Ipxe { .. })
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pxe(platform) => write!(f, "{platform}"),
            Self::Http(platform) => write!(f, "{platform} (HTTP)"),
            Self::Ipxe { platform, .. } => write!(f, "{platform} (iPXE)"),
            Self::Init => f.write_str("stoke-init"),
        }
    }
}

/// What asks, if it asks for a boot at all.
pub fn recognise(client: &Client) -> Option<Asker> {
    let platform = || client.architectures.first().map_or(Platform::Bios, |number| Platform::of(*number));
    if client.vendor_class == VENDOR_CLASS.as_bytes() {
        return Some(Asker::Init);
    }
    if let Some(features) = ipxe_features(client) {
        let platform = platform();
        return Some(Asker::Ipxe { platform, able: features.suffice(platform) });
    }
    if client.vendor_class.starts_with(b"HTTPClient") {
        return Some(Asker::Http(platform()));
    }
    // A PXE request has both (RFC 4578 section 2); the class alone is what some operating systems send too.
    let pxe = client.vendor_class.starts_with(b"PXEClient") && !client.architectures.is_empty();
    pxe.then(|| Asker::Pxe(platform()))
}

/// What an iPXE was built with.
struct Features<'a>(&'a [u8]);

impl Features<'_> {
    /// Sub-options of option 175, each there with the value 1 if the feature is (`src/include/ipxe/features.h` of iPXE).
    const HTTP: u8 = 19;
    const BZIMAGE: u8 = 24;
    const EFI: u8 = 36;

    /// Under UEFI a kernel is started as the UEFI program that it is, under a BIOS by iPXE itself.
    fn suffice(&self, platform: Platform) -> bool {
        let kernel = if platform == Platform::Bios { Self::BZIMAGE } else { Self::EFI };
        suboption(self.0, Self::HTTP) && suboption(self.0, kernel)
    }
}

/// iPXE says `iPXE` in option 77, without the length that RFC 3004 asks for, and lists its features in option 175
/// (`src/net/udp/dhcp.c` of iPXE).
fn ipxe_features(client: &Client) -> Option<Features<'_>> {
    let named = client.user_class == b"iPXE" || client.user_class == b"\x04iPXE";
    let etherboot = client.etherboot.as_deref();
    (named || etherboot.is_some()).then(|| Features(etherboot.unwrap_or_default()))
}

/// Whether an encapsulation has the option, with a value other than zero.
fn suboption(mut bytes: &[u8], wanted: u8) -> bool {
    while let Some(([code, length], rest)) = bytes.split_first_chunk::<2>() {
        let Some((data, rest)) = rest.split_at_checked(usize::from(*length)) else { return false };
        if *code == wanted {
            return data.iter().any(|byte| *byte != 0);
        }
        bytes = rest;
    }
    false
}

/// What a booting client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A boot program over TFTP.
    Program {
        /// The server.
        server: Ipv4Addr,
        /// The file.
        file: String,
        /// Whether iPXE asked, which must not look for another PXE server.
        ipxe: bool,
    },
    /// A UEFI application by URL, for firmware that loads by HTTP.
    HttpBoot {
        /// The URL.
        url: String,
    },
    /// A boot script by URL, for iPXE.
    Script {
        /// The URL.
        url: String,
    },
    /// The URL of the node API, for `stoke-init`.
    NodeApi {
        /// The URL.
        url: String,
    },
}

/// What a booting client gets, wherever the farm is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A file over TFTP.
    File(String),
    /// A UEFI application by HTTP: its path, with the first slash.
    Path(String),
    /// The boot script of iPXE.
    Script,
    /// The node API.
    NodeApi,
}

/// Why a client that asks for a boot gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing here runs on it.
    NoProgram(Asker),
    /// The farm's image has no kernel for it, or is not built yet.
    NoKernel(Architecture),
    /// The farm is told not to answer firmware that loads by HTTP.
    Off,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgram(asker) => write!(f, "no boot program for {asker}"),
            Self::NoKernel(Architecture::Amd64) => f.write_str("the farm's image has no kernel yet for amd64"),
            Self::NoKernel(Architecture::Arm64) => f.write_str("the farm's image has no kernel for arm64"),
            Self::Off => f.write_str("UEFI HTTP boot is off in this farm"),
        }
    }
}

/// What the client gets from this farm.
///
/// # Errors
/// If it gets nothing: why.
pub fn boot(asker: &Asker, farm: &FarmBoot) -> Result<Boot, Refusal> {
    match asker {
        // Whoever wants another loader than iPXE wants it on cards that have iPXE in their ROM, too.
        Asker::Ipxe { platform, .. } if !runs_ipxe(*platform, farm) => file(*asker, *platform, farm).map(Boot::File),
        Asker::Ipxe { able: true, .. } => Ok(Boot::Script),
        Asker::Pxe(platform) | Asker::Ipxe { platform, .. } => file(*asker, *platform, farm).map(Boot::File),
        Asker::Http(platform) => path(*asker, *platform, farm).map(Boot::Path),
        Asker::Init => Ok(Boot::NodeApi),
    }
}

fn runs_ipxe(platform: Platform, farm: &FarmBoot) -> bool {
    match platform {
        Platform::Bios => farm.loader.bios == BiosLoader::Ipxe,
        Platform::Uefi64 => farm.loader.uefi == UefiLoader::Ipxe,
        // An iPXE that runs there is as good as any; no other is here.
        Platform::Arm64 | Platform::Other(_) => true,
    }
}

fn file(asker: Asker, platform: Platform, farm: &FarmBoot) -> Result<String, Refusal> {
    let program = match platform {
        Platform::Bios => match farm.loader.bios {
            BiosLoader::Ipxe => BIOS_PROGRAM,
            BiosLoader::Pxelinux => loaders::PXELINUX,
            BiosLoader::Grub => loaders::GRUB_BIOS,
        },
        Platform::Uefi64 => match farm.loader.uefi {
            UefiLoader::Ipxe => UEFI_PROGRAM,
            UefiLoader::Kernel => return kernel(Architecture::Amd64, farm).map(without_slash),
            UefiLoader::Grub => loaders::GRUB_UEFI,
            UefiLoader::Shim => loaders::SHIM,
        },
        // Debian has neither iPXE nor a signed netboot GRUB that is worth a second way: the kernel itself is loaded.
        Platform::Arm64 => return kernel(Architecture::Arm64, farm).map(without_slash),
        Platform::Other(_) => return Err(Refusal::NoProgram(asker)),
    };
    Ok(program.to_owned())
}

fn without_slash(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

fn kernel(architecture: Architecture, farm: &FarmBoot) -> Result<&str, Refusal> {
    farm.kernels.get(&architecture).map(String::as_str).ok_or(Refusal::NoKernel(architecture))
}

fn path(asker: Asker, platform: Platform, farm: &FarmBoot) -> Result<String, Refusal> {
    let architecture = match platform {
        _ if farm.loader.http == HttpLoader::Off => return Err(Refusal::Off),
        Platform::Uefi64 if farm.loader.http == HttpLoader::Shim => {
            return Ok(format!("{}/{}", loaders::HTTP_FOLDER, loaders::SHIM));
        }
        Platform::Uefi64 => Architecture::Amd64,
        Platform::Arm64 => Architecture::Arm64,
        Platform::Bios | Platform::Other(_) => return Err(Refusal::NoProgram(asker)),
    };
    kernel(architecture, farm).map(str::to_owned)
}

/// What the client gets from the farm that feeds it, or that takes in who is unknown. `None`: an address at most.
pub fn answer(asker: &Asker, mac: MacAddr, farm: &FarmBoot) -> Option<Answer> {
    let server = farm.address_for(mac);
    let base = format!("http://{server}{}", port(farm.http_port));
    Some(match boot(asker, farm).ok()? {
        Boot::File(file) => Answer::Program { server, file, ipxe: asker.is_ipxe() },
        Boot::Path(path) => Answer::HttpBoot { url: format!("{base}{path}") },
        Boot::Script => Answer::Script { url: crate::render::script_url(&base, mac) },
        Boot::NodeApi => Answer::NodeApi { url: farm.node_urls(mac) },
    })
}

/// Without the default: some firmware parses no port at all.
fn port(http: u16) -> String {
    if http == 80 { String::new() } else { format!(":{http}") }
}

/// The farm of a machine: the one that its object names; for one without object, the first that takes in who is
/// unknown.
pub fn farm_of<'a>(
    named: Option<Option<&str>>,
    farms: impl IntoIterator<Item = (&'a String, &'a FarmBoot)>,
) -> Option<&'a FarmBoot> {
    let chosen = |(key, farm): &(&String, &FarmBoot)| match named {
        Some(of_object) => of_object == Some(key.as_str()),
        None => farm.unknown_clients == UnknownClients::Boot,
    };
    farms.into_iter().find(chosen).map(|(_, farm)| farm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use stoke_api::objects::LoaderSpec;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    /// As the iPXE in QEMU's ROM for a BIOS sends it: features http, bzimage, pxe, elf, menu and others.
    const IPXE_ROM: [u8; 33] = [
        0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 0, 0, 0x17, 1, 1, 0x22, 1, 1, 0x13, 1, 1, 0x18, 1, 1, 0x27, 1, 1,
        0x21, 1, 1, 0x10, 1, 2,
    ];
    /// What matters of the iPXE for UEFI: http and efi.
    const IPXE_EFI: [u8; 6] = [0x13, 1, 1, 0x24, 1, 1];

    fn farm() -> FarmBoot {
        FarmBoot {
            addresses: vec![Ipv4Addr::new(10, 10, 0, 1)],
            addresses6: vec![],
            http_port: 80,
            node_port: 8443,
            kernels: BTreeMap::from([(Architecture::Amd64, "/v1/blob/sha256/ab.efi".into())]),
            loader: LoaderSpec::default(),
            unknown_clients: UnknownClients::Ignore,
        }
    }

    fn firmware(class: &str, architecture: u16) -> Client {
        Client { vendor_class: class.into(), architectures: vec![architecture], ..Client::default() }
    }

    fn ipxe(etherboot: &[u8], architecture: u16) -> Client {
        let pxe = firmware("PXEClient:Arch:00000:UNDI:002001", architecture);
        Client { user_class: b"iPXE".to_vec(), etherboot: Some(etherboot.to_vec()), ..pxe }
    }

    fn told(client: &Client) -> Option<Answer> {
        recognise(client).and_then(|asker| answer(&asker, MAC, &farm()))
    }

    fn loads(file: &str, ipxe: bool) -> Answer {
        Answer::Program { server: farm().addresses[0], file: file.to_owned(), ipxe }
    }

    #[test]
    fn firmware_gets_the_program_of_its_architecture() {
        let class = "PXEClient:Arch:00000:UNDI:002001";
        for (architecture, expected) in [
            (0, Some(loads("undionly.kpxe", false))),
            (7, Some(loads("snponly.efi", false))),
            (9, Some(loads("snponly.efi", false))),
            (6, None),
            (11, None),
        ] {
            assert_eq!(told(&firmware(class, architecture)), expected, "architecture {architecture}");
        }
    }

    #[test]
    fn firmware_that_loads_by_http_gets_the_kernel_image_and_nothing_before_it_is_built() {
        let client = firmware("HTTPClient:Arch:00016:UNDI:003001", 16);
        assert_eq!(told(&client), Some(Answer::HttpBoot { url: "http://10.10.0.1/v1/blob/sha256/ab.efi".into() }));
        let unbuilt = FarmBoot { kernels: BTreeMap::new(), ..farm() };
        assert_eq!(answer(&recognise(&client).unwrap(), MAC, &unbuilt), None);
        assert_eq!(told(&firmware("HTTPClient:Arch:00019:UNDI:003001", 19)), None);
    }

    #[test]
    fn ipxe_gets_the_script_and_one_that_cannot_load_it_gets_another_ipxe() {
        let url = "http://10.10.0.1/v1/boot.ipxe?mac=52:54:00:00:00:01".to_owned();
        assert_eq!(told(&ipxe(&IPXE_ROM, 0)), Some(Answer::Script { url: url.clone() }));
        assert_eq!(told(&ipxe(&IPXE_EFI, 7)), Some(Answer::Script { url }));
        // What starts kernels under a BIOS starts none under UEFI, and the other way round.
        assert_eq!(told(&ipxe(&IPXE_ROM, 7)), Some(loads("snponly.efi", true)));
        assert_eq!(told(&ipxe(&IPXE_EFI, 0)), Some(loads("undionly.kpxe", true)));
        assert_eq!(told(&ipxe(&[0x22, 1, 1], 0)), Some(loads("undionly.kpxe", true)));
        assert_eq!(told(&ipxe(&[0x13, 1, 0], 7)), Some(loads("snponly.efi", true)));
        assert_eq!(told(&ipxe(&[0x13, 200, 1], 7)), Some(loads("snponly.efi", true)));
    }

    #[test]
    fn the_loader_that_a_farm_wants_is_what_its_firmware_loads() {
        let kernel = "v1/blob/sha256/ab.efi";
        let pxe = |architecture| firmware("PXEClient:Arch:00000:UNDI:002001", architecture);
        let told = |client: &Client, loader| answer(&recognise(client).unwrap(), MAC, &FarmBoot { loader, ..farm() });
        for (bios, file) in [
            (BiosLoader::Ipxe, "undionly.kpxe"),
            (BiosLoader::Pxelinux, "pxelinux.0"),
            (BiosLoader::Grub, "grub/i386-pc/core.0"),
        ] {
            let loader = LoaderSpec { bios, ..LoaderSpec::default() };
            assert_eq!(told(&pxe(0), loader), Some(loads(file, false)));
            assert_eq!(told(&pxe(7), loader), Some(loads("snponly.efi", false)));
            let from_rom = told(&ipxe(&IPXE_ROM, 0), loader);
            assert_eq!(from_rom == Some(loads(file, true)), bios != BiosLoader::Ipxe, "{from_rom:?}");
        }
        for (uefi, file) in [
            (UefiLoader::Kernel, kernel),
            (UefiLoader::Grub, "grub/x86_64-efi/core.efi"),
            (UefiLoader::Shim, "shimx64.efi"),
        ] {
            let loader = LoaderSpec { uefi, ..LoaderSpec::default() };
            assert_eq!(told(&pxe(7), loader), Some(loads(file, false)));
            assert_eq!(told(&ipxe(&IPXE_EFI, 7), loader), Some(loads(file, true)));
        }
        let http = firmware("HTTPClient:Arch:00016:UNDI:003001", 16);
        let shim = LoaderSpec { http: HttpLoader::Shim, ..LoaderSpec::default() };
        assert_eq!(told(&http, shim), Some(Answer::HttpBoot { url: "http://10.10.0.1/v1/boot/shimx64.efi".into() }));
        assert_eq!(told(&http, LoaderSpec { http: HttpLoader::Off, ..shim }), None);
    }

    #[test]
    fn arm64_loads_its_kernel_and_what_nothing_is_here_for_is_told_so() {
        let arm =
            FarmBoot { kernels: BTreeMap::from([(Architecture::Arm64, "/v1/blob/sha256/cd.efi".into())]), ..farm() };
        let boot = |class: &str, number| boot(&recognise(&firmware(class, number)).unwrap(), &arm);
        let (pxe, http) = ("PXEClient:Arch:00011:UNDI:003000", "HTTPClient:Arch:00019:UNDI:003001");
        for number in [11, 22] {
            assert_eq!(boot(pxe, number), Ok(Boot::File("v1/blob/sha256/cd.efi".into())));
        }
        for number in [19, 24] {
            assert_eq!(boot(http, number), Ok(Boot::Path("/v1/blob/sha256/cd.efi".into())));
        }
        let why = |class: &str, number| boot(class, number).unwrap_err().to_string();
        assert_eq!(why(pxe, 6), "no boot program for architecture 6, UEFI ia32");
        assert_eq!(why(pxe, 41), "no boot program for architecture 41, Raspberry Pi");
        assert_eq!(why(pxe, 27), "no boot program for architecture 27, UEFI RISC-V 64");
        assert_eq!(why(pxe, 99), "no boot program for architecture 99");
        assert_eq!(why(http, 20), "no boot program for BIOS (HTTP)");
        assert_eq!(why(http, 16), "the farm's image has no kernel yet for amd64");
        assert_eq!(
            super::boot(&recognise(&firmware(pxe, 11)).unwrap(), &farm()),
            Err(Refusal::NoKernel(Architecture::Arm64))
        );
    }

    #[test]
    fn ports_other_than_the_default_are_named() {
        let farm = FarmBoot { http_port: 8080, ..farm() };
        let asker = recognise(&ipxe(&IPXE_ROM, 0)).unwrap();
        let Some(Answer::Script { url }) = answer(&asker, MAC, &farm) else { panic!("no script") };
        assert_eq!(url, "http://10.10.0.1:8080/v1/boot.ipxe?mac=52:54:00:00:00:01");
    }

    #[test]
    fn the_initramfs_finds_its_farm_and_operating_systems_find_nothing() {
        let init = Client { vendor_class: b"stokehold-init".to_vec(), ..Client::default() };
        assert_eq!(told(&init), Some(Answer::NodeApi { url: "https://10.10.0.1:8443".into() }));
        for class in ["MSFT 5.0", "udhcp 1.35.0", "PXEClient", ""] {
            let client = Client { vendor_class: class.into(), ..Client::default() };
            assert_eq!(recognise(&client), None, "{class}");
        }
    }

    #[test]
    fn who_is_unknown_boots_only_where_a_farm_takes_it_in() {
        let open = FarmBoot { unknown_clients: UnknownClients::Boot, http_port: 81, ..farm() };
        let farms = BTreeMap::from([("default/a".to_owned(), farm()), ("default/b".to_owned(), open)]);
        let of = |named| farm_of(named, &farms).map(|farm| farm.http_port);
        assert_eq!(of(None), Some(81));
        assert_eq!(of(Some(Some("default/a"))), Some(80));
        assert_eq!(of(Some(None)), None);
        assert_eq!(of(Some(Some("default/gone"))), None);
    }
}
