//! `stoke farm`: farms and the boots that they serve, as they happen.

mod enroll;
mod import;
mod keys;
mod status;
mod storm;
mod timeline;
mod trace;

use std::process::ExitCode;

use stoke_api::control::FarmView;
use stoke_api::{Kind, ObjectName, ObjectRef};

use super::blocking;
use crate::cli::Farm;
use crate::client::Client;
use crate::cluster::Choice;
use crate::failure::Failure;
use crate::folders::Folders;

pub(crate) use status::strangers;

pub(crate) fn run(folders: &Folders, choice: &Choice, farm: &Farm) -> anyhow::Result<ExitCode> {
    match farm {
        Farm::Status(which) => blocking(status::run(folders, which)),
        Farm::Trace(trace) => blocking(trace::run(folders, trace)),
        Farm::Enroll(which) => blocking(enroll::run(folders, choice, which)),
        Farm::Import(import) => import::run(import),
        Farm::Keys(which) => blocking(keys::run(folders, which)),
        Farm::Storm(storm) => blocking(storm::run(folders, storm)),
    }
}

/// The farms that are meant: the one of the name, or all of the namespace.
async fn views(client: &Client, name: Option<&ObjectName>, namespace: &ObjectName) -> anyhow::Result<Vec<FarmView>> {
    let farm = |name: &ObjectName| {
        let (kind, namespace, name) = (Kind::Farm, Some(namespace.clone()), name.clone());
        ObjectRef { kind, namespace, name }
    };
    if let Some(name) = name {
        return Ok(vec![client.farm(&farm(name)).await?]);
    }
    let objects = client.list(Kind::Farm, Some(namespace)).await?;
    if objects.is_empty() {
        return Err(Failure::hinted(format!("there is no farm in namespace {namespace}"), "stoke explain farm"));
    }
    let mut views = Vec::new();
    for object in &objects {
        views.push(client.farm(&farm(&object.metadata().name)).await?);
    }
    Ok(views)
}
