//! `stoke-lxc`: an OCI runtime on liblxc, for CRI-O, containerd and podman.
//!
//! - [`cli`] is the command line as those callers write it; [`commands`] leads each verb to the library and prints its answer.
//! - [`log`] is the file that callers read a failure from.
//!
//! The verbs themselves are the crate `stoke-runtime`. What this program never does: stay beside a running container.

mod cli;
mod commands;
mod log;

use std::process::ExitCode;

use clap::Parser as _;
use stoke_runtime::init;

fn main() -> ExitCode {
    // In a container this is the first process, and everything about it was said by the runtime.
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let inside = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [init::CONTAINER, plan] => Some(init::container(plan)),
        [init::JOINED, plan] => Some(init::joined(plan)),
        _ => None,
    };
    if let Some(ended) = inside {
        // Its message went to the runtime, which says it; a container's standard error is not ours to write to.
        return ended.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS);
    }
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let log = log::Log::new(&arguments.global);
    match commands::run(&arguments, &log) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&error.line());
            eprintln!("stoke-lxc: {}", error.line());
            ExitCode::from(error.exit_code())
        }
    }
}
