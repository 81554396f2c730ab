//! `ltsp.conf` of LTSP 19.08 and later: sections whose lines are a shell's, and which of them run for a machine.
//!
//! ```text
//! lines before any section, [clients], [common], the MAC address, the address, then the host name that these gave
//! and of the applets `initrd-bottom` and `init`: [init/], [init/MAC], [init/ADDRESS], [init/NAME]
//! ```
//!
//! Names of sections are patterns of a shell's `case`. `INCLUDE=name` runs another section, each of which runs once. Lines
//! that only assign are read here; a section with more in it is run by the node, too, and what that sets is left to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::shell::{Statement, statements, value_of};
use super::translate::{Value, Values};
use super::{Assignment, Machine, Place, Source, pattern};

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LtspConf {
    /// The file itself.
    pub text: Arc<str>,
    /// Its sections; the lines before the first are a section without a name.
    pub sections: Vec<Section>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name in lower case: a pattern.
    pub name: Arc<str>,
    /// Where it begins.
    pub place: Place,
    /// Its lines.
    body: String,
    statements: Vec<Statement>,
}

/// The variables of a machine, and what its node has to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// The variables.
    pub values: Values,
    /// The sections that hold.
    pub sections: Vec<Arc<str>>,
    /// The sections as functions of a shell and the calls of them; `None` if there is nothing that only a shell can tell.
    pub code: Option<String>,
}

/// The applets of LTSP that have something to do here.
const APPLETS: [&str; 2] = ["initrd-bottom", "init"];

/// Sections that only LTSP's server reads; of these keys the iPXE menu was made.
const SERVER: &str = "server";
const MENU_KEYS: [&str; 1] = ["KERNEL_PARAMETERS"];

impl LtspConf {
    /// Reads a file.
    pub fn parse(source: Source<'_>) -> Self {
        let file: Arc<str> = source.name.into();
        let mut conf = Self { text: source.text.into(), ..Self::default() };
        let place = |line| Place { file: file.clone(), line };
        let mut section = Section { name: "".into(), place: place(1), body: String::new(), statements: Vec::new() };
        for (number, line) in (1..).zip(source.text.lines()) {
            if let Some(name) = header(line) {
                let next =
                    Section { name: name.into(), place: place(number), body: String::new(), statements: Vec::new() };
                conf.sections.push(std::mem::replace(&mut section, next));
            } else {
                let _ = writeln!(section.body, "{}", as_shell(line));
            }
        }
        conf.sections.push(section);
        for section in &mut conf.sections {
            section.statements = statements(&section.body);
        }
        conf.sections.retain(|section| !section.name.is_empty() || !section.statements.is_empty());
        conf
    }

    /// The variables that hold for a machine.
    pub fn evaluate(&self, machine: &Machine<'_>) -> Evaluated {
        let mut run =
            Run { conf: self, variables: machine.variables(), out: Evaluated::default(), ran: BTreeSet::new() };
        run.menu();
        let macs = || machine.macs.iter().map(ToString::to_string);
        let address = || machine.address.map(|address| address.to_string());
        let everybody = ["", "clients", "common"].map(str::to_owned);
        for name in everybody.into_iter().chain(macs()).chain(address()) {
            run.call(&name);
        }
        let hostname = run.variables.get("HOSTNAME").map_or(machine.hostname, String::as_str).to_owned();
        run.call(&hostname);
        for applet in APPLETS {
            run.call(&format!("{applet}/"));
            for name in macs().chain(address()).chain([hostname.clone()]) {
                run.call(&format!("{applet}/{name}"));
            }
        }
        let mut out = run.out;
        if self.needs_shell(&out) {
            out.code = Some(self.code());
        }
        out
    }

    /// All lines that assign, whichever section they are in.
    pub fn assignments(&self) -> Vec<Assignment> {
        self.sections.iter().flat_map(Section::assignments).collect()
    }

    /// Statements that are neither assignments nor calls of sections, with the section and what they set.
    pub fn code_lines(&self) -> Vec<(Arc<str>, Place, String)> {
        let code = |section: &Section, statement: &Statement| match statement {
            Statement::Code { text, line, .. } if called(text).is_none() => {
                Some((section.name.clone(), section.at(*line), text.lines().next().unwrap_or_default().to_owned()))
            }
            _ => None,
        };
        self.sections
            .iter()
            .flat_map(|section| section.statements.iter().filter_map(move |statement| code(section, statement)))
            .collect()
    }

    /// Whether a statement calls this section, or a value names it as something to call.
    pub(crate) fn calls(&self, name: &str) -> bool {
        let function = format!("section_{}", identifier(name));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.text.split(|c| !is_name(c)).any(|word| word == function)
    }

    /// Inclusions of sections that are not there.
    pub fn missing_sections(&self) -> Vec<(Arc<str>, Place, String)> {
        let mut missing = Vec::new();
        for section in &self.sections {
            for statement in &section.statements {
                if let Statement::Code { text, line, .. } = statement
                    && let Some(id) = called(text)
                    && self.sections.iter().all(|other| identifier(&other.name) != id)
                {
                    missing.push((section.name.clone(), section.at(*line), id.to_owned()));
                }
            }
        }
        missing
    }

    fn needs_shell(&self, evaluated: &Evaluated) -> bool {
        let untold = evaluated.values.values().any(|value| value.text.is_none());
        let runs = |section: &&Section| evaluated.sections.contains(&section.name);
        let calls = |statement: &Statement| matches!(statement, Statement::Code { text, .. } if called(text).is_none());
        untold
            || self.sections.iter().filter(runs).any(|section| section.statements.iter().any(calls))
            || evaluated
                .values
                .values()
                .any(|value| value.text.as_deref().is_some_and(|text| text.contains("section_")))
    }

    /// The file as LTSP makes a shell read it, in words of this project: a function for each section, which runs once.
    fn code(&self) -> String {
        let mut code = String::new();
        for section in &self.sections {
            let id = identifier(&section.name);
            let _ = writeln!(code, "section_{id}() {{\n[ -z \"$section_{id}\" ] || return 0; section_{id}=1");
            code.push_str(&section.body);
            code.push_str("}\n");
        }
        code.push_str("section_call() {\n    for ltsp_name in \"$@\"; do\n        case \"$ltsp_name\" in\n");
        for section in &self.sections {
            let pattern = if section.name.is_empty() { "''" } else { &*section.name };
            let _ = writeln!(code, "        {pattern}) section_{} ;;", identifier(&section.name));
        }
        code.push_str("        esac\n    done\n}\n");
        code.push_str("section_call '' clients common \"$MAC_ADDRESS\" \"$IP_ADDRESS\"\nsection_call \"$HOSTNAME\"\n");
        code.push_str("section_call init/ \"init/$MAC_ADDRESS\" \"init/$IP_ADDRESS\" \"init/$HOSTNAME\"\n");
        code
    }
}

impl Section {
    fn at(&self, line: usize) -> Place {
        // Lines before the first section begin on the file's first one.
        let offset = if self.name.is_empty() { 0 } else { self.place.line };
        Place { file: self.place.file.clone(), line: offset + line }
    }

    fn assignments(&self) -> Vec<Assignment> {
        let set = |statement: &Statement| match statement {
            Statement::Set { name, word, line } => Some(self.assignment(name, word, *line)),
            Statement::Code { .. } => None,
        };
        self.statements.iter().filter_map(set).collect()
    }

    fn assignment(&self, name: &str, word: &str, line: usize) -> Assignment {
        let inner = word.strip_prefix('"').and_then(|inner| inner.strip_suffix('"'));
        let value = inner.unwrap_or(word).to_owned();
        Assignment { key: name.to_owned(), value, place: self.at(line), section: self.name.clone() }
    }
}

/// An evaluation.
struct Run<'a> {
    conf: &'a LtspConf,
    variables: BTreeMap<String, String>,
    out: Evaluated,
    ran: BTreeSet<String>,
}

impl<'a> Run<'a> {
    /// Runs the first section whose name matches.
    fn call(&mut self, name: &str) {
        let name = name.to_lowercase();
        let is = |section: &&'a Section| {
            *section.name == *name || (!name.is_empty() && pattern::matches_any(&section.name, &name))
        };
        if let Some(section) = self.conf.sections.iter().find(is) {
            self.section(section);
        }
    }

    fn section(&mut self, section: &'a Section) {
        if !self.ran.insert(identifier(&section.name)) {
            return;
        }
        self.out.sections.push(section.name.clone());
        for statement in &section.statements {
            match statement {
                Statement::Set { name, word, line } => self.set(section, name, word, *line),
                Statement::Code { text, line, sets } => match called(text) {
                    Some(id) => self.include(id),
                    None => sets.iter().for_each(|name| self.untold(section, name, *line)),
                },
            }
        }
    }

    fn set(&mut self, section: &Section, name: &str, word: &str, line: usize) {
        let text = value_of(word, &self.variables);
        match &text {
            Some(text) => drop(self.variables.insert(name.to_owned(), text.clone())),
            None => drop(self.variables.remove(name)),
        }
        let assignment = section.assignment(name, word, line);
        self.out.values.insert(name.to_owned(), Value { assignment, text });
    }

    /// A variable that code sets: what it is, only the node knows.
    fn untold(&mut self, section: &Section, name: &str, line: usize) {
        // What code has for itself is no setting.
        if name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return;
        }
        self.variables.remove(name);
        let assignment = section.assignment(name, "", line);
        self.out.values.insert(name.to_owned(), Value { assignment, text: None });
    }

    /// Runs a section by its name as part of a function's; LTSP goes on if there is none.
    fn include(&mut self, id: &str) {
        if let Some(section) = self.conf.sections.iter().find(|section| identifier(&section.name) == id) {
            self.section(section);
        }
    }

    /// What the boot menu was made of: of the server's section, then of the machine's own.
    fn menu(&mut self) {
        let Some(section) = self.conf.sections.iter().find(|section| *section.name == *SERVER) else { return };
        for statement in &section.statements {
            if let Statement::Set { name, word, line } = statement
                && MENU_KEYS.contains(&name.as_str())
            {
                self.set(section, name, word, *line);
            }
        }
    }
}

/// The name of the section that a line begins.
fn header(line: &str) -> Option<String> {
    let (name, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    // `[ "$X" = 1 ] && …` is a shell's: names of sections have neither quotes nor spaces around them.
    let is_name = !name.is_empty() && !name.starts_with(' ') && !name.contains(['"', '\'', '$', '=']);
    is_name.then(|| name.trim().to_lowercase())
}

/// A line as a shell reads it: an inclusion is a call, and there are no spaces around an assignment's sign.
fn as_shell(line: &str) -> String {
    let assignment = line.split_once('=').map(|(name, value)| (name.trim_end_matches(' '), value));
    match assignment {
        Some((name, value)) if name.eq_ignore_ascii_case("include") => {
            format!("section_{}", identifier(value.trim().trim_matches(['"', '\'']).to_lowercase().as_str()))
        }
        Some((name, value)) if super::expand::is_name(name) => format!("{name}={}", value.trim_start_matches(' ')),
        _ => line.to_owned(),
    }
}

/// The section that a statement calls, if it does nothing else.
fn called(code: &str) -> Option<&str> {
    let id = code.trim().strip_prefix("section_")?;
    let is_id = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_id && !["call", "list"].contains(&id)).then_some(id)
}

/// A section's name as part of a function's.
fn identifier(name: &str) -> String {
    if name.is_empty() {
        return "unnamed".to_owned();
    }
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use stoke_api::MacAddr;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0x0a]);

    fn evaluated(text: &str, hostname: &str) -> Evaluated {
        let conf = LtspConf::parse(Source { name: "ltsp.conf", text, included: &BTreeMap::new() });
        let address = Some(Ipv4Addr::new(10, 0, 0, 9));
        let server = Some(Ipv4Addr::new(10, 0, 0, 1).into());
        conf.evaluate(&Machine { macs: &[MAC], address, hostname, server })
    }

    fn values(text: &str, hostname: &str) -> String {
        let evaluated = evaluated(text, hostname);
        let one = |(key, value): (&String, &Value)| format!("{key}={}", value.text.as_deref().unwrap_or("?"));
        evaluated.values.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sections_in_their_order() {
        let text = "Z=unnamed\n[server]\nA=server\n[common]\nA=common\nB=$A-b\n[clients]\nA=clients\nC=clients\n\
                    [52:54:00:00:00:0a]\nC=mac\nHOSTNAME=pc07\n[10.0.0.*]\nD=address\n[pc*]\nE=name\n\
                    [init/]\nF=init\n[login/]\nG=login\n[initrd-bottom/pc07]\nIMAGE_TO_RAM=1\n";
        let expected = "A=common B=common-b C=mac D=address E=name F=init HOSTNAME=pc07 IMAGE_TO_RAM=1 Z=unnamed";
        assert_eq!(values(text, "node"), expected);
        assert_eq!(evaluated(text, "node").code, None);
    }

    #[test]
    fn sections_include_others_once_and_only_the_first_match_counts() {
        let text = "[pc01|pc02]\nINCLUDE=tag_one\nINCLUDE = \"tag-two\"\nINCLUDE=missing\nA=own\n[pc0*]\nA=wide\nB=wide\n\
                    [tag_one]\nA=one\nC=one\nINCLUDE=tag_two\n[tag-two]\nD=two\nINCLUDE=tag_one\n";
        assert_eq!(values(text, "pc02"), "A=own C=one D=two");
        let conf = LtspConf::parse(Source { name: "ltsp.conf", text, included: &BTreeMap::new() });
        let missing: Vec<_> =
            conf.missing_sections().into_iter().map(|(_, place, id)| format!("{place} {id}")).collect();
        assert_eq!(missing, ["ltsp.conf:4 missing"]);
    }

    #[test]
    fn what_code_sets_only_the_node_knows() {
        let text = "[clients]\nA=1\nFSTAB_1=\"$SERVER:/home /home nfs\"\nif [ -e /dev/sdb ]; then\n    A=2\n    tmp=3\nfi\nB=$A\nC=$(date)\n";
        assert_eq!(values(text, "node"), "A=? B=? C=? FSTAB_1=10.0.0.1:/home /home nfs");
        let code = evaluated(text, "node").code.unwrap();
        assert!(code.contains("section_clients() {\n"), "{code}");
        assert!(code.contains("        clients) section_clients ;;\n"), "{code}");
    }

    #[test]
    fn a_test_at_the_beginning_of_a_line_is_no_section() {
        assert_eq!(values("[clients]\n[ -e /x ] && A=1\n[ \"$A\" = 1 ] || B=2\nC=3\n", "node"), "A=? B=? C=3");
    }

    #[test]
    fn kernel_parameters_of_the_menu() {
        let text = "[server]\nKERNEL_PARAMETERS=\"quiet\"\nHOSTNAME=server\n";
        assert_eq!(values(text, "node"), "KERNEL_PARAMETERS=quiet");
    }
}
