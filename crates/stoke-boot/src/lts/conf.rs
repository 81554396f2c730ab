//! A farm's configuration of LTSP, of either generation.

use stoke_api::objects::FarmSpec;

use super::lts_conf::LtsConf;
use super::ltsp_conf::LtspConf;
use super::report::{self, Row};
use super::translate::{Generation, Translation, known_values, translate};
use super::{Finding, Machine, Source};

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
        let five = farm.lts_conf.as_ref().map(|file| (file, "lts.conf", Generation::Five));
        let later = || farm.ltsp_conf.as_ref().map(|file| (file, "ltsp.conf", Generation::Later));
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

    /// What it means for a machine.
    pub fn translate(&self, machine: &Machine<'_>) -> Translation {
        match self {
            Self::Five(conf) => {
                let values = known_values(&conf.resolve(machine), machine);
                translate(&values, machine, Generation::Five, None)
            }
            Self::Later(conf) => {
                let evaluated = conf.evaluate(machine);
                let code = evaluated.code.as_deref();
                let mut out = translate(&evaluated.values, machine, Generation::Later, code);
                out.findings.extend(evaluated.findings);
                out
            }
        }
    }

    /// What cannot be understood, whichever machine it is for.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Five(conf) => &conf.findings,
            Self::Later(_) => &[],
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
