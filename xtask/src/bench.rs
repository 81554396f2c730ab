//! `cargo xtask bench`: benchmarks beside their peers, as commands of the `bench` crate.

use std::path::PathBuf;

use anyhow::Result;

use crate::build::{Profile, build};
use crate::packages::{Purpose, ensure};
use crate::run::{cargo, run as run_command};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which; all if none is named.
    names: Vec<String>,
    /// Also write the rows as JSON into this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How often each side runs.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only the sides whose name and firmware contain this, for example `Bios ours`.
    #[arg(long)]
    only: Option<String>,
}

fn arguments(options: &Options) -> Vec<String> {
    let json = options.json.iter().flat_map(|file| ["--json".to_owned(), file.display().to_string()]);
    let rounds = options.rounds.iter().flat_map(|rounds| ["--rounds".to_owned(), rounds.to_string()]);
    let only = options.only.iter().flat_map(|only| ["--only".to_owned(), only.clone()]);
    options.names.iter().cloned().chain(json).chain(rounds).chain(only).collect()
}

/// Builds with optimisation and runs the benchmarks.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure(Purpose::Test)?;
    let programs = build(Profile::Release)?;
    let mut bench = cargo(&["run", "--release", "--package", "bench", "--"]);
    run_command("bench", bench.env("STOKE_PROGRAMS", programs).args(arguments(options)))
}
