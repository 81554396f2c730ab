//! The gate, and the rings of tests.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::build::{Profile, build};
use crate::packages::{Purpose, ensure};
use crate::run::{cargo, has_program, run};
use crate::{demo, docs, images, tidy};

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
    /// Only the rings that have a cluster, with this version of Kubernetes; it is built once, which takes minutes.
    #[arg(long, value_parser = testbed::KUBERNETES_VERSIONS)]
    kubernetes: Option<String>,
    /// Also the rolling update of two nodes that have joined a cluster, and the demonstration in one, whose image is built there:
    /// fifteen minutes.
    #[arg(long)]
    long: bool,
}

/// What is left out without `--long`: the same steps are in the gate against a real API server, with nodes that are not there.
const LONG: &str = "rolling::";

/// The packages whose tests start an API server or a kubelet, beside those in real clusters.
const WITH_CLUSTERS: [&str; 3] = ["testbed", "stoke-kube", "stoke-node"];

/// Every ring: units, snapshots, components against real peers, real guests end to end, and the same in real clusters.
pub(crate) fn test(options: &TestOptions) -> Result<()> {
    ensure(Purpose::Test)?;
    let programs = build(Profile::Dev)?;
    let filter = options.filter.iter().map(String::as_str);
    let arguments: Vec<_> = if options.long {
        filter.clone().collect()
    } else {
        ["--skip", LONG].into_iter().chain(filter.clone()).collect()
    };
    if let Some(version) = &options.kubernetes {
        return with_kubernetes(version, &programs, options.quick, &arguments);
    }
    let mut rings = cargo(&["test", "--workspace", "--exclude", "e2e", "--exclude", "cluster", "--no-fail-fast", "--"]);
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
    let guests = run("tests with real guests", guests.env("STOKE_PROGRAMS", &programs).args(filter.clone()));
    // Whoever reads the outcome wants to see all rings.
    let clusters = clusters(&programs, None, &arguments);
    let demonstration = if options.long && options.filter.is_none() { demo::in_a_cluster() } else { Ok(()) };
    demonstration.and(clusters).and(guests).and(crates)
}

/// What has a cluster, with another version of Kubernetes than the usual one.
fn with_kubernetes(version: &str, programs: &Path, quick: bool, arguments: &[&str]) -> Result<()> {
    let packages = WITH_CLUSTERS.iter().flat_map(|package| ["--package", package]);
    let mut rings = cargo(&["test", "--no-fail-fast"]);
    rings.args(packages).arg("--").args(arguments).env("RUST_BACKTRACE", "0");
    rings.env(testbed::KUBERNETES_VERSION, version).env("STOKE_PROGRAMS", programs);
    let crates = run(&format!("tests of the crates with Kubernetes {version}"), &mut rings);
    if quick { crates } else { clusters(programs, Some(version), arguments).and(crates) }
}

/// Real clusters with the chart in them, and our images as they are made for others. One test at a time: each has a cluster
/// of its own, and a guest.
fn clusters(programs: &Path, kubernetes: Option<&str>, arguments: &[&str]) -> Result<()> {
    let images = images::make_for_tests(programs)?;
    let mut tests = cargo(&["test", "--package", "cluster", "--no-fail-fast", "--", "--test-threads=1"]);
    tests.env("RUST_BACKTRACE", "0").env("STOKE_PROGRAMS", programs).env("STOKE_IMAGES", images);
    tests.envs(kubernetes.map(|version| (testbed::KUBERNETES_VERSION, version)));
    run("tests in real clusters", tests.args(arguments))
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
