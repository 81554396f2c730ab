//! `stoke delete`.

use std::process::ExitCode;

use crate::cli::{Objects, references};
use crate::client::Client;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, objects: &Objects) -> anyhow::Result<ExitCode> {
    let references = references(&objects.words, None, &objects.namespace)?;
    let client = Client::connect(folders).await?;
    for reference in &references {
        client.delete(reference).await?;
        output::print(&format!("{reference} deleted\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
