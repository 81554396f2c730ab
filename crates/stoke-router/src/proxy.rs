//! What a ProxyDHCP server says of a boot, and how it differs from what an ordinary server says.
//!
//! ```text
//!               OFFER on port 67                          ACK on port 4011
//!  BIOS         class, option 43, server, file            the same
//!  UEFI         class alone                               class, server, file
//!  UEFI HTTP    class, URL                                -
//!  iPXE         class, server, URL                        the same
//!  stoke-init   option 224                                -
//! ```
//!
//! An old BIOS ROM takes the file of the offer if option 43 tells it to look no further. UEFI asks on port 4011 when the
//! offer has neither option 43 nor a file; with the option, some look for a boot menu that is not there.

use std::net::Ipv4Addr;

use stoke_boot::policy::{Asker, Platform};
use stoke_dhcp::BootOptions;
use stoke_dhcp::wire::option;

/// Where the reply is sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Port {
    /// Of DHCP servers, 67.
    Dhcp,
    /// Of boot servers, 4011.
    Boot,
}

/// The options of an ordinary server as a proxy gives them. `farm` is the server that the client is sent to.
pub(crate) fn options(mut boot: BootOptions, asker: Asker, port: Port, farm: Ipv4Addr) -> BootOptions {
    // That one says that no proxy is to be waited for.
    boot.options.retain(|(code, _)| *code != option::ETHERBOOT);
    if asker == Asker::Init {
        return boot;
    }
    let class = b"PXEClient".to_vec();
    if !boot.options.iter().any(|(code, _)| *code == option::VENDOR_CLASS) {
        boot.options.insert(0, (option::VENDOR_CLASS, class));
    }
    match (asker, port) {
        (Asker::Pxe(Platform::Bios), _) => boot,
        // It ignores a proxy that names no next server, whatever the file is (`dhcp_has_pxeopts` in `src/net/udp/dhcp.c`
        // of iPXE).
        (Asker::Ipxe { .. }, _) => BootOptions { next_server: boot.next_server.or(Some(farm)), ..boot },
        (Asker::Pxe(_), Port::Dhcp) => {
            boot.options.retain(|(code, _)| *code == option::VENDOR_CLASS);
            BootOptions { options: boot.options, ..BootOptions::default() }
        }
        (_, Port::Dhcp | Port::Boot) => {
            boot.options.retain(|(code, _)| *code != option::VENDOR_SPECIFIC);
            boot
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::boot_options;
    use stoke_boot::policy::Answer;

    fn codes(answer: Answer, asker: Asker, port: Port) -> (Vec<u8>, bool) {
        let told = options(boot_options(answer), asker, port, Ipv4Addr::LOCALHOST);
        assert_eq!(told.next_server.is_some(), told.file.is_some(), "{asker}");
        let mut codes = told.options.iter().map(|(code, _)| *code).collect::<Vec<_>>();
        codes.sort_unstable();
        (codes, told.file.is_some())
    }

    fn program(ipxe: bool) -> Answer {
        Answer::Program { server: Ipv4Addr::LOCALHOST, file: "x".into(), ipxe }
    }

    #[test]
    fn each_client_hears_what_it_understands() {
        let (bios, uefi) = (Asker::Pxe(Platform::Bios), Asker::Pxe(Platform::Uefi64));
        for port in [Port::Dhcp, Port::Boot] {
            assert_eq!(codes(program(false), bios, port), (vec![43, 60, 66, 67], true));
        }
        assert_eq!(codes(program(false), uefi, Port::Dhcp), (vec![60], false));
        assert_eq!(codes(program(false), uefi, Port::Boot), (vec![60, 66, 67], true));
        let ipxe = Asker::Ipxe { platform: Platform::Bios, able: false };
        assert_eq!(codes(program(true), ipxe, Port::Dhcp), (vec![60, 66, 67], true));
        let script = Answer::Script { url: "http://x".into() };
        assert_eq!(codes(script, ipxe, Port::Dhcp), (vec![60, 67], true));
        let http = Answer::HttpBoot { url: "http://x".into() };
        assert_eq!(codes(http, Asker::Http(Platform::Uefi64), Port::Dhcp), (vec![60, 67], false));
        let node = Answer::NodeApi { url: "https://x".into() };
        assert_eq!(codes(node, Asker::Init, Port::Dhcp), (vec![224], false));
    }
}
