//! `stoke completions SHELL`.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::output;

pub(crate) fn run(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stoke", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
