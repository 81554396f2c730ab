//! The commands, one file each.

mod completions;
mod config;
mod console;
mod delete;
mod describe;
mod doctor;
mod down;
mod explain;
mod farm;
mod get;
mod image;
mod logs;
mod outside;
mod plan;
mod power;
mod reference;
mod rollout;
mod serial;
mod serve;
mod ssh;
mod status;
mod up;

pub(crate) use image::ImageName;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::ObjectRef;
use stoke_api::control::{AppliedFile, Apply, ObjectProblem, PowerAction};
use stoke_api::load::{self, Finding, Loaded};
use stoke_api::objects::Problem;

use crate::cli::{Cli, Command};
use crate::failure::BadFiles;
use crate::folders::Folders;

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let folders = || Folders::resolve(cli.state.clone());
    match cli.command {
        Command::Up(files) => up::run(&folders()?, &files),
        Command::Plan(files) => blocking(plan::run(&folders()?, &files)),
        Command::Get(get) => blocking(get::run(&folders()?, &get)),
        Command::Describe(object) => blocking(describe::run(&folders()?, &object)),
        Command::Config(config) => blocking(config::run(&folders()?, &config)),
        Command::Status => blocking(status::run(&folders()?)),
        Command::Console(machine) => console::run(&folders()?, &machine),
        Command::Logs(logs) => logs::run(&folders()?, &logs),
        Command::Ssh(ssh) => ssh::run(&folders()?, &ssh),
        Command::Start(objects) => blocking(power::run(&folders()?, &objects, PowerAction::Start)),
        Command::Stop(objects) => blocking(power::run(&folders()?, &objects, PowerAction::Stop)),
        Command::Reboot(objects) => blocking(power::run(&folders()?, &objects, PowerAction::Reboot)),
        Command::Delete(objects) => blocking(delete::run(&folders()?, &objects)),
        Command::Down(down) => blocking(down::run(&folders()?, &down)),
        Command::Farm(farm) => farm::run(&folders()?, &farm),
        Command::Rollout(verb) => blocking(rollout::run(&folders()?, &verb)),
        Command::Explain(explain) => explain::run(&explain.what),
        Command::Doctor => doctor::run(&folders()?),
        Command::Image(verb) => image::run(&folders()?, &verb),
        Command::Completions(completions) => completions::run(completions.shell),
        Command::Serve(serve) => serve::run(serve),
        Command::Reference { page } => reference::run(page),
    }
}

/// Runs a short conversation with an installation: one thread is enough, and it is gone afterwards.
fn blocking<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(work)
}

/// Loads files, or fails with everything that is wrong in them.
fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Loaded>> {
    let (mut loaded, mut findings) = load::load_what_is_whole(paths);
    outside::pin(&mut loaded);
    if findings.is_empty() {
        return Ok(loaded);
    }
    findings.extend(found_between(&loaded));
    findings.sort_by(|a, b| (&a.path, a.at).cmp(&(&b.path, b.at)));
    Err(BadFiles(findings).into())
}

/// What is wrong between the objects that could be read, so that mending the others does not bring new trouble to light.
fn found_between(loaded: &[Loaded]) -> Vec<Finding> {
    let objects = loaded.iter().flat_map(|loaded| &loaded.objects);
    let objects: BTreeMap<_, _> = objects.map(|(object, _)| (object.reference(), object.clone())).collect();
    let objects: Vec<_> = objects.into_values().collect();
    let found = stoke_reconcile::check_between(&objects).into_iter();
    let located = |(object, problem): (ObjectRef, Problem)| {
        load::locate(loaded, &ObjectProblem { object, field: problem.field, message: problem.message })
    };
    found.filter_map(located).collect()
}

/// Files as the control socket takes them.
fn apply_of(loaded: &[Loaded]) -> anyhow::Result<Apply> {
    let file = |loaded: &Loaded| {
        let objects = loaded.objects.iter().map(|(object, _)| object.clone()).collect();
        Ok(AppliedFile { path: fs_err::canonicalize(&loaded.path)?, objects })
    };
    Ok(Apply { files: loaded.iter().map(file).collect::<anyhow::Result<_>>()? })
}

/// An error of the installation about objects, said in the words of their files.
fn in_files(error: anyhow::Error, loaded: &[Loaded]) -> anyhow::Error {
    match crate::client::findings(&error, loaded) {
        Some(findings) => BadFiles(findings).into(),
        None => error,
    }
}
