//! What a farm's configuration of LTSP means for its nodes, and what of it means nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use stoke_api::objects::{AnyObject, FarmSpec, Kind, RootMode};
use stoke_api::{Condition, MacAddr, ObjectRef};
use stoke_boot::lts::keys::Fate;
use stoke_boot::lts::report::Row;
use stoke_boot::lts::translate::Translation;
use stoke_boot::lts::{Conf, Machine};

use crate::check::hostname;
use crate::farm::addresses;
use crate::names::nic_mac;
use crate::status::condition;
use crate::view::{Farm, View, sibling};

/// How many lines a condition names.
const NAMED: usize = 10;

/// A farm's configuration of LTSP, read once for all its nodes.
pub(crate) struct FarmLtsp {
    conf: Conf,
    server: Option<IpAddr>,
    /// Whether the farm says which disk keeps a node's root.
    has_disk: bool,
}

impl FarmLtsp {
    /// That of a farm which serves at this address first.
    pub(crate) fn of(farm: &FarmSpec, server: Option<Ipv4Addr>) -> Option<Self> {
        let has_disk = farm.boot.disk.is_some();
        Some(Self { conf: Conf::of_farm(farm)?, server: server.map(IpAddr::V4), has_disk })
    }

    /// That of a farm among objects that are not reconciled, which serves where its LAN's gateway is if it does not say.
    pub(crate) fn among(objects: &[AnyObject], name: &ObjectRef, farm: &FarmSpec) -> Option<Self> {
        let lan = sibling(name, Kind::Lan, &farm.lan);
        let gateway = || {
            objects.iter().find_map(|object| match object {
                AnyObject::Lan(found) if object.reference() == lan => Some(found.spec.subnets.first()?.gateway()),
                _ => None,
            })
        };
        Self::of(farm, farm.addresses.first().copied().or_else(gateway))
    }

    /// What it means for a node.
    pub(crate) fn translate(&self, macs: &[MacAddr], address: Option<Ipv4Addr>, hostname: &str) -> Translation {
        let mut translation = self.conf.translate(&Machine { macs, address, hostname, server: self.server });
        translation.root = translation.root.filter(|root| self.has_disk || *root != RootMode::Disk);
        translation
    }

    /// What became of its lines, in a few words.
    pub(crate) fn condition(&self) -> Condition {
        let rows = self.conf.report();
        let count = |is: fn(&Fate) -> bool| rows.iter().filter(|row| is(&row.fate)).count();
        let applied = count(|fate| matches!(fate, Fate::Field(_) | Fate::Root | Fate::Script | Fate::Selects));
        let mut message = format!("{applied} of {} lines have an effect", rows.len());
        let variables = count(|fate| *fate == Fate::Variable);
        if variables > 0 {
            let _ = write!(message, "; {variables} are variables for scripts");
        }
        let ignored: Vec<_> = rows.iter().filter(|row| matches!(row.fate, Fate::Nothing(_))).collect();
        if !ignored.is_empty() {
            let _ = write!(message, "; without meaning here: {}", named(&ignored));
        }
        if let Some(place) = self.conf.keeps_on_drive().filter(|_| !self.has_disk) {
            let _ = write!(message, "; {place} LTSP_NBD_TO_DRIVE needs spec.boot.disk, the label of that disk");
        }
        let reason = if ignored.is_empty() { "Understood" } else { "SomeIgnored" };
        condition("LtspConf", true, reason, message)
    }
}

/// Lines in a few words.
fn named(rows: &[&Row]) -> String {
    let one = |row: &&Row| format!("{} {}", row.place, row.key);
    let mut words: Vec<_> = rows.iter().take(NAMED).map(one).collect();
    if rows.len() > NAMED {
        words.push(format!("and {} more", rows.len() - NAMED));
    }
    words.join(", ")
}

/// What is wrong in a farm's configuration of LTSP: the field that has it, and each line.
pub(crate) fn problems(farm: &FarmSpec) -> Vec<(&'static str, String)> {
    let Some(conf) = Conf::of_farm(farm) else { return Vec::new() };
    let field = if farm.lts_conf.is_some() { "spec.ltsConf" } else { "spec.ltspConf" };
    let malformed = conf.findings().iter().map(|finding| format!("{}: {}", finding.place, finding.message));
    let wrong = conf.report().into_iter().filter_map(|row| match row.fate {
        Fate::Wrong(why) => Some(format!("{}: {}: {why}", row.place, row.key)),
        _ => None,
    });
    malformed.chain(wrong).map(|message| (field, message)).collect()
}

/// What its farm's configuration of LTSP means for a node; none if the farm has none.
pub(crate) fn of_node(view: &View<'_>, farm: &Farm, owner: &ObjectRef) -> Option<Translation> {
    let ltsp = view.ltsp_of(farm)?;
    if let Some(server) = view.server(owner) {
        let name = hostname(owner, &server.spec.config);
        return Some(ltsp.translate(&server.spec.macs, server.spec.address, &name));
    }
    let machine = view.machine(owner)?;
    let macs: Vec<_> = machine.spec.nics.iter().map(|nic| nic_mac(owner, nic)).collect();
    let address = machine.spec.nics.iter().find_map(|nic| nic.address);
    Some(ltsp.translate(&macs, address, &hostname(owner, &machine.spec.config)))
}

/// The configurations of LTSP of all farms.
pub(crate) fn of_farms(view: &View<'_>) -> BTreeMap<ObjectRef, FarmLtsp> {
    let of = |(reference, farm): (&ObjectRef, &Farm)| {
        let server = addresses(view, reference, farm).first().copied();
        Some((reference.clone(), FarmLtsp::of(&farm.spec, server)?))
    };
    view.farms().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn farm(text: &str) -> FarmSpec {
        let spec = serde_json::json!({"lan": "lab", "image": "node", "ltsConf": {"content": text}});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn lines_without_meaning_are_named() {
        let text = "[default]\nTIMEZONE=Etc/UTC\nSCREEN_07=ldm\nMINE=1\nLTSP_NBD_TO_DRIVE=y\n";
        let condition = FarmLtsp::of(&farm(text), None).unwrap().condition();
        let expected = "2 of 4 lines have an effect; 1 are variables for scripts; without meaning here: lts.conf:3 SCREEN_07; \
                        lts.conf:5 LTSP_NBD_TO_DRIVE needs spec.boot.disk, the label of that disk";
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SomeIgnored", expected));
        assert_eq!(problems(&farm(text)), []);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_its_line() {
        let found = problems(&farm("[default]\nHOSTS_1=nonsense\nFSTAB_1=\"/dev/a srv ext4\"\noops\n"));
        let expected = [
            ("spec.ltsConf", "lts.conf:4: \"oops\" is neither KEY = value nor a section".to_owned()),
            ("spec.ltsConf", "lts.conf:2: HOSTS_1: \"nonsense\" is no address".to_owned()),
            ("spec.ltsConf", "lts.conf:3: FSTAB_1: write the whole path, from the slash on".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_drive_needs_a_disk_that_the_farm_names() {
        let mut spec = farm("[default]\nLTSP_NBD_TO_DRIVE=y\n");
        let root = |spec: &FarmSpec| FarmLtsp::of(spec, None).unwrap().translate(&[], None, "a").root;
        assert_eq!(root(&spec), None);
        spec.boot = serde_json::from_value(serde_json::json!({"disk": {"label": "stokehold"}})).unwrap();
        assert_eq!(root(&spec), Some(RootMode::Disk));
    }
}
