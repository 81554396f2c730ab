//! `lts.conf` and `ltsp.conf`: what holds for all becomes the farm's configuration, a section of a MAC address a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use stoke_api::MacAddr;

use super::draft::{Draft, beyond, over};
use super::{Became, Format};
use crate::lts::keys::Fate;
use crate::lts::report::Row;
use crate::lts::translate::{Generation, Translation};
use crate::lts::{Conf, Machine, Source};

/// Sections that hold for all machines, or that are only called by others.
const EVERYBODY: [&str; 7] = ["", "default", "clients", "common", "server", "init/", "initrd-bottom/"];

pub(super) fn add(draft: &mut Draft, format: Format, file: &str, text: &str) {
    let generation = if format == Format::LtspConf { Generation::Later } else { Generation::Five };
    let conf = Conf::parse(generation, Source { name: file, text, included: &BTreeMap::new() });
    let all = translated(&conf, &[]);
    draft.config = over(&draft.config, &all.config);
    draft.root = draft.root.or(all.root);
    for finding in conf.findings() {
        draft.nothing(&finding.place.to_string(), "", finding.message.clone());
    }
    let rows = conf.report();
    for section in sections(&rows) {
        let Ok(mac) = section.parse::<MacAddr>() else { continue };
        server(draft, mac, &translated(&conf, &[mac]), &all);
    }
    for row in rows {
        let became = became(&conf, &row);
        draft.row(&row.place.to_string(), &key(&row), became);
    }
}

fn translated(conf: &Conf, macs: &[MacAddr]) -> Translation {
    let mut out = conf.translate(&Machine { macs, address: None, hostname: "", server: None });
    // The objects say it now: the file itself is not needed on the node any more.
    out.config.files.retain(|file| !["/etc/lts.conf", "/etc/ltsp/ltsp.conf"].contains(&file.path.as_str()));
    out
}

fn server(draft: &mut Draft, mac: MacAddr, own: &Translation, all: &Translation) {
    let name = own.config.hostname.clone().unwrap_or_else(|| format!("node-{mac}"));
    let (_, server) = draft.server(&name, &[mac]);
    server.config = over(&server.config, &beyond(&own.config, &all.config));
}

fn sections(rows: &[Row]) -> Vec<Arc<str>> {
    let mut sections: Vec<_> = rows.iter().map(|row| row.section.clone()).collect();
    sections.sort();
    sections.dedup();
    sections
}

fn key(row: &Row) -> String {
    if row.section.is_empty() { row.key.clone() } else { format!("[{}] {}", row.section, row.key) }
}

fn became(conf: &Conf, row: &Row) -> Became {
    let section = &*row.section;
    let mac = section.parse::<MacAddr>().ok();
    // An address, a pattern or a host name, then.
    if mac.is_none() && !EVERYBODY.contains(&section) && !conf.calls(section) {
        let why = "the section names no machine by its MAC address: keep the file (spec.ltsConf or spec.ltspConf of the \
                   Farm), or write a class or a Server";
        return Became::Nothing(why.to_owned());
    }
    let whose = match mac {
        Some(mac) => format!("Server of {mac}"),
        None if EVERYBODY.contains(&section) => "Farm".to_owned(),
        None => "where the section is used".to_owned(),
    };
    match &row.fate {
        Fate::Field(field) => Became::Field(format!("{whose}: spec.config.{field}")),
        Fate::Root if whose == "Farm" => Became::Field("Farm: spec.boot.root".to_owned()),
        Fate::Root => Became::Nothing("where the root is, is said for the whole farm: spec.boot.root".to_owned()),
        Fate::Script => Became::Field(format!("{whose}: spec.config.hooks[ltsp]")),
        Fate::Variable => Became::Field("a variable of the script: spec.config.hooks[ltsp]".to_owned()),
        Fate::Selects => Became::Field("what it names is included".to_owned()),
        Fate::Nothing(why) | Fate::Wrong(why) => Became::Nothing(why.clone()),
    }
}
