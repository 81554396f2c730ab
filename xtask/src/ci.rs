//! The gate, and the rings of tests.

use anyhow::{Context as _, Result};

use crate::build::{Profile, build};
use crate::packages::{Purpose, ensure};
use crate::run::{cargo, has_program, run};
use crate::{docs, tidy};

/// Version of cargo-deny that the gate uses.
const CARGO_DENY: &str = "0.20.2";

/// Options of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub(crate) struct TestOptions {
    /// Only the tests whose name contains this.
    filter: Option<String>,
    /// Without the tests that boot whole guests.
    #[arg(long)]
    quick: bool,
}

/// Every ring: units, snapshots, components against real peers, and real guests end to end.
pub(crate) fn test(options: &TestOptions) -> Result<()> {
    ensure(Purpose::Test)?;
    let programs = build(Profile::Dev)?;
    let filter = options.filter.iter().map(String::as_str);
    let mut rings = cargo(&["test", "--workspace", "--exclude", "e2e", "--no-fail-fast", "--"]);
    rings.env("RUST_BACKTRACE", "0");
    let crates = run("tests of the crates", rings.env("STOKE_PROGRAMS", &programs).args(filter.clone()));
    if options.quick {
        return crates;
    }
    // Guests under emulation each need a processor, and most tests have one guest.
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(2));
    let mut guests = cargo(&["test", "--package", "e2e", "--no-fail-fast", "--"]);
    // What a test says is shown if it fails, after all others, and in lines of its own and not in frames of the harness.
    guests.env("RUST_BACKTRACE", "0");
    guests.arg(format!("--test-threads={threads}"));
    // Whoever reads the outcome wants to see both rings.
    run("tests with real guests", guests.env("STOKE_PROGRAMS", &programs).args(filter)).and(crates)
}

/// The one gate.
pub(crate) fn ci() -> Result<()> {
    test(&TestOptions::default())?;
    checks()
}

/// What the gate has beside the tests.
pub(crate) fn checks() -> Result<()> {
    run("fmt", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    run("clippy", &mut cargo(&clippy))?;
    tidy::run()?;
    deny()?;
    docs::check()
}

/// Licences, sources, duplicate versions. The tool is built once, into the cache.
pub(crate) fn deny() -> Result<()> {
    let tools = testbed::cache().join("tools");
    let program = tools.join("bin/cargo-deny");
    if !has_program("cargo-deny") && !program.exists() {
        let mut install = cargo(&["install", "--locked", "--version", CARGO_DENY, "cargo-deny", "--root"]);
        run("build cargo-deny, once", install.arg(&tools))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([tools.join("bin")]);
    let path = std::env::join_paths(folders).context("PATH cannot be extended")?;
    // The advisory database is a git repository; where it can be reached, `cargo deny check advisories` is run by hand.
    run("deny", cargo(&["deny", "check", "bans", "licenses", "sources"]).env("PATH", path))
}
