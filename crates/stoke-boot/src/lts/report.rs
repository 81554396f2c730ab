//! What became of each line of a configuration: nothing is dropped without a word.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use stoke_api::MacAddr;

use super::expand::expand;
use super::keys::{Fate, REMOVING_FUNCTIONS, Rule, fate, rule};
use super::lts_conf::LtsConf;
use super::ltsp_conf::LtspConf;
use super::translate::{Generation, Value, Values, translate};
use super::{Assignment, Machine, Place};

/// A line and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Where.
    pub place: Place,
    /// The section that it is in.
    pub section: Arc<str>,
    /// The key; of code its first line.
    pub key: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// Stands for any machine: what is asked is whether a value can be understood, not what it is for somebody.
const ANY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// An address for documentation (RFC 5737).
const ANY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The lines of an `lts.conf`.
pub fn of_lts_conf(conf: &LtsConf) -> Vec<Row> {
    let assignments: Vec<_> = conf.sections.iter().flat_map(|section| &section.assignments).cloned().collect();
    let mut rows = rows(&assignments, Generation::Five);
    for row in rows.iter_mut().filter(|row| row.fate == Fate::Selects) {
        let line = assignments.iter().find(|assignment| assignment.place == row.place);
        let named = line.map(|assignment| super::keys::likes(&assignment.value)).unwrap_or_default();
        let missing = |name: &&String| conf.sections.iter().all(|section| *section.name != ***name);
        if let Some(missing) = named.iter().find(missing) {
            row.fate = Fate::Nothing(format!("there is no section [{missing}]"));
        }
    }
    rows
}

/// The lines of an `ltsp.conf`.
pub fn of_ltsp_conf(conf: &LtspConf) -> Vec<Row> {
    let mut all = rows(&conf.assignments(), Generation::Later);
    for row in &mut all {
        if let Some(why) = elsewhere(&row.section, &row.key) {
            row.fate = Fate::Nothing(why.to_owned());
        }
    }
    let code = conf.code_lines().into_iter().map(|(section, place, key)| {
        let fate = elsewhere(&section, "").map_or(Fate::Script, |why| Fate::Nothing(why.to_owned()));
        Row { place, section, key, fate }
    });
    all.extend(code);
    let missing = conf.missing_sections().into_iter().map(|(section, place, id)| {
        let (key, fate) = (format!("INCLUDE={id}"), Fate::Nothing("there is no such section".to_owned()));
        Row { place, section, key, fate }
    });
    all.extend(missing);
    all.sort();
    all
}

/// Why a section is none of ours.
fn elsewhere(section: &str, key: &str) -> Option<&'static str> {
    let applet = section.split_once('/').map(|(applet, _)| applet);
    match (section, applet) {
        ("server", _) if key == "KERNEL_PARAMETERS" => None,
        ("server", _) => Some("the section is of LTSP's server"),
        (_, None | Some("init" | "initrd-bottom")) => None,
        (_, Some(_)) => Some("the section is of a program of LTSP that does not run here"),
    }
}

fn rows(assignments: &[Assignment], generation: Generation) -> Vec<Row> {
    let machine =
        Machine { macs: &[ANY_MAC], address: Some(ANY_ADDRESS), hostname: "any", server: Some(ANY_ADDRESS.into()) };
    let mut variables = machine.variables();
    // Twice, since one may use another that comes later.
    for assignment in assignments.iter().chain(assignments) {
        if let Some(text) = expand(&assignment.value, &variables) {
            variables.insert(assignment.key.clone(), text);
        }
    }
    let mut rows: Vec<_> =
        assignments.iter().map(|assignment| row(assignment, &variables, &machine, generation)).collect();
    rows.sort();
    rows
}

fn row(
    assignment: &Assignment,
    variables: &BTreeMap<String, String>,
    machine: &Machine<'_>,
    generation: Generation,
) -> Row {
    let text = expand(&assignment.value, variables);
    let value = Value { assignment: assignment.clone(), text };
    let alone = Values::from([(assignment.key.clone(), value)]);
    let told = alone.values().all(|value| value.text.is_some());
    let translation = translate(&alone, machine, generation, None);
    let wrong = translation.findings.first().map(|finding| finding.message.clone()).or_else(|| {
        let problem = translation.config.check("").into_iter().next();
        problem.map(|problem| problem.message)
    });
    let fate = match (wrong, rule(&assignment.key)) {
        (Some(message), _) => {
            Fate::Wrong(message.strip_prefix(&format!("{}: ", assignment.key)).unwrap_or(&message).to_owned())
        }
        (None, Rule::Fstab) if told && translation.config.mounts.is_empty() && translation.config.swap.is_empty() => {
            Fate::Nothing("it is mounted before the node is configured, or the line says nothing".to_owned())
        }
        (None, _) => omitted(assignment).map_or_else(|| fate(&assignment.key), Fate::Nothing),
    };
    Row { place: assignment.place.clone(), section: assignment.section.clone(), key: assignment.key.clone(), fate }
}

/// Functions that a line omits and that nothing here does.
fn omitted(assignment: &Assignment) -> Option<String> {
    let is_known = |name: &&str| REMOVING_FUNCTIONS.contains(name);
    let unknown: Vec<_> = assignment.value.split_whitespace().filter(|name| !is_known(name)).collect();
    (assignment.key == "OMIT_FUNCTIONS" && !unknown.is_empty())
        .then(|| format!("nothing here does what {} did, so there is nothing to omit", unknown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lts::Source;

    fn fates(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| format!("{} {} {:?}", row.place.line, row.key, row.fate)).collect()
    }

    #[test]
    fn each_line_of_an_lts_conf_has_a_fate() {
        let text = "[default]\nTIMEZONE=Europe/Berlin\nSCREEN_07=ldm\nHOSTS_1=nonsense\nMINE=1\n[pc01]\nLIKE=gone\nHOSTNAME=pc%{IP}\n";
        let conf = LtsConf::parse(Source { name: "lts.conf", text, included: &BTreeMap::new() });
        let fates = fates(&of_lts_conf(&conf));
        assert_eq!(fates[0], "2 TIMEZONE Field(\"timezone\")");
        assert!(fates[1].starts_with("3 SCREEN_07 Nothing(\"it is about desktops"));
        assert_eq!(fates[2], "4 HOSTS_1 Wrong(\"\\\"nonsense\\\" is no address\")");
        assert_eq!(fates[3], "5 MINE Variable");
        assert_eq!(fates[4], "7 LIKE Nothing(\"there is no section [gone]\")");
        assert_eq!(fates[5], "8 HOSTNAME Field(\"hostname\")");
        assert_eq!(fates.len(), 6);
    }

    #[test]
    fn each_line_of_an_ltsp_conf_has_a_fate() {
        let text = "[server]\nNAT=1\nKERNEL_PARAMETERS=quiet\n[clients]\nIMAGE_TO_RAM=1\nPOST_INIT_X=\"section_x\"\nINCLUDE=x\n\
                    [x]\nsed -i s/a/b/ /etc/x\n[login/]\nA=1\n";
        let conf = LtspConf::parse(Source { name: "ltsp.conf", text, included: &BTreeMap::new() });
        let expected = [
            "2 NAT Nothing(\"the section is of LTSP's server\")",
            "3 KERNEL_PARAMETERS Field(\"kernelArguments\")",
            "5 IMAGE_TO_RAM Root",
            "6 POST_INIT_X Script",
            "9 sed -i s/a/b/ /etc/x Script",
            "11 A Nothing(\"the section is of a program of LTSP that does not run here\")",
        ];
        assert_eq!(fates(&of_ltsp_conf(&conf)), expected);
    }
}
