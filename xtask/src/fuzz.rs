//! `cargo xtask fuzz`: runs the targets of `test/fuzz` under libFuzzer, guided by coverage.
//!
//! No nightly compiler is needed: the coverage is counted by a pass of LLVM that stable compilers have, too. What is needed is
//! a C++ compiler, for libFuzzer itself. Without one the targets are run on changed inputs, not guided by anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, has_program, root, run as run_command};

/// What cargo-fuzz gives to the compiler, but for the sanitizers, which are of no use to safe code.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";
/// The compiler's name for what this builds for. Named, so that build scripts are not instrumented.
const TRIPLE: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
/// Longest input in bytes.
const LONGEST: u32 = 8192;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which; all if none is named.
    targets: Vec<String>,
    /// Minutes for each of them.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Afterwards put the inputs that reach more code into the corpora that are checked in.
    #[arg(long)]
    merge: bool,
}

/// Runs targets, one after the other. Stops at the first that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = root().join("test/fuzz");
    let known = targets(&folder)?;
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}; there are: {}", known.join(" "));
    }
    let chosen = if options.targets.is_empty() { &known } else { &options.targets };
    if !has_program("c++") {
        eprintln!(
            "There is no C++ compiler (apt-get install g++): inputs are changed without knowing what they reach."
        );
        return unguided(chosen, options.minutes);
    }
    let programs = build(&folder)?;
    for target in chosen {
        guided(target, &programs.join(target), options)?;
    }
    Ok(())
}

/// The targets: each has a program.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(folder.join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Builds the programs, with the versions of all libraries that ship.
fn build(folder: &Path) -> Result<PathBuf> {
    let (package, target) = (folder.join("fuzz"), root().join("target/fuzz"));
    fs_err::copy(root().join("Cargo.lock"), package.join("Cargo.lock"))?;
    let mut command = cargo(&["build", "--release", "--bins", "--target", TRIPLE]);
    command.current_dir(&package).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", COVERAGE);
    run_command("build the targets", &mut command)?;
    Ok(target.join(TRIPLE).join("release"))
}

fn guided(target: &str, program: &Path, options: &Options) -> Result<()> {
    let kept = root().join("target/fuzz-corpus").join(target);
    let found = root().join("target/fuzz-found").join(target);
    for folder in [&kept, &found] {
        fs_err::create_dir_all(folder)?;
    }
    let corpus = root().join("test/fuzz/corpus").join(target);
    let mut command = Command::new(program);
    command.arg(&kept).arg(&corpus).arg(format!("-max_total_time={}", options.minutes * 60));
    command.args([format!("-max_len={LONGEST}"), "-timeout=10".to_owned(), "-rss_limit_mb=2048".to_owned()]);
    command.arg(format!("-artifact_prefix={}/", found.display())).arg("-verbosity=0");
    run_command(&format!("fuzz {target}"), &mut command).with_context(|| {
        format!("the input is in {}; mend what it breaks and put it into {}", found.display(), corpus.display())
    })?;
    if options.merge {
        let mut merge = Command::new(program);
        merge.args(["-merge=1", "-max_len=2048"]).arg(&corpus).arg(&kept);
        run_command(&format!("merge {target}"), &mut merge)?;
    }
    account(target, options.minutes)
}

/// Adds up how long a target ran on this machine.
fn account(target: &str, minutes: u64) -> Result<()> {
    let path = root().join("target/fuzz-corpus").join(format!("{target}.minutes"));
    let before = fs_err::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let total = before.unwrap_or_default() + minutes;
    fs_err::write(&path, format!("{total}\n"))?;
    println!("{target}: {total} minutes on this machine so far");
    Ok(())
}

fn unguided(targets: &[String], minutes: u64) -> Result<()> {
    for target in targets {
        let mut command = cargo(&["run", "--release", "--package", "fuzz", "--", target]);
        run_command(&format!("fuzz {target}"), command.arg((minutes * 60).to_string()))?;
    }
    Ok(())
}
