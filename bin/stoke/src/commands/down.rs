//! `stoke down [--purge]`.

use std::process::ExitCode;

use stoke_api::control;

use crate::cli::Down;
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, down: &Down) -> anyhow::Result<ExitCode> {
    let client = Client::new(&folders.control_socket())?;
    let downed = if client.is_alive().await? {
        client.down(control::Down { purge: down.purge }).await?
    } else {
        stoke_host::down::down(folders, down.purge).await?
    };
    if downed == control::Downed::default() {
        output::print(&format!("nothing ran here (looked at {})\n", folders.state.display()))?;
    }
    let removed: Vec<_> = downed.removed.iter().map(|line| format!("{line}\n")).collect();
    output::print(&removed.concat())?;
    if downed.failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let failures = downed.failures.join("\n  ");
    Err(Failure::hinted(format!("not everything could be ended:\n  {failures}"), "run stoke down again"))
}
