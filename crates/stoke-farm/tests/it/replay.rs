//! What firmware and loaders really ask the farm for (`test/captures`), as it is understood; without a socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use captures::{Packet, Protocol};
use stoke_api::objects::{BiosLoader, LoaderSpec, UefiLoader};
use stoke_boot::configs::ConfigName;
use stoke_boot::loaders;
use stoke_boot::old_paths::OldPath;
use stoke_farm::request::parse;
use stoke_tftp::names::plain_name;

#[test]
fn firmware_and_loaders_are_understood() {
    let mut text = String::new();
    for one in captures::all().unwrap() {
        let asked = one.asked(Protocol::Http).map(understood).collect::<String>();
        if !asked.is_empty() {
            write!(text, "{}: {}\n{asked}\n", one.name, one.about).unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

fn understood(packet: &Packet) -> String {
    for end in 0..packet.bytes.len() {
        assert!(parse(&packet.bytes[..end]).unwrap().is_none(), "a part of the head was taken for all of it");
    }
    let (request, length) = parse(&packet.bytes).unwrap().unwrap();
    assert_eq!((length, request.body), (packet.bytes.len(), 0));
    let field = |name: &str| request.fields.get(name).map_or("-", |value| value.to_str().unwrap());
    let after = if request.persistent { "may go on" } else { "ends" };
    let (method, target, version) = (&request.method, &request.target, request.version);
    format!(
        "  {method} {target} {version:?}, {after}, host {}, range {}, {}\n",
        field("host"),
        field("range"),
        field("user-agent")
    )
}

#[test]
fn names_that_loaders_ask_for_by_tftp_mean_something_or_nothing() {
    let mut meanings = BTreeMap::new();
    for one in captures::all().unwrap() {
        for packet in one.asked(Protocol::Tftp) {
            if let Ok(stoke_tftp::Packet::Read(request)) = stoke_tftp::Packet::parse(&packet.bytes) {
                meanings.insert(request.file.to_owned(), meaning(&plain_name(request.file)));
            }
        }
    }
    let lines = meanings.iter().map(|(name, meaning)| format!("{name}: {meaning}"));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}

fn meaning(name: &str) -> String {
    let programs = [(BiosLoader::Ipxe, UefiLoader::Ipxe), (BiosLoader::Pxelinux, UefiLoader::Shim)];
    let grub = (BiosLoader::Grub, UefiLoader::Grub);
    let needed = |(bios, uefi)| loaders::needed(LoaderSpec { bios, uefi, ..LoaderSpec::default() });
    let configuration =
        ConfigName::parse(name).map(|name| format!("configuration of {:?}, {:?}", name.loader, name.subject));
    let old = OldPath::parse(name).map(|path| format!("older farm's {path:?}"));
    let program = programs.into_iter().chain([grub]).flat_map(needed).any(|program| program == name);
    let program = program.then(|| "boot program".to_owned());
    let blob = name.starts_with("v1/blob/").then(|| "blob".to_owned());
    configuration.or(program).or(old).or(blob).unwrap_or_else(|| "nothing".to_owned())
}
