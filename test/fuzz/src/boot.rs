//! What decides how a machine boots: the words of its kernel, and what its firmware says of itself.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::objects::{LoaderSpec, UnknownClients};
use stoke_api::workload::{Architecture, FarmBoot};
use stoke_boot::configs::{ConfigName, Loader};
use stoke_boot::policy::{self, Client};
use stoke_boot::policy6;
use stoke_init::cmdline::Cmdline;

use crate::pieces::Pieces;

/// A kernel command line: words of ours that mean nothing are named, those of others are not.
pub fn cmdline(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let cmdline = Cmdline::parse(&text);
    assert!(cmdline.refused.len() <= text.split_whitespace().count());
    assert!(cmdline.refused.iter().all(|word| word.starts_with("stoke.") || word.starts_with("BOOTIF")));
}

/// What a client says in its DHCP options.
pub fn policy(input: &[u8]) {
    let mut pieces = Pieces(input);
    let architectures = (0..pieces.byte() % 4).map(|_| pieces.short()).collect();
    let client = Client {
        architectures,
        vendor_class: pieces.packet().to_vec(),
        user_class: pieces.packet().to_vec(),
        etherboot: (!pieces.is_empty()).then(|| pieces.packet().to_vec()),
    };
    let farm = FarmBoot {
        addresses: vec![Ipv4Addr::new(10, 10, 0, 1), Ipv4Addr::new(10, 10, 0, 2)],
        addresses6: Vec::new(),
        http_port: 80,
        node_port: 8443,
        kernels: [(Architecture::Amd64, "/v1/blob/sha256/00.efi".to_owned())].into(),
        loader: LoaderSpec::default(),
        unknown_clients: UnknownClients::Boot,
    };
    let Some(asker) = policy::recognise(&client) else { return };
    assert!(!asker.to_string().is_empty());
    let _ = policy::answer(&asker, MacAddr([2, 0, 0, 0, 0, 1]), &farm);
    let _ = policy6::answer6(&asker, Some(MacAddr([2, 0, 0, 0, 0, 1])), &farm);
}

/// A file that a loader asks for: a configuration's name stays one in any folder but PXELINUX' own.
pub fn loader_config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Some(name) = ConfigName::parse(&text) else { return };
    if name.loader == Loader::Grub {
        assert_eq!(ConfigName::parse(&format!("boot/{text}")), Some(name));
    }
}
