//! `stoke plan PATH…`: what `up` would change.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::control::{Apply, Change, Planned};
use stoke_host::apply::{ApplyError, merge};
use stoke_host::{LocalStore, Store as _};
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
        stopped(folders, &apply).map_err(|error| in_files(error, &loaded))?
    };
    output::print(&render(&planned))?;
    Ok(ExitCode::SUCCESS)
}

/// The plan of an installation that does not run: from its store, or from nothing if there is none.
fn stopped(folders: &Folders, apply: &Apply) -> anyhow::Result<Planned> {
    let nothing = tempfile::tempdir().context("cannot make a temporary folder")?;
    let there = folders.store();
    let path = if there.exists() { there } else { nothing.path().join("store.redb") };
    let store = LocalStore::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let merge = merge(&store, apply).map_err(|error| match error {
        ApplyError::Refused(refused) => RefusedError(refused).into(),
        ApplyError::Store(error) => anyhow::Error::from(error),
    })?;
    let current = store.list()?;
    let changes = stoke_host::apply::changes(&current, &merge);
    let environment = Environment {
        installation: folders.installation(),
        state: folders.state.clone(),
        run: folders.run.clone(),
        ..Environment::default()
    };
    let observed = Observed { objects: current, workloads: BTreeMap::new(), environment };
    Ok(Planned { changes, steps: stoke_host::plan::steps(&observed, merge.objects) })
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
pub(super) fn mark(change: Change) -> String {
    let (color, word) = match change {
        Change::Created => (Color::Green, "create"),
        Change::Updated => (Color::Yellow, "change"),
        Change::Unchanged => (Color::Bold, "keep  "),
        Change::Deleted => (Color::Red, "remove"),
    };
    output::paint(color, word)
}
