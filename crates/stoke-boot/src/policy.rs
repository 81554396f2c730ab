//! From what a DHCP client says of itself to what it is answered.
//!
//! [`recognise`] tells what asks: firmware, iPXE, `stoke-init`, or something that does not boot. [`answer`] tells what it
//! gets from its farm. The two passes of a PXE boot look like this:
//!
//! ```text
//! firmware, PXE         -> Program over TFTP (Debian's iPXE: undionly.kpxe, snponly.efi)
//!   iPXE with HTTP      -> Script by URL
//! firmware, UEFI HTTP   -> the unified kernel image by URL
//! iPXE without HTTP     -> Program: another iPXE, which has it
//! stoke-init            -> URL of the node API
//! ```

use std::fmt;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::node::VENDOR_CLASS;
use stoke_api::objects::UnknownClients;
use stoke_api::workload::{Architecture, FarmBoot};

/// Boot program of a BIOS: iPXE on the card's own UNDI driver.
pub const BIOS_PROGRAM: &str = "undionly.kpxe";
/// Boot program of x86-64 UEFI: iPXE on the firmware's own network driver.
pub const UEFI_PROGRAM: &str = "snponly.efi";

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
    /// One that no boot program is here for.
    Other(u16),
}

impl Platform {
    /// By the registry's number. 9 (EFI byte code) is what early x86-64 firmware says of itself.
    fn of(architecture: u16) -> Self {
        match architecture {
            0 | 20 => Self::Bios,
            7 | 9 | 16 => Self::Uefi64,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios => f.write_str("BIOS"),
            Self::Uefi64 => f.write_str("UEFI x86-64"),
            Self::Other(number) => write!(f, "architecture {number}"),
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
        /// Whether it can load by HTTP.
        http: bool,
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
        return Some(Asker::Ipxe { platform: platform(), http: features.http });
    }
    if client.vendor_class.starts_with(b"HTTPClient") {
        return Some(Asker::Http(platform()));
    }
    // A PXE request has both (RFC 4578 section 2); the class alone is what some operating systems send too.
    let pxe = client.vendor_class.starts_with(b"PXEClient") && !client.architectures.is_empty();
    pxe.then(|| Asker::Pxe(platform()))
}

struct Features {
    http: bool,
}

/// iPXE says `iPXE` in option 77, without the length that RFC 3004 asks for, and lists its features in option 175
/// (`src/net/udp/dhcp.c` and `src/include/ipxe/features.h` of iPXE).
fn ipxe_features(client: &Client) -> Option<Features> {
    const HTTP: u8 = 19;
    let named = client.user_class == b"iPXE" || client.user_class == b"\x04iPXE";
    let etherboot = client.etherboot.as_deref();
    (named || etherboot.is_some()).then(|| Features { http: suboption(etherboot.unwrap_or_default(), HTTP) })
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
        file: &'static str,
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

/// What the client gets from the farm that feeds it, or that takes in who is unknown. `None`: an address at most.
pub fn answer(asker: &Asker, mac: MacAddr, farm: &FarmBoot) -> Option<Answer> {
    let server = farm.address_for(mac);
    let base = format!("http://{server}{}", port(farm.http_port));
    match asker {
        Asker::Pxe(platform) => program(*platform, server, false),
        Asker::Ipxe { platform, http: false } => program(*platform, server, true),
        Asker::Ipxe { http: true, .. } => Some(Answer::Script { url: format!("{base}/v1/boot.ipxe?mac={mac}") }),
        Asker::Http(Platform::Uefi64) => {
            farm.kernels.get(&Architecture::Amd64).map(|path| Answer::HttpBoot { url: format!("{base}{path}") })
        }
        Asker::Http(_) => None,
        Asker::Init => Some(Answer::NodeApi { url: farm.node_urls(mac) }),
    }
}

/// Without the default: some firmware parses no port at all.
fn port(http: u16) -> String {
    if http == 80 { String::new() } else { format!(":{http}") }
}

fn program(platform: Platform, server: Ipv4Addr, ipxe: bool) -> Option<Answer> {
    let file = match platform {
        Platform::Bios => BIOS_PROGRAM,
        Platform::Uefi64 => UEFI_PROGRAM,
        Platform::Other(_) => return None,
    };
    Some(Answer::Program { server, file, ipxe })
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
    /// As iPXE 1.21 in QEMU's ROM sends it: features pxe, http, bzimage, elf, multiboot, menu and others.
    const IPXE_ROM: [u8; 36] = [
        0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 0, 0, 0x17, 1, 1, 0x22, 1, 1, 0x13, 1, 1, 0x14, 1, 1, 0x11, 1, 1,
        0x27, 1, 1, 0x19, 1, 1, 0x10, 1, 2,
    ];

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

    fn loads(file: &'static str, ipxe: bool) -> Answer {
        Answer::Program { server: farm().addresses[0], file, ipxe }
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
        assert_eq!(told(&ipxe(&IPXE_ROM, 7)), Some(Answer::Script { url }));
        assert_eq!(told(&ipxe(&[0x22, 1, 1], 0)), Some(loads("undionly.kpxe", true)));
        assert_eq!(told(&ipxe(&[0x13, 1, 0], 7)), Some(loads("snponly.efi", true)));
        assert_eq!(told(&ipxe(&[0x13, 200, 1], 7)), Some(loads("snponly.efi", true)));
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
