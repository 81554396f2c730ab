//! `stoke plan PATH…`: what `up` would change.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use stoke_api::control::{Apply, Change, Planned};
use stoke_api::load::Loaded;
use stoke_host::LocalStore;
use stoke_host::apply::{ApplyError, Merge, merge};
use stoke_reconcile::{Environment, Observed};

use super::{apply_of, in_files, load};
use crate::cli::Files;
use crate::client::{Client, RefusedError};
use crate::folders::Folders;
use crate::output::{self, Color};

pub(crate) async fn run(folders: &Folders, files: &Files) -> anyhow::Result<ExitCode> {
    let loaded = load(&files.paths)?;
    let apply = apply_of(&loaded)?;
    let client = Client::new(&folders.control_socket())?;
    let planned = if client.is_alive().await? {
        client.plan(&apply).await.map_err(|error| in_files(error, &loaded))?
    } else {
        stopped(folders, &apply).await.map_err(|error| in_files(error, &loaded))?
    };
    output::print(&render(&planned))?;
    Ok(ExitCode::SUCCESS)
}

/// Fails with all that is wrong across the objects of an installation that is not there yet, before anything of it is made.
pub(super) fn check_first(folders: &Folders, loaded: &[Loaded]) -> anyhow::Result<()> {
    if folders.store().exists() {
        return Ok(());
    }
    let nothing = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (store, _) = empty(folders, nothing.path())?;
    merged(&store, &apply_of(loaded)?).map_err(|error| in_files(error, loaded)).map(drop)
}

fn merged(store: &LocalStore, apply: &Apply) -> anyhow::Result<Merge> {
    merge(store, apply).map_err(|error| match error {
        ApplyError::Refused(refused) => RefusedError(refused).into(),
        ApplyError::Store(error) => anyhow::Error::from(error),
    })
}

/// The plan of an installation whose `stoke up` does not run: from its store and what goes on without it, or from nothing.
async fn stopped(folders: &Folders, apply: &Apply) -> anyhow::Result<Planned> {
    let nothing = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (store, observed) = match stoke_host::up::look(folders).await? {
        Some(found) => found,
        None => empty(folders, nothing.path())?,
    };
    let merge = merged(&store, apply)?;
    let changes = stoke_host::apply::changes(&observed.objects, &merge);
    Ok(Planned { changes, steps: stoke_host::plan::steps(folders, &observed, merge.objects).await })
}

/// An installation that has nothing yet.
fn empty(folders: &Folders, store: &Path) -> anyhow::Result<(Arc<LocalStore>, Observed)> {
    let store = LocalStore::open(&store.join("store.redb")).context("cannot make a store")?;
    let environment = Environment {
        installation: folders.installation(),
        state: folders.state.clone(),
        run: folders.run.clone(),
        ..Environment::default()
    };
    Ok((Arc::new(store), Observed { environment, ..Observed::default() }))
}

fn render(planned: &Planned) -> String {
    let changes: Vec<_> = planned.changes.iter().filter(|(_, change)| *change != Change::Unchanged).collect();
    if changes.is_empty() && planned.steps.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let objects = changes.iter().map(|(reference, change)| format!("{} {reference}\n", mark(*change)));
    let steps = planned.steps.iter().map(|step| format!("  {step}\n"));
    objects.chain(steps).collect::<Vec<_>>().concat()
}

/// One word for a change, as `plan` and `up` write it.
pub(crate) fn mark(change: Change) -> String {
    let (color, word) = match change {
        Change::Created => (Color::Green, "create"),
        Change::Updated => (Color::Yellow, "change"),
        Change::Unchanged => (Color::Bold, "keep  "),
        Change::Deleted => (Color::Red, "remove"),
    };
    output::paint(color, word)
}
