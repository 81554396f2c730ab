//! Whole configurations: what becomes of each line, and what the node gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use stoke_api::MacAddr;

use super::keys::Fate;
use super::translate::{Generation, Translation};
use super::{Conf, Machine, Source};

const EVERY_KEY: &str = include_str!("fixtures/every_key.conf");
const OLD_FARM: &str = include_str!("fixtures/old_farm.conf");
const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0x21]);

fn conf(text: &str) -> Conf {
    Conf::parse(Generation::Five, Source { name: "lts.conf", text, included: &BTreeMap::new() })
}

fn translated(text: &str, hostname: &str) -> Translation {
    let server = Some(Ipv4Addr::new(10, 10, 0, 1).into());
    let address = Some(Ipv4Addr::new(10, 10, 0, 21));
    conf(text).translate(&Machine { macs: &[MAC], address, hostname, server })
}

/// The table of a configuration's lines.
fn table(text: &str) -> String {
    let mut table = String::new();
    for row in conf(text).report() {
        let fate = match row.fate {
            Fate::Field(field) => format!("config.{field}"),
            Fate::Root => "where the root is".to_owned(),
            Fate::Script => "the node's script".to_owned(),
            Fate::Variable => "a variable of the node's script".to_owned(),
            Fate::Selects => "chooses a section".to_owned(),
            Fate::Nothing(why) => format!("- {why}"),
            Fate::Wrong(why) => format!("! {why}"),
        };
        let _ = writeln!(table, "{:>3} [{}] {}: {fate}", row.place.line, row.section, row.key);
    }
    table
}

/// The configuration as people write it, the script apart.
fn shown(translation: &Translation) -> String {
    let mut config = translation.config.clone();
    config.files.retain(|file| file.path != "/etc/lts.conf");
    let script = config.hooks.pop().map(|hook| hook.script).unwrap_or_default();
    let config = serde_json::to_string_pretty(&config).unwrap();
    format!("{config}\nroot: {:?}\n{script}", translation.root)
}

fn is_a_script(script: &str) {
    let mut sh = Command::new("sh");
    let checked = sh.args(["-n", "-c", script]).output().unwrap();
    assert!(checked.status.success(), "{}\n{script}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_key_has_a_fate() {
    insta::assert_snapshot!("every_key", table(EVERY_KEY));
}

#[test]
fn what_a_node_gets_of_every_key() {
    let translation = translated(EVERY_KEY, "node-1");
    assert_eq!(translation.findings, []);
    assert_eq!(translation.config.check("spec.config"), []);
    is_a_script(&translation.config.hooks[0].script);
    insta::assert_snapshot!("every_key_on_a_node", shown(&translation));
}

#[test]
fn the_old_farm_moves_as_it_is() {
    let translation = translated(OLD_FARM, "m1c1");
    assert_eq!(translation.findings, []);
    assert_eq!(translation.config.check("spec.config"), []);
    let rows = conf(OLD_FARM).report();
    let without: Vec<_> = rows.iter().filter(|row| matches!(row.fate, Fate::Nothing(_) | Fate::Wrong(_))).collect();
    assert!(without.is_empty(), "{without:?}");
    let paths: Vec<_> = translation.config.mounts.iter().map(|mount| mount.path.as_str()).collect();
    assert_eq!(paths, ["/etc/ssh", "/var/log/journal", "/var/lib/docker"]);
    assert!(translation.config.mounts.iter().all(|mount| mount.options.contains(&"nofail".to_owned())));
    let masked: Vec<_> = translation.config.units.iter().map(|unit| unit.name.as_str()).collect();
    for kept in ["rpcbind.service", "rpcbind.socket", "nfs-kernel-server.service"] {
        assert!(!masked.contains(&kept), "{kept}");
    }
    let script = &translation.config.hooks[0].script;
    is_a_script(script);
    let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("{what} in {script}"));
    let order = [
        "kubeadm() {",
        "\"$RCFILE_01_SSH_CONFIG\"",
        "\"$RCFILE_07_JOIN\"",
        "\"$RCFILE_08_LABEL\"",
        "sh -c \"$PREINIT_00_TIME",
    ];
    assert!(order.map(at).is_sorted(), "{script}");
}

#[test]
fn an_empty_file_leaves_the_word_to_the_image() {
    use stoke_api::objects::Compatibility;
    assert_eq!(translated(" \n", "x").config.compatibility, Some(Compatibility::LtspOfImage));
    assert_eq!(translated("[default]\n", "x").config.compatibility, Some(Compatibility::Ltsp));
}

#[test]
fn code_of_later_versions_is_a_script() {
    let text = "[clients]\nFSTAB_1=\"$SERVER:/home /home nfs\"\nHOSTNAME=\"pc%{IP}\"\nif [ -e /dev/sdb ]; then\n  FSTAB_2=\"/dev/sdb /srv ext4\"\nfi\n\
                POST_INIT_1=\"section_root\"\n[root]\nsed 's|^root:[^:]*:|root:$6$x:|' -i /etc/shadow\n[init/]\ncat >/x <<\"EOF\"\n$A\nEOF\n";
    let conf = Conf::parse(Generation::Later, Source { name: "ltsp.conf", text, included: &BTreeMap::new() });
    let (server, address) = (Some(Ipv4Addr::new(10, 10, 0, 1).into()), Some(Ipv4Addr::new(10, 10, 0, 21)));
    let translation = conf.translate(&Machine { macs: &[MAC], address, hostname: "x", server });
    assert_eq!(translation.config.hostname.as_deref(), Some("pc21"));
    assert_eq!(translation.config.mounts[0].device, "10.10.0.1:/home");
    let script = &translation.config.hooks[0].script;
    is_a_script(script);
    assert!(script.contains("[ -z \"$FSTAB_2\" ]"), "{script}");
    assert!(script.trim_end().ends_with("eval \"$POST_INIT_1\"\nexit 0"), "{script}");
}
