//! A farm's configuration of LTSP, of either generation.

use stoke_api::objects::{Compatibility, FarmSpec, FileEntry, FileMode, LtspFile};

use super::keys::{Fate, fate, likes};
use super::lts_conf::LtsConf;
use super::ltsp_conf::LtspConf;
use super::report::{self, Row};
use super::translate::{Generation, Translation, known_values, translate};
use super::{Assignment, Finding, Machine, Place, Source, is_true};

/// Where the node has its file.
const FIVE: &str = "/etc/lts.conf";
const LATER: &str = "/etc/ltsp/ltsp.conf";

/// A parsed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conf {
    /// Of LTSP 5.
    Five(LtsConf),
    /// Of later versions.
    Later(LtspConf),
}

impl Conf {
    /// That of a farm, if it has one.
    pub fn of_farm(farm: &FarmSpec) -> Option<Self> {
        Self::of_files(farm.lts_conf.as_ref(), farm.ltsp_conf.as_ref())
    }

    /// The one that is there: of LTSP 5, or of a later one.
    pub fn of_files(lts: Option<&LtspFile>, ltsp: Option<&LtspFile>) -> Option<Self> {
        let five = lts.map(|file| (file, "lts.conf", Generation::Five));
        let later = || ltsp.map(|file| (file, "ltsp.conf", Generation::Later));
        let (text, name, generation) = five.or_else(later)?;
        let content = text.content.as_deref()?;
        Some(Self::parse(generation, Source { name: &text.name(name), text: content, included: &text.included }))
    }

    /// Reads one.
    pub fn parse(generation: Generation, source: Source<'_>) -> Self {
        match generation {
            Generation::Five => Self::Five(LtsConf::parse(source)),
            Generation::Later => Self::Later(LtspConf::parse(source)),
        }
    }

    /// What it means for a machine. The node has the file, too, where LTSP has it.
    pub fn translate(&self, machine: &Machine<'_>) -> Translation {
        let (mut out, path, text) = match self {
            Self::Five(conf) => {
                let values = known_values(&conf.resolve(machine), machine);
                (translate(&values, machine, Generation::Five, None), FIVE, &conf.text)
            }
            Self::Later(conf) => {
                let evaluated = conf.evaluate(machine);
                let code = evaluated.code.as_deref();
                (translate(&evaluated.values, machine, Generation::Later, code), LATER, &conf.text)
            }
        };
        let is_empty = text.trim().is_empty();
        out.config.compatibility = Some(if is_empty { Compatibility::LtspOfImage } else { Compatibility::Ltsp });
        if !is_empty {
            // It may name tokens: LTSP served it to whoever asked, but on the node it is root's.
            let (path, content, mode) = (path.to_owned(), Some(text.to_string()), Some(FileMode(0o600)));
            out.config.files.push(FileEntry { path, content, mode, ..FileEntry::default() });
        }
        out
    }

    /// What cannot be understood, whichever machine it is for.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Five(conf) => &conf.findings,
            Self::Later(_) => &[],
        }
    }

    /// A line that keeps roots on local drives, if there is one.
    pub fn keeps_on_drive(&self) -> Option<Place> {
        let all: Vec<_> = match self {
            Self::Five(conf) => conf.sections.iter().flat_map(|section| &section.assignments).cloned().collect(),
            Self::Later(conf) => conf.assignments(),
        };
        let keeps = |assignment: &Assignment| assignment.key == "LTSP_NBD_TO_DRIVE" && is_true(&assignment.value);
        all.into_iter().find(keeps).map(|assignment| assignment.place)
    }

    /// Whether another section takes this one in: by `LIKE`, or by calling it.
    pub fn calls(&self, section: &str) -> bool {
        match self {
            Self::Five(conf) => conf
                .sections
                .iter()
                .flat_map(|other| &other.assignments)
                .filter(|assignment| fate(&assignment.key) == Fate::Selects)
                .any(|assignment| likes(&assignment.value).iter().any(|name| name == section)),
            Self::Later(conf) => conf.calls(section),
        }
    }

    /// What becomes of each line.
    pub fn report(&self) -> Vec<Row> {
        match self {
            Self::Five(conf) => report::of_lts_conf(conf),
            Self::Later(conf) => report::of_ltsp_conf(conf),
        }
    }
}
