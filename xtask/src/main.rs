//! The project's own commands: `cargo xtask COMMAND`.
//!
//! - `demo` and `test` are the two commands of the README; they do all the set-up themselves ([`packages`]).
//! - `ci` is the one gate; it is made of `fmt`, `clippy`, `tidy`, `deny`, `test` and `docs`.
//! - [`build`] puts the programs together in one folder, as they would be installed.
//!
//! Read [`Command`] first.

mod bench;
mod build;
mod ci;
mod crds;
mod demo;
mod docs;
mod fuzz;
mod graph;
mod images;
mod packages;
mod run;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Commands for those who try or develop Stokehold.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a diskless machine over the network, on this host, in a namespace.
    Demo(demo::Options),
    /// Run every ring of tests.
    Test(ci::TestOptions),
    /// Run the gate: fmt, clippy, tidy, deny, test, docs.
    Ci,
    /// What the gate has beside the tests: fmt, clippy, tidy, deny, docs.
    Checks,
    /// Check what compilers do not: crate edges, stale generated files, sizes.
    Tidy,
    /// Check licences, sources and duplicate versions of dependencies.
    Deny,
    /// Run benchmarks beside their peers.
    Bench(bench::Options),
    /// Run the fuzz targets, guided by coverage.
    Fuzz(fuzz::Options),
    /// Install what this host lacks (as root), or say what it is.
    Setup,
    /// Build the programs into one folder.
    Build(build::Options),
    /// Make the images of containers that a cluster runs, without a daemon
    Images(images::Options),
    /// Write the generated reference, and the book if mdbook is there.
    Docs,
    /// Write the definitions of all kinds for Kubernetes into the chart.
    Crds,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => ci::test(&options),
        Command::Ci => ci::ci(),
        Command::Checks => ci::checks(),
        Command::Tidy => tidy::run(),
        Command::Deny => ci::deny(),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Setup => packages::ensure(packages::Purpose::Test),
        Command::Build(options) => build::build(options.profile()).map(|folder| println!("{}", folder.display())),
        Command::Images(options) => images::run(&options),
        Command::Docs => docs::run(),
        Command::Crds => crds::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
