//! What a booting client is answered over IPv6: a URL (RFC 5970), where IPv4 has three fields and five options.
//!
//! What it gets is what [`crate::policy`] says; here is only how that is said.

use std::net::Ipv6Addr;

use stoke_api::MacAddr;
use stoke_api::workload::{FarmBoot, turned};

use crate::policy::{Asker, Boot, Client, boot};
use crate::render::{SCRIPT_PATH, script_url};

/// What iPXE would list in option 175 of DHCPv4: HTTP, bzImage and EFI. It sends no features by DHCPv6; builds with IPv6 are
/// newer than all of these.
const IPXE_FEATURES: [u8; 9] = [19, 1, 1, 24, 1, 1, 36, 1, 1];

/// A URL, and how it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer6 {
    /// The URL: `http:` or `tftp:`, the server as an address.
    pub url: String,
    /// Whether firmware asked that loads by HTTP, and takes only what is meant for that.
    pub http: bool,
}

/// What a DHCPv6 client says of itself.
pub fn client6(vendor_class: &[u8], user_class: &[u8], architectures: Vec<u16>) -> Client {
    let etherboot = (user_class == b"iPXE").then(|| IPXE_FEATURES.to_vec());
    Client { vendor_class: vendor_class.to_vec(), architectures, user_class: user_class.to_vec(), etherboot }
}

/// What the client gets from the farm that feeds it, or that takes in who is unknown. `None`: an address at most.
/// `stoke-init` looks for its farm by IPv4.
pub fn answer6(asker: &Asker, mac: Option<MacAddr>, farm: &FarmBoot) -> Option<Answer6> {
    let server = mac.and_then(|mac| turned(&farm.addresses6, mac).next()).or(farm.addresses6.first().copied())?;
    let base = base_url(server, farm.http_port);
    let url = match boot(asker, farm).ok()? {
        Boot::File(file) => format!("tftp://[{server}]/{file}"),
        Boot::Path(path) => format!("{base}{path}"),
        Boot::Script => match mac {
            Some(mac) => script_url(&base, mac),
            // iPXE puts its own settings into the file name that it is given (`src/usr/autoboot.c` of iPXE).
            None => format!("{base}{SCRIPT_PATH}?mac=${{netX/mac}}"),
        },
        Boot::NodeApi => return None,
    };
    Some(Answer6 { url, http: matches!(asker, Asker::Http(_)) })
}

/// URL of a farm's HTTP server, without a final slash.
pub fn base_url(server: Ipv6Addr, port: u16) -> String {
    if port == 80 { format!("http://[{server}]") } else { format!("http://[{server}]:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::recognise;
    use std::collections::BTreeMap;
    use stoke_api::objects::{LoaderSpec, UnknownClients};
    use stoke_api::workload::Architecture;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    fn farm() -> FarmBoot {
        FarmBoot {
            addresses: vec!["10.10.0.1".parse().unwrap()],
            addresses6: vec!["fd00:10::1".parse().unwrap()],
            http_port: 80,
            node_port: 8443,
            kernels: BTreeMap::from([(Architecture::Amd64, "/v1/blob/sha256/ab.efi".into())]),
            loader: LoaderSpec::default(),
            unknown_clients: UnknownClients::Ignore,
        }
    }

    fn told(class: &str, user: &[u8], architecture: u16, mac: Option<MacAddr>) -> Option<Answer6> {
        let client = client6(class.as_bytes(), user, vec![architecture]);
        recognise(&client).and_then(|asker| answer6(&asker, mac, &farm()))
    }

    fn url(url: &str, http: bool) -> Answer6 {
        Answer6 { url: url.to_owned(), http }
    }

    #[test]
    fn each_firmware_gets_its_url() {
        let pxe = told("PXEClient:Arch:00007:UNDI:003001", b"", 7, Some(MAC));
        assert_eq!(pxe, Some(url("tftp://[fd00:10::1]/snponly.efi", false)));
        let http = told("HTTPClient:Arch:00016:UNDI:003001", b"", 16, Some(MAC));
        assert_eq!(http, Some(url("http://[fd00:10::1]/v1/blob/sha256/ab.efi", true)));
        let script = "http://[fd00:10::1]/v1/boot.ipxe?mac=52:54:00:00:00:01";
        assert_eq!(told("PXEClient:Arch:00007:UNDI:003010", b"iPXE", 7, Some(MAC)), Some(url(script, false)));
        let own = "http://[fd00:10::1]/v1/boot.ipxe?mac=${netX/mac}";
        assert_eq!(told("PXEClient:Arch:00000:UNDI:002001", b"iPXE", 0, None), Some(url(own, false)));
        assert_eq!(told("HTTPClient:Arch:00019:UNDI:003001", b"", 19, Some(MAC)), None, "no kernel for it");
        assert_eq!(told("stokehold-init", b"", 0, Some(MAC)), None);
        assert_eq!(told("udhcp 1.35.0", b"", 0, Some(MAC)), None);
    }

    #[test]
    fn a_farm_without_ipv6_answers_nothing_and_ports_are_named() {
        let asker = recognise(&client6(b"HTTPClient", b"", vec![16])).unwrap();
        assert_eq!(answer6(&asker, Some(MAC), &FarmBoot { addresses6: vec![], ..farm() }), None);
        let other = answer6(&asker, Some(MAC), &FarmBoot { http_port: 8080, ..farm() });
        assert_eq!(other, Some(url("http://[fd00:10::1]:8080/v1/blob/sha256/ab.efi", true)));
    }
}
