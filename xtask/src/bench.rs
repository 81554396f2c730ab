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
}

fn arguments(options: &Options) -> Vec<String> {
    let json = options.json.iter().flat_map(|file| ["--json".to_owned(), file.display().to_string()]);
    options.names.iter().cloned().chain(json).collect()
}

/// Builds with optimisation and runs the benchmarks.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure(Purpose::Test)?;
    let programs = build(Profile::Release)?;
    let mut bench = cargo(&["run", "--release", "--package", "bench", "--"]);
    run_command("bench", bench.env("STOKE_PROGRAMS", programs).args(arguments(options)))
}
