//! `lts.conf` of LTSP 5: sections of `KEY = value`, and which of them hold for a machine.
//!
//! ```text
//! lowest   [default]
//!          the first wildcard section that matches the host name, then the address, then the MAC address
//!          the sections that LIKE names, and those that they name
//! highest  the first section that is called as the host name, the address or the MAC address
//! ```
//!
//! A section inherits what its `LIKE` names before its own lines count. `NONE` as a value takes the variable away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pattern;
use super::{Assignment, Finding, Machine, Place, Source};

/// How many files may be included in all.
const MAX_INCLUDES: usize = 10;
/// The section that holds for every machine.
const DEFAULT: &str = "default";

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LtsConf {
    /// The file itself.
    pub text: Arc<str>,
    /// Its sections in the order in which they begin. Two of the same name are both here.
    pub sections: Vec<Section>,
    /// What is wrong in it.
    pub findings: Vec<Finding>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name in lower case; empty for lines before the first section.
    pub name: Arc<str>,
    /// Where it begins.
    pub place: Place,
    /// What it sets, `LIKE` too, in the order of the lines.
    pub assignments: Vec<Assignment>,
}

/// The values of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// By variable, what it is set to and where.
    pub values: BTreeMap<String, Assignment>,
    /// The sections that hold, the lowest first.
    pub sections: Vec<Arc<str>>,
}

impl LtsConf {
    /// Reads a file with all that it includes. What cannot be understood is left out and found.
    pub fn parse(source: Source<'_>) -> Self {
        let mut reader = Reader {
            source,
            conf: Self { text: source.text.into(), ..Self::default() },
            including: Vec::new(),
            includes: 0,
        };
        reader.file(source.name, source.text);
        reader.conf
    }

    /// The values that hold for a machine.
    pub fn resolve(&self, machine: &Machine<'_>) -> Resolved {
        let names = Names::of(machine);
        let mut resolved = Resolved::default();
        let mut applied = BTreeSet::new();
        self.apply(DEFAULT, &mut resolved, &mut applied);
        let wildcards = names.each().into_iter().filter_map(|identities| self.first_wildcard(identities));
        for name in wildcards.collect::<Vec<_>>() {
            self.apply(&name, &mut resolved, &mut applied);
        }
        let exact = names.all().find(|name| self.sections.iter().any(|section| *section.name == **name));
        if let Some(name) = exact {
            // The machine's own section counts last, even if a wider one has inherited it.
            applied.remove(name);
            self.apply(name, &mut resolved, &mut applied);
        }
        resolved.values.retain(|_, assignment| !assignment.value.eq_ignore_ascii_case("none"));
        resolved
    }

    fn first_wildcard(&self, identities: &[String]) -> Option<Arc<str>> {
        let holds = |section: &&Section| {
            pattern::is_pattern(&section.name) && identities.iter().any(|name| pattern::matches(&section.name, name))
        };
        self.sections.iter().find(holds).map(|section| section.name.clone())
    }

    /// Applies the sections of a name, those that they are like first. Each counts once, so that a circle ends.
    fn apply(&self, name: &str, resolved: &mut Resolved, applied: &mut BTreeSet<String>) {
        if !applied.insert(name.to_owned()) {
            return;
        }
        for section in self.sections.iter().filter(|section| *section.name == *name) {
            for like in section.assignments.iter().filter(|assignment| assignment.key == "LIKE") {
                for parent in words(&like.value) {
                    self.apply(&parent, resolved, applied);
                }
            }
            let own = section.assignments.iter().filter(|assignment| assignment.key != "LIKE");
            resolved.values.extend(own.map(|assignment| (assignment.key.clone(), assignment.clone())));
            resolved.sections.push(section.name.clone());
        }
    }
}

/// Names of sections in a value of `LIKE`.
pub(crate) fn words(value: &str) -> impl Iterator<Item = String> {
    value.split([' ', '\t', ',']).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The names by which sections may call a machine, in lower case.
struct Names {
    hostname: Vec<String>,
    address: Vec<String>,
    macs: Vec<String>,
}

impl Names {
    fn of(machine: &Machine<'_>) -> Self {
        let short = machine.hostname.split('.').next().unwrap_or_default();
        let mut hostname = vec![machine.hostname.to_lowercase()];
        if short != machine.hostname {
            hostname.push(short.to_lowercase());
        }
        hostname.retain(|name| !name.is_empty());
        let address = machine.address.iter().map(ToString::to_string).collect();
        Self { hostname, address, macs: machine.macs.iter().map(ToString::to_string).collect() }
    }

    fn each(&self) -> [&[String]; 3] {
        [&self.hostname, &self.address, &self.macs]
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.hostname.iter().chain(&self.address).chain(&self.macs)
    }
}

struct Reader<'a> {
    source: Source<'a>,
    conf: LtsConf,
    /// The files that are being read, the innermost last.
    including: Vec<String>,
    includes: usize,
}

impl Reader<'_> {
    fn file(&mut self, name: &str, text: &str) {
        self.including.push(name.to_owned());
        let file: Arc<str> = name.into();
        for (number, line) in (1..).zip(text.lines()) {
            self.line(line.trim(), &Place { file: file.clone(), line: number });
        }
        self.including.pop();
    }

    fn line(&mut self, line: &str, place: &Place) {
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        if let Some(rest) = line.strip_prefix('[') {
            return match rest.split_once(']') {
                Some((name, _)) => self.begin(&name.trim().to_lowercase(), place),
                None => self.found(place, format!("{line:?} begins a section and does not end it: ] is missing")),
            };
        }
        if let Some(file) = included(line) {
            return self.include(&file, place);
        }
        let Some((key, value)) = line.split_once('=') else {
            return self.found(place, format!("{line:?} is neither KEY = value nor a section"));
        };
        let key = key.trim().to_uppercase();
        if !super::expand::is_name(&key) {
            return self.found(place, format!("{key:?} is no name of a variable"));
        }
        match value_of(value.trim()) {
            Ok(value) => self.assign(key, value, place),
            Err(message) => self.found(place, format!("{key}: {message}")),
        }
    }

    fn begin(&mut self, name: &str, place: &Place) {
        if name.is_empty() {
            self.found(place, "this section has no name".to_owned());
        }
        self.conf.sections.push(Section { name: name.into(), place: place.clone(), assignments: Vec::new() });
    }

    fn assign(&mut self, key: String, value: String, place: &Place) {
        if self.conf.sections.is_empty() {
            self.found(place, format!("{key} is set before the first section, so it holds for no machine"));
            self.conf.sections.push(Section { name: "".into(), place: place.clone(), assignments: Vec::new() });
        }
        if let Some(section) = self.conf.sections.last_mut() {
            let name = section.name.clone();
            section.assignments.push(Assignment { key, value, place: place.clone(), section: name });
        }
    }

    fn include(&mut self, file: &str, place: &Place) {
        if self.including.iter().any(|open| open == file) {
            // A circle: LTSP goes on without it.
            return;
        }
        if self.includes == MAX_INCLUDES {
            return self.found(place, format!("{file} is not included: {MAX_INCLUDES} files are already"));
        }
        self.includes += 1;
        match self.source.included.get(file) {
            Some(text) => self.file(file, text),
            None => self.found(place, format!("{file} is included and was not given")),
        }
    }

    fn found(&mut self, place: &Place, message: String) {
        self.conf.findings.push(Finding { place: place.clone(), message });
    }
}

/// The file that a line includes: `include FILE` or `INCLUDE = FILE`, with or without quotes.
fn included(line: &str) -> Option<String> {
    let (word, rest) = line.split_at_checked("include".len())?;
    let rest = rest.strip_prefix([' ', '\t', '=', '"', '\'']).map(|_| rest)?;
    if !word.eq_ignore_ascii_case("include") {
        return None;
    }
    let file = rest.trim_start_matches(|c: char| c == '=' || c.is_whitespace()).trim();
    let file = file.trim_matches(['"', '\'']).trim();
    (!file.is_empty()).then(|| file.to_owned())
}

/// The files that a text includes, for whoever has to read them.
pub fn includes(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| included(line.trim())).collect()
}

/// A value without its quotes and without the comment behind it.
fn value_of(text: &str) -> Result<String, String> {
    for quote in ['"', '\''] {
        let Some(inside) = text.strip_prefix(quote) else { continue };
        let Some((value, rest)) = inside.split_once_unescaped(quote) else {
            return Err(format!("the quote {quote} does not end on this line"));
        };
        let rest = rest.trim();
        return if rest.is_empty() || rest.starts_with('#') {
            Ok(value.to_owned())
        } else {
            Err(format!("{rest:?} stands behind the closing quote"))
        };
    }
    let mut after_space = true;
    let mut value = String::new();
    for c in text.chars() {
        if c == '#' && after_space {
            break;
        }
        after_space = c.is_whitespace();
        value.push(c);
    }
    Ok(value.trim_end().to_owned())
}

trait SplitUnescaped {
    /// Splits at the first such character that has no backslash before it.
    fn split_once_unescaped(&self, at: char) -> Option<(&str, &str)>;
}

impl SplitUnescaped for str {
    fn split_once_unescaped(&self, at: char) -> Option<(&str, &str)> {
        let mut escaped = false;
        for (index, c) in self.char_indices() {
            if c == at && !escaped {
                return Some((self.get(..index)?, self.get(index + c.len_utf8()..)?));
            }
            escaped = c == '\\' && !escaped;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use stoke_api::MacAddr;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0x0a]);

    fn parsed(text: &str, included: &[(&str, &str)]) -> LtsConf {
        let included = included.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        LtsConf::parse(Source { name: "lts.conf", text, included: &included })
    }

    fn values(conf: &LtsConf, hostname: &str, address: [u8; 4]) -> String {
        let address = Some(Ipv4Addr::from(address));
        let machine = Machine { macs: &[MAC], address, hostname, server: None };
        let resolved = conf.resolve(&machine);
        let words: Vec<_> = resolved.values.iter().map(|(key, set)| format!("{key}={}", set.value)).collect();
        words.join(" ")
    }

    fn findings(conf: &LtsConf) -> Vec<String> {
        conf.findings.iter().map(|finding| format!("{} {}", finding.place, finding.message)).collect()
    }

    #[test]
    fn keys_values_quotes_and_comments() {
        let text = "# farm\n[default]\n  timezone = Europe/Berlin   # here\nA=\"x # y\"  # z\nb = 'c \"d\"'\nC=\nD=a#b\n\
                    E=\"say \\\"hi\\\"\"\n";
        let conf = parsed(text, &[]);
        let expected = "A=x # y B=c \"d\" C= D=a#b E=say \\\"hi\\\" TIMEZONE=Europe/Berlin";
        assert_eq!(values(&conf, "n", [10, 0, 0, 9]), expected);
        assert_eq!(findings(&conf), [""; 0]);
    }

    #[test]
    fn from_the_default_to_the_machines_own_section() {
        let text = "[Default]\nA=default\nB=default\nC=default\nD=default\nE=default\n\
                    [52:54:00:*]\nC=mac-wildcard\nD=mac-wildcard\n\
                    [pc*]\nB=name-wildcard\nC=name-wildcard\n\
                    [pc-*]\nB=second-wildcard\n\
                    [52:54:00:00:00:0A]\nLIKE=rack\nE=own\n\
                    [rack]\nD=rack\nE=rack\n";
        let conf = parsed(text, &[]);
        let expected = "A=default B=name-wildcard C=mac-wildcard D=rack E=own";
        assert_eq!(values(&conf, "pc-1", [10, 0, 0, 9]), expected);
        assert_eq!(values(&conf, "other", [10, 0, 0, 9]), "A=default B=default C=mac-wildcard D=rack E=own");
    }

    #[test]
    fn of_three_exact_sections_the_host_names_comes_first() {
        let text = "[52:54:00:00:00:0a]\nA=mac\n[10.0.0.9]\nA=address\n[pc-1]\nA=name\n";
        let conf = parsed(text, &[]);
        assert_eq!(values(&conf, "PC-1.lab.internal", [10, 0, 0, 9]), "A=name");
        assert_eq!(values(&conf, "pc-2", [10, 0, 0, 9]), "A=address");
        assert_eq!(values(&conf, "pc-2", [10, 0, 0, 8]), "A=mac");
    }

    #[test]
    fn sections_are_like_others_in_a_circle_too_and_none_takes_away() {
        let text = "[default]\nA=1\n[pc-1]\nLIKE = one, missing\nB=own\n[one]\nLIKE=two\nC=one\n[two]\nLIKE=one\nC=two\nA=none\n";
        assert_eq!(values(&parsed(text, &[]), "pc-1", [10, 0, 0, 9]), "B=own C=one");
    }

    #[test]
    fn files_are_included_where_the_line_is_and_circles_are_ignored() {
        let common = "A=common\ninclude lts.conf\n[pc-1]\nB=common\n";
        let conf =
            parsed("[default]\nA=1\nINCLUDE = \"common.conf\"\ninclude missing.conf\n", &[("common.conf", common)]);
        assert_eq!(values(&conf, "pc-1", [10, 0, 0, 9]), "A=common B=common");
        assert_eq!(findings(&conf), ["lts.conf:4 missing.conf is included and was not given"]);
        assert_eq!(includes("[default]\nINCLUDE = \"common.conf\"\nincluded=1\n"), ["common.conf"]);
    }

    #[test]
    fn more_files_than_ten_are_refused() {
        let text = (0..12).fold("[default]\n".to_owned(), |text, n| text + &format!("include f{n}\n"));
        let files: Vec<_> = (0..12).map(|n| (format!("f{n}"), format!("K{n}=1\n"))).collect();
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let conf = parsed(&text, &files);
        assert_eq!(findings(&conf).len(), 2);
        assert!(findings(&conf)[0].starts_with("lts.conf:12 f10 is not included: 10 files"));
    }

    #[test]
    fn what_cannot_be_understood_is_found_with_its_line() {
        let conf = parsed("X=1\n[default\nnonsense\n[default]\n1A=2\nB=\"open\nC=\"x\" y\n", &[]);
        let expected = [
            "lts.conf:1 X is set before the first section, so it holds for no machine",
            "lts.conf:2 \"[default\" begins a section and does not end it: ] is missing",
            "lts.conf:3 \"nonsense\" is neither KEY = value nor a section",
            "lts.conf:5 \"1A\" is no name of a variable",
            "lts.conf:6 B: the quote \" does not end on this line",
            "lts.conf:7 C: \"y\" stands behind the closing quote",
        ];
        assert_eq!(findings(&conf), expected);
    }
}
