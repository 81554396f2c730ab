//! `stoke delete`.

use std::process::ExitCode;

use crate::cli::{Objects, references};
use crate::cluster::Choice;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, choice: &Choice, objects: &Objects) -> anyhow::Result<ExitCode> {
    // What makes no sense anywhere is said before anybody is asked.
    references(&objects.words, None, &crate::cluster::default_namespace(None)?)?;
    let client = choice.target(folders, objects.namespace.as_ref()).await?;
    let references = references(&objects.words, None, &client.namespace(objects.namespace.as_ref())?)?;
    for reference in &references {
        client.delete(reference).await?;
        output::print(&format!("{reference} deleted\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
