//! `stoke`: the command line of Stokehold, and every role as `stoke serve ROLE`.
//!
//! What is typed is defined in [`cli`]; each command is one file in [`commands`]; commands that ask a running
//! installation do so through [`client`], its control socket, or through [`cluster`], which chooses. `main` is not asynchronous: `serve` and `ssh` join
//! namespaces first, which a process can only do while it has one thread.
//!
//! What this program never does: decide what runs (`stoke-reconcile` does) or touch links, disks and processes itself.

mod cli;
mod client;
mod cluster;
mod commands;
mod failure;
mod folders;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;

/// Exit code for a command line that makes no sense (`EX_USAGE` of BSD's sysexits).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Nobody is left to be told if this cannot be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    output::choose_color(cli.color);
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::print(&error);
            ExitCode::from(if failure::is_usage(&error) { USAGE } else { 1 })
        }
    }
}
