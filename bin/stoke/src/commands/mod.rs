//! The commands, one file each.

mod completions;
mod config;
mod console;
mod delete;
mod describe;
mod doctor;
mod down;
mod explain;
mod export;
mod farm;
mod get;
mod image;
mod logs;
mod outside;
mod plan;
mod power;
mod probe;
mod reference;
mod rollout;
mod scale;
mod serial;
mod serve;
mod ssh;
mod status;
mod up;

pub(crate) use console::{DETACH, RawTerminal};
pub(crate) use export::of_exports;
pub(crate) use image::ImageName;
pub(crate) use plan::mark;
pub(crate) use ssh::known_to_ssh;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::ObjectRef;
use stoke_api::control::{AppliedFile, Apply, ObjectProblem, PowerAction};
use stoke_api::load::{self, Finding, Loaded};
use stoke_api::objects::Problem;

use crate::cli::{Cli, Command, Farm, Forward};
use crate::cluster::{self, Choice};
use crate::failure::{BadFiles, Failure};
use crate::folders::Folders;

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let folders = || Folders::resolve(cli.state.clone());
    let choice = Choice::of(&cli);
    if let Some(done) = in_cluster(&cli, &choice, folders)? {
        return Ok(done);
    }
    match cli.command {
        Command::Up(files) => up::run(&folders()?, &files),
        Command::Plan(files) => blocking(plan::run(&folders()?, &files)),
        Command::Get(get) => blocking(get::run(&folders()?, &choice, &get)),
        Command::Describe(object) => blocking(describe::run(&folders()?, &choice, &object)),
        Command::Config(config) => blocking(config::run(&folders()?, &config)),
        Command::Status => blocking(status::run(&folders()?)),
        Command::Console(machine) => console::run(&folders()?, &machine),
        Command::Logs(logs) => logs::run(&folders()?, &logs),
        Command::Ssh(ssh) => ssh::run(&folders()?, &ssh),
        Command::Forward(forward) => Err(only_in_cluster(&forward)),
        Command::Scale(scale) => blocking(scale::run(&folders()?, &choice, &scale)),
        Command::Start(objects) => blocking(power::run(&folders()?, &choice, &objects, PowerAction::Start)),
        Command::Stop(objects) => blocking(power::run(&folders()?, &choice, &objects, PowerAction::Stop)),
        Command::Reboot(objects) => blocking(power::run(&folders()?, &choice, &objects, PowerAction::Reboot)),
        Command::Delete(objects) => blocking(delete::run(&folders()?, &choice, &objects)),
        Command::Down(down) => blocking(down::run(&folders()?, &down)),
        Command::Farm(farm) => farm::run(&folders()?, &choice, &farm),
        Command::Rollout(verb) => blocking(rollout::run(&folders()?, &choice, &verb)),
        Command::Export(export) => export::run(&folders()?, &export),
        Command::Explain(explain) => explain::run(&explain.what),
        Command::Doctor => doctor::run(&folders()?),
        Command::Image(verb) => image::run(&folders()?, &verb),
        Command::Completions(completions) => completions::run(completions.shell),
        Command::Probe(probe) => probe::run(&probe),
        Command::Serve(serve) => serve::run(serve),
        Command::Reference { page } => reference::run(page),
    }
}

/// Runs what is done in another way in a cluster, if a cluster is meant; `None` if this host is, or the way is the same.
///
/// What changes this host, or starts something here, does so unless a cluster was asked for in so many words.
fn in_cluster(
    cli: &Cli,
    choice: &Choice,
    folders: impl Fn() -> anyhow::Result<Folders>,
) -> anyhow::Result<Option<ExitCode>> {
    let means_cluster = || parallel(async { choice.means_cluster(&folders()?).await });
    let code = match &cli.command {
        Command::Up(files) if choice.is_cluster() => {
            parallel(async { cluster::apply(&choice.cluster(files.namespace.as_ref()).await?, files, false).await })?
        }
        Command::Plan(files) if choice.is_cluster() => {
            parallel(async { cluster::apply(&choice.cluster(files.namespace.as_ref()).await?, files, true).await })?
        }
        Command::Down(down) if choice.is_cluster() => {
            parallel(async { cluster::down(&choice.cluster(down.namespace.as_ref()).await?, down).await })?
        }
        Command::Console(machine) if means_cluster()? => {
            parallel(async { cluster::console(&choice.cluster(machine.namespace.as_ref()).await?, machine).await })?
        }
        Command::Logs(logs) if means_cluster()? => {
            parallel(async { cluster::logs(&choice.cluster(logs.object.namespace.as_ref()).await?, logs).await })?
        }
        Command::Ssh(ssh) if means_cluster()? => {
            let run = folders()?.run;
            parallel(async { cluster::ssh(&choice.cluster(ssh.namespace.as_ref()).await?, cli, ssh, &run).await })?
        }
        Command::Forward(forward) if means_cluster()? => {
            parallel(async { cluster::forward(choice.cluster(forward.namespace.as_ref()).await?, forward).await })?
        }
        Command::Export(export) if means_cluster()? => {
            parallel(async { export::of_cluster(&choice.cluster(None).await?, export).await })?
        }
        Command::Config(_) => return choice.only_here("config").map(|()| None),
        Command::Status => return choice.only_here("status").map(|()| None),
        Command::Farm(farm) if !matches!(farm, Farm::Enroll(_)) => return choice.only_here("farm").map(|()| None),
        Command::Image(_) => return choice.only_here("image").map(|()| None),
        _ => return Ok(None),
    };
    Ok(Some(code))
}

fn only_in_cluster(forward: &Forward) -> anyhow::Error {
    let hint = format!("on this host: stoke ssh {} -- …; or name a cluster with --target or --context", forward.name);
    Failure::hinted("ports are forwarded through a cluster's routers, and no cluster is meant here", hint)
}

/// Runs a conversation with a cluster: streams are carried beside it.
fn parallel<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start")?.block_on(work)
}

/// Runs a short conversation with an installation: one thread is enough, and it is gone afterwards.
fn blocking<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(work)
}

/// Loads files, or fails with everything that is wrong in them.
pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Loaded>> {
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
pub(crate) fn in_files(error: anyhow::Error, loaded: &[Loaded]) -> anyhow::Error {
    match crate::client::findings(&error, loaded) {
        Some(findings) => BadFiles(findings).into(),
        None => error,
    }
}
