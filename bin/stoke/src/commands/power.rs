//! `stoke start`, `stop`, `reboot`.

use std::process::ExitCode;

use stoke_api::Kind;
use stoke_api::control::PowerAction;

use crate::cli::{Objects, references};
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

pub(crate) async fn run(folders: &Folders, objects: &Objects, action: PowerAction) -> anyhow::Result<ExitCode> {
    let references = references(&objects.words, Some(Kind::Machine), &objects.namespace)?;
    for reference in &references {
        let allowed = matches!(reference.kind, Kind::Machine | Kind::Server);
        if !allowed {
            let hint = "machines and servers can be started, stopped and rebooted";
            return Err(Failure::usage(format!("{reference} has no such power"), hint));
        }
    }
    let client = Client::connect(folders).await?;
    let done = match action {
        PowerAction::Start => "starts",
        PowerAction::Stop => "shuts down",
        PowerAction::Reboot => "reboots",
    };
    for reference in &references {
        client.power(reference, action).await?;
        output::print(&format!("{reference} {done}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
